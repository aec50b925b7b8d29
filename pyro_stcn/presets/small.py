"""A small version of every system, with a Normal and with a mixture of five, for two CPU cores.

They are as wide as each other, not as large: 64 units in all layers around the latents, 64 latents next to the data
(32 in each of Stochastic WaveNet's layers), recurrent states of 128. docs/results.md has what they cost. The recipe is
one for all (batch, updates, annealing), so that a comparison has equal budgets.
"""

from __future__ import annotations

from typing import Any

from ..ladder import LadderConfig
from ..lstm import StackedLSTMConfig
from ..models import (
    BiLSTMConfig,
    RNNConfig,
    SRNNConfig,
    STCNConfig,
    SWaveNetConfig,
    VRNNConfig,
    WaveNetConfig,
    ZForcingConfig,
)
from ..observation import CausalOutputConfig, GaussianMixtureConfig, HeadConfig, NormalConfig, PointwiseOutputConfig
from ..tcn import DilatedTCNConfig
from ..training_config import TrainingConfig
from .preset import CHANNELS, INK, Preset, head

__all__ = ["small"]

WIDTH, LATENTS, RECURRENT = 64, 64, 128
GROUPS = ((1, 2, 4, 8, 16),) * 3


def small() -> dict[str, Preset]:
    """Return the presets by name: for "timit" and "iamondb", which have the channels of the other two corpora."""
    kinds: dict[str, NormalConfig | GaussianMixtureConfig] = {
        "normal": NormalConfig(),
        "gmm": GaussianMixtureConfig(5),
    }
    rows = {}
    for corpus in ("timit", "iamondb"):
        training = TrainingConfig(
            600,
            learning_rate=4e-3,
            kl_increment=2e-3,
            evaluate_every=200,
            mean_over_steps=corpus in INK,
            # The training-only term goes out as the KL comes in. Its target is a state of 128 units, so at full weight
            # to the end, in so short a training, the latents would tell little but that.
            auxiliary_start=1.0,
            auxiliary_end=0.0,
            auxiliary_increment=2e-3,
        )
        for kind, values in kinds.items():
            for system, model in _systems(corpus, head(corpus, values)).items():
                rows[f"{corpus}/{system}-{kind}-small"] = Preset(model, training, "a small model for two CPU cores")
    return rows


def _systems(corpus: str, observation: HeadConfig) -> dict[str, Any]:
    dim = CHANNELS[corpus]
    ladder = LadderConfig((LATENTS, LATENTS // 2, LATENTS // 4), WIDTH)
    tcn, lstm = DilatedTCNConfig(GROUPS, WIDTH), StackedLSTMConfig((1, 1, 1), RECURRENT)
    output = PointwiseOutputConfig(2, WIDTH) if corpus in INK else CausalOutputConfig(3, WIDTH)

    def wavenet(taps: tuple[int, ...] | None) -> WaveNetConfig:
        blocks, two = tuple(dilation for group in GROUPS for dilation in group), PointwiseOutputConfig(2, WIDTH)
        return WaveNetConfig(dim, blocks, WIDTH, taps=taps, output=two, observation=observation)

    return {
        "wavenet": wavenet(None),
        "wavenet-dense": wavenet((5, 10, 15)),
        "rnn": RNNConfig(dim, RECURRENT, 1, WIDTH, observation),
        "vrnn": VRNNConfig(dim, LATENTS, RECURRENT, 1, WIDTH, WIDTH, observation=observation),
        "srnn": SRNNConfig(dim, LATENTS, RECURRENT, WIDTH, observation=observation),
        "zforcing": ZForcingConfig(dim, LATENTS, RECURRENT, WIDTH, WIDTH, observation=observation),
        "bilstm": BiLSTMConfig(dim, LATENTS, RECURRENT, WIDTH, beta=1.0, observation=observation),
        "swavenet": SWaveNetConfig(
            dim, 0, 4, latent_dim=LATENTS // 2, filters=WIDTH, hidden=WIDTH, observation=observation
        ),
        "ladderrnn": STCNConfig(dim, lstm, ladder, False, output, observation),
        "ladderrnn-dense": STCNConfig(dim, lstm, ladder, True, output, observation),
        "stcn": STCNConfig(dim, tcn, ladder, False, output, observation),
        "stcn-dense": STCNConfig(dim, tcn, ladder, True, output, observation),
    }
