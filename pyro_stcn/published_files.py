"""The authors' released files: a checkpoint, its configuration, and the statistics of its data.

A run of that code leaves a folder with ``config.json``, a file ``checkpoint`` that names the latest weights, and the
weights themselves, ``model-STEP.index`` and ``model-STEP.data-00000-of-00001``. The statistics are in the ``.npz`` of
the data. All of it is read with limits, and nothing of it is run.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint import CheckpointError
from .data.checks import DataError
from .data.npz_files import read_npz
from .data.safe_pickle import Objects
from .data.standardise import Standardiser
from .published import load_published
from .published_arrays import PublishedModel, published_constants
from .reports import check_standardiser
from .tensorflow_files import MAGIC, RECIPE, read_arrays, read_index

__all__ = ["Released", "Variables", "load_released", "read_config", "read_statistics", "read_variables"]

MAX_BYTES = 2**32
_CONFIG = 2**20  # bytes; a released configuration has about 3,000
_LATEST = 2**16  # bytes of the file "checkpoint"
_STATE = "checkpoint"  # the name of that file
_PARTS = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")

#: What a checkpoint holds beside weights, by the last part of a name; TensorFlow numbers names that occur again.
NOT_WEIGHTS = {
    "Adam's moments": re.compile(r"(^|/)Adam(_\d+)?$"),
    "Adam's powers of beta": re.compile(r"(^|/)beta[12]_power(_\d+)?$"),
    "the number of updates": re.compile(r"(^|/)global_step(_\d+)?$"),
    "slots of other optimisers": re.compile(r"(^|/)(Momentum|RMSProp|Adagrad|Adadelta|Ftrl)(_\d+)?$"),
    "moving averages of weights": re.compile(r"(^|/)ExponentialMovingAverage(_\d+)?$"),
}
#: Option of a configuration -> part of the names of the statistics that it applies.
NORMALISATIONS = {
    "pp_zero_mean_norm_all_stats": "all",
    "pp_zero_mean_norm_seq_stats": "sequence",
    "pp_zero_mean_normalization": "channel",
}
#: The same by "data_type", as that code's instructions say, where a configuration leaves it to the command line.
_USUAL = {"timit": "all", "blizzard": "all", "iam": "sequence", "dw": "channel"}


@dataclass(frozen=True, eq=False)
class Variables:
    """What a checkpoint holds.

    :param path: the prefix or the ``.npz``.
    :param weights: by TensorFlow's name.
    :param dropped: names of what is no weight, by kind.
    """

    path: Path
    weights: dict[str, np.ndarray]
    dropped: dict[str, tuple[str, ...]]

    def __str__(self) -> str:
        numbers = sum(array.size for array in self.weights.values())
        rest = ", ".join(f"{kind} ({len(names)})" for kind, names in self.dropped.items())
        return f"{self.path}: {len(self.weights)} variables, {numbers:,} numbers; left out: {rest or 'nothing'}"


@dataclass(frozen=True, eq=False)
class Released:
    """A released model.

    :param net: the model in the published conventions.
    :param config: its configuration as the file has it.
    :param variables: what was in the checkpoint.
    """

    net: PublishedModel
    config: dict[str, Any]
    variables: Variables

    def __str__(self) -> str:
        parameters = sum(p.numel() for p in self.net.parameters())
        constants = sum(value.numel() for value in published_constants(self.net).values())
        more = f", {constants:,} of them constants in that code" if constants else ""
        size = f"{type(self.net).__name__}, {parameters:,} parameters{more}"
        return f"{self.variables}\n{size}: every variable has its place"


def load_released(checkpoint: str | os.PathLike[str], config: str | os.PathLike[str] | None = None) -> Released:
    """Read a released model.

    :param checkpoint: see :func:`read_variables`.
    :param config: the JSON configuration; default: the ``config.json`` beside the checkpoint.
    :raises CheckpointError: naming the file, and the option or variable that is missing, unknown or wrong.
    :raises DataError: for an ``.npz`` that cannot be read.
    """
    checkpoint = Path(checkpoint)
    if checkpoint.suffix != ".npz":
        _prefix(checkpoint)  # says what is not there
    beside = (checkpoint if checkpoint.is_dir() else checkpoint.parent) / "config.json"
    if config is None and not beside.exists():
        raise CheckpointError(f"there is no {beside}: the config.json of the run has to be there, or be given")
    config = beside if config is None else Path(config)
    options = read_config(config)
    variables = read_variables(checkpoint)
    try:
        return Released(load_published(options, variables.weights), options, variables)
    except ValueError as error:
        raise CheckpointError(f"{variables.path} with {config}: {error}") from None


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a configuration; what has to be in it is checked where it is used.

    :raises CheckpointError: naming the file: missing, too large, no JSON, or no options by name.
    """
    path = Path(path)
    text = _text(path, _CONFIG)
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}): give the config.json of the run") from None
    if not isinstance(config, dict) or "model_cls" not in config:
        raise CheckpointError(f"{path} has no 'model_cls', as the configurations of that code have")
    return config


