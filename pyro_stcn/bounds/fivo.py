"""The bound of a particle filter (Maddison et al. 2017; Le et al. 2018; Naesseth et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.condition_messenger import ConditionMessenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor

from ..models import SequenceModel
from ..models.filtering import ParticleFilter
from .objective import Objective, check_particles, refuse_estimates

__all__ = ["FIVO", "multinomial", "systematic"]

Resampler = Callable[[Tensor], Tensor]


def multinomial(weights: Tensor) -> Tensor:
    """Draw the ancestor of every particle independently.

    :param weights: ``(particles, batch)``, each column summing to 1.
    :returns: int64 of the same shape.
    """
    return torch.multinomial(weights.T, weights.shape[0], replacement=True).T


def systematic(weights: Tensor) -> Tensor:
    """Draw ancestors with one uniform number a sequence: particle k has floor or ceil of ``K w_k`` descendants.

    :param weights: ``(particles, batch)``, each column summing to 1.
    :returns: int64 of the same shape.
    """
    particles, batch = weights.shape
    places = torch.arange(particles, device=weights.device).unsqueeze(1) + 1 - weights.new_empty(1, batch).uniform_()
    ends = weights.cumsum(0)
    # Rounding can leave the last end below the last place.
    return torch.searchsorted((ends / ends[-1]).T.contiguous(), (places / particles).T.contiguous()).T.clamp(
        max=particles - 1
    )


class FIVO(Objective):
    """The log of a particle filter's estimate of p(x), one filter a sequence: a lower bound in expectation.

    K particles move through the sequence together. Where their weights have become uneven (the effective sample size is
    below ``threshold * K``) they are resampled: the log of their mean weight is banked, poor ones die and good ones
    multiply. ``E exp(bound) = p(x)`` as for :class:`IWAE`, which it equals with ``threshold`` 0. Its gap grows with
    the number of steps in proportion, where particles that are never resampled lose sight of a long sequence whatever
    their number. With K = 1 it is the ELBO.

    Resampling trusts the weights so far. Where the guide looks ahead (SRNN, Z-forcing, Bi-LSTM) a draw may be poor so
    far because it is good for what comes: then a weight per sequence can be tighter, and with a guide that is the exact
    posterior it is exact and this is not. Compute both.

    It filters with the model's own conditionals, so it is for the models of this library that have a ``filtering``:
    those whose latents reach later steps. The gradient is that of the draws: the term from the choice of ancestors is
    left out, which is biased and has far less variance (as in the original).

    Annealing weighs the latents' terms of each step, masks leave out a step, and a handler's scale multiplies the
    bound, as in :class:`IWAE`. Memory grows with K times the number of steps where gradients are wanted.

    :param num_particles: K.
    :param threshold: of the effective sample size, as a fraction of K; 0 never resamples, and 1 always.
    :param resample: :func:`systematic` or :func:`multinomial`, or any function like them.
    """

    def __init__(self, num_particles: int = 10, threshold: float = 0.5, resample: Resampler = systematic):
        check_particles(num_particles)
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is a fraction of the particles, between 0 and 1, not {threshold}")
        super().__init__(num_particles=num_particles, max_plate_nesting=2, vectorize_particles=num_particles > 1)
        self.threshold = threshold
        self.resample = resample

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the bound in nats, summed over the sequences, with gradients."""
        model_of(guide)
        refuse_estimates(guide)
        return -torch.as_tensor(self._trace(guide, args, kwargs).log_prob_sum())

    def log_evidence(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return the bound of every sequence, ``(batch,)`` in float64, in nats."""
        site: Any = self._trace(guide, args, kwargs).nodes["log_evidence"]
        return site["fn"].log_factor.flatten()

    def _get_trace(self, model, guide, args, kwargs):
        raise NotImplementedError("a particle filter has no pair of traces")

    def _trace(self, guide: Callable, args: tuple, kwargs: dict) -> poutine.Trace:
        """Run the filter as a Pyro program with one factor a sequence, so that outer handlers reach it."""
        net = model_of(guide)
        for handler in _PYRO_STACK:
            held = set(getattr(handler, "data", ())) if isinstance(handler, ConditionMessenger) else set()
            if held & set(net.latent_names):
                raise ValueError(f"FIVO draws all latents, and {min(held)!r} is conditioned around the call")
        trace = poutine.trace(self._filter).get_trace(net, *args, **kwargs)
        site: Any = trace.nodes["log_evidence"]
        for name in ("scale", "mask"):
            shape = torch.as_tensor(site[name] if site[name] is not None else True).shape
            if torch.broadcast_shapes(shape, site["fn"].batch_shape) != site["fn"].batch_shape:
                raise ValueError(
                    f"a {name} of shape {tuple(shape)} differs within a sequence, and a filter has one bound for it"
                )
        return trace

    def _filter(
        self,
        net: SequenceModel,
        x: Tensor,
        mask: Tensor | None = None,
        annealing_factor: float | Tensor = 1.0,
        auxiliary_weight: float = 0.0,
    ) -> None:
        if auxiliary_weight:
            raise ValueError(
                "FIVO has no place for a training-only term: give auxiliary_weight=0, or in a TrainingConfig 0 for "
                "auxiliary_start and auxiliary_end"
            )
        pyro.module(net.pyro_name, net)
        with poutine.block():
            x = net.clean(x, mask)
            steps = net.filtering(x, mask, self.num_particles)
            bound = self._run(steps, mask, annealing_factor)
        with pyro.plate("sequences", x.shape[0], dim=net.sequence_dim):
            pyro.factor("log_evidence", bound.reshape(-1, *[1] * (-net.sequence_dim - 1)))

    def _run(self, steps: ParticleFilter, mask: Tensor | None, annealing_factor: float | Tensor) -> Tensor:
        """Return the log of the estimate of p(x), ``(batch,)`` in float64."""
        count, log_count = self.num_particles, math.log(self.num_particles)
        state = steps.start()
        # A sequence can be long: sums over time are in float64. One that has ended needs no more particles.
        last = None if mask is None else (mask * torch.arange(1, steps.steps + 1, device=mask.device)).amax(1) - 1
        banked: Any = 0.0
        log_weight: Any = 0.0
        for t in range(steps.steps):
            state, terms = steps.advance(t, state)
            step = (terms.likelihood + annealing_factor * (terms.prior - terms.posterior)).double()
            log_weight = log_weight + (step if mask is None else torch.where(mask[:, t], step, step.new_zeros(())))
            if count == 1 or not self.threshold or t == steps.steps - 1:
                continue
            # Effective sample size: (sum w)^2 / sum w^2.
            weight: Tensor = log_weight.detach()
            poor = 2 * weight.logsumexp(0) - (2 * weight).logsumexp(0) <= math.log(self.threshold * count) + 1e-6
            if last is not None:
                poor = poor & (last > t)
            if poor.any():
                banked = banked + torch.where(poor, log_weight.logsumexp(0) - log_count, weight.new_zeros(()))
                stay = torch.arange(count, device=weight.device).unsqueeze(1)
                ancestors = torch.where(poor, self.resample(weight.softmax(0)), stay)
                state = steps.select(state, ancestors)
                log_weight = torch.where(poor, weight.new_zeros(()), log_weight)
        return banked + log_weight.logsumexp(0) - log_count


def model_of(guide: Any) -> SequenceModel:
    """Return the model to filter with.

    :raises TypeError: for a guide that is none of this library's, or has a handler around it.
    :raises NotImplementedError: for a model that has no filter, with the reason.
    """
    if poutine.unwrap(guide) is not guide:
        raise TypeError("FIVO does not run the guide, so a handler on it would be lost: put it around the call")
    net = getattr(guide, "net", None)
    if not isinstance(net, SequenceModel):
        raise TypeError("FIVO filters with the conditionals of this library's models, and this guide has none")
    if not net.has_filter:
        raise NotImplementedError(f"{type(net).__name__} has no particle filter: {net.no_filter}")
    return net
