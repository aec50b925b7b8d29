"""Systems side by side: what each is worth on the same test set, and what kind of number that is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .data.checks import DataError
from .evaluation import Evaluation, Statistic
from .models import Evidence
from .whole_files import replacing

__all__ = ["Score", "by_system", "figures_table", "markdown_table"]


@dataclass(frozen=True)
class Score:
    """One trained system on a test set.

    :param system: its name.
    :param seed: of its training.
    :param evidence: what ``nats`` are: exact, a lower bound, or no bound.
    :param bound: the name of the figure in ``nats``, for instance "IWAE-20 per sequence".
    :param nats: per sequence, standardised data, in the order of the test set.
    :param elbo: the same of the ELBO; equal to ``nats`` where these are exact.
    :param parameters: number of trainable parameters.
    :param seconds_per_step: median over training.
    :param steps: updates that were made; the weights scored are those of the best validation among them.
    :param identity: what the score depends on, JSON-able, with the digest of the test set under "test".
    :param figures: every figure of the evaluation by name, KLs included, nats per sequence.
    :param recordings: what each sequence is a piece of; None where sequences are whole.
    """

    system: str
    seed: int
    evidence: Evidence
    bound: str
    nats: tuple[float, ...]
    elbo: tuple[float, ...]
    parameters: int
    seconds_per_step: float
    steps: int
    identity: dict[str, Any]
    figures: dict[str, tuple[float, ...]] = field(default_factory=dict)
    recordings: tuple[str, ...] | None = None

    @classmethod
    def of(cls, evaluation: Evaluation, **facts) -> Score:
        """Take the tightest valid bound of an evaluation: per step where that is one, or the exact figure."""
        values, bound = evaluation.tightest()
        nats, elbo = (tuple(np.asarray(v, dtype=float).tolist()) for v in (values, evaluation.objective))
        figures = {name: tuple(np.asarray(v, dtype=float).tolist()) for name, v in evaluation.figures().items()}
        facts |= {"evidence": evaluation.evidence, "recordings": evaluation.recordings}
        return cls(bound=bound, nats=nats, elbo=elbo, figures=figures, **facts)

    def mean(self, values: np.ndarray) -> Statistic:
        """The mean of one value per sequence, and its error: over recordings, where sequences are pieces of them."""
        return Statistic.mean_of(values, self.recordings)

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        with replacing(path) as unfinished:
            unfinished.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: str | Path) -> Score:
        """Read what :meth:`save` wrote.

        :raises FileNotFoundError: when there is no such file.
        :raises DataError: when it is truncated, damaged, or something else.
        """
        path = Path(path)
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: is not a file: give the score.json of a run")
        try:
            fields = json.loads(path.read_bytes())
            fields |= {name: tuple(fields[name]) for name in ("nats", "elbo")}
            fields["figures"] = {name: tuple(values) for name, values in fields.get("figures", {}).items()}
            if fields.get("recordings") is not None:
                fields["recordings"] = tuple(fields["recordings"])
            return cls(**fields | {"evidence": Evidence(fields["evidence"])})
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"{path}: is not the score of a run, or was cut short ({type(error).__name__}: {str(error)[:200]}): "
                "delete it and have it made again"
            ) from error


def by_system(scores: Iterable[Score]) -> dict[str, list[Score]]:
    """Group by system, in the order in which they first come, seeds ascending.

    :raises ValueError: when the scores are not of the same test set (``identity["test"]``).
    """
    groups: dict[str, list[Score]] = {}
    for score in scores:
        groups.setdefault(score.system, []).append(score)
    tests = {score.identity["test"] for group in groups.values() for score in group}
    if len(tests) > 1:
        raise ValueError(f"scores of {len(tests)} different test sets cannot be compared")
    return {system: sorted(group, key=lambda score: score.seed) for system, group in groups.items()}


def markdown_table(scores: Sequence[Score]) -> str:
    """Return a table with one row per system.

    The standard error is over sequences, of their means over seeds: it says how the figure would move with other test
    sequences. How it moves with other seeds the column of single seeds shows. Sequences differ far more than systems
    do, so what tells two systems apart is the difference on the same sequences: it is given to the best one, of those
    whose figures are bounds or exact.
    """
    groups = by_system(scores)
    means = {system: np.mean([score.nats for score in group], 0) for system, group in groups.items()}
    # What is no bound is in the table, and leads nothing.
    sound = [system for system, group in groups.items() if group[0].evidence is not Evidence.ESTIMATE]
    best = max(sound or means, key=lambda system: float(np.mean(means[system])))
    times = {system: np.median([score.seconds_per_step for score in group]) for system, group in groups.items()}
    fastest = np.nanmin([*times.values(), np.inf])
    sequences = len(scores[0].nats)
    lines = [
        f"Nats per sequence of standardised data, mean ± standard error over {sequences} sequences; higher is better.",
        "",
        "| system | figure | kind | mean over seeds | minus the best, paired | single seeds | ELBO, same mean "
        "| parameters | time per step |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for system, group in groups.items():
        first = group[0]
        over = first.mean
        mean, elbo = over(means[system]), over(np.mean([score.elbo for score in group], 0))
        behind = "" if system == best else str(over(means[system] - means[best]))
        figure = " or ".join(dict.fromkeys(score.bound for score in group))
        single = ", ".join(f"{np.mean(score.nats):.1f}" for score in group)
        elbo_text = "" if first.evidence is Evidence.EXACT else str(elbo)
        time = "" if np.isnan(times[system]) else f"{times[system] / fastest:.1f}"
        lines.append(
            f"| {system} | {figure} | {first.evidence} | {mean} | {behind} | {single} | {elbo_text} | "
            f"{first.parameters:,} | {time} |"
        )
    lines += [
        "",
        "Each system is ranked by the tightest figure that was computed for it. Bounds are tight to different degrees, "
        "and a weight per step, where steps allow it, is far tighter than one per sequence: a system with a bound may "
        "be worth more than its row says.",
    ]
    if np.isfinite(fastest):
        lines += [
            "",
            f"Time per step is a ratio to the fastest, {fastest * 1e3:.0f} ms, of runs made one after the other.",
        ]
    return "\n".join(lines)


def figures_table(scores: Sequence[Score]) -> str:
    """Return a table with every bound of every system: how many nats each one recovers from the ELBO.

    Means over seeds; errors are over sequences, of a gain over the ELBO those of the paired difference.
    """
    groups = by_system(scores)
    inner = ("log-likelihood term", "KL ")
    names = dict.fromkeys(n for score in scores for n in score.figures if not n.startswith(inner))
    lines = [
        f"Nats per sequence, mean ± standard error over {len(scores[0].nats)} sequences; in brackets the gain over the "
        "first figure of the row, paired.",
        "",
        f"| system | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for system, group in groups.items():
        cells: list[str] = []
        first: np.ndarray | None = None
        for name in names:
            if not all(name in score.figures for score in group):
                cells.append("")
                continue
            values = np.mean([score.figures[name] for score in group], 0)
            gain = "" if first is None else f" ({group[0].mean(values - first)})"
            first = values if first is None else first
            cells.append(f"{group[0].mean(values)}{gain}")
        lines.append(f"| {system} | {' | '.join(cells)} |")
    return "\n".join(lines)
