"""A synthetic corpus in the layout and format of IAM-OnDB, made on this machine in a second.

It exists so that everything that reads IAM-OnDB can be run and tested without it. Its lines are the words of
``synthetic_strokes`` side by side, one hand for each form, and there are lists of forms as Chung et al. 2015 have them.
No figure measured on it says anything about handwriting.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from .checks import DataError
from .made_once import cache_folder, make_folder_once
from .stroke_files import PARTS
from .strokes import SYNTHETIC_ORIGIN
from .synthetic_strokes import draw_hand, spell, write_word

_VERSION = 1  # part of the folder's name: raise it with any change of what is generated
_WORDS = 3  # on a line
_SPACE = 0.8  # between words, in the hand's x-heights
_LEFT, _BASELINE = 1000, 2000  # where a line begins on the whiteboard, and how far lines are apart
_PERIOD = 0.01  # seconds between points
_LETTERS = ("", "z", "u", "w")  # two forms of one text, then two of the next
_MOST = 100  # forms in a part, two for each text


def synthetic_iamondb(
    folder: str | os.PathLike[str] | None = None,
    *,
    forms: tuple[int, int, int] = (16, 4, 4),
    lines: int = 3,
    seed: int = 0,
) -> Path:
    """Make the synthetic corpus, or find it where it was made before.

    The files are written to a temporary folder that is renamed when complete, so an interrupted run leaves nothing
    behind that could be taken for a corpus, and two runs at once do no harm.

    :param folder: where to make it, in a subfolder named by version and arguments; ``cache_folder()`` if not given.
    :param forms: number of forms in train.txt, valid.txt and test.txt. Two after one another have the same text.
    :param lines: lines of each form, of three words.
    :param seed: an integer >= 0. Equal arguments give equal bytes (on one kind of machine and numpy).
    :returns: the folder to give to ``load_iamondb``, which reads train.txt and valid.txt; test.txt is for its ``test``.
        The default corpus has 72 lines, 1 MB.
    :raises ValueError: if a part would have no forms or more than 100, there are no lines or more than 99, or the seed
        is negative.
    :raises DataError: if the folder is there but files are missing from it.
    """
    if not 1 <= min(forms) <= max(forms) <= _MOST or not 1 <= lines <= 99 or seed < 0:
        raise ValueError(
            f"forms={forms}, lines={lines}, seed={seed}: from 1 to {_MOST} forms in each part and from 1 to 99 lines "
            "are possible, and a seed >= 0"
        )
    parent = Path(folder) if folder is not None else cache_folder()
    counts = "-".join(str(count) for count in forms)
    root = parent / f"synthetic-iamondb-v{_VERSION}-{counts}-forms-{lines}-lines-seed-{seed}"
    make_folder_once(root, lambda folder: _write_corpus(folder, forms, lines, seed))
    there = sum(1 for _ in root.rglob("*.xml")) + sum(1 for _ in root.glob("*.txt"))
    if there != sum(forms) * lines + len(PARTS):
        raise DataError(
            f"{root}: {there} of {sum(forms) * lines + len(PARTS)} files are there: remove the folder to have it made "
            "again"
        )
    return root


def _write_corpus(root: Path, forms: tuple[int, int, int], lines: int, seed: int) -> None:
    for p, (part, count) in enumerate(zip(PARTS, forms, strict=True)):
        names = []
        for k in range(count):
            # Each text and each form has a stream of its own: more forms leave the others as they are.
            text, rng = np.random.default_rng([seed, 0, p, k // 2]), np.random.default_rng([seed, 1, p, k])
            shelf = f"{'abc'[p]}{k // 20 + 1:02d}"
            name = f"{shelf}-{k // 2:03d}{_LETTERS[k % len(_LETTERS)]}"
            folder = root / "lineStrokes" / shelf / f"{shelf}-{k // 2:03d}"
            folder.mkdir(parents=True, exist_ok=True)
            hand = draw_hand(rng)
            for number in range(1, lines + 1):
                words = [write_word(spell(text), hand, rng) for _ in range(_WORDS)]
                xml = _xml(_side_by_side(words, _SPACE * hand.size), number)
                (folder / f"{name}-{number:02d}.xml").write_text(xml, encoding="ascii")
            names.append(name)
        (root / f"{part}.txt").write_text("".join(f" {name}\n" for name in names))  # with a space, as in the published


def _side_by_side(words: list[np.ndarray], space: float) -> list[np.ndarray]:
    """The strokes of all words as whole-number points ``(N_i, 2)``, y downwards, the line beginning near (0, 0)."""
    strokes, x = [], 0.0
    for word in words:
        points = np.cumsum(word[:, :2], axis=0, dtype=np.float64) + np.array([x, 0])
        strokes += np.split(points, np.flatnonzero(word[:-1, 2]) + 1)
        x = round(points[:, 0].max() + space)
    return strokes


def _xml(strokes: list[np.ndarray], number: int) -> str:
    rows, at = [], 0
    for stroke in strokes:
        times = [f"{(at + i) * _PERIOD:.2f}" for i in range(len(stroke))]
        at += len(stroke) + 5  # the pen takes its time in the air
        rows.append(f'    <Stroke colour="black" start_time="{times[0]}" end_time="{times[-1]}">')
        for (x, y), time in zip(stroke, times, strict=True):
            rows.append(f'      <Point x="{x + _LEFT:.0f}" y="{y + number * _BASELINE:.0f}" time="{time}"/>')
        rows.append("    </Stroke>")
    points = np.concatenate(strokes)
    corner = (_LEFT, number * _BASELINE)
    (left, top), (right, bottom) = points.min(0) + corner, points.max(0) + corner
    return "\n".join(
        [
            '<?xml version="1.0" encoding="ISO-8859-1"?>',
            f'<WhiteboardCaptureSession origin="{SYNTHETIC_ORIGIN}">',
            "  <WhiteboardDescription>",
            '    <SensorLocation corner="top_left"/>',
            f'    <DiagonallyOppositeCoords x="{right:.0f}" y="{bottom:.0f}"/>',
            f'    <VerticallyOppositeCoords x="{left:.0f}" y="{bottom:.0f}"/>',
            f'    <HorizontallyOppositeCoords x="{right:.0f}" y="{top:.0f}"/>',
            "  </WhiteboardDescription>",
            "  <StrokeSet>",
            *rows,
            "  </StrokeSet>",
            "</WhiteboardCaptureSession>",
            "",
        ]
    )
