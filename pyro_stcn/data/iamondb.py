"""IAM-OnDB, handwriting on a whiteboard, prepared as the published results on it were and split as they were not.

The IAM On-Line Handwriting Database (Liwicki and Bunke, ICDAR 2005: English texts by 221 writers, about 12 000 lines)
is offered by its owners, the group FKI that began at the University of Bern, on the page of the database, to those who
register and for research that is not commercial. Needed is the archive ``lineStrokes-all``; nothing else is read.

Published protocol (Chung et al. 2015, reused by all later papers with these tables): two lists of forms, train.txt with
1535 and valid.txt with 192, which come with their code; every line of a form is a sequence; y is turned upwards; a step
is the offset from the point before and whether the pen is lifted after the point; the unit is that of
``StrokeNormaliser.CHUNG``, a standard deviation of 56.04462 on the whole of train.txt. There is no list for a test:
every published figure is of the validation part, on which training was also stopped. So the test part here is held out
of one of the lists, and the description says of which.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from .batch import SequenceDataset
from .checks import Choice, DataError
from .corpus import Corpus
from .iamondb_files import Form, FormList, Forms, Line, find_strokes, read_forms, read_line
from .raw import StepKind
from .stroke_files import PARTS, StrokePart
from .strokes import SYNTHETIC_ORIGIN, StrokeNormaliser, oddities, unit_of

_PUBLISHED = (
    "There is no published test list: published figures are of the whole of Chung et al.'s valid.txt after training on "
    "the whole of their train.txt, and training was stopped on the same valid.txt."
)
_LONG, _SHORT = 5.0, 0.1  # times the median length: what the description mentions


class HeldOut(Choice):
    """The list that the test part is held out of.

    TRAIN leaves the validation part as published, and less to train on. VALID leaves the training part as published,
    and with it the unit; validation and test parts are then together what published figures are of.
    """

    TRAIN = "train"
    VALID = "valid"


def load_iamondb(
    root: str | os.PathLike[str],
    *,
    train: Forms | None = None,
    valid: Forms | None = None,
    test: Forms | None = None,
    held_out: HeldOut | str = HeldOut.TRAIN,
    test_fraction: float = 0.1,
    writers: Mapping[str, str] | None = None,
    normaliser: StrokeNormaliser | str = StrokeNormaliser.CHUNG,
    max_bytes: int = 2**22,
    seed: int = 0,
) -> Corpus:
    """Read IAM-OnDB, a part of it, or a corpus in its layout (such as the one of ``synthetic_iamondb``).

    Files are read one at a time, and nothing but their points is kept. A list names forms: "a01-020" is the form of
    that name and neither a01-020x nor a01-020z, which are the same text by others. (Where there is no form of the name,
    but exactly one with a letter, that one is meant, and the description says so.)

    :param root: the folder that holds ``lineStrokes``.
    :param train: forms to train on: a sequence of ids, or the path of a text file with one id on each line. None is
        ``train.txt`` in the root.
    :param valid: the same for validation; None is ``valid.txt``.
    :param test: forms to test on, which are taken out of the other two lists; ``held_out``, ``test_fraction`` and
        ``seed`` do nothing then. The owners' own task IAM-OnDB-t1 has lists that can be given for all three.
    :param held_out: the list that the test part is taken of where there is none for it.
    :param test_fraction: the fraction of its texts, or writers, to take, at least one.
    :param writers: who wrote each form, by id: then whole writers are held out. The owners' ``forms.txt`` says it. By
        default all forms of one text are held out together, and their writers may also be in the other parts.
    :param normaliser: the unit of dx and dy, fitted on the training part; see ``StrokeNormaliser``.
    :param max_bytes: the largest file of a line to accept.
    :param seed: chooses what is held out, an integer.
    :returns: sequences of shape ``(T, 3)``, T one less than the points of the line: standardised dx and dy with y
        upwards (give ``invert_y=False`` to plot them), and the pen bit, 1 at the last point of a stroke. They are named
        after their files, "a01-000u-01", in the order of the lists and of their numbers. No line is left out, and what
        is odd is described.
    :raises DataError: if a list or the forms in it are not there, a form is in train and in valid, a part would be
        empty, or a file is not a line of IAM-OnDB or damaged: list, file, stroke and point are named.
    :raises ValueError: if an argument is out of range.
    """
    held_out, normaliser = HeldOut(held_out), StrokeNormaliser(normaliser)
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction is {test_fraction}, expected a number between 0 and 1")
    if max_bytes < 1:
        raise ValueError(f"max_bytes is {max_bytes}, expected an integer >= 1")
    strokes = find_strokes(root)
    lists = {
        "train": read_forms(Path(root, "train.txt") if train is None else train, "train", strokes),
        "valid": read_forms(Path(root, "valid.txt") if valid is None else valid, "valid", strokes),
    }
    both = _both(lists["train"].forms, lists["valid"].forms)
    if both:
        raise DataError(
            f"{len(both)} forms, such as {both[0]!r}, are in {lists['train'].source} and in {lists['valid'].source}: "
            "remove them from one, or the validation part is not held out"
        )
    if test is not None:
        lists["test"] = read_forms(test, "test", strokes)
        forms, how = _take_out(lists)
    else:
        forms, how = _hold_out(lists, held_out, test_fraction, writers, seed)

    lines = _read_all({form.name: form for part in PARTS for form in forms[part]}, max_bytes)
    parts = {part: _part([line for form in forms[part] for line in lines[form.name]]) for part in PARTS}
    try:
        standardiser = normaliser.fit(parts["train"].sequences)
    except DataError as error:
        raise DataError(f"{root}: the training part cannot be standardised: {error}") from error
    sets = {
        part: SequenceDataset(tuple(standardiser.apply(s) for s in data.sequences), data.names)
        for part, data in parts.items()
    }
    everything = [line for of_form in lines.values() for line in of_form]
    synthetic = any(line.origin == SYNTHETIC_ORIGIN for line in everything)
    opening = "Synthetic lines in the format of IAM-OnDB, not handwriting" if synthetic else "IAM-OnDB"
    empty = sum(line.empty for line in everything)
    sentences = [
        f"{opening}: {len(everything)} lines of {len(lines)} forms. A step is dx, dy (y upwards) and 1 where the pen "
        "is lifted; a line has one step less than points.",
        *how,
        *(
            f"{part.capitalize()}: {len(data)} sequences, {data.steps} steps, {len(forms[part])} forms."
            for part, data in sets.items()
        ),
        *_shared(forms, writers),
        *(remark for list_ in lists.values() for remark in list_.remarks),
        unit_of(normaliser, standardiser, parts["train"].sequences),
        *oddities(parts, standardiser),
        *_lengths(parts),
        *([f"{empty} strokes without a point were passed over."] if empty else []),
    ]
    name = "synthetic-iamondb" if synthetic else "iamondb"
    description, kind = " ".join(sentences), StepKind.STROKES
    return Corpus(name, sets["train"], sets["valid"], sets["test"], standardiser, description, kind=kind)


def _both(one: Sequence[Form], other: Sequence[Form]) -> list[str]:
    names = {form.name for form in other}
    return [form.name for form in one if form.name in names]


def _take_out(lists: dict[str, FormList]) -> tuple[dict[str, tuple[Form, ...]], list[str]]:
    """The forms of each part where the test part has a list of its own, and sentences on it."""
    names = {form.name for form in lists["test"].forms}
    forms = {part: tuple(f for f in lists[part].forms if part == "test" or f.name not in names) for part in PARTS}
    for part in ("train", "valid"):
        if not forms[part]:
            raise DataError(
                f"{lists[part].source}: all {len(lists[part].forms)} forms of {part} are also in "
                f"{lists['test'].source}: give a test list that leaves some"
            )
    taken = {part: len(lists[part].forms) - len(forms[part]) for part in ("train", "valid")}
    return forms, [
        f"Test: {lists['test'].name}, whose forms were taken out of the other lists, {taken['train']} of train and "
        f"{taken['valid']} of valid.",
        _PUBLISHED,
    ]


def _hold_out(
    lists: dict[str, FormList],
    held_out: HeldOut,
    fraction: float,
    writers: Mapping[str, str] | None,
    seed: int,
) -> tuple[dict[str, tuple[Form, ...]], list[str]]:
    """The forms of each part where some are held out at random for the test, and sentences on it."""
    of = lists[held_out.value]
    unknown = [f.name for f in of.forms if writers is not None and f.name not in writers]
    if unknown:
        raise DataError(
            f"{len(unknown)} forms of {of.source}, such as {unknown[0]!r}, are not in writers: say who wrote every "
            "form, or leave writers out"
        )

    def group(form: Form) -> str:
        return form.text if writers is None else writers[form.name]

    groups, kind = sorted({group(f) for f in of.forms}), "texts" if writers is None else "writers"
    if len(groups) < 2:
        raise DataError(
            f"{of.source}: has forms of {len(groups)} {kind}, not enough to hold out one for the test and keep another:"
            " give more forms, or a list as test"
        )
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
    count = min(max(round(fraction * len(groups)), 1), len(groups) - 1)
    chosen = {groups[i] for i in order[:count]}
    forms = {part: list_.forms for part, list_ in lists.items()}
    forms["test"] = tuple(f for f in of.forms if group(f) in chosen)
    forms[held_out.value] = tuple(f for f in of.forms if group(f) not in chosen)
    train, valid = lists["train"].name, lists["valid"].name
    consequence = {
        HeldOut.TRAIN: f"Train: the rest of {train}. Valid: the whole of {valid}.",
        HeldOut.VALID: f"Valid: the rest of {valid}, so both together are the whole. Train: the whole of {train}.",
    }
    return forms, [
        f"Test: {len(forms['test'])} forms held out of {of.name}, {count} of its {len(groups)} {kind}, seed {seed}.",
        consequence[held_out],
        _PUBLISHED,
    ]


def _read_all(forms: dict[str, Form], max_bytes: int) -> dict[str, list[Line]]:
    """The lines of each form."""
    lines: dict[str, list[Line]] = {name: [] for name in forms}
    problems = []
    files = [(name, path) for name, form in forms.items() for path in form.lines]
    for name, path in tqdm(files, desc="reading IAM-OnDB", unit="line", disable=None):
        try:
            lines[name].append(read_line(path, max_bytes))
        except DataError as error:
            problems.append(error)
    if problems:
        more = f" ({len(problems)} of {len(files)} files cannot be used, this is the first)"
        raise DataError(str(problems[0]) + (more if len(problems) > 1 else "")) from problems[0]
    return lines


def _part(lines: list[Line]) -> StrokePart:
    return StrokePart(tuple(line.steps for line in lines), tuple(line.name for line in lines))


def _shared(forms: dict[str, tuple[Form, ...]], writers: Mapping[str, str] | None) -> list[str]:
    """Sentences on what training and the other parts have in common, short of a form."""
    names = {part: {form.name for form in forms[part]} for part in PARTS}
    texts = {part: {form.text for form in forms[part]} for part in PARTS}
    again = {part: len(texts[part] & texts["train"]) for part in ("valid", "test")}
    sentences = ["No form is in two parts."]
    if any(again.values()):
        sentences.append(
            f"Texts that are also in the training part: {again['valid']} of {len(texts['valid'])} in valid and "
            f"{again['test']} of {len(texts['test'])} in test."
        )
    if writers is None:
        sentences.append("Who wrote what was not given: a writer may be in several parts.")
    else:
        who = {part: {writers.get(name, name) for name in names[part]} for part in PARTS}
        shared = {part: len(who[part] & who["train"]) for part in ("valid", "test")}
        sentences.append(
            f"Writers who are also in the training part: {shared['valid']} of {len(who['valid'])} in valid and "
            f"{shared['test']} of {len(who['test'])} in test."
        )
    return sentences


def _lengths(parts: dict[str, StrokePart]) -> list[str]:
    """A sentence on lines that are hardly lines."""
    median = float(np.median([len(s) for s in parts["train"].sequences]))
    pairs = [(len(s), name) for data in parts.values() for s, name in zip(data.sequences, data.names, strict=True)]
    long = [pair for pair in pairs if pair[0] > _LONG * median]
    short = [pair for pair in pairs if pair[0] < _SHORT * median]
    found = []
    if long:
        steps, name = max(long)
        found.append(f"{len(long)} longer than {_LONG:g} times that, the longest {name!r} with {steps}")
    if short:
        steps, name = min(short)
        found.append(f"{len(short)} shorter than {_SHORT:g} times that, the shortest {name!r} with {steps}")
    return [f"Half the training lines have up to {median:g} steps; {' and '.join(found)}."] if found else []
