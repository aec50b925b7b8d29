"""Stochastic WaveNet (SWaveNet, Lai et al. 2018): a latent inside every layer of a dilated causal network.

A layer's latent feeds the layer above, at this step and at later ones, so x_t depends on all latents up to t; still
they are drawn layer by layer for whole sequences at once. With ``c_1 = e = relu(W x_(t-1))``, bottom up for
l = 1 ... L::

    h_l = Gate(c_l[t], c_l[t - 2^(l-1)])      skip += MLP([h_l, z_l])      c_(l+1) = MLP([h_l, z_l])
    p(z_l) = N(MLP(h_l))                      q(z_l) = N(MLP([h_l, b_l]))

and top down over the present and the future, from ``r = W x_t``: ``r = Gate(r[t], r[t + 2^(l-1)])``,
``b_l = MLP([r, W x_t])``. Layers without a latent may come first: ``c = Gate(c)``, ``skip += MLP(c)``. What is observed
is read from ``skip + MLP(e)`` through two layers of (ReLU, 1x1).

The released code differs where it cannot be right: its gate computes a sigmoid and then does not use it; it normalises
over batch *and time*, which tells the prior about the future (here: no normalisation); its posterior has no lower
clamp. It clamps the log of an observation's scale to [-12, 12]; here scales are clamped as everywhere, see
:mod:`pyro_stcn.observation`, and a pen stroke's Gaussian is diagonal, not correlated. Its data for Blizzard pair each
input row with the row of another stream as its target, and its mean over TIMIT counts rows of padding: not so here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from torch import Tensor, nn

from ..initialise import glorot_uniform_
from ..ladder import base_normal
from ..nets import MLP, ClampedGaussian, lengths, prior_where_masked
from ..observation import HeadConfig, NormalConfig
from ..tcn import CausalConv1d, TCNState
from .base import SequenceModel, SharedGuide, check_sizes

__all__ = ["SWaveNet", "SWaveNetConfig", "SWaveNetGuide"]


@dataclass(frozen=True)
class SWaveNetConfig:
    """A Stochastic WaveNet. The defaults are the released speech model's.

    The handwriting model has 5 deterministic layers, 1 stochastic layer and widths of 200; its released MLPs are a ReLU
    and a single 1x1 layer, where those of the speech model, and all here, have a hidden layer.

    :param data_dim: channels of a step.
    :param deterministic_layers: gated layers without a latent, below the others.
    :param stochastic_layers: gated layers with a latent, L. Layers of both kinds are counted together from the bottom,
        and dilations are 1, 2, 4, ... in that order, so that every layer doubles the receptive field.
    :param latent_dim: channels of the latent of each layer.
    :param filters: width of the gated layers and of everything between them.
    :param hidden: width of the hidden layer of every MLP.
    :param observation: the distribution of a step.
    """

    data_dim: int = 200
    deterministic_layers: int = 0
    stochastic_layers: int = 4
    latent_dim: int = 512
    filters: int = 1024
    hidden: int = 512
    observation: HeadConfig = field(default_factory=NormalConfig)

    def __post_init__(self) -> None:
        check_sizes(self, "data_dim", "stochastic_layers", "latent_dim", "filters", "hidden")
        if self.deterministic_layers < 0:
            raise ValueError(f"deterministic_layers must not be negative, and is {self.deterministic_layers}")

    def build(self) -> SWaveNet:
        """Return the model with freshly initialised weights."""
        return SWaveNet(self)


class Perceptron(MLP):
    """One hidden ReLU layer over the concatenation of inputs ``(..., in_dims[i])``, to ``(..., out_dim)``."""

    def __init__(self, in_dims: tuple[int, ...], hidden: int, out_dim: int):
        super().__init__(in_dims, hidden, layers=1)
        self.out_dim = out_dim
        self.rest.append(nn.Linear(hidden, out_dim))
        glorot_uniform_(self.rest[-1])


class Gate(nn.Module):
    """``tanh(f * x) . sigmoid(g * x) + residual(x)`` with two taps, t and t - dilation; ``(..., time, filters)``."""

    def __init__(self, filters: int, dilation: int):
        super().__init__()
        # Filter and gate read the same input, so they are one convolution: filter first, then gate.
        self.filter_gate = CausalConv1d(filters, 2 * filters, 2, dilation)
        self.residual = nn.Linear(filters, filters)
        glorot_uniform_(self.filter_gate, fan_out=2 * filters)
        glorot_uniform_(self.residual)

    def forward(self, x: Tensor) -> Tensor:
        """Map a whole sequence to one of the same shape; before its start are zeros."""
        signal, gate = self.filter_gate(x.reshape(-1, *x.shape[-2:]).transpose(1, 2)).chunk(2, dim=1)
        return (signal.tanh() * gate.sigmoid()).transpose(1, 2).reshape(x.shape) + self.residual(x)

    def extend(self, buffer: Tensor, position: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (buffer, output) of many steps ``(batch, time, filters)``, see :meth:`CausalConv1d.extend`."""
        buffer, hidden = self.filter_gate.extend(buffer, position, x.transpose(1, 2))
        signal, gate = hidden.chunk(2, dim=1)
        return buffer, (signal.tanh() * gate.sigmoid()).transpose(1, 2) + self.residual(x)

    def step(self, buffer: Tensor, position: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (buffer, output) of one step ``(batch, filters)``, see :meth:`CausalConv1d.step`."""
        buffer, hidden = self.filter_gate.step(buffer, position, x)
        signal, gate = hidden.chunk(2, dim=1)
        return buffer, signal.tanh() * gate.sigmoid() + self.residual(x)


class StochasticLayer(nn.Module):
    """The networks of one layer with a latent, of the model and of its guide."""

    def __init__(self, config: SWaveNetConfig, dilation: int, top: bool):
        super().__init__()
        filters, hidden, z = config.filters, config.hidden, config.latent_dim
        self.gate = Gate(filters, dilation)
        self.skip = Perceptron((filters, z), hidden, filters)
        self.above = None if top else Perceptron((filters, z), hidden, filters)  # nothing would read that of the top
        self.backward_gate = Gate(filters, dilation)
        self.backward_net = Perceptron((filters, filters), hidden, filters)
        # Means and log-variances are clamped on both sides, for both. In the released code only the prior has a lower
        # clamp: a posterior mean can then go where no prior can follow, and its variance to zero.
        self.prior_net = ClampedGaussian((filters,), z, hidden, 1, nn.ReLU)
        self.posterior_net = ClampedGaussian((filters, filters), z, hidden, 1, nn.ReLU)

    def prior(self, h: Tensor) -> dist.Normal:
        """Return p(z_l) from h_l, with batch shape ``(..., latent_dim)``."""
        return dist.Normal(*self.prior_net(h))

    def posterior(self, h: Tensor, ahead: Tensor) -> dist.Normal:
        """Return q(z_l) from h_l and b_l."""
        return dist.Normal(*self.posterior_net(h, ahead))


class SharedPass(NamedTuple):
    """What model and guide share in one run."""

    embedded: Tensor  # W [0, x_1 ... x_T]
    hidden: list[Tensor]  # h_1 ... h_L, as the model comes to them
    ahead: tuple[Tensor, ...] = ()  # b_1 ... b_L, for the guide alone


class SWaveNet(SequenceModel):
    """The model; its guide is :attr:`guide`. The sites are "z1" (the lowest layer, drawn first) ... "zL" and "x"."""

    guide_sees_future = True
    no_filter = "its latents reach later steps through all layers; use IWAE"

    def __init__(self, config: SWaveNetConfig):
        super().__init__()
        self.config = c = config
        self.data_dim = c.data_dim
        width, below, layers = c.filters, c.deterministic_layers, c.deterministic_layers + c.stochastic_layers
        self.embedding = nn.Linear(c.data_dim, width)
        self.deterministic = nn.ModuleList(Gate(width, 2**i) for i in range(below))
        self.skips = nn.ModuleList(
            Perceptron((width,), c.hidden, width) for _ in range(1 + below)
        )  # of e and of the former
        self.stochastic = nn.ModuleList(StochasticLayer(c, 2**i, i + 1 == layers) for i in range(below, layers))
        self.output = nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.observation = c.observation.build(width, c.data_dim)
        for layer in (self.embedding, self.output[1], self.output[3]):
            glorot_uniform_(layer)
        self.guide = SWaveNetGuide(self.model)

    @property
    def latent_names(self) -> tuple[str, ...]:
        """Return "z1" ... "zL"."""
        return tuple(f"z{i + 1}" for i in range(len(self.stochastic)))

    @property
    def pointwise(self) -> bool:
        """x_t depends on the latents of all steps up to t."""
        return False

    @property
    def receptive_field(self) -> int:
        """How many past steps of x the distribution of x_t looks at, given the latents; 16 for speech."""
        return 2 ** (len(self.deterministic) + len(self.stochastic))

    def embed(self, x: Tensor) -> Tensor:
        """Return W [0, x_1 ... x_T], ``(batch, time + 1, filters)``: row t has seen x_t."""
        return self.embedding(F.pad(x, (0, 0, 1, 0)))

    def model(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        annealing_factor: float | Tensor = 1.0,
        *,
        shared: SharedPass | None = None,
    ) -> None:
        """Generate ``x`` given its own past; see :meth:`SequenceModel.model`.

        :param shared: what the guide knows and wants to know of a clean ``x``; it passes both.
        """
        pyro.module(self.pyro_name, self)
        if shared is None:
            x = self.clean(x, mask)
            shared = SharedPass(self.embed(x), [])
        shared.hidden.clear()  # of an earlier run on the same data
        with self.plates(x):
            with poutine.scale(scale=annealing_factor):
                e, as_site = shared.embedded[:, :-1].relu(), lambda prior: self.over_time(prior, mask)
                hidden = self._draw_latents(e, lambda gate, c: gate(c), as_site, shared.hidden)
            pyro.sample("x", self.over_time(self.observation(hidden), mask), obs=x)

    def _draw_latents(
        self,
        e: Tensor,
        run: Callable[[Gate, Tensor], Tensor],
        as_site: Callable[[dist.TorchDistribution], dist.TorchDistribution],
        seen: list[Tensor],
    ) -> Tensor:
        """Go up the layers and draw their latents: the input of the observation's head, ``(..., filters)``.

        :param run: runs a gate over whole sequences or over the next step; called once per layer, lowest first.
        :param as_site: turns a Normal with event shape ``(latent_dim,)`` into the distribution of a site.
        :param seen: h_l is appended before z_l is drawn.
        """
        skip, c = self.skips[0](e), e
        for gate, net in zip(self.deterministic, self.skips[1:], strict=True):
            c = run(gate, c)
            skip = skip + net(c)
        for name, layer in zip(self.latent_names, self.stochastic, strict=True):
            seen.append(h := run(layer.gate, c))
            z = pyro.sample(name, as_site(layer.prior(h).to_event(1)))
            skip = skip + layer.skip(h, z)
            if layer.above is not None:
                c = layer.above(h, z)
        return self.output(skip)

    def look_ahead(self, present: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        """Return b_1 ... b_L, each ``(batch, time, filters)``, where row t has seen x_t and the steps ahead of it.

        :param present: W x_1 ... W x_T of a clean x.
        :param mask: as in :meth:`model`.
        """
        # Zeros in the padding are not zeros after a layer with biases. What lies behind the last real step is made
        # zeros for every gate, as behind the end of a sequence that is alone.
        inside = None
        if mask is not None:
            inside = (torch.arange(mask.shape[1], device=mask.device) < lengths(mask)[:, None]).unsqueeze(-1)
        r, features = present, []
        for layer in reversed(self.stochastic):
            if inside is not None:
                r = torch.where(inside, r, r.new_zeros(()))
            r = layer.backward_gate(r.flip(1)).flip(1)
            features.append(layer.backward_net(r, present))
        return tuple(reversed(features))

    def initial_state(self, batch_size: int) -> TCNState:
        """Return the state before the first step: a buffer per layer, lowest first."""
        gates = [*self.deterministic, *(layer.gate for layer in self.stochastic)]
        return TCNState(tuple(gate.filter_gate.initial_buffer(batch_size) for gate in gates), 0)

    def step(self, state: TCNState, x_previous: Tensor) -> tuple[TCNState, dist.TorchDistribution]:
        """Draw z_t from the prior and return p(x_t | z, x_<t); see :meth:`SequenceModel.step`.

        The cost of a step does not depend on how many went before. The draws are sample sites "z1" ... "zL" of shape
        ``(batch, latent_dim)``.
        """
        state, hidden = self._go_on(state, self.embedding(x_previous), Gate.step, lambda prior: prior, 1)
        return state, self.observation(hidden)

    def state_after(self, x: Tensor, *, from_guide: bool = True) -> TCNState:
        """Return the state behind ``x``, in one pass; see :meth:`SequenceModel.state_after`."""
        latents = {name: z for name, z in self.guide(x).items() if name != "x"} if from_guide else {}
        self.guide.release()
        with poutine.condition(data=latents), self.plates(x):
            as_site, steps = lambda prior: self.over_time(prior, None), x.shape[1]
            state, _ = self._go_on(self.initial_state(len(x)), self.embed(x)[:, :-1], Gate.extend, as_site, steps)
        return state

    def _go_on(
        self,
        state: TCNState,
        embedded: Tensor,
        run: Callable[[Gate, Tensor, int, Tensor], tuple[Tensor, Tensor]],
        as_site: Callable[[dist.TorchDistribution], dist.TorchDistribution],
        steps: int,
    ) -> tuple[TCNState, Tensor]:
        """Take ``steps`` steps from a state: the new state, and the input of the observation's head.

        :param embedded: W of the step before each.
        :param run: :meth:`Gate.step` or :meth:`Gate.extend`.
        """
        before, after = iter(state.buffers), []

        def remember(gate: Gate, c: Tensor) -> Tensor:
            buffer, h = run(gate, next(before), state.position, c)
            after.append(buffer)
            return h

        hidden = self._draw_latents(embedded.relu(), remember, as_site, [])
        return TCNState(tuple(after), state.position + steps), hidden


class SWaveNetGuide(SharedGuide):
    """The inference network: q(z_l | z_<l, x) from the model's h_l and from b_l, which sees the present and the future.

    It computes W x and b_l, passes W x on to the model that it runs, and is handed h_l by it.
    """

    net: SWaveNet

    def prepare(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Any]:
        """Compute W x and b_l."""
        x = self.net.clean(x, mask)
        embedded = self.net.embed(x)
        return {"x": x, "shared": SharedPass(embedded, [], self.net.look_ahead(embedded[:, 1:], mask))}

    def get_posterior(self, name: str, prior: dist.TorchDistribution) -> dist.TorchDistribution:
        """q(z_l | z_<l, x); the prior of the same site where a step is masked out."""
        level = self.net.latent_names.index(name)
        (_, mask, *_), kwargs = self.args_kwargs
        shared = kwargs["shared"]
        posterior = self.net.stochastic[level].posterior(shared.hidden[level], shared.ahead[level])
        if mask is not None:
            posterior = dist.Normal(*prior_where_masked(posterior, base_normal(prior), mask))
        return self.net.over_time(posterior.to_event(1), mask)
