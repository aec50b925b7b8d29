"""All systems by name."""

from .base import Evidence, SequenceModel
from .stcn import STCN, STCNConfig
from .wavenet import WaveNet, WaveNetConfig

#: name -> config class; ``MODELS[name](...).build()`` gives a :class:`SequenceModel`.
MODELS = {"stcn": STCNConfig, "wavenet": WaveNetConfig}

__all__ = ["MODELS", "STCN", "Evidence", "STCNConfig", "SequenceModel", "WaveNet", "WaveNetConfig"]
