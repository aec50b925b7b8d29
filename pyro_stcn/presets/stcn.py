"""The STCN rows of the paper's Tables 1, 3 and 4, and LadderRNN: the same ladder on a stack of LSTMs.

A preset of an STCN row is the paper's text (equation 11 as printed, one draw per latent) together with what the
authors' code adds to it: clipping the global norm at 1, the loss summed (speech) or averaged (handwriting) over a
sequence, the KL weight's first value, four latents for z4 and a decay of 0.92 for handwriting, 512 hidden units in the
large model's latent networks.

No code of LadderRNN was released, and the text gives the number and width of its LSTMs and the latents. Here the prior
and likelihood networks and the output network are as wide as its LSTMs, and the recipe is STCN's.
"""

from __future__ import annotations

from dataclasses import replace

from ..ladder import LadderConfig
from ..lstm import StackedLSTMConfig
from ..models import STCNConfig
from ..observation import (
    CausalOutputConfig,
    GaussianMixtureConfig,
    HeadConfig,
    NormalConfig,
    OutputConfig,
    PenStrokeConfig,
    PointwiseOutputConfig,
)
from ..published import PEN_FLOOR, WEIGHT_FLOOR
from ..tcn import DilatedTCNConfig
from ..training_config import TrainingConfig
from .preset import CHANNELS, INK, SPEECH, STROKES, Preset, head, tables

__all__ = ["stcns"]

SPEECH_DILATIONS = ((1, 2, 4, 8, 16),) * 5
INK_DILATIONS = ((1, 2, 4, 8, 16, 32),) * 5
SPEECH_LATENTS = (256, 128, 64, 32, 16)
INK_LATENTS = (32, 16, 8, 4, 2)

TRAINING = {
    "timit": TrainingConfig(evaluate_every=1000),
    "blizzard": TrainingConfig(batch_size=128, evaluate_every=2000),
} | dict.fromkeys(INK, TrainingConfig(learning_rate=5e-4, decay_rate=0.92, mean_over_steps=True, evaluate_every=500))

STACKS = {"25x256": StackedLSTMConfig((5,) * 5, 256), "5x512": StackedLSTMConfig((1,) * 5, 512)}


def stcns() -> dict[str, Preset]:
    """Return the rows by name."""
    rows: dict[str, Preset] = {}
    for corpus, training in TRAINING.items():
        for kind, values in STROKES.items():
            for dense in (False, True):
                model = _stcn(corpus, dense, 256, values)
                rows[f"{corpus}/stcn{'-dense' * dense}-{kind}"] = Preset(model, training, tables(corpus, kind))
            if corpus in SPEECH:
                source = "Tables 1 and 4" if kind == "gmm" else "a released configuration that is in no table"
                rows[f"{corpus}/stcn-dense-large-{kind}"] = Preset(_stcn(corpus, True, 512, values), training, source)
    published = {f"{name}-published": _published(row) for name, row in rows.items()}
    return rows | published | _ladder_rnns()


def _stcn(corpus: str, dense: bool, width: int, values: NormalConfig | GaussianMixtureConfig) -> STCNConfig:
    dilations = SPEECH_DILATIONS if corpus in SPEECH else INK_DILATIONS
    return STCNConfig(
        CHANNELS[corpus],
        DilatedTCNConfig(dilations, width),
        LadderConfig(SPEECH_LATENTS if corpus in SPEECH else INK_LATENTS, width, merge="eq11"),
        dense,
        _output(corpus, width),
        head(corpus, values),
    )


def _output(corpus: str, width: int) -> OutputConfig:
    return CausalOutputConfig(5, width) if corpus in SPEECH else PointwiseOutputConfig(5, width)


def _ladder_rnns() -> dict[str, Preset]:
    rows = {}
    for corpus in ("timit", "iamondb"):
        for kind, values in STROKES.items():
            for dense in (False, True):
                for size, stack in STACKS.items():
                    row = _stcn(corpus, dense, stack.width, values)
                    rows[f"{corpus}/{size}-ladderrnn{'-dense' * dense}-{kind}"] = Preset(
                        replace(row, backbone=stack), TRAINING[corpus], "Table 3"
                    )
    return rows


def _published(row: Preset) -> Preset:
    """The same row as the released code computes it."""
    observation: HeadConfig = row.model.observation
    if isinstance(observation, PenStrokeConfig):
        stroke = observation.stroke
        if isinstance(stroke, GaussianMixtureConfig):
            stroke = replace(stroke, floor=WEIGHT_FLOOR)
        observation = PenStrokeConfig(stroke, PEN_FLOOR)
    elif isinstance(observation, GaussianMixtureConfig):
        observation = replace(observation, floor=WEIGHT_FLOOR)
    model = replace(row.model, observation=observation, independent_draws=True)
    return Preset(
        model, replace(row.training, tensorflow_epsilon=True), f"{row.source}, as released: not a bound if dense"
    )
