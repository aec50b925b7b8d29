"""Numbers to report: bounds per sequence with their standard errors, and the KL of every layer."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer.enum import get_importance_trace
from torch import Tensor
from tqdm import tqdm

from .bounds import FIVO, PARTICLES
from .data.batch import SequenceBatch, SequenceDataset, batches
from .diagnostics import effective_sample_size, kl_by_layer, pareto_khat
from .models import Evidence, SequenceModel

__all__ = ["Evaluation", "Statistic", "evaluate"]

VERDICTS = {
    Evidence.EXACT: "the log-likelihood is exact",
    Evidence.LOWER_BOUND: "ELBO and IWAE are lower bounds on log p(x)",
    Evidence.ESTIMATE: "these estimates are NOT BOUNDS and can exceed log p(x)",
}


@dataclass(frozen=True)
class Statistic:
    """A mean over sequences.

    :param mean: nats per sequence.
    :param standard_error: of the mean over the sequences, as if they were drawn independently; nan for a single one.
    :param count: number of sequences.
    """

    mean: float
    standard_error: float
    count: int

    @classmethod
    def of(cls, values: np.ndarray) -> Statistic:
        """Mean and standard error of one value per sequence."""
        count = len(values)
        error = float(np.std(values, ddof=1) / math.sqrt(count)) if count > 1 else math.nan
        return cls(float(np.mean(values)), error, count)

    def __str__(self) -> str:
        return f"{self.mean:.1f} ± {self.standard_error:.1f}"


@dataclass(frozen=True)
class Evaluation:
    """Values per sequence, in nats of the (standardised) data, summed over time and channels.

    :param names: the sequences.
    :param lengths: their steps; all are scored, the first from the model's learned start, unless ``first_step_scored``
        is False.
    :param particles: K, the number of draws per sequence.
    :param evidence: what ``objective`` and ``iwae`` are, relative to log p(x).
    :param log_likelihood: E_q log p(x | z), mean of K draws.
    :param kl: KL(q || p) of every layer, analytic given the draws above, mean of K draws.
    :param iwae: log of the mean of K importance weights, one weight per sequence.
    :param iwae_per_step: the same with one weight per step, summed over steps; None where that is not a bound.
    :param first_step_scored: False where the model is given x_1 and scores the other steps.
    :param effective: effective sample size of the K weights per sequence, between 1 and K.
    :param khat: Pareto k-hat of these weights, see :func:`~pyro_stcn.diagnostics.pareto_khat`; nan for K below 25.
    :param filtered: the bound of a particle filter, and its number of particles, if one was asked for.
    """

    names: tuple[str, ...]
    lengths: np.ndarray
    particles: int
    evidence: Evidence
    log_likelihood: np.ndarray
    kl: dict[str, np.ndarray]
    iwae: np.ndarray
    iwae_per_step: np.ndarray | None
    first_step_scored: bool = True
    effective: np.ndarray | None = None
    khat: np.ndarray | None = None
    filtered: tuple[np.ndarray, int] | None = None

    @property
    def objective(self) -> np.ndarray:
        """``log_likelihood`` minus all ``kl``, estimated from K draws: the ELBO, if ``evidence`` says lower bound."""
        return self.log_likelihood - sum(self.kl.values(), np.zeros(()))

    def tightest(self) -> tuple[np.ndarray, str]:
        """Return the best figure there is, one value per sequence, with its name: exact, or the tightest bound."""
        if self.evidence is Evidence.EXACT:
            return self.log_likelihood, "log-likelihood"
        name, value = self._many()[-1]
        return value, name

    def _many(self) -> list[tuple[str, np.ndarray]]:
        """Return the figures from many draws by name, tightest last; nothing is named a bound that is none."""
        bound = self.evidence is Evidence.LOWER_BOUND
        many = f"IWAE-{self.particles}" if bound else f"{self.particles}-draw estimate"
        figures = [(f"{many} per sequence", self.iwae)]
        if self.filtered is not None:
            values, particles = self.filtered
            figures.append((f"FIVO-{particles}" if bound else f"{particles}-particle estimate", values))
        if self.iwae_per_step is not None:
            figures.append((f"{many} per step", self.iwae_per_step))
        return figures

    def rows(self) -> list[tuple[str, Statistic]]:
        """What a report shows, by name; nothing is named a bound that is none."""
        if self.evidence is Evidence.EXACT:
            return [("log-likelihood", Statistic.of(self.log_likelihood))]
        one = "ELBO" if self.evidence is Evidence.LOWER_BOUND else "1-draw estimate"
        rows = [(one, self.objective), *self._many()]
        rows += [("log-likelihood term", self.log_likelihood)]
        rows += [(f"KL {name}", value) for name, value in self.kl.items()]
        return [(name, Statistic.of(np.asarray(value))) for name, value in rows]

    def to_csv(self, path: str | Path) -> None:
        """Write one row per sequence: name, steps and every value, in nats."""
        columns = {"objective": self.objective, "iwae": self.iwae, "log_likelihood": self.log_likelihood}
        columns |= {f"kl_{name}": value for name, value in self.kl.items()}
        further = {
            "iwae_per_step": self.iwae_per_step,
            "fivo": None if self.filtered is None else self.filtered[0],
            "effective": self.effective,
            "khat": self.khat,
        }
        columns |= {name: value for name, value in further.items() if value is not None}
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["name", "steps", *columns])
            writer.writerows(zip(self.names, self.lengths, *columns.values(), strict=True))

    def __str__(self) -> str:
        rows = self.rows()
        verdict = VERDICTS[self.evidence]
        scored = "all scored" if self.first_step_scored else "all but the first of each sequence scored"
        lines = [
            f"nats per sequence, mean ± standard error over {len(self.names)} sequences ({int(self.lengths.sum())} "
            f"steps, {scored}), K = {self.particles}; {verdict}"
        ]
        lowest = int(np.argmin(self.objective))
        lines.append(
            f"  half of the sequences are above {np.median(self.objective):.1f}; the lowest is "
            f"{self.names[lowest]!r} with {self.objective[lowest]:.1f}"
        )
        lines += [f"  {name:<28} {stat.mean:>12.1f} ± {stat.standard_error:.1f}" for name, stat in rows]
        if self.effective is not None and self.particles > 1:
            line = f"  weights per sequence: half have an effective sample size above {np.median(self.effective):.1f}"
            if self.khat is not None and not np.isnan(self.khat).any():
                line += f"; Pareto k-hat is above 0.7 for {np.mean(self.khat > 0.7):.0%}"
            lines.append(line)
        return "\n".join(lines)


@torch.no_grad()
def evaluate(
    net: SequenceModel,
    dataset: SequenceDataset,
    *,
    particles: int = 10,
    batch_size: int = 10,
    chunk: int = 5,
    filter: FIVO | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Evaluation:
    """Score every sequence of ``dataset``, whole, with ``particles`` draws of the latents.

    The annealing factor is 1, the model is in evaluation mode while it runs, and neither that mode nor the state of
    the random generators is changed for the caller: the same ``seed`` gives the same numbers.

    The networks that read x alone run once a batch, whatever K is.

    :param particles: K; memory does not grow with it beyond ``chunk`` draws at a time. An exact figure needs no draws,
        and is computed once.
    :param chunk: draws that are computed together.
    :param filter: a particle filter, ``FIVO(K)``, whose bound is computed beside the others.
    :raises ValueError: when a value is not finite, naming the first such sequence.
    """
    for name, value in (("particles", particles), ("batch_size", batch_size), ("chunk", chunk)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if not net.latent_names:
        particles = 1
    weight = next(net.parameters())
    modes = {module: module.training for module in net.modules()}
    net.eval()
    results: list[dict[str, Tensor]] = []
    names: list[str] = []
    total = math.ceil(len(dataset) / batch_size)
    bar = tqdm(
        batches(dataset, batch_size), total=total, desc="evaluating", disable=None if progress else True, leave=False
    )
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            for batch in bar:
                batch = batch.to(weight.device, weight.dtype)
                results.append(_evaluate_batch(net, batch, particles, chunk))
                if filter is not None:
                    bound = filter.log_evidence(net.model, net.guide, batch.x, batch.mask)
                    results[-1]["filtered"] = bound.double()
                names += batch.names
    finally:
        for module, training in modes.items():
            module.training = training
        net.guide.release()
    values = {key: torch.cat([r[key] for r in results]).cpu().numpy() for key in results[0]}
    diagnostics = {name: values.pop(name) for name in ("effective", "khat")}
    finite = np.isfinite(np.stack(list(values.values()))).all(0)
    bad = [name for name, ok in zip(names, finite, strict=True) if not ok]
    if bad:
        raise ValueError(f"the objective of {len(bad)} of {len(names)} sequences is not finite, first of {bad[0]!r}")
    return Evaluation(
        names=tuple(names),
        lengths=np.asarray(dataset.lengths),
        particles=particles,
        evidence=net.evidence,
        log_likelihood=values["log_likelihood"],
        kl={name: values[name] for name in net.latent_names},
        iwae=values["iwae"],
        iwae_per_step=values.get("iwae_per_step"),
        first_step_scored=net.scores_first_step,
        filtered=None if filter is None else (values["filtered"], filter.num_particles),
        **diagnostics,
    )


def _evaluate_batch(net: SequenceModel, batch: SequenceBatch, particles: int, chunk: int) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}
    log_weights: list[Tensor] = []
    prepared = net.guide.prepare(batch.x, batch.mask)
    for start in range(0, particles, chunk):
        draws = min(chunk, particles - start)
        cells = _draw(net, batch, draws, prepared)
        log_weights.append(cells.pop("log_weight"))
        for key, value in cells.items():
            sums[key] = sums.get(key, 0) + _per_sequence(net, value).sum(0)
    log_weight = torch.cat(log_weights)
    result = {key: value / particles for key, value in sums.items()}
    weights = _per_sequence(net, log_weight)
    result["iwae"] = weights.logsumexp(0) - math.log(particles)
    result["effective"], result["khat"] = effective_sample_size(weights), pareto_khat(weights.cpu())
    if net.pointwise:
        result["iwae_per_step"] = (log_weight.logsumexp(0) - math.log(particles)).sum(-1)
    return result


def _per_sequence(net: SequenceModel, value: Tensor) -> Tensor:
    """Sum ``(draws, batch, time)`` or ``(draws, batch)`` over time."""
    return value.sum(-1) if net.pointwise else value


def _draw(net: SequenceModel, batch: SequenceBatch, draws: int, prepared: dict[str, Any]) -> dict[str, Tensor]:
    """Draw latents and return, per draw and cell and in float64, the terms of the bound."""
    nesting = 1 - net.sequence_dim
    with pyro.plate(PARTICLES, draws, dim=-nesting):
        model_trace, guide_trace = get_importance_trace(
            "flat", nesting, net.model, net.guide, (batch.x, batch.mask), {"prepared": prepared}
        )
    shape = (draws, *batch.mask.shape[: -net.sequence_dim])
    cells = {"log_likelihood": model_trace.nodes["x"]["log_prob"].double()}
    cells |= kl_by_layer(model_trace, guide_trace, net.latent_names)
    cells["log_weight"] = cells["log_likelihood"] + sum(
        model_trace.nodes[name]["log_prob"].double() - guide_trace.nodes[name]["log_prob"].double()
        for name in net.latent_names
    )
    return {key: value.double().expand(shape) for key, value in cells.items()}
