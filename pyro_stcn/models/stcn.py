"""Stochastic temporal convolutional networks: STCN and STCN-dense (Aksan & Hilliges, ICLR 2019).

The generative model (equations 7-9) and its guide (equations 10-13) share the features d^1 ... d^L of one causal
backbone: the prior of step t reads d_(t-1), the posterior reads d_t. Given x the latents are independent over time,
so both run on whole sequences at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from torch import Tensor
from torch.utils._pytree import tree_map

from ..ladder import LadderConfig, base_normal, build_ladder
from ..lstm import StackedLSTMConfig
from ..nets import prior_where_masked
from ..observation import CausalOutputConfig, GaussianMixtureConfig, HeadConfig, OutputConfig
from ..tcn import DilatedTCNConfig
from .base import Carry, Evidence, SequenceModel, SharedGuide
from .filtering import ParticleFilter, Terms, gather

__all__ = ["STCN", "STCNConfig", "STCNGuide", "STCNState"]

SITE = "ladder"  # key of a LadderSite in ``infer``


@dataclass(frozen=True)
class STCNConfig:
    """An STCN. The defaults are the paper's speech model, STCN-dense with a GMM.

    :param data_dim: channels of a step.
    :param backbone: config of a backbone that gives one feature per layer of the ladder, see :mod:`pyro_stcn.tcn`.
    :param ladder: sizes of the latents and how the guide merges.
    :param dense: the output network sees all latents (STCN-dense) instead of z1 alone (STCN).
    :param output: the network between latents and observation; 1x1 layers make the model pointwise, causal blocks do
        not.
    :param observation: the distribution of a step.
    :param independent_draws: draw a fresh sample for each use of a latent, as the published code does, instead of
        one. **For a dense model what is then reported is not a lower bound**: the output network and the layers below
        see different draws of the same latent, and only one of them is charged for. For comparison with published
        numbers only.
    :param output_sees_past: give the output network the highest feature of the step before, d^L_(t-1), beside the
        latents, so that what the past determines need not pass through noise. Not in the paper; an option of the
        authors' code that none of their configurations uses.
    """

    data_dim: int = 200
    backbone: DilatedTCNConfig | StackedLSTMConfig = field(default_factory=DilatedTCNConfig)
    ladder: LadderConfig = field(default_factory=LadderConfig)
    dense: bool = True
    output: OutputConfig = field(default_factory=CausalOutputConfig)
    observation: HeadConfig = field(default_factory=GaussianMixtureConfig)
    independent_draws: bool = False
    output_sees_past: bool = False

    def build(self) -> STCN:
        """Return the model with freshly initialised weights."""
        return STCN(self)


class STCNState(NamedTuple):
    """What generation remembers: the state of the backbone and of the output network."""

    backbone: Any
    output: Any


class STCN(SequenceModel):
    """The model; its guide is :attr:`guide`.

    :param config: see :class:`STCNConfig`; ``config.backbone`` may be any object whose ``build(data_dim)`` returns a
        backbone.
    """

    guide_sees_future = False
    no_filter = "with independent draws of a latent there are no weights that would give a bound"

    def __init__(self, config: STCNConfig):
        super().__init__()
        self.config = config
        self.data_dim = config.data_dim
        self.draws_once = not config.independent_draws
        self.backbone = config.backbone.build(config.data_dim)
        self.ladder = build_ladder(config.ladder, self.backbone.feature_dims)
        dims = config.ladder.latent_dims
        seen = self.backbone.feature_dims[-1] if config.output_sees_past else 0
        self.output = config.output.build(seen + (sum(dims) if config.dense else dims[0]))
        self.observation = config.observation.build(self.output.out_dim, config.data_dim)
        self.guide = STCNGuide(self.model)

    @property
    def latent_names(self) -> tuple[str, ...]:
        """Return "z1" ... "zL"."""
        return self.ladder.names

    @property
    def pointwise(self) -> bool:
        """Whether x_t depends on no latent but z_t."""
        return self.output.receptive_field == 1

    @property
    def evidence(self) -> Evidence:
        """Return a lower bound, except where draws are not shared in a dense model or the head is no density."""
        loose_draws = self.config.independent_draws and self.config.dense and len(self.ladder) > 1
        return Evidence.ESTIMATE if loose_draws else super().evidence

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run the backbone over ``[0, x_1 ... x_T]``: L times ``(batch, time + 1, dim)``, row t has seen x_1 to x_t."""
        return self.backbone(F.pad(x, (0, 0, 1, 0)))

    def model(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        annealing_factor: float | Tensor = 1.0,
        *,
        features: tuple[Tensor, ...] | None = None,
        carry: Carry | None = None,
    ) -> None:
        """Generate ``x`` given its own past; see :meth:`SequenceModel.model`.

        :param features: what :meth:`features` gives for a clean ``x``, if it is known: the guide passes both.
        :param carry: where the output network's past is kept, if ``x`` is a window of a longer sequence.
        """
        pyro.module(self.pyro_name, self)
        if features is None:
            x = self.clean(x, mask)
            features = self.features(x)
        with self.plates(x):
            with poutine.scale(scale=annealing_factor):
                past = [d[:, :-1] for d in features]
                draws = self._draw_latents(past, lambda prior: self.over_time(prior, mask))
            inputs = self.output_input(draws, past)
            hidden = self.output(inputs) if carry is None else self._output_after(carry, inputs)
            pyro.sample("x", self.over_time(self.observation(hidden), mask), obs=x)

    def _draw_latents(self, past: list[Tensor], as_site) -> list[Tensor]:
        """Ancestral sampling from the top of the ladder: one draw a layer, ``(..., dim)``, the top first.

        :param past: the features d_(t-1).
        :param as_site: turns a Normal of shape ``(..., dim)`` into the distribution of a site.
        """
        draws: list[Tensor] = []
        above = above_in_guide = None
        for level in reversed(range(len(self.ladder))):
            layer, site = self.ladder[level], LadderSite(level, above_in_guide)
            prior = as_site(layer.prior(past[level], above).to_event(1))
            draws.append(above := pyro.sample(layer.name, prior, infer={SITE: site}))
            above_in_guide = above
            if self.config.independent_draws and level > 0:
                above, above_in_guide = self._draw_again(layer.name, site, prior, above)
        return draws

    def output_input(self, draws: list[Tensor], past: list[Tensor]) -> Tensor:
        """Return what the output network reads: all latents or z1, and what else the configuration gives it.

        :param draws: top first, the order in which they are drawn (and that of the authors' weights).
        :param past: the features d_(t-1).
        """
        seen = draws if self.config.dense else draws[-1:]
        if self.config.output_sees_past:
            seen = [*seen, past[-1]]
        # A latent that is conditioned on has no particles.
        lead = torch.broadcast_shapes(*(part.shape[:-1] for part in seen))
        return torch.cat([part.expand(*lead, -1) for part in seen], dim=-1)

    def _output_after(self, carry: Carry, inputs: Tensor) -> Tensor:
        """Run the output network over a window, ``(..., time, dim)``."""
        lead = inputs.shape[:-2]
        state = self.output.initial_state(lead.numel()) if carry.value is None else carry.value
        carry.value, hidden = self.output.extend(state, inputs.flatten(0, -3))
        return hidden.unflatten(0, lead)

    def _draw_again(
        self, name: str, site: LadderSite, prior: dist.TorchDistribution, first: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draw a latent again, uncharged: for the prior of the layer below, and for the guide of that layer."""
        # The first draw has the shape of all plates, also those of the caller (particles).
        prior = prior.expand(first.shape[: first.dim() - prior.event_dim])
        with poutine.mask(mask=False):
            in_guide = pyro.sample(f"{name}_guide", prior, infer={SITE: site})
            # Without dense connections the first draw has no other use.
            below = pyro.sample(f"{name}_below", prior, infer={SITE: site}) if self.config.dense else first
            return below, in_guide

    @property
    def has_filter(self) -> bool:
        """There is one, except with independent draws."""
        return self.draws_once

    def filtering(self, x: Tensor, mask: Tensor | None, particles: int) -> STCNFilter:
        """Return the particle filter of a clean batch; what it selects among is the output network's past.

        :raises NotImplementedError: with independent draws.
        """
        if self.config.independent_draws:
            raise NotImplementedError(self.no_filter)
        return STCNFilter(self, x, mask, particles)

    def initial_state(self, batch_size: int) -> STCNState:
        """Return the state before the first step."""
        return STCNState(self.backbone.initial_state(batch_size), self.output.initial_state(batch_size))

    def step(self, state: STCNState, x_previous: Tensor) -> tuple[STCNState, dist.TorchDistribution]:
        """Draw z_t from the prior and return p(x_t | z, x_<t); see :meth:`SequenceModel.step`.

        The cost of a step does not depend on how many went before. The draws are sample sites "z1" ... "zL" of shape
        ``(batch, dim)``.
        """
        backbone, past = self.backbone.step(state.backbone, x_previous)
        draws = self._draw_latents(list(past), lambda prior: prior)
        output, hidden = self.output.step(state.output, self.output_input(draws, list(past)))
        return STCNState(backbone, output), self.observation(hidden)

    def step_given(
        self, state: STCNState, x_previous: Tensor, x: Tensor, particles: int | None = None
    ) -> tuple[STCNState, Terms]:
        """Draw z_t from the guide and score the step; see :meth:`SequenceModel.step_given`."""
        if self.config.independent_draws:
            raise NotImplementedError(self.no_filter)
        backbone, past = self.backbone.step(state.backbone, x_previous)
        _, present = self.backbone.step(backbone, x)
        draws, log_prior, log_posterior = self.draw_from_guide(list(past), list(present), None, particles)
        output, hidden = self.output.step(state.output, self.output_input(draws, list(past)))
        likelihood = self.observation(hidden).log_prob(x)
        return STCNState(backbone, output), Terms(log_prior, log_posterior, likelihood)

    def draw_from_guide(
        self, past: list[Tensor], present: list[Tensor], mask: Tensor | None = None, particles: int | None = None
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Draw from q(z | x) outside of a Pyro program: one draw a layer, the top first, and log p and log q of all.

        :param past: the features d_(t-1), of one step or of many.
        :param present: the features d_t.
        :param mask: where False, draws come from the prior.
        :param particles: draws of each, as a dimension in front.
        """
        draws: list[Tensor] = []
        log_prior = log_posterior = past[0].new_zeros(())
        for layer, before, now in zip(reversed(self.ladder), reversed(past), reversed(present), strict=True):
            above = draws[-1] if draws else None
            prior = layer.prior(before, above)
            posterior = layer.posterior(prior, now, above)
            if mask is not None:
                posterior = dist.Normal(*prior_where_masked(posterior, prior, mask))
            if particles is not None and not draws:
                posterior = posterior.expand((particles, *posterior.batch_shape))
            draws.append(z := posterior.rsample())
            log_prior = log_prior + prior.log_prob(z).sum(-1)
            log_posterior = log_posterior + posterior.log_prob(z).sum(-1)
        return draws, log_prior, log_posterior

    def state_after(self, x: Tensor, *, from_guide: bool = True) -> STCNState:
        """Return the state behind ``x``, in one pass if the backbone can; see :meth:`SequenceModel.state_after`."""
        if not hasattr(self.backbone, "extend"):
            return super().state_after(x, from_guide=from_guide)
        backbone, features = self.backbone.extend(self.backbone.initial_state(len(x)), F.pad(x, (0, 0, 1, 0))[:, :-1])
        if self.pointwise:
            return STCNState(backbone, self.output.initial_state(len(x)))
        _, last = self.backbone.step(backbone, x[:, -1])
        features = tuple(torch.cat([d, row.unsqueeze(1)], dim=1) for d, row in zip(features, last, strict=True))
        carry = Carry()
        if from_guide:
            self.guide(x, prepared={"x": x, "features": features}, carry=carry)
            self.guide.release()
        else:
            self.model(x, features=features, carry=carry)
        return STCNState(backbone, carry.value)


class STCNFilter(ParticleFilter):
    """An STCN over one batch, K particles of every sequence at a time.

    Given x the latents are independent over time, so those of a stretch of steps are drawn at once, and only the output
    network, which looks back over them, takes one step at a time. Memory does not grow with K times the length, and
    with K only by what each particle remembers.
    """

    rows = 2**14  # of latents to draw at once, those of a step at least

    def __init__(self, net: STCN, x: Tensor, mask: Tensor | None, particles: int):
        self.net, self.x, self.mask, self.steps = net, x, mask, x.shape[1]
        self.lead = torch.Size([particles, x.shape[0]])
        self.stretch = max(1, self.rows // self.lead.numel())
        self.features = net.features(x)
        # Of the stretch, by step: the gradient of a slice is as large as what it was cut from.
        self.inputs: tuple[Tensor, ...] = ()
        self.terms: list[tuple[Tensor, Tensor]] = []

    def _draw(self, steps: slice) -> None:
        """Draw the latents of these steps."""
        before, now = [d[:, :-1][:, steps] for d in self.features], [d[:, 1:][:, steps] for d in self.features]
        mask = None if self.mask is None else self.mask[:, steps]
        draws, log_prior, log_posterior = self.net.draw_from_guide(before, now, mask, self.lead[0])
        self.inputs = self.net.output_input(draws, before).unbind(-2)
        self.terms = list(zip(log_prior.unbind(-1), log_posterior.unbind(-1), strict=True))

    def start(self) -> Any:
        """Return the state of the output network."""
        return self.net.output.initial_state(self.lead.numel())

    def advance(self, t: int, state: Any) -> tuple[Any, Terms]:
        """Score step t at the latents drawn for it; steps are taken in order."""
        place = t % self.stretch
        if place == 0:
            self._draw(slice(t, t + self.stretch))
        state, hidden = self.net.output.step(state, self.inputs[place].flatten(0, 1))
        likelihood = self.net.observation(hidden.unflatten(0, self.lead)).log_prob(self.x[:, t])
        return state, Terms(*self.terms[place], likelihood)

    def select(self, state: Any, ancestors: Tensor) -> Any:
        """Take over the past of the ancestors."""

        def choose(value: Any) -> Any:
            return (
                gather(value.unflatten(0, self.lead), ancestors).flatten(0, 1) if isinstance(value, Tensor) else value
            )

        return tree_map(choose, state)


class STCNGuide(SharedGuide):
    """The inference network q(z | x), equations 10-13: the merge of the model's priors with bottom-up likelihoods.

    It computes the features and passes them on to the model that it runs.
    """

    net: STCN
    _site: LadderSite | None = None  # while a site is being sampled

    def prepare(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Any]:
        """Compute the features."""
        x = self.net.clean(x, mask)
        return {"x": x, "features": self.net.features(x)}

    def read(self, x: Tensor, mask: Tensor | None = None, reading: Any = None) -> tuple[dict[str, Any], Any]:
        """Compute the features of a window."""
        if not hasattr(self.net.backbone, "extend"):
            raise NotImplementedError(
                f"{type(self.net.backbone).__name__} cannot be run window by window: it has no extend(state, x)"
            )
        x, backbone = self.net.clean(x, mask), self.net.backbone
        if reading is None:
            state, features = backbone.extend(backbone.initial_state(len(x)), F.pad(x, (0, 0, 1, 0)))
        else:
            state, before = reading
            state, features = backbone.extend(state, x)
            features = tuple(torch.cat(rows, dim=1) for rows in zip(before, features, strict=True))
        return {"x": x, "features": features}, (state, tuple(d[:, -1:].clone() for d in features))

    def _pyro_sample(self, msg: Any) -> None:
        self._site = (msg["infer"] or {}).get(SITE)
        super()._pyro_sample(msg)
        self._site = None

    def get_posterior(self, name: str, prior: dist.TorchDistribution) -> dist.TorchDistribution:
        """q(z^l | z^(l+1), x_<=t) from the prior of the same site; of a further draw it is that of the first."""
        site, net = self._site, self.net
        assert site is not None, f"{name} is no layer of the ladder"
        if site.posterior is None:
            (_, mask, *_), kwargs = self.args_kwargs
            present, prior_normal = kwargs["features"][site.level][:, 1:], base_normal(prior)
            posterior = net.ladder[site.level].posterior(prior_normal, present, site.above)
            if mask is not None:
                posterior = dist.Normal(*prior_where_masked(posterior, prior_normal, mask))
            site.posterior = net.over_time(posterior.to_event(1), mask)
        return site.posterior


@dataclass
class LadderSite:
    """What the model tells its guide of a layer, in ``infer`` of the sites.

    :param level: from 0, nearest the data.
    :param above: the draw of the layer above that the guide looks at; None at the top.
    :param posterior: of the layer, once there is one.
    """

    level: int
    above: Tensor | None
    posterior: dist.TorchDistribution | None = None
