"""Stochastic temporal convolutional networks in Pyro: a ladder of latents on any causal network."""

from .bounds import FIVO, IWAE, DReG
from .checkpoint import load_model, save_model
from .data.batch import SequenceDataset
from .discretised import DiscretisedMixtureConfig, bits_per_sample
from .evaluation import evaluate
from .generation import generate, reconstruct
from .ladder import LadderConfig
from .lstm import StackedLSTMConfig
from .models import MODELS, STCN, Evidence, SequenceModel, STCNConfig
from .observation import (
    BernoulliConfig,
    CausalOutputConfig,
    GaussianMixtureConfig,
    NormalConfig,
    PenStrokeConfig,
    PointwiseOutputConfig,
)
from .posterior import from_pyro_svi
from .presets import PRESETS, preset
from .tcn import DilatedTCNConfig
from .training import TrainingConfig, fit

__all__ = [
    "FIVO",
    "IWAE",
    "MODELS",
    "PRESETS",
    "STCN",
    "BernoulliConfig",
    "CausalOutputConfig",
    "DReG",
    "DilatedTCNConfig",
    "DiscretisedMixtureConfig",
    "Evidence",
    "GaussianMixtureConfig",
    "LadderConfig",
    "NormalConfig",
    "PenStrokeConfig",
    "PointwiseOutputConfig",
    "STCNConfig",
    "SequenceDataset",
    "SequenceModel",
    "StackedLSTMConfig",
    "TrainingConfig",
    "bits_per_sample",
    "evaluate",
    "fit",
    "from_pyro_svi",
    "generate",
    "load_model",
    "preset",
    "reconstruct",
    "save_model",
]
