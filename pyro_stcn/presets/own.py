"""A small model for data of your own: the observation model that fits them, under a small STCN-dense."""

from __future__ import annotations

from collections.abc import Callable

from ..data.corpus import Corpus
from ..data.raw import StepKind
from ..ladder import LadderConfig
from ..models import STCNConfig
from ..observation import (
    BernoulliConfig,
    CategoricalConfig,
    GaussianMixtureConfig,
    HeadConfig,
    NormalConfig,
    PenStrokeConfig,
    PointwiseOutputConfig,
)
from ..tcn import DilatedTCNConfig

__all__ = ["HEAD_OF", "REAL_HEADS", "observation_for", "stcn_for"]

#: name -> the distribution of real values
REAL_HEADS: dict[str, NormalConfig | GaussianMixtureConfig] = {
    "gmm": GaussianMixtureConfig(5),
    "normal": NormalConfig(),
}

#: what a step is -> the observation model that fits, given that of real values
HEAD_OF: dict[StepKind, Callable[[NormalConfig | GaussianMixtureConfig], HeadConfig]] = {
    StepKind.REAL: lambda values: values,
    StepKind.AUDIO: lambda values: values,
    StepKind.STROKES: PenStrokeConfig,
    StepKind.ROLL: lambda values: BernoulliConfig(),
    StepKind.CATEGORIES: lambda values: CategoricalConfig(),
}


def observation_for(corpus: Corpus) -> HeadConfig:
    """Return the observation model for what a step of a corpus is.

    Pen strokes: a mixture of Gaussians and a pen bit. Piano rolls: bits. Categories: one of several. Numbers and sound:
    a mixture of Gaussians; integers are better served by ``DiscretisedMixtureConfig``, whose figures are probabilities.
    """
    assert corpus.kind is not None
    return HEAD_OF[corpus.kind](REAL_HEADS["gmm"])


def stcn_for(corpus: Corpus, width: int = 64) -> STCNConfig:
    """Return an STCN-dense for a corpus, of three layers that see 32, 63 and 94 steps back.

    :param width: channels of all layers around the latents, which are as many next to the data, and a half and a
        quarter of that above: at least 4.
    :raises ValueError: for fewer.
    """
    if width < 4:
        raise ValueError(f"width must be at least 4, not {width}")
    tcn = DilatedTCNConfig(((1, 2, 4, 8, 16),) * 3, width)
    ladder = LadderConfig((width, width // 2, width // 4), width)
    output = PointwiseOutputConfig(2, width)
    return STCNConfig(corpus.data_dim, tcn, ladder, dense=True, output=output, observation=observation_for(corpus))
