"""Checkpoints: one safetensors file each, with a JSON header and a digest. Nothing in such a file can execute code.

A file is there whole or not at all (:mod:`pyro_stcn.whole_files`). On load every byte that matters is checked against
the digest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .configs import config_from_dict, config_to_dict
from .data.checks import printable
from .models import SequenceModel
from .whole_files import replacing

__all__ = [
    "CheckpointError",
    "load_model",
    "load_tensors",
    "load_weights",
    "model_tensors",
    "save_model",
    "save_tensors",
]

FORMAT = "pyro-stcn/1"
PREFIX = "model."  # beside the weights a training checkpoint holds the optimiser's moments and more


class CheckpointError(Exception):
    """A file that cannot be trusted or read: the message, one line, names it and says why."""

    def __init__(self, message: str = ""):
        super().__init__(printable(message))


def save_tensors(path: str | os.PathLike, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able facts to one file, atomically.

    :raises OSError: when the file cannot be written; what was at ``path`` before is then still there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A copy of each tensor: safetensors refuses views that share memory.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    text = json.dumps(meta, sort_keys=True)
    header = {"format": FORMAT, "meta": text, "sha256": _digest(tensors, text)}
    # Written here and not by safetensors: the permissions are then those of the umask, and a full disk an OSError.
    with replacing(path) as unfinished:
        unfinished.write_bytes(save(tensors, metadata=header))


def load_tensors(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote: (tensors on the CPU, facts).

    :raises FileNotFoundError: when there is no such file.
    :raises CheckpointError: when it is truncated, altered, or not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        if path.exists() and not path.is_dir():  # opening a pipe waits for who writes to it
            raise CheckpointError(f"{path} is not a regular file but a pipe or a device")
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error
    if header.get("format") != FORMAT or "meta" not in header:
        raise CheckpointError(f"{path} is a safetensors file, but not a checkpoint of pyro-stcn ({FORMAT})")
    if header.get("sha256") != _digest(tensors, header["meta"]):
        raise CheckpointError(f"{path} was altered or damaged after it was written: its digest does not match")
    try:
        return tensors, json.loads(header["meta"])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its facts are not JSON: {error}") from error


def save_model(path: str | os.PathLike, net: SequenceModel, **facts: Any) -> None:
    """Write a model: its configuration and weights, with any further JSON-able facts."""
    save_tensors(path, model_tensors(net), {"model": config_to_dict(net.config), **facts})


def model_tensors(net: SequenceModel) -> dict[str, Tensor]:
    """Return the weights under the names they have in a checkpoint."""
    return {f"{PREFIX}{name}": value for name, value in net.state_dict().items()}


def load_weights(net: SequenceModel, tensors: Mapping[str, Tensor]) -> None:
    """Put the weights among a checkpoint's tensors into ``net``."""
    net.load_state_dict(
        {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
    )


def load_model(path: str | os.PathLike) -> tuple[SequenceModel, dict[str, Any]]:
    """Return the model written by :func:`save_model` or kept by training, on the CPU, and the facts beside it.

    :raises CheckpointError: when the file is damaged, or its configuration and weights do not fit each other.
    """
    tensors, meta = load_tensors(path)
    try:
        _check_size(meta["model"], tensors)
        net = config_from_dict(meta["model"]).build()
        dtypes = {value.dtype for name, value in tensors.items() if name.startswith(PREFIX)}
        net.to(dtypes.pop() if len(dtypes) == 1 else None)
        load_weights(net, tensors)
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"{path}: configuration and weights do not make a model: {error}") from error
    return net, meta


def _check_size(config: Any, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a configuration whose model is not the one of these weights, before memory is taken for it.

    :raises ValueError: if a model of this configuration has other weights.
    """
    many = _most_layers(config)
    if many > len(tensors):  # each has weights; without memory it would still take its time
        raise ValueError(f"it asks for {many} layers, and there are {len(tensors)} tensors")
    with torch.device("meta"):  # shapes without memory
        expected = {name: value.shape for name, value in config_from_dict(config).build().state_dict().items()}
    for name in expected.keys() | {key.removeprefix(PREFIX) for key in tensors if key.startswith(PREFIX)}:
        found = tensors.get(f"{PREFIX}{name}")
        if found is None or found.shape != expected.get(name):
            shapes = (
                None if shape is None else tuple(shape) for shape in (expected.get(name), getattr(found, "shape", None))
            )
            raise ValueError("{!r} should have the shape {} and has {}".format(name[:100], *shapes))


def _most_layers(config: Any) -> int:
    """The largest number of layers that a configuration, as JSON, asks for."""
    if isinstance(config, list):
        return max(map(_most_layers, config), default=0)
    if not isinstance(config, dict):
        return 0
    own = [value for key, value in config.items() if key.endswith("layers") and isinstance(value, int)]
    cells = config.get("cells")  # of every group of an LSTM
    own += [sum(n for n in cells if isinstance(n, int))] if isinstance(cells, list) else []
    return max([0, *own, *map(_most_layers, config.values())])


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
