"""A study trains rows of a table with equal budgets, one folder a run, and can be cut short and taken up again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyro
from pyro.infer import ELBO, TraceMeanField_ELBO

from .bounds import FIVO
from .checkpoint import load_model
from .comparison import Score
from .configs import config_to_dict
from .data import Corpus
from .evaluation import evaluate
from .models import SequenceModel
from .protocols import Protocol, evaluate_as
from .training import describe_elbo, fit
from .training_config import TrainingConfig

__all__ = ["InterruptedRunError", "Row", "run", "score"]


class InterruptedRunError(Exception):
    """A run was asked to stop; the same call goes on with it."""


@dataclass(frozen=True)
class Row:
    """One system of a study.

    :param name: what the table calls it; also part of the folder's name.
    :param model: a config of :data:`pyro_stcn.models.MODELS`.
    :param training: the recipe; its seed is replaced by that of the run, and no run stops early, so that budgets are
        equal.
    :param elbo: the objective; None is ``TraceMeanField_ELBO()``.
    """

    name: str
    model: Any
    training: TrainingConfig
    elbo: ELBO | None = None


def run(
    row: Row,
    seed: int,
    corpus: Corpus,
    folder: Path,
    *,
    particles: int,
    filter: FIVO | None = None,
    protocol: Protocol | None = None,
    device: str = "cpu",
) -> Score:
    """Train a row with one seed and score the weights of its best validation on the test set, unless that was done.

    The folder is ``folder / "NAME-STEPS-SEED"``: with the log, the checkpoints, every test sequence's values and
    score.json.

    :param particles: K of the importance-weighted bound.
    :param filter: a particle filter whose bound is computed, too, for models that have one.
    :param protocol: a published way of scoring; None scores the test set as it is, in its own unit.
    :param device: where to train and score.
    :raises ValueError: where the folder holds a score on other data or of another recipe.
    :raises InterruptedRunError: after a signal that asked to stop.
    """
    training = replace(
        row.training,
        seed=seed,
        patience=row.training.steps,
        evaluate_every=min(row.training.evaluate_every, row.training.steps),
    )
    elbo = row.elbo or TraceMeanField_ELBO()
    identity = {
        "test": corpus.test.digest(),
        "train": corpus.train.digest(),
        "valid": corpus.valid.digest(),  # it chooses the weights
        "model": config_to_dict(row.model),
        "training": asdict(training),
        "elbo": describe_elbo(elbo),
        "particles": particles,
        "filter": None if filter is None else describe_elbo(filter),
    }
    if protocol is not None:
        identity["protocol"] = str(protocol)
    folder = folder / f"{row.name}-{training.steps}-{seed}"
    if (folder / "score.json").exists():
        made = Score.load(folder / "score.json")
        ours = json.loads(json.dumps(identity))
        if differ := [part for part in ours | made.identity if ours.get(part) != made.identity.get(part)]:
            raise ValueError(
                f"{folder} holds a score on other data or of another recipe: name another folder. "
                f"Different: {', '.join(differ)}"
            )
        return made
    pyro.set_rng_seed(seed)
    result = fit(
        row.model.build().to(device),
        corpus.train,
        corpus.valid,
        elbo=elbo,
        config=training,
        folder=folder,
        resume=(folder / "last.safetensors").exists(),
        facts=corpus.facts(),
    )
    if result.interrupted:
        raise InterruptedRunError(f"{row.name}: {result}. Run the same command again to go on.")
    net, _ = load_model(result.best)
    facts = {"seed": seed, "seconds_per_step": result.seconds_per_step(), "steps": result.step, "identity": identity}
    net.to(device)
    made = score(row.name, net, corpus, folder, particles=particles, filter=filter, protocol=protocol, **facts)
    made.save(folder / "score.json")
    return made


def score(
    name: str,
    net: SequenceModel,
    corpus: Corpus,
    folder: Path,
    *,
    particles: int,
    filter: FIVO | None = None,
    protocol: Protocol | None = None,
    **facts: Any,
) -> Score:
    """Score a trained model on the test set; every sequence's values go to test.csv, the report to test.txt.

    :param facts: the further fields of :class:`~pyro_stcn.comparison.Score`.
    """
    filter = filter if net.has_filter else None
    options: dict[str, Any] = {"particles": particles, "filter": filter}
    if protocol is None:
        evaluation = evaluate(net, corpus.test, standardiser=corpus.standardiser, **options)
    else:
        evaluation = evaluate_as(protocol, net, corpus, **options)
    evaluation.to_csv(folder / "test.csv")
    (folder / "test.txt").write_text(f"{evaluation}\n", encoding="utf-8")
    return Score.of(evaluation, system=name, parameters=sum(p.numel() for p in net.parameters()), **facts)
