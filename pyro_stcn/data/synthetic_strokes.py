"""Synthetic handwriting in the stroke-3 format, made on this machine in a second.

It exists so that everything that reads pen strokes can be run and tested without a corpus of them. A word is a chain of
letters, each a curve from the baseline to the baseline; the pen slows down where the curve is tight (as hands do, to
about the third root of the radius), lifts between some letters, and sets dots and bars at the end. No figure measured
on it says anything about handwriting.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .checks import DataError
from .made_once import cache_folder
from .stroke_files import PARTS, read_stroke_file, write_strokes
from .strokes import SYNTHETIC_ORIGIN

_VERSION = 1  # part of the file's name: raise it with any change of what is generated
_DENSE = 24  # points per piece of a curve before it is sampled in time
_UNITS = 70.0  # of the file, per x-height
_GAP = 0.15  # x-heights between letters that are not joined
_TICK = 0.3  # x-heights the pen covers between samples at unit speed

_Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class _Letter:
    """Points a pen passes, in x-heights, x to the right from where the letter begins, y upwards from the baseline.

    :param body: written with the word.
    :param later: dots and bars set when the word is done.
    """

    body: _Curve
    later: tuple[_Curve, ...] = ()


_BOWL: _Curve = ((0.0, 0.1), (0.35, 0.6), (0.78, 0.9), (0.5, 1.0), (0.2, 0.75), (0.18, 0.3), (0.38, 0.02), (0.68, 0.3))
_LETTERS = {
    "a": _Letter((*_BOWL, (0.8, 0.95), (0.8, 0.5), (0.9, 0.06), (1.15, 0.12))),
    "c": _Letter(((0.0, 0.1), (0.4, 0.75), (0.68, 0.82), (0.5, 1.0), (0.2, 0.7), (0.2, 0.25), (0.45, 0.0),
                  (0.85, 0.15))),
    "d": _Letter((*_BOWL, (0.82, 1.2), (0.84, 2.1), (0.8, 1.2), (0.82, 0.4), (0.95, 0.05), (1.2, 0.12))),
    "e": _Letter(((0.0, 0.1), (0.35, 0.45), (0.55, 0.8), (0.38, 1.0), (0.18, 0.65), (0.22, 0.2), (0.45, 0.0),
                  (0.8, 0.15))),
    "g": _Letter((*_BOWL, (0.8, 0.9), (0.78, 0.0), (0.65, -0.9), (0.4, -1.1), (0.35, -0.75), (0.75, -0.2),
                  (1.15, 0.12))),
    "h": _Letter(((0.0, 0.1), (0.35, 1.0), (0.48, 1.9), (0.3, 2.1), (0.22, 1.4), (0.2, 0.0), (0.25, 0.5),
                  (0.5, 0.98), (0.72, 0.8), (0.74, 0.3), (0.85, 0.03), (1.1, 0.12))),
    "i": _Letter(((0.0, 0.1), (0.25, 0.7), (0.3, 1.0), (0.29, 0.5), (0.38, 0.05), (0.62, 0.12)),
                 (((0.36, 1.5), (0.4, 1.46)),)),
    "l": _Letter(((0.0, 0.1), (0.35, 1.0), (0.48, 1.9), (0.32, 2.12), (0.2, 1.5), (0.2, 0.5), (0.38, 0.02),
                  (0.7, 0.15))),
    "m": _Letter(((0.0, 0.1), (0.15, 0.85), (0.25, 0.9), (0.25, 0.0), (0.3, 0.55), (0.5, 0.98), (0.62, 0.75),
                  (0.63, 0.0), (0.68, 0.55), (0.9, 0.98), (1.02, 0.7), (1.05, 0.2), (1.15, 0.03), (1.4, 0.12))),
    "n": _Letter(((0.0, 0.1), (0.15, 0.85), (0.25, 0.9), (0.25, 0.0), (0.3, 0.5), (0.52, 0.98), (0.7, 0.75),
                  (0.72, 0.25), (0.84, 0.03), (1.1, 0.12))),
    "o": _Letter(((0.0, 0.1), (0.3, 0.7), (0.5, 1.0), (0.22, 0.75), (0.2, 0.25), (0.45, 0.0), (0.72, 0.35),
                  (0.65, 0.85), (0.48, 0.95), (0.7, 0.75), (1.0, 0.75))),
    "p": _Letter(((0.0, 0.1), (0.22, 0.95), (0.24, 0.0), (0.2, -1.1), (0.26, -0.2), (0.32, 0.6), (0.55, 1.0),
                  (0.78, 0.65), (0.62, 0.1), (0.4, 0.1), (0.75, 0.02), (1.05, 0.12))),
    "r": _Letter(((0.0, 0.1), (0.25, 0.95), (0.3, 1.12), (0.42, 0.92), (0.62, 0.92), (0.58, 0.4), (0.68, 0.05),
                  (0.95, 0.12))),
    "s": _Letter(((0.0, 0.1), (0.3, 0.75), (0.4, 1.08), (0.5, 0.7), (0.58, 0.25), (0.38, 0.0), (0.2, 0.1),
                  (0.5, 0.05), (0.85, 0.14))),
    "t": _Letter(((0.0, 0.1), (0.25, 0.9), (0.34, 1.65), (0.3, 0.9), (0.3, 0.3), (0.45, 0.03), (0.72, 0.14)),
                 (((0.05, 1.18), (0.3, 1.22), (0.62, 1.2)),)),
    "u": _Letter(((0.0, 0.1), (0.22, 0.95), (0.22, 0.4), (0.4, 0.02), (0.65, 0.35), (0.75, 0.97), (0.74, 0.4),
                  (0.86, 0.04), (1.1, 0.12))),
    "y": _Letter(((0.0, 0.1), (0.2, 0.95), (0.24, 0.4), (0.42, 0.1), (0.65, 0.4), (0.75, 0.95), (0.72, 0.0),
                  (0.6, -0.9), (0.38, -1.1), (0.34, -0.75), (0.7, -0.2), (1.05, 0.12))),
}  # fmt: skip
_VOWELS, _CONSONANTS = "aeiouy", "cdghlmnprst"


@dataclass(frozen=True)
class _Hand:
    """How a word is written.

    :param size: units per x-height.
    :param speed: factor on the distance between samples.
    :param slant: shear to the right.
    :param tilt: slope of the baseline.
    :param width: factor on x.
    :param sloppiness: standard deviation by which points are missed, in x-heights.
    :param joined: probability that the pen stays down between two letters.
    """

    size: float
    speed: float
    slant: float
    tilt: float
    width: float
    sloppiness: float
    joined: float


def synthetic_strokes(
    folder: str | os.PathLike[str] | None = None,
    *,
    words: tuple[int, int, int] = (400, 50, 50),
    seed: int = 0,
) -> Path:
    """Make the synthetic corpus, or find it where it was made before.

    The file appears when it is complete, so an interrupted run leaves nothing behind that could be taken for a corpus,
    and two runs at once do no harm.

    :param folder: where to make it, under a name made of version and arguments; ``cache_folder()`` if not given.
    :param words: number of words in train, valid and test. Each is of two to seven letters, a sequence of its own in a
        hand of its own.
    :param seed: an integer >= 0. Equal arguments give equal bytes (on one kind of machine and numpy).
    :returns: the file to give to ``load_strokes``; about 110 kB with the default words.
    :raises ValueError: if a part would have no words or the seed is negative.
    :raises DataError: if the file is there but damaged.
    """
    if min(words) < 1 or seed < 0:
        raise ValueError(f"words={words}, seed={seed}: at least one word in each part is needed, and a seed >= 0")
    parent = Path(folder) if folder is not None else cache_folder()
    counts = "-".join(str(count) for count in words)
    path = parent / f"synthetic-strokes-v{_VERSION}-{counts}-words-seed-{seed}.stroke3.npz"
    if path.exists():
        try:
            read_stroke_file(path, max_bytes=2**31)
        except DataError as error:
            raise DataError(f"{error} (or remove this file, to have it made again)") from error
        return path
    parent.mkdir(parents=True, exist_ok=True)
    # Each word has a stream of its own: more words leave the others as they are.
    streams = [[np.random.default_rng([seed, p, i]) for i in range(count)] for p, count in enumerate(words)]
    texts = {part: [spell(rng) for rng in rngs] for part, rngs in zip(PARTS, streams, strict=True)}
    written = [
        [write_word(word, draw_hand(rng), rng) for word, rng in zip(texts[part], rngs, strict=True)]
        for part, rngs in zip(PARTS, streams, strict=True)
    ]
    return write_strokes(path, *written, texts=texts, origin=SYNTHETIC_ORIGIN)


def spell(rng: np.random.Generator) -> str:
    """A pronounceable word of two to seven letters."""
    first = int(rng.integers(2))
    kinds = [(_CONSONANTS, _VOWELS)[(first + i) % 2] for i in range(int(rng.integers(2, 8)))]
    return "".join(kind[int(rng.integers(len(kind)))] for kind in kinds)


def draw_hand(rng: np.random.Generator) -> _Hand:
    """Return the habits of one writer."""
    return _Hand(
        size=float(_UNITS * np.exp(0.12 * rng.standard_normal())),
        speed=float(np.exp(0.15 * rng.standard_normal())),
        slant=float(rng.normal(0.3, 0.15)),
        tilt=float(rng.normal(0.0, 0.04)),
        width=float(np.exp(0.12 * rng.standard_normal())),
        sloppiness=float(rng.uniform(0.01, 0.05)),
        joined=float(rng.choice([0.4, 0.9, 1.0])),
    )


def write_word(word: str, hand: _Hand, rng: np.random.Generator) -> np.ndarray:
    """The word as ``(T, 3)`` float32: whole-number offsets, y downwards, and the pen. It begins at the first point."""
    strokes: list[list[tuple[float, float]]] = []
    later: list[list[tuple[float, float]]] = []
    x = 0.0
    for letter in (_LETTERS[c] for c in word):
        joined = bool(strokes) and rng.random() < hand.joined
        if strokes and not joined:
            x += _GAP
        body = [(x + px, py) for px, py in letter.body]
        if joined:
            strokes[-1] += body[1:]  # the end of the letter before is where this one begins
        else:
            strokes.append(body)
        later += [[(x + px, py) for px, py in mark] for mark in letter.later]
        x = body[-1][0]
    sampled = [_sample(np.array(stroke), hand, rng) for stroke in strokes + later]
    points = np.concatenate(sampled)
    pen = np.zeros(len(points), dtype=np.float32)
    pen[np.cumsum([len(stroke) for stroke in sampled]) - 1] = 1
    offsets = np.diff(points, axis=0, prepend=0)
    return np.column_stack([offsets, pen]).astype(np.float32)


def _sample(knots: np.ndarray, hand: _Hand, rng: np.random.Generator) -> np.ndarray:
    """Whole-number places of the pen at equal times along the curve through ``knots`` of shape ``(K, 2)``, K >= 2."""
    knots = knots + hand.sloppiness * rng.standard_normal(knots.shape)
    curve = _through(knots)
    velocity = np.gradient(curve, axis=0)
    acceleration = np.gradient(velocity, axis=0)
    path = np.hypot(*velocity.T)
    turn = np.abs(velocity[:, 0] * acceleration[:, 1] - velocity[:, 1] * acceleration[:, 0])
    radius = np.maximum(path, 1e-6) ** 3 / np.maximum(turn, 1e-9)
    time = np.cumsum(path / (_TICK * hand.speed * np.clip(radius, 0.02, 3.0) ** (1 / 3)))
    steps = max(round(time[-1] - time[0]), 1)
    at = np.linspace(time[0], time[-1], steps + 1)
    px, py = (np.interp(at, time, curve[:, axis]) for axis in (0, 1))
    right = hand.width * px + hand.slant * py
    up = py + hand.tilt * right
    return np.rint(hand.size * np.column_stack([right, -up]))


def _through(knots: np.ndarray) -> np.ndarray:
    """A smooth curve through the knots (Catmull and Rom 1974), ``_DENSE`` points for each piece and the last knot."""
    ends = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    before, start, stop, after = (ends[i : len(ends) - 3 + i, None] for i in range(4))
    t = np.linspace(0, 1, _DENSE, endpoint=False)[:, None]
    pieces = start + t / 2 * (
        (stop - before) + t * (2 * before - 5 * start + 4 * stop - after + t * (3 * (start - stop) + after - before))
    )
    return np.concatenate([pieces.reshape(-1, 2), knots[-1:]])
