"""Released weights scored twice: as their authors' code does, and so that the figures are what they are called."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from .comparison import Score, figures_table, markdown_table
from .data.batch import SequenceDataset
from .data.checks import DataError
from .data.corpus import Corpus
from .data.standardise import Standardiser
from .evaluation import evaluate
from .models import Evidence
from .published import valid_twin
from .published_arrays import PublishedModel
from .reports import Evaluation
from .runs import in_units_of

__all__ = ["Conventions", "evaluate_conventions", "restandardise"]

PUBLISHED, VALID = "published conventions", "valid conventions"


@dataclass(frozen=True, eq=False)
class Conventions:
    """The same weights on the same sequences.

    :param published: with the draws and the floors of the released code.
    :param valid: with one draw of each latent and a head that is a density.
    :param scores: both, published first, for the tables of :mod:`~pyro_stcn.comparison`.
    """

    published: Evaluation
    valid: Evaluation
    scores: tuple[Score, Score]

    def __str__(self) -> str:
        lines = [f"{PUBLISHED}\n{self.published}", f"{VALID}\n{self.valid}"]
        lines += [markdown_table(self.scores), figures_table(self.scores), self.verdict()]
        return "\n\n".join(lines)

    def verdict(self) -> str:
        """Return a sentence on which of the two may be reported."""
        count = len(self.published.names)
        where = f"K = {self.published.particles}, {count} sequence{'s' * (count != 1)}"
        if self.published.evidence is Evidence.ESTIMATE:
            return (
                f"The figures of the {PUBLISHED} are NOT BOUNDS, and can lie above log p(x): they are there to compare "
                f"with published ones. Those of the {VALID} are: report these ({where})."
            )
        return f"The figures of both are bounds, or exact ({where})."


def evaluate_conventions(
    net: PublishedModel,
    dataset: SequenceDataset,
    *,
    standardiser: Standardiser | None = None,
    particles: int = 10,
    batch_size: int = 10,
    seed: int = 0,
    progress: bool = True,
) -> Conventions:
    """Score a released model and its :func:`~pyro_stcn.published.valid_twin`; the options are those of ``evaluate``.

    :raises ValueError: as ``evaluate`` does.
    :raises DataError: for sequences of another width.
    """
    if dataset.data_dim != net.data_dim:
        raise DataError(f"the data have {dataset.data_dim} channels, and the released model reads {net.data_dim}")
    found, scores = [], []
    for name, model in ((PUBLISHED, net), (VALID, valid_twin(net))):
        result = evaluate(
            model,
            dataset,
            standardiser=standardiser,
            particles=particles,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
        found.append(result)
        facts = {"seed": seed, "steps": 0, "seconds_per_step": math.nan, "identity": {"test": dataset.digest()}}
        scores.append(Score.of(result, system=name, parameters=sum(p.numel() for p in net.parameters()), **facts))
    return Conventions(found[0], found[1], (scores[0], scores[1]))


def restandardise(corpus: Corpus, standardiser: Standardiser) -> Corpus:
    """Return a corpus in the units of another standardiser, for instance that of a release's training data.

    :raises DataError: for a standardiser that does not fit.
    """
    description = f"{corpus.description} Standardised with given statistics, not with those of these data."
    return replace(in_units_of(corpus, standardiser), description=description)
