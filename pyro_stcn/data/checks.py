"""Checks of data before anything is learned from them.

A value that is not finite passes through every layer of a network and comes out as a loss that is not a number,
thousands of steps later and far from its cause. These checks are made once, when data enter, where the sequence, the
step and the channel are still known; every failure says which it is and the way out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

import numpy as np


def printable(text: str) -> str:
    """A text on one line, whatever is in it: what cannot be printed is shown by its number.

    The names of files and what is in them are others' to choose: a line break makes one message look like two, an
    escape sequence moves a terminal's cursor, and half of a surrogate pair (a name that is not UTF-8) cannot be
    printed at all.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class Choice(StrEnum):
    """A choice by name: another name is refused with those that there are."""

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise DataError(f"{value!r} is not a valid {cls.__name__}; there are: {', '.join(cls)}")


class DataError(ValueError):
    """Data that cannot be used: the message, one line, says which, what was found and what to do."""

    def __init__(self, message: str = ""):
        super().__init__(printable(message))


def check_form(name: str, array: np.ndarray) -> None:
    """Check that one sequence has the form of one, whatever its values are.

    :param name: what the sequence is called in messages.
    :param array: shape ``(T, D)``, steps by channels, T >= 1 and D >= 1, real numbers.
    :raises DataError: naming the sequence.
    """
    if not isinstance(array, np.ndarray):
        raise DataError(
            f"sequence {name!r} is a {type(array).__name__}, expected a numpy array of shape "
            "(T, D): convert it with numpy.asarray"
        )
    if array.ndim != 2:
        raise DataError(
            f"sequence {name!r} has shape {array.shape}, expected (T, D), steps by channels: give "
            "one array per sequence, and give a single channel as array[:, None]"
        )
    if array.shape[0] < 1 or array.shape[1] < 1:
        raise DataError(
            f"sequence {name!r} has shape {array.shape}, and at least one step and one channel are "
            "needed: leave the sequence out"
        )
    if array.dtype.kind not in "fiub":
        raise DataError(
            f"sequence {name!r} has dtype {array.dtype}, expected real numbers: convert it with "
            "array.astype(numpy.float32)"
        )


def check_sequence(name: str, array: np.ndarray) -> None:
    """Check that one sequence can be learned from.

    :param name: what the sequence is called in messages.
    :param array: shape ``(T, D)``, steps by channels, T >= 1 and D >= 1, real numbers, all finite.
    :raises DataError: naming the sequence, and for values that are not finite the first step and channel (both counted
        from 0) and how many there are.
    """
    check_form(name, array)
    finite = np.isfinite(array)
    if not finite.all():
        step, channel = np.argwhere(~finite)[0]
        count = int(finite.size - finite.sum())
        raise DataError(
            f"sequence {name!r} is not finite: {array[step, channel]} at step {step}, channel "
            f"{channel} is the first of {count} such value{'s' if count > 1 else ''} among "
            f"{finite.size}: leave the sequence out, cut it before that step, or fill the gaps"
        )


def check_sequences(sequences: Sequence[np.ndarray], names: Sequence[str]) -> None:
    """Check a set of sequences: each alone, that they fit together, and that names tell them apart.

    :param sequences: arrays of shape ``(T_i, D)``, with the same D; see ``check_sequence``.
    :param names: one name per sequence, all different.
    :raises DataError: naming the offending sequence or name.
    """
    if len(sequences) == 0:
        raise DataError("there are no sequences: at least one is needed")
    if len(names) != len(sequences):
        raise DataError(f"there are {len(sequences)} sequences and {len(names)} names: give each its name")
    first_with: dict[str, int] = {}
    for index, (name, array) in enumerate(zip(names, sequences, strict=True)):
        if not isinstance(name, str):
            raise DataError(f"the name of sequence {index} is {name!r}, expected a string")
        if name in first_with:
            raise DataError(
                f"sequences {first_with[name]} and {index} are both named {name!r}: give each its "
                "own name, results are reported by it"
            )
        first_with[name] = index
        check_sequence(name, array)
        if array.shape[1] != sequences[0].shape[1]:
            raise DataError(
                f"sequence {name!r} has {array.shape[1]} channels and sequence {names[0]!r} has "
                f"{sequences[0].shape[1]}: all sequences of a set need the same number"
            )


def constant_channels(sequences: Iterable[np.ndarray]) -> tuple[int, ...]:
    """Channels that hold one and the same value at every step of every sequence.

    :param sequences: arrays of shape ``(T_i, D)``, T_i >= 1.
    :returns: the numbers of those channels, counted from 0; empty if every channel varies.
    """
    low = high = None
    for array in sequences:
        array_low, array_high = array.min(axis=0), array.max(axis=0)
        low = array_low if low is None else np.minimum(low, array_low)
        high = array_high if high is None else np.maximum(high, array_high)
    if low is None or high is None:
        return ()
    return tuple(int(channel) for channel in np.flatnonzero(low == high))


def is_constant(sequences: Iterable[np.ndarray]) -> bool:
    """Whether all values of all arrays (of any shape, none empty) are one and the same number."""
    low, high = np.inf, -np.inf
    for array in sequences:
        low, high = min(low, array.min()), max(high, array.max())
        if low != high:
            return False
    return True


def remark_on_scale(sequences: Iterable[np.ndarray]) -> str | None:
    """Say so if data are far from the unit scale that networks and observation models are made for.

    :param sequences: arrays of shape ``(T_i, D)``; some of them are enough.
    :returns: a sentence with the way out, or None where no mean and no standard deviation of a channel is beyond 30
        and not all standard deviations are below 0.01.
    """
    steps = np.concatenate([np.asarray(array, dtype=np.float64) for array in sequences])
    mean, std = np.abs(steps.mean(0)), steps.std(0)
    channel = int(np.maximum(mean, std).argmax())
    if (std.max() == 0 or 0.01 <= std.max() <= 30) and mean.max() <= 30:
        return None
    return (
        f"channel {channel} of the training data has the mean {steps.mean(0)[channel]:.4g} and the standard deviation "
        f"{std[channel]:.4g}: scale the data to about 1 first, with Standardiser.per_channel or a loader of "
        "pyro_stcn.data, or training may go nowhere"
    )
