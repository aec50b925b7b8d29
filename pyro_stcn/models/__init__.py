"""All systems by name."""

from .base import Evidence, SequenceModel
from .stcn import STCN, STCNConfig

#: name -> config class; ``MODELS[name](...).build()`` gives a :class:`SequenceModel`.
MODELS = {"stcn": STCNConfig}

__all__ = ["MODELS", "STCN", "Evidence", "STCNConfig", "SequenceModel"]
