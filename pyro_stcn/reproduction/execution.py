"""Running a plan: row by row, what is finished is kept, what fails is reported, and what is cut short goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoint import CheckpointError, load_model
from ..comparison import Score
from ..configs import config_to_dict
from ..data import Corpus
from ..evaluation import NonFiniteFigureError
from ..interrupts import sigterm_as_ctrl_c
from ..study import InterruptedRunError, run, score
from ..training import NonFiniteError
from .plan import Plan, PlannedRow

__all__ = ["Result", "reproduce"]

_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")  # how torch says it without a class


@dataclass(frozen=True)
class Result:
    """What came of a row.

    :param row: the row.
    :param scores: one for each seed that was finished.
    :param checkpoints: the weights that were scored, in the order of the scores.
    :param failures: for each seed that failed, which and why.
    :param notes: what was found out on the way.
    """

    row: PlannedRow
    scores: tuple[Score, ...] = ()
    checkpoints: tuple[Path, ...] = ()
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def reproduce(
    plan: Plan,
    corpus: Corpus,
    folder: Path,
    *,
    weights: Path | None = None,
    device: str = "cpu",
    after_row: Callable[[list[Result]], None] = lambda results: None,
) -> list[Result]:
    """Train, or load, and score every row of a plan that is not in ``folder`` yet.

    :param folder: one folder for every run, named after preset, updates and seed. A finished run is never made again,
        also for another table; one that was cut short goes on where it was.
    :param weights: a folder with trained weights: ``PRESET.safetensors``, with a hyphen for the slash of its name, or
        what this function left in its own ``folder``. Rows that are found there are not trained.
    :param after_row: is given all results so far after each row.
    :returns: the results in the order of the plan. A run whose loss is not finite, or for which memory is short, is
        among them with its reason, and does not end the others.
    :raises InterruptedRunError: after Ctrl-C or SIGTERM; the same call goes on.
    :raises ValueError: where ``folder`` holds a run on other data or of another recipe.
    :raises CheckpointError: for weights that cannot be read, or do not fit the data.
    """
    results: list[Result] = []
    try:
        with sigterm_as_ctrl_c():
            for row in plan.rows:
                results.append(_result(row, plan, corpus, folder, weights, device))
                after_row(results)
    except KeyboardInterrupt:
        # Outside of training: what was being scored is scored again.
        row = plan.rows[min(len(results), len(plan.rows) - 1)]  # all rows can be made, and only the last not written
        raise InterruptedRunError(f"{row.preset}: stopped while it was not training") from None
    return results


def _result(row: PlannedRow, plan: Plan, corpus: Corpus, folder: Path, weights: Path | None, device: str) -> Result:
    scores, checkpoints, failures, notes = [], [], [], []
    for seed in plan.seeds:
        found = None if weights is None else _find(weights, row, seed)
        try:
            if found is not None and found in checkpoints:
                continue  # one file for all seeds is one run
            if found is not None:
                made, note = _score_weights(found, row, seed, plan, corpus, folder, device)
                notes += note
                checkpoints.append(found)
            else:
                options = {"particles": plan.particles, "protocol": row.protocol, "device": device}
                made = run(row.study, seed, corpus, folder, **options)
                checkpoints.append(folder / f"{row.study.name}-{row.steps}-{seed}" / "best.safetensors")
            scores.append(made)
        except (NonFiniteError, NonFiniteFigureError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not _is_want_of_memory(error):
                raise
            failures.append(f"seed {seed} failed, {type(error).__name__}: {error}")
    return Result(row, tuple(scores), tuple(checkpoints), tuple(failures), tuple(dict.fromkeys(notes)))


def _is_want_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error).lower() for words in _NO_MEMORY)


def _find(folder: Path, row: PlannedRow, seed: int) -> Path | None:
    """The weights of a row in a folder, if there are any."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder of weights {folder}")
    names = [f"{row.study.name}.safetensors", f"{row.study.name}-{row.steps}-{seed}/best.safetensors"]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _score_weights(
    path: Path, row: PlannedRow, seed: int, plan: Plan, corpus: Corpus, folder: Path, device: str
) -> tuple[Score, list[str]]:
    """Score weights that were trained elsewhere, unless that was done; and say what is special about them."""
    net, facts = load_model(path)
    if net.config.data_dim != corpus.data_dim:
        raise CheckpointError(
            f"{path} is of data with {net.config.data_dim} channels, and {corpus.name!r} has {corpus.data_dim}"
        )
    trained_on = facts.get("facts", facts).get("standardiser")
    if trained_on is not None and trained_on != corpus.standardiser.to_dict():
        raise CheckpointError(
            f"{path} was trained on data that were standardised in another way ({trained_on}, and here "
            f"{corpus.standardiser.to_dict()}): it would be scored in a unit that it does not know"
        )
    notes = [f"weights loaded from {path.name}, not trained here"]
    if trained_on is None:
        notes.append("the file does not say how the data of these weights were standardised: taken to be as here")
    if config_to_dict(net.config) != config_to_dict(row.study.model):
        notes.append("their configuration is not that of the preset")
    identity: dict[str, Any] = {
        "test": corpus.test.digest(),
        "train": corpus.train.digest(),  # its statistics make the unit
        "weights": hashlib.sha256(path.read_bytes()).hexdigest(),
        "particles": plan.particles,
        "protocol": str(row.protocol),
    }
    folder = folder / f"{row.study.name}-loaded-{identity['weights'][:12]}"
    if (folder / "score.json").exists() and (made := Score.load(folder / "score.json")).identity == identity:
        return made, notes
    folder.mkdir(parents=True, exist_ok=True)
    known = {"seed": facts.get("training", {}).get("seed", seed), "steps": facts.get("step", 0)}
    known |= {"seconds_per_step": float(np.nan), "identity": identity}
    net.to(device)
    made = score(row.study.name, net, corpus, folder, particles=plan.particles, protocol=row.protocol, **known)
    made.save(folder / "score.json")
    return made, notes
