"""What an evaluation found: values per sequence, their means and errors, and the units in which they can be said."""

from __future__ import annotations

import csv
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .data.standardise import Standardiser
from .models import Evidence

if TYPE_CHECKING:
    from .protocols import Protocol

__all__ = ["Evaluation", "Statistic", "check_standardiser"]

VERDICTS = {
    Evidence.EXACT: "the log-likelihood is exact",
    Evidence.LOWER_BOUND: "ELBO, IWAE and FIVO are lower bounds on the log-likelihood of what is scored",
    Evidence.ESTIMATE: "these estimates are NOT BOUNDS and can exceed log p(x)",
}


def check_standardiser(standardiser: Standardiser, data_dim: int, without_unit: Sequence[int]) -> None:
    """Refuse a standardiser of another width, or one that would give a unit to a channel that has none.

    :raises DataError: for another width.
    :raises ValueError: for a channel without a unit whose standard deviation is not 1.
    """
    standardiser.log_jacobian(data_dim)
    for channel in without_unit:
        std = standardiser.std if isinstance(standardiser.std, float) else standardiser.std[channel]
        if std != 1:
            raise ValueError(
                f"channel {channel % data_dim} is a bit with a probability, and this standardiser divides it by {std}: "
                "give one per channel that leaves it alone (keep=...)"
            )


