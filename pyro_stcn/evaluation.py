"""Numbers to report: every sequence scored by every bound that holds for its model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor
from torch.distributions import kl_divergence
from tqdm import tqdm

from .bounds import FIVO, PARTICLES
from .data.batch import SequenceBatch, Sequences, batches, check_is_dataset
from .data.standardise import Standardiser
from .diagnostics import effective_sample_size, pareto_khat
from .discrete import check_values
from .distributions import log_marginals
from .models import Carry, SequenceModel
from .models.unroll import StepwiseNormal
from .reports import Evaluation, Statistic, check_standardiser

__all__ = ["Evaluation", "NonFiniteFigureError", "Statistic", "evaluate"]


class NonFiniteFigureError(ValueError):
    """What a sequence is worth is not finite; the message names the first such sequence."""


@torch.no_grad()
def evaluate(
    net: SequenceModel,
    dataset: Sequences,
    *,
    particles: int = 10,
    repeats: int = 1,
    filter: FIVO | None = None,
    standardiser: Standardiser | None = None,
    given_first: bool = False,
    batch_size: int = 10,
    chunk: int = 5,
    window: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Evaluation:
    """Score every sequence of ``dataset``, whole, with ``particles`` draws of the latents.

    The annealing factor is 1, the model is in evaluation mode while it runs, and neither that mode nor the state of
    the random generators is changed for the caller: the same ``seed`` gives the same numbers.

    The networks that read x alone run once a batch, whatever K is; a filter runs them once more every time.

    :param particles: K; memory does not grow with it beyond ``chunk`` draws at a time. An exact figure needs no draws,
        and is computed once.
    :param repeats: compute everything so often, with new draws; the mean is returned, and how far the repeats differ.
    :param filter: a particle filter, ``FIVO(K)``, whose bound is computed beside the others.
    :param standardiser: the map from raw data to ``dataset``, for figures in raw units.
    :param given_first: take x_1 of every sequence as given and score the other steps.
    :param chunk: draws that are computed together.
    :param window: steps that are computed together; what lies before is carried over, so the figures are those of the
        whole sequence, and memory does not grow with its length. For models whose guide does not look ahead. A filter
        goes step by step as it is: of a long sequence it holds the particles of a step and what the networks say of x.
    :raises DataError: for data that the head has no probability for, such as 0.3 for a bit.
    :raises NonFiniteFigureError: when a value is not finite, naming the first such sequence; it is a ValueError.
    :raises ValueError: for ``given_first`` where it would give no bound, or with a filter; and for a standardiser that
        does not fit the data.
    :raises NotImplementedError: for ``window`` with a guide that looks ahead, or ``filter`` with a model without one.
    """
    for name, value in (("particles", particles), ("repeats", repeats), ("batch_size", batch_size), ("chunk", chunk)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1, not {window}")
    check_is_dataset("dataset", dataset)
    if given_first and not net.pointwise:
        raise ValueError(
            f"x_1 cannot be given to {type(net).__name__}: later steps look at z_1, whose draw from the guide would "
            "bring knowledge of what is scored, uncharged, and the figure would be no bound. Score all steps."
        )
    if given_first and (filter is not None or not net.scores_first_step):
        raise ValueError("given_first is for models that score the first step, and a particle filter scores it always")
    if not _scored(dataset, given_first or not net.scores_first_step).any():
        raise ValueError("no sequence has a second step, and the first is not scored")
    check_values(net.config.observation, dataset)
    if standardiser is not None:
        check_standardiser(standardiser, dataset.data_dim, getattr(net.config.observation, "without_unit", ()))
    if not net.latent_names:
        particles = repeats = 1
    weight = next(net.parameters())
    total = math.ceil(len(dataset) / batch_size) * repeats
    bar = tqdm(total=total, desc="evaluating", disable=None if progress else True, leave=False)
    results: list[list[dict[str, Tensor]]] = [[] for _ in range(repeats)]
    try:
        with net.evaluating(), bar, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            for batch in batches(dataset, batch_size):
                batch = batch.to(weight.device, weight.dtype)
                prepared = net.guide.prepare(batch.x, batch.mask) if window is None else None
                for result in results:
                    scorer = _Scorer(net, batch, particles, chunk, given_first, standardiser)
                    result.append(scorer.run(window, prepared))
                    if filter is not None:
                        result[-1]["filtered"] = filter.log_evidence(net.model, net.guide, batch.x, batch.mask)
                    bar.update()
    finally:
        net.guide.release()
    found = []
    for result in results:
        values = {key: torch.cat([r[key] for r in result]).cpu().numpy() for key in result[0]}
        found.append(_evaluation(net, dataset, particles, filter, given_first, standardiser, values))
    return Evaluation.mean_of(found)


def _evaluation(
    net: SequenceModel,
    dataset: Sequences,
    particles: int,
    filter: FIVO | None,
    given_first: bool,
    standardiser: Standardiser | None,
    values: dict[str, np.ndarray],
) -> Evaluation:
    diagnostics = {name: values.pop(name, None) for name in ("effective", "khat", "above_ceiling")}
    finite = np.isfinite(np.stack(list(values.values()))).all(0)
    bad = [name for name, ok in zip(dataset.names, finite, strict=True) if not ok]
    if bad:
        raise NonFiniteFigureError(
            f"the objective of {len(bad)} of {len(dataset)} sequences is not finite, first of {bad[0]!r}"
        )
    without_first = given_first or not net.scores_first_step
    return Evaluation(
        names=tuple(dataset.names),
        lengths=dataset.lengths,
        scored=_scored(dataset, without_first),
        first_step_scored=not without_first,
        missing=int(sum((~known).sum() for known in dataset.observed if known is not None)),
        data_dim=getattr(net.config.observation, "values_per_step", dataset.data_dim),
        particles=particles,
        evidence=net.evidence,
        log_likelihood=values["log_likelihood"],
        kl={name: values[name] for name in net.latent_names},
        iwae=values["iwae"],
        iwae_per_step=values.get("iwae_per_step"),
        filtered=None if filter is None else (values["filtered"], filter.num_particles),
        standardiser=standardiser,
        without_unit=getattr(net.config.observation, "without_unit", ()),
        discrete=getattr(net.config.observation, "discrete", False),
        **diagnostics,
    )


def _scored(dataset: Sequences, without_first: bool) -> np.ndarray:
    """Count the steps of every sequence that are scored, ``(N,)``: those observed, perhaps without the first."""
    scored = np.asarray(dataset.lengths) - without_first
    for i, known in enumerate(dataset.observed):
        if known is not None:
            scored[i] = known[without_first:].sum()
    return scored


class _Scorer:
    """Sums over one batch in float64, window by window and some draws at a time."""

    def __init__(
        self,
        net: SequenceModel,
        batch: SequenceBatch,
        particles: int,
        chunk: int,
        given_first: bool,
        standardiser: Standardiser | None,
    ):
        self.net, self.batch, self.particles = net, batch, particles
        self.draws = [min(chunk, particles - start) for start in range(0, particles, chunk)]
        self.scored = batch.mask.clone()
        if given_first or not net.scores_first_step:
            self.scored[:, 0] = False
        self.ceiling: Tensor | None = None
        if standardiser is not None:  # log-density of standardised data where that of raw data is 1
            self.ceiling = torch.as_tensor(standardiser.std, dtype=batch.x.dtype, device=batch.x.device).log()
        self.sums: dict[str, Tensor] = {}

    def run(self, window: int | None, prepared: dict[str, Any] | None) -> dict[str, Tensor]:
        """Return every value per sequence, ``(batch,)`` in float64.

        :param prepared: what the guide prepares of the whole batch, where there are no windows.
        """
        x, mask, guide = self.batch.x, self.batch.mask, self.net.guide
        log_weights: list[Any] = [0.0] * len(self.draws)
        carries = [Carry() for _ in self.draws]
        reading, per_step = None, torch.zeros((), dtype=torch.float64)
        for start in range(0, x.shape[1], window or x.shape[1]):
            span = slice(start, start + (window or x.shape[1]))
            if prepared is None:
                given, reading = guide.read(x[:, span], mask[:, span], reading)
            else:
                given = prepared
            step_weight: Tensor | None = None
            for number, draws in enumerate(self.draws):
                extra: dict[str, Any] = {"prepared": given}
                if prepared is None and self.net.latent_names:
                    extra["carry"] = carries[number]
                steps = self._draw(draws, span, extra, with_ceiling=number == 0)
                log_weight = steps.pop("log_weight")
                log_weights[number] = log_weights[number] + log_weight.sum(-1)
                for key, value in steps.items():
                    self.sums[key] = self.sums.get(key, 0) + value.sum(-1).sum(0)
                if self.net.pointwise:
                    many = log_weight.logsumexp(0)
                    step_weight = many if step_weight is None else torch.logaddexp(step_weight, many)
            if step_weight is not None:
                per_step = per_step + (step_weight - math.log(self.particles)).sum(-1)
        return self._summary(torch.cat(log_weights), per_step)

    def _summary(self, log_weights: Tensor, per_step: Tensor) -> dict[str, Tensor]:
        above = self.sums.pop("above_ceiling", None)
        result = {key: value / self.particles for key, value in self.sums.items()}
        result["iwae"] = log_weights.logsumexp(0) - math.log(self.particles)
        result["effective"], result["khat"] = effective_sample_size(log_weights), pareto_khat(log_weights.cpu())
        if self.net.pointwise:
            result["iwae_per_step"] = per_step
        if above is not None:
            result["above_ceiling"] = above / self.scored.sum(1).clamp(min=1) / self.draws[0]
        return result

    def _draw(self, draws: int, span: slice, given: dict[str, Any], with_ceiling: bool) -> dict[str, Tensor]:
        """Draw latents and return the terms of the bound, ``(draws, batch, time)``, 0 where nothing is scored."""
        net, x, mask = self.net, self.batch.x[:, span], self.batch.mask[:, span]
        with pyro.plate(PARTICLES, draws, dim=net.sequence_dim - 1):
            net.guide(x, mask, **given)
        model_trace, guide_trace = net.guide.get_traces()
        observed: Any = model_trace.nodes["x"]
        terms = {"log_likelihood": self._by_step(observed["fn"], x).log_prob(x)}
        log_weight = terms["log_likelihood"].double()
        for name in net.latent_names:
            z: Any = model_trace.nodes[name]["value"]
            p, q = (self._by_step(trace.nodes[name]["fn"], z) for trace in (model_trace, guide_trace))
            terms[name] = kl_divergence(q, p)
            log_weight = log_weight + p.log_prob(z).double() - q.log_prob(z).double()
        terms["log_weight"] = log_weight
        if with_ceiling and self.ceiling is not None and (density := log_marginals(observed["fn"], x)) is not None:
            terms["above_ceiling"] = (density > self.ceiling).double().mean(-1)
        scored, shape = self.scored[:, span], (draws, *mask.shape)
        return {key: torch.where(scored, value.double(), 0.0).expand(shape) for key, value in terms.items()}

    def _by_step(self, distribution: Any, value: Tensor) -> Any:
        """Return a site's distribution with time in the batch, so that sums over it can be taken in float64."""
        if isinstance(distribution, StepwiseNormal):
            return distribution.steps(value).to_event(1)
        return distribution if self.net.pointwise else distribution.base_dist
