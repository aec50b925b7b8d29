"""Filling gaps: draws of the missing steps and dimensions given all that was observed, by a particle filter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from .bounds import systematic
from .models import SequenceModel
from .models.filtering import Terms
from .partial import complete
from .states import Selector

__all__ = ["Imputation", "impute"]


@dataclass(frozen=True)
class Imputation:
    """Weighted completions of every sequence.

    :param samples: ``(particles, batch, time, data_dim)``; observed values are as they were given.
    :param weights: ``(particles, batch)``, adding up to 1 for each sequence.
    :param log_evidence: log of an unbiased estimate of p(observed values), ``(batch,)``: the mean over runs is a lower
        bound on log p(observed values).
    :param survivors: how many different completions the particles still hold at the step where they hold fewest,
        ``(batch,)``: few means that more particles are needed.
    """

    samples: Tensor
    weights: Tensor
    log_evidence: Tensor
    survivors: Tensor

    def mean(self) -> Tensor:
        """Return the conditional mean of every value, ``(batch, time, data_dim)``."""
        mean = torch.einsum("kb,kbtd->btd", self.weights, self.samples)
        return torch.where(
            (self.samples == self.samples[0]).all(0), self.samples[0], mean
        )  # observed: to the last digit

    def draw(self, count: int) -> Tensor:
        """Return completions in proportion to their weights, ``(count, batch, time, data_dim)``."""
        index = torch.multinomial(self.weights.T, count, replacement=True).T
        return self.samples.gather(0, index[..., None, None].expand(-1, -1, *self.samples.shape[2:]))


@torch.no_grad()
def impute(
    net: SequenceModel,
    x: Tensor,
    observed: Tensor,
    particles: int = 100,
    *,
    threshold: float = 0.5,
    progress: bool = True,
) -> Imputation:
    """Draw what is missing from p(missing | observed), observations after a gap included.

    Every particle fills the sequence from left to right. A missing step is drawn from the model; in a step that is
    known in part the rest is drawn given that part, exactly; and what is observed weights the particles, so that
    fillings that make the later observations unlikely die out. Latents of complete steps come from the guide, where
    that does not look ahead.

    What is exact: with the number of particles, weighted means converge to those of the model's own
    p(missing | observed), for any model, gap and head. With finitely many they are off, and more so
    the longer a gap is and the more surely the later observations tell what was in it: a filter draws a gap before it
    sees what comes after, and does not go back. :attr:`Imputation.survivors` tells how many fillings are left.

    :param x: ``(batch, time, data_dim)``; what lies at missing places is not read.
    :param observed: bool, ``(batch, time)`` for whole steps or ``(batch, time, data_dim)``.
    :param particles: K.
    :param threshold: resample when the effective sample size is at most this fraction of K.
    :raises ValueError: for shapes that do not fit, no particles, an observed value that is not finite, a missing
        first step where the model is always given it, or a head that is no density.
    :raises NotImplementedError: with independent draws of a latent.
    """
    if not net.config.observation.normalised:
        raise ValueError("this head is no density (its weights have a floor): there is no p(missing | observed)")
    if particles < 1 or not 0 <= threshold <= 1:
        raise ValueError(f"particles must be at least 1 and threshold in [0, 1], not {particles} and {threshold}")
    x = x.to(next(net.parameters()))
    if observed.dtype != torch.bool or observed.shape not in (x.shape, x.shape[:-1]):
        raise ValueError(
            f"observed must be bool of shape {tuple(x.shape)} or {tuple(x.shape[:-1])}, not {observed.dtype} of shape "
            f"{tuple(observed.shape)}"
        )
    observed = observed.unsqueeze(-1).expand(x.shape) if observed.dim() < x.dim() else observed
    x = net.clean(torch.where(observed, x, x.new_zeros(())), None)
    if not net.scores_first_step and not observed[:, 0].all():
        raise ValueError("this model says nothing of the first step: it cannot be missing")
    with net.evaluating():
        select = Selector(net)
        bar = tqdm(range(len(x)), desc="filling", unit="sequence", disable=None if progress else True, leave=False)
        found = [_Filter(net, select, x[i], observed[i], particles, threshold).run() for i in bar]
    samples, weights, log_evidence, survivors = (torch.stack(parts) for parts in zip(*found, strict=True))
    return Imputation(samples.transpose(0, 1), weights.T, log_evidence, survivors)


class _Filter:
    """K fillings of one sequence."""

    def __init__(
        self, net: SequenceModel, select: Selector, x: Tensor, observed: Tensor, particles: int, threshold: float
    ):
        self.net, self.select, self.x, self.observed = net, select, x, observed
        self.particles, self.limit = particles, math.log(threshold * particles) if threshold else -math.inf

    def run(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return samples ``(K, time, dim)``, weights ``(K,)``, log-evidence and the number of survivors."""
        net, count = self.net, self.particles
        state, previous = net.initial_state(count), self.x.new_zeros(count, net.data_dim)
        log_weight, banked = self.x.new_zeros(count), self.x.new_zeros(())
        values: list[Tensor] = []
        ancestors: list[Tensor | None] = []
        for x, observed in zip(self.x, self.observed, strict=True):
            value = x.expand(count, -1)
            if observed.all():
                state, terms = net.step_given(state, previous, value)
                if not values and not net.scores_first_step:
                    terms = Terms(*map(torch.zeros_like, terms))
                log_weight = log_weight + terms.prior - terms.posterior + terms.likelihood
            else:
                state, distribution = net.step(state, previous)
                known, value = complete(distribution, value, observed)
                log_weight = log_weight + known
            if not torch.isfinite(log_weight).any():
                raise ValueError(
                    f"step {len(values)} is so far from all that the model expects that its density is 0 in the "
                    "model's precision: look at that step, or mark it as missing"
                )
            log_weight = torch.where(log_weight.isnan(), log_weight.new_full((), -math.inf), log_weight)
            values.append(value)
            chosen = None
            if 2 * log_weight.logsumexp(0) - (2 * log_weight).logsumexp(0) <= self.limit and len(values) < len(self.x):
                chosen = systematic(log_weight.softmax(0).unsqueeze(1)).squeeze(1)
                banked = banked + log_weight.logsumexp(0) - math.log(count)
                log_weight = torch.zeros_like(log_weight)
                state, value = self.select.state(state, chosen), value[chosen]
            ancestors.append(chosen)
            previous = value
        samples, survivors = self._trace_back(values, ancestors)
        log_evidence = banked + log_weight.logsumexp(0) - math.log(count)
        return samples, log_weight.softmax(0), log_evidence, survivors

    def _trace_back(self, values: list[Tensor], ancestors: list[Tensor | None]) -> tuple[Tensor, Tensor]:
        """Follow every particle back to its beginning: the samples, and the fewest different ones at any step."""
        line, fewest = torch.arange(self.particles, device=self.x.device), self.particles
        path: list[Tensor] = []
        for t in reversed(range(len(values))):
            chosen = ancestors[t]
            if chosen is not None:
                line = chosen[line]
            if not self.observed[t].all():
                fewest = min(fewest, len(line.unique()))
            path.append(values[t][line])
        return torch.stack(path[::-1], dim=1), torch.tensor(fewest, device=self.x.device)
