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
    CategoricalConfig,
    CausalOutputConfig,
    GaussianMixtureConfig,
    NormalConfig,
    PenStrokeConfig,
    PointwiseOutputConfig,
)
from .posterior import from_pyro_svi, posterior_of
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
    "CategoricalConfig",
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
    "posterior_of",
    "preset",
    "prime",
    "reconstruct",
    "resample",
    "sample",
    "save_continuation",
    "save_model",
]
