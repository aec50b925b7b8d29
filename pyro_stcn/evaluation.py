"""Numbers to report: every sequence scored by every bound that holds for its model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer.enum import get_importance_trace
from torch import Tensor
from tqdm import tqdm

from .bounds import FIVO, PARTICLES
from .data.batch import SequenceBatch, SequenceDataset, batches
from .data.standardise import Standardiser
from .diagnostics import effective_sample_size, kl_by_layer, pareto_khat
from .distributions import log_marginals
from .models import Carry, Evidence, SequenceModel
from .reports import Evaluation, Statistic

__all__ = ["Evaluation", "Statistic", "evaluate"]


@torch.no_grad()
def evaluate(
    net: SequenceModel,
    dataset: SequenceDataset,
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

    The networks that read x alone run once a batch, whatever K is.

    :param particles: K; memory does not grow with it beyond ``chunk`` draws at a time. An exact figure needs no draws,
        and is computed once.
    :param repeats: compute everything so often, with new draws; the mean is returned, and how far the repeats differ.
    :param filter: a particle filter, ``FIVO(K)``, whose bound is computed beside the others.
    :param standardiser: the map from raw data to ``dataset``, for figures in raw units.
    :param given_first: take x_1 of every sequence as given and score the other steps.
    :param chunk: draws that are computed together.
    :param window: steps that are computed together; what lies before is carried over, so the figures are those of the
        whole sequence, and memory does not grow with its length. For models whose guide does not look ahead.
    :raises ValueError: when a value is not finite, naming the first such sequence; and for ``given_first`` where it
        would give no bound.
    :raises NotImplementedError: for ``window`` with a guide that looks ahead, or with a filter.
    """
    for name, value in (("particles", particles), ("repeats", repeats), ("batch_size", batch_size), ("chunk", chunk)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if window is not None and (window < 1 or filter is not None):
        raise ValueError("window must be at least 1, and a particle filter runs over whole sequences")
    if given_first and not net.pointwise:
        raise ValueError(
            f"x_1 cannot be given to {type(net).__name__}: later steps look at z_1, whose draw from the guide would "
            "bring knowledge of what is scored, uncharged, and the figure would be no bound. Score all steps."
        )
    if not net.latent_names:
        particles = repeats = 1
    weight = next(net.parameters())
    modes = {module: module.training for module in net.modules()}
    net.eval()
    total = math.ceil(len(dataset) / batch_size) * repeats
    bar = tqdm(total=total, desc="evaluating", disable=None if progress else True, leave=False)
    found = []
    try:
        with bar, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            for _ in range(repeats):
                results: list[dict[str, Tensor]] = []
                for batch in batches(dataset, batch_size):
                    batch = batch.to(weight.device, weight.dtype)
                    scorer = _Scorer(net, batch, particles, chunk, given_first, standardiser)
                    results.append(scorer.run(window))
                    if filter is not None:
                        bound = filter.log_evidence(net.model, net.guide, batch.x, batch.mask)
                        results[-1]["filtered"] = bound.double()
                    bar.update()
                values = {key: torch.cat([r[key] for r in results]).cpu().numpy() for key in results[0]}
                found.append(_evaluation(net, dataset, particles, filter, given_first, standardiser, values))
    finally:
        for module, training in modes.items():
            module.training = training
        net.guide.release()
    return Evaluation.mean_of(found)


def _evaluation(
    net: SequenceModel,
    dataset: SequenceDataset,
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
        raise ValueError(f"the objective of {len(bad)} of {len(dataset)} sequences is not finite, first of {bad[0]!r}")
    lengths = np.asarray(dataset.lengths)
    return Evaluation(
        names=dataset.names,
        lengths=lengths,
        scored=lengths if net.scores_first_step and not given_first else lengths - 1,
        data_dim=dataset.data_dim,
        particles=particles,
        evidence=net.evidence,
        log_likelihood=values["log_likelihood"],
        kl={name: values[name] for name in net.latent_names},
        iwae=values["iwae"],
        iwae_per_step=values.get("iwae_per_step"),
        filtered=None if filter is None else (values["filtered"], filter.num_particles),
        standardiser=standardiser,
        discrete=getattr(net.config.observation, "discrete", False),
        **diagnostics,
    )


class _Scorer:
    """Sums over one batch, window by window and some draws at a time."""

    def __init__(
        self,
        net: SequenceModel,
        batch: SequenceBatch,
        particles: int,
        chunk: int,
        given_first: bool,
        standardiser: Standardiser | None,
    ):
        self.net, self.batch, self.particles, self.given_first = net, batch, particles, given_first
        self.draws = [min(chunk, particles - start) for start in range(0, particles, chunk)]
        self.ceiling: Tensor | None = None
        if standardiser is not None:  # log-density of standardised data where that of raw data is 1
            self.ceiling = torch.as_tensor(standardiser.std, dtype=batch.x.dtype, device=batch.x.device).log()
        self.sums: dict[str, Tensor] = {}

    def run(self, window: int | None) -> dict[str, Tensor]:
        """Return every value per sequence, ``(batch,)`` in float64."""
        x, mask, guide = self.batch.x, self.batch.mask, self.net.guide
        log_weights: list[Any] = [0.0] * len(self.draws)
        carries = [Carry() for _ in self.draws]
        reading, per_step = None, torch.zeros((), dtype=torch.float64)
        for start in range(0, x.shape[1], window or x.shape[1]):
            span = slice(start, start + (window or x.shape[1]))
            if window is None:
                prepared = guide.prepare(x, mask)
            else:
                prepared, reading = guide.read(x[:, span], mask[:, span], reading)
            step_weight: Tensor | None = None
            for number, draws in enumerate(self.draws):
                given: dict[str, Any] = {"prepared": prepared}
                if window is not None and self.net.latent_names:
                    given["carry"] = carries[number]
                cells = self._draw(draws, span, given, with_ceiling=number == 0)
                log_weight = cells.pop("log_weight")
                log_weights[number] = log_weights[number] + self._per_sequence(log_weight)
                for key, value in cells.items():
                    self.sums[key] = self.sums.get(key, 0) + self._per_sequence(value).sum(0)
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
        if self.net.pointwise and self.net.evidence is not Evidence.EXACT:
            result["iwae_per_step"] = per_step
        if above is not None:
            result["above_ceiling"] = above / self.batch.mask.sum(1) / self.draws[0]
        return result

    def _per_sequence(self, value: Tensor) -> Tensor:
        """Sum ``(draws, batch, time)`` or ``(draws, batch)`` over time."""
        return value.sum(-1) if value.dim() == 3 else value

    def _draw(self, draws: int, span: slice, given: dict[str, Any], with_ceiling: bool) -> dict[str, Tensor]:
        """Draw latents and return, per draw and cell and in float64, the terms of the bound."""
        net, x, mask = self.net, self.batch.x[:, span], self.batch.mask[:, span]
        nesting = 1 - net.sequence_dim
        with pyro.plate(PARTICLES, draws, dim=-nesting):
            model_trace, guide_trace = get_importance_trace("flat", nesting, net.model, net.guide, (x, mask), given)
        observed: Any = model_trace.nodes["x"]
        cells = {"log_likelihood": observed["log_prob"].double()}
        cells |= kl_by_layer(model_trace, guide_trace, net.latent_names)
        cells["log_weight"] = cells["log_likelihood"] + sum(
            model_trace.nodes[name]["log_prob"].double() - guide_trace.nodes[name]["log_prob"].double()
            for name in net.latent_names
        )
        shape = (draws, *mask.shape[: -net.sequence_dim])
        cells = {key: value.double().expand(shape) for key, value in cells.items()}
        if with_ceiling and self.ceiling is not None and (density := log_marginals(observed["fn"], x)) is not None:
            above = (density > self.ceiling).double().mean(-1) * mask
            cells["above_ceiling"] = above.expand(draws, *mask.shape)
        if self.given_first and span.start == 0:
            cells = {key: value.index_fill(-1, torch.zeros(1, dtype=torch.long), 0) for key, value in cells.items()}
        return cells