def read_variables(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Variables:
    """Read the variables of a checkpoint.

    :param path: the prefix of TensorFlow's files ("model-1234"), one of these files, the folder that holds them, or an
        ``.npz`` with the variables by name.
    :param max_bytes: refuse to read more.
    :raises CheckpointError: naming the file: missing, truncated, damaged, or too large.
    :raises DataError: the same of an ``.npz``, and for one that holds anything but numbers.
    """
    path = Path(path)
    if path.suffix == ".npz":
        arrays: dict[str, Any] = read_npz(path, max_bytes=max_bytes)
        dropped = _not_weights(arrays)
        return Variables(path, {name: arrays[name] for name in _others(arrays, dropped)}, dropped)
    prefix = _prefix(path)
    entries = read_index(prefix)
    dropped = _not_weights(entries)
    return Variables(prefix, read_arrays(entries, _others(entries, dropped), max_bytes=max_bytes), dropped)


def read_statistics(path: str | os.PathLike[str], config: Mapping[str, Any], net: PublishedModel) -> Standardiser:
    """Read how the data of a release were standardised.

    :param path: the ``.npz`` of its data, with a dict ``statistics``; or any ``.npz`` with ``mean_all`` and ``std_all``
        (speech), ``mean_sequence`` and ``std_sequence`` (IAM-OnDB), ``mean_channel`` and ``std_channel`` (Deepwriting).
    :param config: says which of them that run applied.
    :param net: says how many channels there are, and whether one is a pen's bit.
    :raises DataError: naming the file: not readable, no such statistics, or some that do not fit.
    """
    path = Path(path)
    kind = _normalisation(path, config)
    names = f"mean_{kind}", f"std_{kind}"
    arrays = read_npz(path, max_bytes=MAX_BYTES, names=("statistics", *names), pickles=True)
    found: Any = arrays
    if isinstance(held := arrays.get("statistics"), Objects):
        found = held.items[0] if len(held.items) == 1 and isinstance(held.items[0], dict) else {}
    missing = [name for name in names if name not in found]
    if missing:
        there = ", ".join(sorted(found)[:12]) or "nothing"
        raise DataError(
            f"{path}: the statistics have no {' and '.join(missing)}, which the config asks for, but {there}"
        )
    mean, std = (np.asarray(found[name]) for name in names)
    if not {mean.dtype.kind, std.dtype.kind} <= set("fiu") or mean.shape != std.shape or mean.size == 0:
        raise DataError(f"{path}: {names[0]} and {names[1]} are not numbers of one shape")
    try:
        pair = [v.item() if v.size == 1 else tuple(v.ravel().tolist()) for v in (mean, std)]
        standardiser = Standardiser(*pair)
        check_standardiser(standardiser, net.data_dim, getattr(net.config.observation, "without_unit", ()))
    except ValueError as error:
        raise DataError(f"{path}: {names[0]} and {names[1]}: {error}") from None
    return standardiser


def _normalisation(path: Path, config: Mapping[str, Any]) -> str:
    given = {option: config[option] for option in NORMALISATIONS if option in config}
    usual = _USUAL.get(str(config.get("data_type")))
    if not given and usual is not None:
        return usual
    wanted = [NORMALISATIONS[option] for option, value in given.items() if value is True]
    if len(wanted) != 1:
        raise DataError(
            f"{path} cannot be used: the configuration has {given or 'no normalisation'}, and exactly one of "
            f"{', '.join(NORMALISATIONS)} must be true to say which statistics were applied. The config.json of a run "
            "says what was in force, whatever the configuration that it was made from has"
        )
    return wanted[0]


def _not_weights(names: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    found = {kind: tuple(name for name in names if pattern.search(name)) for kind, pattern in NOT_WEIGHTS.items()}
    return {kind: names for kind, names in found.items() if names}


def _others(names: Mapping[str, Any], dropped: Mapping[str, tuple[str, ...]]) -> list[str]:
    gone = {name for some in dropped.values() for name in some}
    return [name for name in names if name not in gone]


def _prefix(path: Path) -> Path:
    """Return the path of TensorFlow's files without what follows the number of the step."""
    if path.is_dir():
        return _latest(path)
    if path.name == _STATE and path.is_file():
        return _latest(path.parent)
    prefix = path.with_name(_PARTS.sub("", path.name))
    if prefix.with_name(f"{prefix.name}.index").exists() or prefix != path:
        return prefix
    if path.is_file():
        with open(path, "rb") as file:
            file.seek(max(path.stat().st_size - len(MAGIC), 0))
            old = file.read(len(MAGIC)) == MAGIC
        what = "is of TensorFlow's format V1, which is not read here" if old else "is no TensorFlow checkpoint"
        raise CheckpointError(f"{path} {what}: {RECIPE}" if old else f"{path} {what}, nor an .npz")
    raise CheckpointError(f"there is no {prefix.name}.index in {path.parent}{_there(path.parent)}")


def _latest(folder: Path) -> Path:
    """Return the prefix that TensorFlow's file ``checkpoint`` names, or else the only one in a folder."""
    if (folder / _STATE).is_file():
        named = re.search(r'^model_checkpoint_path: *"([^"]+)"', _text(folder / _STATE, _LATEST), re.MULTILINE)
        if named is None:
            raise CheckpointError(f"{folder / _STATE} names no checkpoint: give the path of one{_there(folder)}")
        prefix = folder / re.split(r"[/\\]", named[1])[-1]  # a folder may have been moved
        if not prefix.with_name(f"{prefix.name}.index").exists():
            raise CheckpointError(
                f"{folder / _STATE} names {prefix.name}, and there is no {prefix.name}.index beside it"
            )
        return prefix
    found = sorted(folder.glob("*.index"))
    if len(found) != 1:
        raise CheckpointError(f"{folder} has no file 'checkpoint' and {len(found)} checkpoints: give the path of one")
    return found[0].with_suffix("")


def _there(folder: Path) -> str:
    names = [path.stem for path in sorted(folder.glob("*.index"))[:8]]
    return f"; there are: {', '.join(names)}" if names else ""


def _text(path: Path, max_bytes: int) -> str:
    if not path.is_file():
        raise CheckpointError(f"{path} {'is not a regular file' if path.exists() else 'does not exist'}")
    with open(path, "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise CheckpointError(f"{path} has more than {max_bytes} bytes: it is no such file")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is no text ({error})") from None
