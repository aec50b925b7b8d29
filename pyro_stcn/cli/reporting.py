"""An evaluation as files: the report to read, every sequence's values, and the figures for a program."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..data import Corpus
from ..evaluation import Evaluation, Statistic
from ..whole_files import write_json

__all__ = ["write_report"]


def write_report(evaluation: Evaluation, path: Path, corpus: Corpus, checkpoint: Path) -> None:
    """Write PATH.txt, PATH.csv and PATH.json.

    :param path: without an ending; its folder is made.
    :param corpus: that the sequences are from.
    :param checkpoint: the weights that were scored.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.txt").write_text(f"{corpus.description}\n{evaluation}\n", encoding="utf-8")
    evaluation.to_csv(path.with_name(f"{path.name}.csv"))
    figures = {name: _plain(statistic) for name, statistic in evaluation.rows()}
    for name, noise in evaluation.noise.items():
        figures[name]["standard_error_of_the_draws"] = noise
    write_json(
        path.with_name(f"{path.name}.json"),
        {
            "corpus": corpus.name,
            "description": corpus.description,
            "checkpoint": str(checkpoint),
            "sequences": len(evaluation.names),
            "scored_steps": int(evaluation.scored.sum()),
            "particles": evaluation.particles,
            "repeats": evaluation.repeats,
            "evidence": evaluation.evidence.value,
            "protocol": None if evaluation.protocol is None else str(evaluation.protocol),
            "figures": figures,
            "tightest": evaluation.tightest()[1],
            "units": {unit: _plain(statistic) for unit, statistic in evaluation.in_units().items()},
        },
    )


def _plain(statistic: Statistic) -> dict[str, Any]:
    error = statistic.standard_error  # nan of a single sequence, and JSON has none
    return {
        "mean": statistic.mean,
        "standard_error": None if math.isnan(error) else error,
        "count": statistic.count,
    }
