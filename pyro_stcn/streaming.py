"""A live series, one step at a time: what a model expects next, and how surprised it is by what comes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .bounds import systematic
from .models import SequenceModel
from .states import Selector, mark, settled

__all__ = ["Stream", "StreamState"]


@dataclass(frozen=True)
class StreamState:
    """Where a stream stands; a value of fixed size, never changed in place.

    :param state: the model's, for all particles.
    :param x: the last step, for all particles.
    :param log_weights: normalised, ``(particles, batch)``.
    :param steps: how many steps were observed.
    :param model: what tells the model that it belongs to.
    """

    state: Any
    x: Tensor
    log_weights: Tensor
    steps: int
    model: str


class Stream:
    """Scores a series while it comes in, in constant memory and time a step, for as long as it goes on.

    ::

        stream = Stream(net, particles=20)
        state = stream.start(batch_size=1)
        for x_t in series:
            state, nats = stream.observe(state, x_t)   # low nats: an anomaly

    ``nats`` is the logarithm of an estimate of p(x_t | x_<t): exact for models without latents; with one weight per
    step where steps are independent; from a particle filter elsewhere. Summed over the steps it is the bound of
    :class:`~pyro_stcn.bounds.IWAE` per step, or of :class:`~pyro_stcn.bounds.FIVO`, if :attr:`evidence` says that the
    model's figures are bounds at all. A single one is no bound by itself.
    A model that is always given x_1 has nothing to say of it: 0.

    :param net: any model. Latents come from its guide where that does not look ahead, and from its prior elsewhere,
        which needs many more particles.
    :param particles: K; 1 is used for models without latents.
    :param threshold: resample when the effective sample size is at most this fraction of K.
    """

    def __init__(self, net: SequenceModel, particles: int = 20, threshold: float = 0.5):
        if particles < 1 or not 0 <= threshold <= 1:
            raise ValueError(f"particles must be at least 1 and threshold in [0, 1], not {particles} and {threshold}")
        self.net, self.threshold = net, threshold
        self.evidence = net.evidence
        self.particles = particles if net.latent_names else 1
        #: copies of every sequence that have a state of their own: latents of a pointwise model leave no trace in it
        self.copies = 1 if net.pointwise else self.particles
        self.select = Selector(net)
        self.model = mark(net)  # once: a stream goes on for millions of steps

    def start(self, batch_size: int = 1) -> StreamState:
        """Return the state before the first step."""
        weight = next(self.net.parameters())
        size = self.copies * batch_size
        log_weights = weight.new_full((self.copies, batch_size), -math.log(self.copies))
        x = weight.new_zeros(size, self.net.data_dim)
        return StreamState(self.net.initial_state(size), x, log_weights, 0, self.model)

    @torch.no_grad()
    def observe(self, state: StreamState, x: Tensor) -> tuple[StreamState, Tensor]:
        """Take in the next step of every series.

        :param x: ``(batch, data_dim)``.
        :returns: the state, and log p(x_t | x_<t), estimated, in nats, ``(batch,)``: ``-inf`` for a step that is so far
            from all that is expected that its density is 0 in the model's precision.
        :raises ValueError: for another shape, or a value that is not finite.
        """
        self._check(state)
        batch = state.log_weights.shape[1]
        if x.shape != (batch, self.net.data_dim):
            raise ValueError(f"x must be ({batch}, {self.net.data_dim}), not {tuple(x.shape)}")
        x = x.to(state.x)  # which makes infinite what its type cannot hold
        if not torch.isfinite(x).all():
            series, channel = (~torch.isfinite(x)).nonzero()[0].tolist()
            raise ValueError(f"step {state.steps} of series {series} is not finite in channel {channel}")
        x = x.expand(self.copies, -1, -1).flatten(0, 1)
        if self.net.pointwise:
            after, terms = self.net.step_given(state.state, state.x, x, self.particles)
            weights = _known(terms.prior - terms.posterior + terms.likelihood).reshape(-1, batch)
            nats = weights.logsumexp(0) - math.log(len(weights))
            if not state.steps and not self.net.scores_first_step:
                nats = torch.zeros_like(nats)
            return replace(state, state=settled(after), x=x, steps=state.steps + 1), nats
        after, terms = self.net.step_given(state.state, state.x, x)
        step = _known(terms.prior - terms.posterior + terms.likelihood).unflatten(0, (self.copies, batch))
        log_weights = state.log_weights + step
        nats = log_weights.logsumexp(0)
        # Where no particle can explain the step, all go on alike.
        alike = log_weights.new_full((), -math.log(self.copies))
        after, log_weights = self._resampled(after, torch.where(nats.isinf(), alike, log_weights - nats))
        return replace(state, state=settled(after), x=x, log_weights=log_weights, steps=state.steps + 1), nats

    def _check(self, state: StreamState) -> None:
        if state.model != self.model or len(state.log_weights) != self.copies:
            raise ValueError(
                f"this state belongs to a stream of another model, of other weights, or of {len(state.log_weights)} "
                f"particles and not {self.copies}: start() makes one that fits"
            )

    def _resampled(self, state: Any, log_weights: Tensor) -> tuple[Any, Tensor]:
        poor = -(2 * log_weights).logsumexp(0) <= math.log(max(self.threshold * self.copies, 1e-30)) + 1e-6
        if self.copies == 1 or not poor.any():
            return state, log_weights
        batch = torch.arange(log_weights.shape[1], device=log_weights.device)
        stay = torch.arange(self.copies, device=log_weights.device).unsqueeze(1)
        chosen = torch.where(poor, systematic(log_weights.exp()), stay)
        state = self.select.state(state, (chosen * len(batch) + batch).flatten())
        return state, torch.where(poor, log_weights.new_full((), -math.log(self.copies)), log_weights)

    @torch.no_grad()
    def predict(self, state: StreamState, draws: int = 1) -> tuple[Tensor, Any]:
        """Return what the model expects of the next step: a weighted set of distributions for every series.

        :param draws: of the next latents, for each particle.
        :returns: log-weights ``(components, batch)``, normalised, and a distribution of batch shape
            ``(components * batch,)``, components first; for a model without latents there is one component.
        """
        self._check(state)
        if draws < 1:
            raise ValueError(f"draws must be at least 1, not {draws}")
        draws = draws if self.net.latent_names else 1
        batch = state.log_weights.shape[1]
        index = torch.arange(self.copies * batch, device=state.x.device).repeat(draws)
        model_state = self.select.state(state.state, index) if state.steps else self.net.initial_state(len(index))
        _, distribution = self.net.step(model_state, state.x[index])
        return state.log_weights.repeat(draws, 1) - math.log(draws), distribution


def _known(weights: Tensor) -> Tensor:
    """Return log-weights with those that came out of an overflow as the lowest there is."""
    return torch.where(weights.isnan() | (weights == math.inf), weights.new_full((), -math.inf), weights)
