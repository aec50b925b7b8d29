"""What a plan will cost, before anything is run: time of training and scoring, and memory of the weights."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyro
import torch
from pyro.infer import TraceMeanField_ELBO

from ..data import Corpus
from ..training import fit
from .plan import Plan, PlannedRow

__all__ = ["Cost", "cost_table", "measured_costs", "rough_costs"]

BYTES = 16  # a parameter in float32, its gradient and two moments of Adam
FORWARD = 1 / 3  # of the time of an update


@dataclass(frozen=True)
class Cost:
    """What the runs of a row are expected to cost, all seeds together.

    :param row: the row.
    :param seconds_per_step: of an update.
    :param training: seconds of all updates.
    :param scoring: seconds of all validations and of the test set with K draws; a forward pass is taken to be a third
        of an update.
    :param memory: bytes of weights, gradients and Adam's moments; what a batch needs comes on top.
    :param shared: whether an earlier row of the plan has the same runs, which then cost nothing more.
    """

    row: PlannedRow
    seconds_per_step: float
    training: float
    scoring: float
    memory: int
    shared: bool

    @property
    def seconds(self) -> float:
        """What the row adds to the total."""
        return 0.0 if self.shared else self.training + self.scoring


def measured_costs(plan: Plan, corpus: Corpus, device: str = "cpu") -> Iterator[Cost]:
    """Make two updates of every row and take the time of the second."""
    known: dict[str, float] = {}
    for row in plan.rows:
        shared = row.study.name in known
        if not shared:
            known[row.study.name] = _seconds_per_step(row, corpus, device)
        yield _cost(row, known[row.study.name], plan, corpus, shared)


def rough_costs(plan: Plan, corpus: Corpus) -> Iterator[Cost]:
    """Estimate from the number of parameters and the speed of a matrix product here, without running a model.

    Six operations for each parameter and step of a batch. Models that go through time one step at a time take longer
    than that by the overhead of their steps, wide ones on long batches come near: trust the order of magnitude.
    """
    rate = _operations_per_second()
    seen: set[str] = set()
    length = corpus.train.steps / len(corpus.train)
    for row in plan.rows:
        operations = 6 * row.parameters * min(row.study.training.batch_size, len(corpus.train)) * length
        yield _cost(row, operations / rate, plan, corpus, row.study.name in seen)
        seen.add(row.study.name)


def cost_table(plan: Plan, corpus: Corpus, costs: list[Cost], how: str) -> str:
    """Return the rows, their sizes and what they are expected to cost.

    :param how: where the times come from.
    """
    heads = ["model", "preset", "parameters", "weights and Adam", "updates", "seeds", "time of an update", "training"]
    heads += ["validations and scoring", "scored as"]
    lines = [
        f"{plan.table.title}, on {corpus.name}: {len(corpus.train)} training, {len(corpus.valid)} validation and "
        f"{len(corpus.test)} test sequences. Budget {plan.budget.name}: {plan.budget.says}. K = {plan.particles}.",
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    for cost in costs:
        row = cost.row
        cells = [row.table_row.label, row.preset, f"{row.parameters:,}", f"{cost.memory / 2**20:,.0f} MiB"]
        cells += [f"{row.steps:,}", f"{len(plan.seeds)}", f"{cost.seconds_per_step:.3g} s"]
        cells += ["shared", "shared"] if cost.shared else [_duration(cost.training), _duration(cost.scoring)]
        lines.append(f"| {' | '.join([*cells, row.protocol.name])} |")
    total = sum(cost.seconds for cost in costs)
    runs = len(plan.seeds) * sum(not cost.shared for cost in costs)
    lines += [
        "",
        f"{runs} run{'s' * (runs > 1)}, about {_duration(total)} in all if none is finished yet. Times: {how}.",
    ]
    if plan.not_comparable:
        lines += ["", f"Not comparable with the published figures: {plan.not_comparable}."]
    return "\n".join(lines)


def _cost(row: PlannedRow, seconds: float, plan: Plan, corpus: Corpus, shared: bool) -> Cost:
    recipe, seeds = row.study.training, len(plan.seeds)
    batch_time = FORWARD * seconds / max(corpus.train.steps / len(corpus.train) * recipe.batch_size, 1)  # of a step
    validations = max(recipe.steps // min(recipe.evaluate_every, recipe.steps), 1)
    scored = corpus.valid.steps * validations + corpus.test.steps * (plan.particles if row.has_latents else 1)
    return Cost(
        row, seconds, seeds * recipe.steps * seconds, seeds * scored * batch_time, BYTES * row.parameters, shared
    )


def _seconds_per_step(row: PlannedRow, corpus: Corpus, device: str) -> float:
    recipe = replace(row.study.training, steps=2, evaluate_every=2, log_every=1)
    pyro.set_rng_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        elbo = row.study.elbo or TraceMeanField_ELBO()
        net = row.study.model.build().to(device)
        return fit(net, corpus.train, elbo=elbo, config=recipe, folder=Path(folder), progress=False).seconds_per_step()


def _operations_per_second(size: int = 512, seconds: float = 0.2) -> float:
    matrix, count, start = torch.ones(size, size), 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        matrix @ matrix
        count += 1
    return 2 * size**3 * count / (time.perf_counter() - start)


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{math.ceil(seconds)} s"
