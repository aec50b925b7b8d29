"""The STCN rows of the paper's Tables 1, 3 and 4 by name, and small versions of them.

A name is "data set/system-observation", for instance "timit/stcn-dense-gmm". A preset of a table row is the paper's
text (equation 11 as printed, one draw per latent) together with what the authors' code adds to it: clipping the
global norm at 1, the loss summed (speech) or averaged (handwriting) over a sequence, the KL weight's first value, four
latents for z4 and a decay of 0.92 for handwriting, 512 hidden units in the large model's latent networks. Neither gives
a number of steps (the code trains 80 to 100 epochs); here it is 100,000.

With "-published" at the end a preset also draws each latent anew for every use and floors probabilities, as the
released code does: for the dense models what that reports is **not a bound**.

The presets that end in "-small" are for two CPU cores: fewer and narrower layers, five components, the exact product
merge and a faster annealing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .ladder import LadderConfig
from .models import STCNConfig
from .observation import (
    CausalOutputConfig,
    GaussianMixtureConfig,
    HeadConfig,
    NormalConfig,
    PenStrokeConfig,
    PointwiseOutputConfig,
)
from .published import PEN_FLOOR, WEIGHT_FLOOR
from .tcn import DilatedTCNConfig
from .training import TrainingConfig

__all__ = ["PRESETS", "Preset", "preset"]

SPEECH_DILATIONS = ((1, 2, 4, 8, 16),) * 5
INK_DILATIONS = ((1, 2, 4, 8, 16, 32),) * 5
STROKES: dict[str, NormalConfig | GaussianMixtureConfig] = {"normal": NormalConfig(), "gmm": GaussianMixtureConfig(20)}


@dataclass(frozen=True)
class Preset:
    """A model and how to train it.

    :param source: where the numbers come from.
    """

    model: STCNConfig
    training: TrainingConfig
    source: str


def _speech(dense: bool, width: int, head: HeadConfig, training: TrainingConfig, source: str) -> Preset:
    ladder = LadderConfig((256, 128, 64, 32, 16), width, merge="eq11")
    output = CausalOutputConfig(layers=5, width=width)
    model = STCNConfig(200, DilatedTCNConfig(SPEECH_DILATIONS, width), ladder, dense, output, head)
    return Preset(model, training, source)


def _ink(dense: bool, stroke: NormalConfig | GaussianMixtureConfig, training: TrainingConfig, source: str) -> Preset:
    ladder = LadderConfig((32, 16, 8, 4, 2), 256, merge="eq11")
    output = PointwiseOutputConfig(layers=5, width=256)
    model = STCNConfig(3, DilatedTCNConfig(INK_DILATIONS, 256), ladder, dense, output, PenStrokeConfig(stroke))
    return Preset(model, training, source)


def _published(row: Preset) -> Preset:
    """The same row as the released code computes it."""
    head = row.model.observation
    if isinstance(head, PenStrokeConfig):
        stroke = head.stroke
        if isinstance(stroke, GaussianMixtureConfig):
            stroke = replace(stroke, floor=WEIGHT_FLOOR)
        head = PenStrokeConfig(stroke, PEN_FLOOR)
    elif isinstance(head, GaussianMixtureConfig):
        head = replace(head, floor=WEIGHT_FLOOR)
    model = replace(row.model, observation=head, independent_draws=True)
    return Preset(
        model, replace(row.training, tensorflow_epsilon=True), f"{row.source}, as released: not a bound if dense"
    )


def _small(dense: bool, head: HeadConfig, data_dim: int) -> Preset:
    ladder = LadderConfig((64, 32, 16), 64)
    backbone = DilatedTCNConfig(((1, 2, 4, 8, 16),) * 3, 64)
    output = PointwiseOutputConfig(2, 64) if isinstance(head, PenStrokeConfig) else CausalOutputConfig(3, 64)
    training = TrainingConfig(
        2000,
        learning_rate=4e-3,
        kl_increment=2e-3,
        evaluate_every=250,
        mean_over_steps=isinstance(head, PenStrokeConfig),
    )
    return Preset(
        STCNConfig(data_dim, backbone, ladder, dense, output, head), training, "a small model for two CPU cores"
    )


def _all_presets() -> dict[str, Preset]:
    timit = TrainingConfig(evaluate_every=1000)
    blizzard = TrainingConfig(batch_size=128, evaluate_every=2000)
    ink = TrainingConfig(learning_rate=5e-4, decay_rate=0.92, mean_over_steps=True, evaluate_every=500)

    def tables(corpus: str, kind: str) -> str:
        numbers = ["1"] * (kind == "gmm") + ["3"] * (corpus in ("timit", "iamondb")) + ["4"]
        return f"Table{'s' * (len(numbers) > 1)} {', '.join(numbers)}"

    rows: dict[str, Preset] = {}
    small: dict[str, Preset] = {}
    for kind, head in STROKES.items():
        for dense in (False, True):
            system = f"stcn{'-dense' if dense else ''}-{kind}"
            for corpus, training in (("timit", timit), ("blizzard", blizzard)):
                rows[f"{corpus}/{system}"] = _speech(dense, 256, head, training, tables(corpus, kind))
            for corpus in ("iamondb", "deepwriting"):
                rows[f"{corpus}/{system}"] = _ink(dense, head, ink, tables(corpus, kind))
            few = GaussianMixtureConfig(5) if isinstance(head, GaussianMixtureConfig) else head
            small[f"timit/{system}-small"] = _small(dense, few, 200)
            small[f"iamondb/{system}-small"] = _small(dense, PenStrokeConfig(few), 3)
        for corpus, training in (("timit", timit), ("blizzard", blizzard)):
            source = "Tables 1 and 4" if kind == "gmm" else "a released configuration that is in no table"
            rows[f"{corpus}/stcn-dense-large-{kind}"] = _speech(True, 512, head, training, source)
    published = {f"{name}-published": _published(row) for name, row in rows.items()}
    return dict(sorted((rows | published | small).items()))


#: name -> :class:`Preset`
PRESETS: dict[str, Preset] = _all_presets()


def preset(name: str) -> Preset:
    """Return a preset by name.

    :raises ValueError: for an unknown name, with the names that come closest.
    """
    if name not in PRESETS:
        corpus = name.split("/")[0]
        near = [known for known in PRESETS if known.split("/")[0] == corpus] or list(PRESETS)
        raise ValueError(f"there is no preset {name!r}; there are: {', '.join(near)}")
    return PRESETS[name]
