"""All systems by name."""

from .base import Carry, Evidence, SequenceModel
from .bilstm import BiLSTM, BiLSTMConfig
from .rnn import RNN, RNNConfig
from .srnn import SRNN, SRNNConfig
from .stcn import STCN, STCNConfig
from .swavenet import SWaveNet, SWaveNetConfig
from .vrnn import VRNN, VRNNConfig
from .wavenet import WaveNet, WaveNetConfig
from .zforcing import ZForcing, ZForcingConfig

#: name -> config class; ``MODELS[name](...).build()`` gives a :class:`SequenceModel`.
MODELS = {
    "stcn": STCNConfig,
    "wavenet": WaveNetConfig,
    "rnn": RNNConfig,
    "vrnn": VRNNConfig,
    "srnn": SRNNConfig,
    "zforcing": ZForcingConfig,
    "bilstm": BiLSTMConfig,
    "swavenet": SWaveNetConfig,
}

__all__ = [
    "MODELS",
    "RNN",
    "SRNN",
    "STCN",
    "VRNN",
    "BiLSTM",
    "BiLSTMConfig",
    "Carry",
    "Evidence",
    "RNNConfig",
    "SRNNConfig",
    "STCNConfig",
    "SWaveNet",
    "SWaveNetConfig",
    "SequenceModel",
    "VRNNConfig",
    "WaveNet",
    "WaveNetConfig",
    "ZForcing",
    "ZForcingConfig",
]
