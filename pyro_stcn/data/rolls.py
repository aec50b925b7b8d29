"""Piano rolls: for every step a bit for every note, from arrays of bits or from lists of MIDI note numbers."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from .array_files import Reading, Source, find_sequences
from .batch import SequenceDataset
from .checks import DataError, check_sequences
from .corpus import Corpus
from .parts import PARTS, HoldOut, full_names, given_parts, place, repeated, split
from .raw import StepKind
from .standardise import Standardiser

PIANO = range(21, 109)  # the 88 keys, as MIDI note numbers
MIDI = range(128)
BYTES_OF_LIST = 88  # of memory, for one that is empty, and its place in another
SILENCE = -1  # some files write a voice that pauses as this
VALID = frozenset((SILENCE, *MIDI))

Notes = list[list[list[int]]]  # for each sequence, for each step the notes that sound


def load_rolls(
    train: Any,
    valid: Any = None,
    test: Any = None,
    *,
    lowest: int | None = None,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    sequence_column: str | int | None = None,
    max_bytes: int = 2**28,
    name: str = "rolls",
) -> Corpus:
    """Make a corpus of piano rolls, for ``BernoulliConfig``; nothing is standardised, and nothing in a file executed.

    Each of ``train``, ``valid`` and ``test`` may be

    * the path of a ``.json``: a list of sequences, each a list of steps, each a list of MIDI note numbers, as
      ``[[[60, 64], [], [67]], ...]``; -1 is a voice that pauses;
    * the path of a ``.json`` with such lists under "train", "valid" and "test", as the chorales of Bach are passed on;
    * such lists themselves;
    * whatever ``load_arrays`` takes, with only 0 and 1 in it: arrays, ``.npy``, ``.npz``, ``.csv``, a folder.

    A part that is not given is held out of ``train``, whole sequences at random.

    :param lowest: the MIDI number of the first channel, for arrays that are not 88 wide (from 21, a piano) or 128 (from
        0). Lists of notes become a piano, or 128 channels where they leave it.
    :param valid_fraction: see ``load_arrays``, and so for the next three.
    :param max_bytes: the largest file, and the largest unpacked data, to accept.
    :param name: of the corpus.
    :returns: float32 sequences of 0 and 1; ``channels`` has the note numbers.
    :raises DataError: naming the file, sequence, step and channel: what is no note or bit, no JSON, too large.
    :raises ValueError: if an argument is out of range.
    """
    how = HoldOut(valid_fraction, test_fraction, seed)
    passed = given_parts(train, valid, test)
    given = _parts_of_file(passed, max_bytes)
    where = {
        part: place(part, passed[part]) if len(given) == len(passed) else f"{place('train', train)}: {part}"
        for part in given
    }
    if lowest is not None and any(_is_notes(g) for g in given.values()):
        raise ValueError("lowest is for arrays: lists of notes say which they are")
    notes = {part: _notes(where[part], g) for part, g in given.items() if _is_notes(g)}
    heights = [note for one in notes.values() for steps in one for step in steps for note in step]
    keys = PIANO if all(note in PIANO for note in heights) else MIDI
    steps = sum(len(steps) for one in notes.values() for steps in one)
    if steps * len(keys) * 4 > max_bytes:
        raise DataError(
            f"{steps} steps of {len(keys)} notes need {steps * len(keys) * 4} bytes, and max_bytes is {max_bytes}"
        )
    sources = {
        part: _drawn(notes[part], keys)
        if part in notes
        else find_sequences(where[part], g, Reading(1, sequence_column, max_bytes))
        for part, g in given.items()
    }
    for part, source in sources.items():
        if not source.sequences:
            raise DataError(f"{where[part]}: there are no sequences: at least one is needed")
    check_sequences([s for source in sources.values() for s in source.sequences], full_names(sources))
    _check_bits(sources, where)
    width = sources["train"].sequences[0].shape[1]
    first = keys[0] if notes else _first(width, lowest)
    parts, told = split(sources, how)
    sets = {part: SequenceDataset(data.sequences, data.names) for part, data in parts.items()}
    sounding = sum(float(s.sum()) for s in sets["train"].sequences) / sets["train"].steps
    sentences = [
        f"Piano rolls, {name}: {width} notes, MIDI {first} to {first + width - 1}; {sounding:.2f} sound at a step of "
        "the training part.",
        *told,
        *(f"{part.capitalize()}: {len(data)} sequences, {data.steps} steps." for part, data in sets.items()),
        "Not standardised.",
        *repeated(parts),
    ]
    unit = Standardiser((0.0,) * width, (1.0,) * width)
    channels = tuple(str(first + i) for i in range(width))
    description, kind = " ".join(sentences), StepKind.ROLL
    return Corpus(name, sets["train"], sets["valid"], sets["test"], unit, description, kind=kind, channels=channels)


def _parts_of_file(given: dict[str, Any], max_bytes: int) -> dict[str, Any]:
    """Read what is ``.json``; one file can hold all parts."""
    read = {
        part: _read_notes(Path(g), max_bytes) if isinstance(g, str | os.PathLike) and _is_json(g) else g
        for part, g in given.items()
    }
    whole = [part for part, value in read.items() if isinstance(value, dict)]
    if not whole:
        return read
    path, parts = given[whole[0]], read[whole[0]]
    if len(given) > 1:
        raise DataError(f"{path}: holds parts of its own ({', '.join(parts)}): give it alone, or a list of sequences")
    if "train" not in parts or not parts.keys() <= set(PARTS):
        raise DataError(
            f"{path}: has the parts {', '.join(parts)[:200]}: expected train, and valid and test if it likes"
        )
    return {part: parts[part] for part in PARTS if part in parts}


def _read_notes(path: Path, max_bytes: int) -> Any:
    """Read a JSON file of sequences, or of such by part; what is in it is never taken for a path.

    :raises DataError: as :func:`read_json`, and for anything else.
    """
    content = read_json(path, max_bytes)
    for value in content.values() if isinstance(content, dict) else [content]:
        if not isinstance(value, list) or not all(isinstance(one, list) for one in value):
            wrong = value if not isinstance(value, list) else next(one for one in value if not isinstance(one, list))
            raise DataError(
                f"{path}: holds {wrong!r:.60} where a sequence is expected: a list of steps, each a list of MIDI notes"
            )
    return content


def read_json(path: Path, max_bytes: int) -> Any:
    """Read a JSON file of at most so many bytes.

    :raises DataError: if there is none, it is larger, or no JSON.
    """
    if not path.is_file():
        raise DataError(f"{path}: {'is no regular file' if path.exists() else 'does not exist'}")
    if path.stat().st_size > max_bytes:
        raise DataError(
            f"{path}: has {path.stat().st_size} bytes, and max_bytes is {max_bytes}: raise it if this is right"
        )
    try:
        text = path.read_text("utf-8")
        lists = text.count("[")
        if lists * BYTES_OF_LIST <= max_bytes:
            return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError, OSError) as error:
        raise DataError(f"{path}: is not JSON ({error}): write it with json.dump") from error
    # In memory they are many times what they are in the file.
    raise DataError(
        f"{path}: holds {lists} lists, which need {BYTES_OF_LIST} bytes each, and max_bytes is {max_bytes}: raise it "
        "if this is right"
    )


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _is_json(path: str | os.PathLike[str]) -> bool:
    return Path(path).suffix.lower() == ".json"


def _is_notes(given: Any) -> bool:
    """Whether these are lists, and not arrays or paths."""
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        return False
    return all(isinstance(one, Sequence) and not isinstance(one, str | bytes) for one in given)


def _notes(where: str, given: Any) -> Notes:
    for i, steps in enumerate(given):
        if not steps:
            raise DataError(f"{where}: sequence {i} has no steps: leave it out")
        for t, step in enumerate(steps):
            if not isinstance(step, Sequence) or isinstance(step, str | bytes):
                raise DataError(
                    f"{where}: step {t} of sequence {i} is {step!r:.60}, expected a list of MIDI note numbers, [] "
                    "where nothing sounds"
                )
            for note in step:
                if isinstance(note, bool) or not isinstance(note, int | float) or note not in VALID:
                    raise DataError(
                        f"{where}: step {t} of sequence {i} holds {note!r:.60}, and a MIDI note is a whole number "
                        "from 0 to 127 (-1 for a voice that pauses)"
                    )
    return [[[int(note) for note in step if note != SILENCE] for step in steps] for steps in given]


def _drawn(notes: Notes, keys: range) -> Source:
    sequences = []
    for steps in notes:
        roll = np.zeros((len(steps), len(keys)), dtype=np.float32)
        for row, step in zip(roll, steps, strict=True):
            row[[keys.index(note) for note in step]] = 1
        sequences.append(roll)
    return Source(tuple(sequences), tuple(str(i) for i in range(len(sequences))))


def _check_bits(sources: dict[str, Source], where: dict[str, str]) -> None:
    for part, source in sources.items():
        for name, array in zip(source.names, source.sequences, strict=True):
            wrong = ~np.isin(array, (0, 1))
            if wrong.any():
                step, channel = np.argwhere(wrong)[0]
                raise DataError(
                    f"{where[part]}: sequence '{part}/{name}' holds {array[step, channel]:g} at step {step}, channel "
                    f"{channel}, the first of {wrong.sum()} values that are neither 0 nor 1: a roll has bits "
                    "(velocities: array > 0)"
                )


def _first(width: int, lowest: int | None) -> int:
    known = {len(PIANO): PIANO[0], len(MIDI): 0}
    if lowest is None and width not in known:
        raise DataError(f"these rolls have {width} notes: give lowest, the MIDI number of the first")
    first = known[width] if lowest is None else lowest
    if not 0 <= first <= 128 - width:
        raise ValueError(f"lowest is {lowest}: {width} notes from there on are not all between 0 and 127")
    return first
