"""Where a model stands in a sequence, as a value: to go on from, to branch, to save and to take up again.

A model's state is a nest of tuples whose leaves are tensors, numbers and flags (``initial_state``, ``step``). Nothing
here knows a model's class: which dimension of a leaf is the batch is seen from states of two batch sizes.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from .checkpoint import CheckpointError, load_tensors, save_tensors
from .models import SequenceModel

__all__ = ["Continuation", "Selector", "begin", "load_continuation", "prime", "save_continuation"]


@dataclass(frozen=True)
class Continuation:
    """Everything a model needs to go on with a batch of sequences. It is never changed in place: keep it to branch.

    :param state: the model's own, of a size that does not depend on how many steps went before.
    :param x: the last step, ``(batch, data_dim)``; zeros before the first.
    :param steps: how many steps went before.
    :param model: what tells the model that it belongs to, see :func:`mark`; None where that is not known.
    """

    state: Any
    x: Tensor
    steps: int
    model: str | None = None

    def __len__(self) -> int:
        return len(self.x)


def begin(net: SequenceModel, batch_size: int = 1) -> Continuation:
    """Stand before the first step."""
    weight = next(net.parameters())
    return Continuation(net.initial_state(batch_size), weight.new_zeros(batch_size, net.data_dim), 0, mark(net))


@torch.no_grad()
def prime(net: SequenceModel, x: Tensor, *, from_guide: bool = True) -> Continuation:
    """Stand behind an observed beginning, in one parallel pass (a backbone of your own needs ``extend`` for it).

    What the networks remember of x is exact. Where later steps look back over latents, those of the beginning are
    one draw: from the guide, which knows the beginning, or from the prior, which does not.

    :param x: ``(batch, time, data_dim)``, in the units of the training data.
    :param from_guide: which of the two.
    :raises ValueError: for another shape, no steps, or values that are not finite.
    """
    x = torch.as_tensor(x).to(next(net.parameters()))
    if x.dim() == 3 and not torch.isfinite(x).all():
        sequence, step, channel = (~torch.isfinite(x)).nonzero()[0].tolist()
        raise ValueError(
            f"the beginning is {x[sequence, step, channel].item()} at sequence {sequence}, step {step}, channel "
            f"{channel}, and must be complete: fill it with impute first"
        )
    x = net.clean(x, None)
    return Continuation(settled(net.state_after(x, from_guide=from_guide)), x[:, -1].clone(), x.shape[1], mark(net))


class Selector:
    """Takes sequences out of a batch: ``Selector(net)(continuation, [0, 0, 2])`` branches the first one.

    :param net: the model that the continuations belong to.
    """

    def __init__(self, net: SequenceModel):
        leaves = [_leaves(_template(net, size)) for size in (2, 3)]
        self.dims = [
            next(i for i, (a, b) in enumerate(zip(two.shape, three.shape, strict=True)) if a != b)
            if isinstance(two, Tensor)
            else None
            for two, three in zip(*leaves, strict=True)
        ]
        self.net = net

    def state(self, state: Any, index: Tensor) -> Any:
        """Return the state of these sequences, for a state that :meth:`SequenceModel.step` has given.

        :param index: int64, ``(new batch,)``.
        """
        leaves, spec = tree_flatten(state)
        chosen = [
            leaf if dim is None else leaf.index_select(dim, index) for leaf, dim in zip(leaves, self.dims, strict=True)
        ]
        return tree_unflatten(chosen, spec)

    def __call__(self, continuation: Continuation, index: Tensor | list[int]) -> Continuation:
        """Return the continuation of these sequences, in this order, some perhaps more than once."""
        check_belongs(self.net, continuation.model)
        index = torch.as_tensor(index, device=continuation.x.device)
        if not continuation.steps:
            return begin(self.net, len(index))
        state = self.state(continuation.state, index)
        return Continuation(state, continuation.x[index], continuation.steps, continuation.model)


def save_continuation(path: str | os.PathLike, net: SequenceModel, continuation: Continuation) -> None:
    """Write a continuation to one file that cannot execute code; the weights are not in it."""
    check_belongs(net, continuation.model)
    leaves = _leaves(continuation.state)
    tensors = {f"leaf.{i}": leaf for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
    plain = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    meta = {"continuation": fingerprint(net), "leaves": plain, "steps": continuation.steps}
    save_tensors(path, tensors | {"x": continuation.x}, meta)


def load_continuation(path: str | os.PathLike, net: SequenceModel) -> Continuation:
    """Read what :func:`save_continuation` wrote, onto the device of the model.

    :raises CheckpointError: when the file is damaged, is no continuation, or belongs to another model or other weights.
    """
    tensors, meta = load_tensors(path)
    if not isinstance(meta, dict) or "continuation" not in meta:
        raise CheckpointError(f"{path} holds no continuation of a sequence")
    if meta["continuation"] != fingerprint(net):
        raise CheckpointError(
            f"{path} belongs to another model, or to other weights of this one: its state means nothing to this model"
        )
    weight = next(net.parameters())
    # Cloned: where a tensor begins in memory can change the last digit of what is computed from it.
    tensors = {name: value.to(weight.device).clone() for name, value in tensors.items()}
    try:
        x, steps = tensors["x"], int(meta["steps"])
        if x.ndim != 2 or x.shape[1] != net.data_dim:  # before a state of as many sequences is made
            raise ValueError(f"its last step has shape {tuple(x.shape)}, and a step of the model ({net.data_dim},)")
        leaves = [tensors.get(f"leaf.{i}", value) for i, value in enumerate(meta["leaves"])]
        like, spec = tree_flatten(_template(net, len(x)) if steps else net.initial_state(len(x)))
        if [_kind(leaf) for leaf in leaves] != [_kind(leaf) for leaf in like]:
            raise ValueError("its state does not have the form of one of the model")
        return Continuation(tree_unflatten(leaves, spec), x, steps, mark(net))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path} does not hold the state that it says ({error})") from error


def fingerprint(net: SequenceModel) -> str:
    """SHA-256 of the configuration and of all weights and their names."""
    digest = hashlib.sha256(repr(net.config).encode())
    for name, value in net.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def mark(net: SequenceModel) -> str:
    """A short text that is the same for the same configuration and weights, from a few values of every tensor.

    Unlike :func:`fingerprint` it costs little, and is the same on every device and in every precision that holds the
    weights. A training step changes it. It is read anew every time: a fused optimiser leaves no trace in the tensors'
    version counters, by which a kept one could be known to be old.
    """
    flat = [value.detach().flatten() for value in net.state_dict().values()]
    few = torch.cat([value[:: max(1, len(value) // 4)][:4].double() for value in flat])
    return hashlib.sha256(repr(net.config).encode() + few.cpu().numpy().tobytes()).hexdigest()[:16]


def check_belongs(net: SequenceModel, model: str | None) -> None:
    """Refuse the state of another model, or of other weights: it would mean something else to this one.

    :param model: the :func:`mark` that was kept with the state; None is not checked.
    :raises ValueError: if it is not this model's.
    """
    if model is not None and model != mark(net):
        raise ValueError(
            f"this state belongs to another model, or to other weights of this one: it means nothing to this "
            f"{type(net).__name__}. begin(net) and prime(net, x) make one that does"
        )


def settled(state: Any) -> Any:
    """Return the state without gradients, and laid out as it will be when it is read from a file.

    Products of tensors that differ in their strides alone can differ in their last digit.
    """

    def settle(leaf: Any) -> Any:
        # A copy: a slice would hold on to the whole beginning that it was cut from.
        return leaf.detach().clone(memory_format=torch.contiguous_format) if isinstance(leaf, Tensor) else leaf

    return tree_map(settle, state)


@torch.no_grad()
def _template(net: SequenceModel, batch_size: int) -> Any:
    """Return a state as it is after a step; before the first it can have another form."""
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        start = begin(net, batch_size)
        return net.step(start.state, start.x)[0]


def _kind(leaf: Any) -> Any:
    return leaf.shape if isinstance(leaf, Tensor) else type(leaf)


def _leaves(state: Any) -> list[Any]:
    return tree_flatten(state)[0]