@dataclass(frozen=True)
class Statistic:
    """A mean over sequences.

    :param mean: nats per sequence, or per whatever the mean is taken over.
    :param standard_error: of the mean over the sequences, as if they were drawn independently; nan for a single one.
        Where sequences are pieces of recordings, over the recordings.
    :param count: number of sequences, or of recordings.
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

    @classmethod
    def mean_of(cls, values: np.ndarray, recordings: Sequence[Hashable] | None) -> Statistic:
        """Mean of one value per sequence, and its error: over recordings, where sequences are pieces of them."""
        return cls.of(values) if recordings is None else cls.ratio(values, np.ones(len(values)), recordings)

    @classmethod
    def ratio(cls, values: np.ndarray, sizes: np.ndarray, groups: Sequence[Hashable] | None = None) -> Statistic:
        """Sum of values over sum of sizes, for instance nats per step of the corpus, and its error to first order.

        :param groups: what each value belongs to, if the values are not independent: the error is over the groups.
        """
        if groups is not None:
            index = np.unique(np.array([hash(group) for group in groups]), return_inverse=True)[1]
            values, sizes = (np.bincount(index, np.broadcast_to(v, len(index))) for v in (values, sizes))
        mean = float(np.sum(values) / np.sum(sizes))
        return cls(mean, cls.of(values - mean * sizes).standard_error / float(np.mean(sizes)), len(values))

    def __str__(self) -> str:
        return f"{self.mean:.1f} ± {self.standard_error:.1f}"


@dataclass(frozen=True)
class Evaluation:
    """Values per sequence, in nats of the (standardised) data, summed over time and channels.

    :param names: the sequences.
    :param lengths: their steps.
    :param scored: the steps of them that are scored: all that are observed, or all of these but a first that is given.
    :param data_dim: values in a step: its channels, or 1 where a step is one of several categories.
    :param particles: K, the number of draws per sequence.
    :param evidence: what ``objective`` and ``iwae`` are, relative to log p(x).
    :param log_likelihood: E_q log p(x | z), mean of K draws.
    :param kl: KL(q || p) of every layer, analytic given the draws above, mean of K draws.
    :param iwae: log of the mean of K importance weights, one weight per sequence.
    :param iwae_per_step: the same with one weight per step, summed over steps; None where that is not a bound.
    :param effective: effective sample size of the K weights per sequence, between 1 and K.
    :param khat: Pareto k-hat of these weights, see :func:`~pyro_stcn.diagnostics.pareto_khat`; nan for K below 25.
    :param filtered: the bound of a particle filter, and its number of particles, if one was asked for.
    :param repeats: how often all of it was computed with new draws; what is above is the mean.
    :param noise: standard error over the repeats of the mean of every figure: what the draws contribute.
    :param standardiser: the map from raw data to the units of the nats, if it is known.
    :param recordings: what each sequence is a piece of; None where sequences are whole.
    :param without_unit: channels whose nats are of probabilities (a pen bit), which no standardisation may touch.
    :param discrete: whether the nats are of probabilities, which have no unit, and not of densities.
    :param above_ceiling: share of a sequence's dimensions whose density is above 1 per raw unit, which no probability
        of integer data can be; None where there is no standardiser, or the head is discrete.
    :param protocol: the published way of scoring that was followed, if one was.
    :param first_step_scored: False where x_1 is given.
    :param missing: steps of all sequences that were marked as missing; they are not scored.
    """

    names: tuple[str, ...]
    lengths: np.ndarray
    scored: np.ndarray
    data_dim: int
    particles: int
    evidence: Evidence
    log_likelihood: np.ndarray
    kl: dict[str, np.ndarray]
    iwae: np.ndarray
    iwae_per_step: np.ndarray | None
    effective: np.ndarray
    khat: np.ndarray
    filtered: tuple[np.ndarray, int] | None = None
    repeats: int = 1
    noise: dict[str, float] = field(default_factory=dict)
    standardiser: Standardiser | None = None
    recordings: tuple[str, ...] | None = None
    without_unit: tuple[int, ...] = ()
    discrete: bool = False
    above_ceiling: np.ndarray | None = None
    protocol: Protocol | None = None
    first_step_scored: bool = True
    missing: int = 0

    @property
    def objective(self) -> np.ndarray:
        """``log_likelihood`` minus all ``kl``, estimated from K draws: the ELBO, if ``evidence`` says lower bound."""
        return self.log_likelihood - sum(self.kl.values(), np.zeros(()))

    @classmethod
    def mean_of(cls, repeats: list[Evaluation]) -> Evaluation:
        """Return the mean of evaluations with different draws, and how far they differ."""
        first, count = repeats[0], len(repeats)
        if count == 1:
            return first

        def mean(name: str) -> np.ndarray | None:
            values = [getattr(one, name) for one in repeats]
            return None if values[0] is None else np.mean(values, 0)

        arrays = ("log_likelihood", "iwae", "iwae_per_step", "effective", "above_ceiling")
        totals = [{name: float(np.mean(v)) for name, v in one.figures().items()} for one in repeats]
        return replace(
            first,
            **{name: mean(name) for name in arrays},
            khat=np.median([one.khat for one in repeats], 0),  # it can be infinite
            kl={name: np.mean([one.kl[name] for one in repeats], 0) for name in first.kl},
            filtered=first.filtered and (np.mean([one.filtered[0] for one in repeats], 0), first.filtered[1]),  # type: ignore[index]
            repeats=count,
            noise={name: float(np.std([t[name] for t in totals], ddof=1) / math.sqrt(count)) for name in totals[0]},
        )

    # -------------------------------------------------------------------------------------------------------- figures

    def tightest(self) -> tuple[np.ndarray, str]:
        """Return the best figure there is, one value per sequence, with its name: exact, or the tightest bound.

        Not simply the largest, which would favour noise: a weight per step if it has as many draws as the filter, else
        the filter, else a weight per sequence. Another bound takes its place where it is larger by more than two
        standard errors of the difference on the same sequences, as where the guide looks ahead and a filter does not.
        """
        if not self.kl:
            name, value = next(iter(self.figures().items()))
            return value, name
        *others, (name, value) = self._many()
        for another, larger in reversed(others) if self.evidence is Evidence.LOWER_BOUND else ():
            gain = self._mean(larger - value)
            if not np.isfinite(value).all() or gain.mean > 2 * gain.standard_error:
                name, value = another, larger
        return value, name

    def _many(self) -> list[tuple[str, np.ndarray]]:
        """Return the figures from many draws by name, the one to prefer last; nothing is named a bound that is none."""
        bound = self.evidence is Evidence.LOWER_BOUND
        many = f"IWAE-{self.particles}" if bound else f"{self.particles}-draw estimate"
        figures = [(f"{many} per sequence", self.iwae)]
        if self.filtered is not None:
            values, particles = self.filtered
            place = len(figures) if particles > 1 or self.particles == 1 else 0
            figures.insert(place, (f"FIVO-{particles}" if bound else f"{particles}-particle estimate", values))
        if self.iwae_per_step is not None:
            place = len(figures) if self.filtered is None or self.filtered[1] <= self.particles else len(figures) - 1
            figures.insert(place, (f"{many} per step", self.iwae_per_step))
        return figures

    def figures(self) -> dict[str, np.ndarray]:
        """What a report shows, one value per sequence, by name; nothing is named a bound that is none."""
        if not self.kl:  # no latents
            exact = self.evidence is Evidence.EXACT
            return {"log-likelihood" if exact else "score of a head that is no density": self.log_likelihood}
        one = "ELBO" if self.evidence is Evidence.LOWER_BOUND else "1-draw estimate"
        figures = {one: self.objective, **dict(self._many()), "log-likelihood term": self.log_likelihood}
        return figures | {f"KL {name}": value for name, value in self.kl.items()}

    def rows(self) -> list[tuple[str, Statistic]]:
        """Return the mean and standard error of every figure, by name."""
        return [(name, self._mean(np.asarray(value))) for name, value in self.figures().items()]

    def _mean(self, values: np.ndarray) -> Statistic:
        return Statistic.mean_of(values, self.recordings)

    # ---------------------------------------------------------------------------------------------------------- units

    def in_units(self, figure: str | None = None) -> dict[str, Statistic]:
        """Return a figure by unit: "nats per sequence", "nats per step", "nats per dimension".

        Where the standardiser is known there is also "bits per dimension, raw units": minus log2 of the density of the
        raw data, the Jacobian of the standardisation included. For integer data, and where the density hardly changes
        between two integers, that is what a lossless code of these data would need. Probabilities (a discretised head)
        need no Jacobian: "bits per dimension". Per step and per dimension are ratios of sums over the sequences. A KL
        has no unit of the data: it comes in nats alone.

        :param figure: a name in :meth:`figures`; default the tightest.
        :raises ValueError: for another name.
        """
        if figure is not None and figure not in self.figures():
            raise ValueError(f"there is no figure {figure!r}; there are: {', '.join(self.figures())}")
        values = self.tightest()[0] if figure is None else self.figures()[figure]
        dims = self.scored * self.data_dim
        units = {
            "nats per sequence": self._mean(values),
            "nats per step": Statistic.ratio(values, self.scored, self.recordings),
            "nats per dimension": Statistic.ratio(values, dims, self.recordings),
        }
        if figure is not None and figure.startswith("KL "):
            return units
        if self.discrete:
            units["bits per dimension"] = Statistic.ratio(-values / math.log(2), dims, self.recordings)
        elif self.standardiser is not None:
            raw = values + self.scored * self.standardiser.log_jacobian(self.data_dim)
            units["bits per dimension, raw units"] = Statistic.ratio(-raw / math.log(2), dims, self.recordings)
        return units

    def in_units_of(self, other: Standardiser) -> Evaluation:
        """Return the same model's values as densities of data that were standardised in another way.

        A density changes by the factor between the units: exactly so, whatever the model was trained on.

        :raises ValueError: where it is not known how the data of these values were standardised, or where they are
            probabilities; or for a standardiser that does not fit the data.
        """
        if self.discrete:
            raise ValueError("these are log-probabilities of discrete values, and the same in every unit")
        check_standardiser(other, self.data_dim, self.without_unit)
        if self.standardiser is None:
            raise ValueError("give evaluate the standardiser of the data: it is not known what unit the values are in")
        own, wanted = (s.log_jacobian(self.data_dim) for s in (self.standardiser, other))
        shift = (own - wanted) * self.scored
        return replace(
            self,
            log_likelihood=self.log_likelihood + shift,
            iwae=self.iwae + shift,
            iwae_per_step=None if self.iwae_per_step is None else self.iwae_per_step + shift,
            filtered=self.filtered and (self.filtered[0] + shift, self.filtered[1]),
            standardiser=other,
        )

    # --------------------------------------------------------------------------------------------------------- reports

    def to_csv(self, path: str | Path) -> None:
        """Write one row per sequence: its name, its scored steps, every figure by its name in nats, diagnostics."""
        columns: dict[str, np.ndarray] = {name: np.asarray(value) for name, value in self.figures().items()}
        columns |= {"effective sample size": self.effective, "Pareto k-hat": self.khat}
        if self.above_ceiling is not None:
            columns["share above the ceiling"] = self.above_ceiling
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["name", "scored steps", *columns])
            writer.writerows(zip(self.names, self.scored, *columns.values(), strict=True))

    def __str__(self) -> str:
        scored = "all scored" if self.first_step_scored else "all but the first of each sequence scored"
        if self.missing:
            scored = f"{self.missing} of them missing, {scored.replace('all', 'all others', 1)}"
        lines = [
            f"nats per sequence, mean ± standard error over {self._units_of_error()} ({int(self.lengths.sum())} "
            f"steps, {scored}), K = {self.particles}; {VERDICTS[self.evidence]}"
        ]
        if self.protocol is not None:
            lines.append(f"  protocol {self.protocol}")
        values, best = self.tightest()
        if len(self.names) > 1:
            lowest = int(np.argmin(values))
            lines.append(
                f"  {best}: half of the sequences are above {np.median(values):.1f}; the lowest is "
                f"{self.names[lowest]!r} with {values[lowest]:.1f}"
            )
        if self.discrete:
            lines.append("  unit: log-probabilities of discrete values, the same in every unit of the data")
        elif self.standardiser is not None:
            lines.append(f"  unit: nats of data divided by {_short(self.standardiser.std)}")
        for name, stat in self.rows():
            noise = f"  (± {self.noise[name]:.2g} from the draws)" if name in self.noise else ""
            error = "" if math.isnan(stat.standard_error) else f" ± {stat.standard_error:.1f}"
            lines.append(f"  {name:<28} {stat.mean:>12.1f}{error}{noise}")
        lines.append(f"  {self.tightest()[1]}: {self._units()}")
        if self.above_ceiling is not None:
            share = Statistic.ratio(self.above_ceiling * self.scored, self.scored, self.recordings)
            line = f"  {share.mean:.2%} of the dimensions have a density above 1 per raw unit"
            lines.append(f"{line}: of integer data that is more than any probability")
        if self.particles > 1:
            line = f"  weights per sequence: half have an effective sample size above {np.median(self.effective):.1f}"
            if not np.isnan(self.khat).any():
                line += f"; Pareto k-hat is above 0.7 for {np.mean(self.khat > 0.7):.0%}"
            lines.append(line)
        return "\n".join(lines)

    def _units_of_error(self) -> str:
        if self.recordings is None:
            return f"{len(self.names)} sequences"
        return f"{len(set(self.recordings))} recordings in {len(self.names)} pieces"

    def _units(self) -> str:
        units = list(self.in_units().items())[1:]
        if len(self.names) == 1:
            return ", ".join(f"{s.mean:.4g} {name}" for name, s in units)
        return ", ".join(f"{s.mean:.4g} ± {s.standard_error:.2g} {name}" for name, s in units)


def _short(std: float | tuple[float, ...]) -> str:
    values = [std] if isinstance(std, float) else list(std)
    text = ", ".join(f"{value:.4g}" for value in values[:4])
    return text if len(values) <= 4 else f"{text} and so on"
