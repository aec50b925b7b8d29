"""Data from a model: ancestral sampling, one step at a time, and reconstructions."""

from __future__ import annotations

import torch
from pyro import poutine
from torch import Tensor
from tqdm import tqdm

from .models import SequenceModel

__all__ = ["generate", "reconstruct"]


@torch.no_grad()
def generate(
    net: SequenceModel, steps: int, batch_size: int = 1, *, prefix: Tensor | None = None, progress: bool = True
) -> Tensor:
    """Draw sequences from the model, each latent from its prior and each observation from its distribution.

    The cost of a step does not grow with the length: what the model remembers of the past is a state of fixed size.
    Uses torch's default generator; ``pyro.set_rng_seed`` makes it repeatable. The network is left in the mode it was
    in.

    :param steps: steps to generate, at least 1.
    :param batch_size: sequences to generate together; with a prefix of batch size 1, continuations of that one.
    :param prefix: observed beginning, ``(1 or batch_size, time, data_dim)``. The features see it exactly; where the
        observation looks back over latents, those of the prefix are drawn from the guide.
    :returns: the generated steps without the prefix, ``(batch_size, steps, data_dim)``, in the units of the training
        data.
    :raises ValueError: for a prefix of the wrong shape or with values that are not finite.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    weight = next(net.parameters())
    x = weight.new_zeros(batch_size, net.data_dim)
    state = net.initial_state(batch_size)
    if prefix is not None:
        prefix = net.clean(prefix.to(weight), None)
        if prefix.shape[0] not in (1, batch_size):
            raise ValueError(f"the prefix has {prefix.shape[0]} sequences, {batch_size} are to be generated")
        prefix = prefix.expand(batch_size, -1, -1)
        # Where x looks back over latents, those of the prefix have to know the prefix: draws from the guide.
        latents = {} if net.pointwise else net.guide(prefix)
        latents = {name: value for name, value in latents.items() if name != "x"}
        net.guide.release()
        for t, observed in enumerate(prefix.unbind(1)):
            with poutine.condition(data={name: value[:, t] for name, value in latents.items()}):
                state, _ = net.step(state, x)
            x = observed
    generated = []
    for _ in tqdm(range(steps), desc="generating", unit="step", disable=None if progress else True, leave=False):
        state, distribution = net.step(state, x)
        x = distribution.sample()
        generated.append(x)
    return torch.stack(generated, dim=1)


@torch.no_grad()
def reconstruct(net: SequenceModel, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean of p(x_t | z, x_<t) at one draw of the latents from the guide: ``(batch, time, data_dim)``.

    :param x: observations, ``(batch, time, data_dim)``.
    :param mask: True at real steps; what is returned elsewhere has no meaning.
    """
    net.guide(x, mask)
    model_trace, _ = net.guide.get_traces()
    mean = model_trace.nodes["x"]["fn"].mean
    net.guide.release()
    return mean
