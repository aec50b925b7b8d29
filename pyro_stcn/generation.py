"""Data from a model: ancestral sampling, one step at a time, and what a model makes of given data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from tqdm import tqdm

from .models import SequenceModel
from .sharpening import TemperedLatents, sharpened
from .states import Continuation, begin, check_belongs, prime, settled

__all__ = ["generate", "reconstruct", "resample", "sample"]


def generate(
    net: SequenceModel,
    steps: int,
    batch_size: int = 1,
    *,
    prefix: Tensor | None = None,
    temperature: float = 1.0,
    latent_temperature: float | Mapping[str, float] = 1.0,
    bias: float = 0.0,
    progress: bool = True,
) -> Tensor:
    """Draw sequences from the model, each latent from its prior and each observation from its distribution.

    The cost of a step does not grow with the length: what the model remembers of the past is a state of fixed size.
    Uses torch's default generator; ``pyro.set_rng_seed`` makes it repeatable. The network is left in the mode it was
    in. To go on from where this ends, or to branch, see :func:`sample`.

    :param steps: steps to generate, at least 1.
    :param batch_size: sequences to generate together; with a prefix of batch size 1, continuations of that one.
    :param prefix: observed beginning, ``(1 or batch_size, time, data_dim)``, see :func:`~pyro_stcn.states.prime`.
    :param temperature: of the observation, see :func:`~pyro_stcn.sharpening.sharpened`.
    :param latent_temperature: of the latents: one number for all layers, or one by name.
    :param bias: towards probable strokes, see the same.
    :returns: the generated steps without the prefix, ``(batch_size, steps, data_dim)``, in the units of the training
        data.
    :raises ValueError: for a prefix of the wrong shape or with values that are not finite, or no steps.
    """
    if prefix is None:
        start = begin(net, batch_size)
    else:
        prefix = torch.as_tensor(prefix)
        if prefix.dim() == 3 and len(prefix) not in (1, batch_size):
            raise ValueError(f"the prefix has {len(prefix)} sequences, {batch_size} are to be generated")
        if prefix.dim() == 3:  # one beginning for all is given so often: its latents are drawn for each
            prefix = prefix.expand(batch_size, -1, -1)
        start = prime(net, prefix)
    options: dict[str, Any] = {"temperature": temperature, "latent_temperature": latent_temperature, "bias": bias}
    return sample(net, start, steps, progress=progress, **options)[0]


@torch.no_grad()
def sample(
    net: SequenceModel,
    start: Continuation,
    steps: int,
    *,
    temperature: float = 1.0,
    latent_temperature: float | Mapping[str, float] = 1.0,
    bias: float = 0.0,
    hold: Mapping[str, Tensor] | None = None,
    progress: bool = True,
) -> tuple[Tensor, Continuation]:
    """Go on from a continuation, and return where that leads: ``begin(net)`` and ``prime(net, x)`` give the first one.

    :param hold: latents that are not drawn but given, by name, ``(batch, steps, dim)``.
    :returns: the generated steps, ``(batch, steps, data_dim)``, and the continuation behind them.
    :raises ValueError: for no steps, a continuation of another model or other weights, or held latents of another
        shape.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    check_belongs(net, start.model)
    if start.x.shape[-1] != net.data_dim:
        raise ValueError(
            f"the continuation is of data with {start.x.shape[-1]} channels, the model's have {net.data_dim}"
        )
    tempered_at_all = isinstance(latent_temperature, Mapping) or latent_temperature != 1
    if not net.draws_once and (hold or tempered_at_all):
        raise ValueError("with independent draws a latent has several values: it cannot be held or tempered")
    held = _held(net, hold, len(start), steps)
    temperatures = (
        dict(latent_temperature)
        if isinstance(latent_temperature, Mapping)
        else dict.fromkeys(net.latent_names, latent_temperature)
    )
    if unknown := [name for name in temperatures if name not in net.latent_names]:
        raise ValueError(f"there is no latent {unknown[0]!r}; there are: {', '.join(net.latent_names) or 'none'}")
    tempered = TemperedLatents({name: t for name, t in temperatures.items() if t != 1})
    state, x, generated = start.state, start.x, []
    bar = tqdm(range(steps), desc="generating", unit="step", disable=None if progress else True, leave=False)
    for t in bar:
        given = poutine.condition(data={name: z[:, t] for name, z in held.items()}) if held else nullcontext()
        with tempered if tempered.temperatures else nullcontext(), given:
            state, distribution = net.step(state, x)
        x = sharpened(distribution, temperature, bias).sample()
        generated.append(x)
    return torch.stack(generated, dim=1), Continuation(settled(state), x, start.steps + steps, start.model)


def _held(net: SequenceModel, hold: Mapping[str, Tensor] | None, batch: int, steps: int) -> dict[str, Tensor]:
    held = dict(hold or {})
    for name, value in held.items():
        if name not in net.latent_names:
            raise ValueError(f"there is no latent {name!r}; there are: {', '.join(net.latent_names) or 'none'}")
        if value.dim() != 3 or value.shape[:2] != (batch, steps):
            raise ValueError(f"{name} is held at a tensor of shape {tuple(value.shape)}, not ({batch}, {steps}, dim)")
    return held


@torch.no_grad()
def reconstruct(net: SequenceModel, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean of p(x_t | z, x_<t) at one draw of the latents from the guide: ``(batch, time, data_dim)``.

    :param x: observations, ``(batch, time, data_dim)``.
    :param mask: True at real steps; what is returned elsewhere has no meaning.
    """
    return resample(net, x, (), mask)


@torch.no_grad()
def resample(net: SequenceModel, x: Tensor, layers: Iterable[str], mask: Tensor | None = None) -> Tensor:
    """Return the mean of p(x_t | z, x_<t) with some layers drawn from the prior and the others from the guide.

    What is lost against :func:`reconstruct` is what these layers carry. A layer from the prior is drawn given the
    layers above it, whichever way those were drawn.

    :param x: observations, ``(batch, time, data_dim)``.
    :param layers: names of the layers to draw from the prior.
    :param mask: True at real steps; what is returned elsewhere has no meaning.
    :raises ValueError: for a layer that does not exist.
    """
    x = torch.as_tensor(x).to(next(net.parameters()))
    layers = {layers} if isinstance(layers, str) else set(layers)
    if unknown := layers - set(net.latent_names):
        raise ValueError(f"there is no latent {min(unknown)!r}; there are: {', '.join(net.latent_names) or 'none'}")
    if layers and not net.draws_once:
        raise ValueError("with independent draws a latent has several values: it cannot be drawn anew by itself")
    try:
        drawn = net.guide(x, mask)
        fn: Any = net.guide.get_traces()[0].nodes["x"]["fn"]
        if layers:
            kept = {name: value for name, value in drawn.items() if name != "x" and name not in layers}
            with poutine.trace() as trace, poutine.condition(data=kept):
                net.model(x, mask)
            fn = trace.trace.nodes["x"]["fn"]
        return fn.mean
    finally:
        net.guide.release()
