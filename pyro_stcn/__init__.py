"""Stochastic temporal convolutional networks in Pyro: a ladder of latents on any causal network."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bounds import FIVO, IWAE, DReG, FreeBits
    from .checkpoint import load_model, save_model
    from .data.batch import SequenceDataset
    from .data.standardise import Standardiser
    from .discretised import DiscretisedMixtureConfig, bits_per_sample
    from .evaluation import evaluate
    from .generation import generate, reconstruct, resample, sample
    from .imputation import impute
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
    from .protocols import PROTOCOLS, evaluate_as
    from .states import Continuation, begin, load_continuation, prime, save_continuation
    from .streaming import Stream
    from .tcn import DilatedTCNConfig
    from .training import TrainingConfig, fit

__all__ = [
    "FIVO",
    "IWAE",
    "MODELS",
    "PRESETS",
    "PROTOCOLS",
    "STCN",
    "BernoulliConfig",
    "CausalOutputConfig",
    "Continuation",
    "DReG",
    "DilatedTCNConfig",
    "DiscretisedMixtureConfig",
    "Evidence",
    "FreeBits",
    "GaussianMixtureConfig",
    "LadderConfig",
    "NormalConfig",
    "PenStrokeConfig",
    "PointwiseOutputConfig",
    "STCNConfig",
    "SequenceDataset",
    "SequenceModel",
    "StackedLSTMConfig",
    "Standardiser",
    "Stream",
    "TrainingConfig",
    "begin",
    "bits_per_sample",
    "evaluate",
    "evaluate_as",
    "fit",
    "from_pyro_svi",
    "generate",
    "impute",
    "load_continuation",
    "load_model",
    "preset",
    "prime",
    "reconstruct",
    "resample",
    "sample",
    "save_continuation",
    "save_model",
]

# A name is imported when it is first used: torch alone takes seconds, and the command line has answers without it.
_WHERE = {
    "bounds": ("FIVO", "IWAE", "DReG", "FreeBits"),
    "checkpoint": ("load_model", "save_model"),
    "data.batch": ("SequenceDataset",),
    "data.standardise": ("Standardiser",),
    "discretised": ("DiscretisedMixtureConfig", "bits_per_sample"),
    "evaluation": ("evaluate",),
    "generation": ("generate", "reconstruct", "resample", "sample"),
    "imputation": ("impute",),
    "ladder": ("LadderConfig",),
    "lstm": ("StackedLSTMConfig",),
    "models": ("MODELS", "STCN", "Evidence", "SequenceModel", "STCNConfig"),
    "observation": (
        "BernoulliConfig",
        "CausalOutputConfig",
        "GaussianMixtureConfig",
        "NormalConfig",
        "PenStrokeConfig",
        "PointwiseOutputConfig",
    ),
    "posterior": ("from_pyro_svi",),
    "presets": ("PRESETS", "preset"),
    "protocols": ("PROTOCOLS", "evaluate_as"),
    "states": ("Continuation", "begin", "load_continuation", "prime", "save_continuation"),
    "streaming": ("Stream",),
    "tcn": ("DilatedTCNConfig",),
    "training": ("TrainingConfig", "fit"),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}


if not TYPE_CHECKING:  # a type checker would take every name for one that exists

    def __getattr__(name: str) -> Any:
        module = _MODULE_OF.get(name, name)
        try:
            if name.startswith("_"):
                raise ModuleNotFoundError(name=f"{__name__}.{module}")
            found = importlib.import_module(f".{module}", __name__)
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{module}":
                raise
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
        return getattr(found, name) if name in _MODULE_OF else found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
