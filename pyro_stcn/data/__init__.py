"""Data: sequences and batches, checks, standardisation, audio files, TIMIT and its synthetic double."""

from pyro_stcn.data.audio import (
    Audio,
    AudioError,
    AudioFormat,
    frames,
    read_audio,
    write_sphere,
    write_wav,
)
from pyro_stcn.data.batch import SequenceBatch, SequenceDataset, ShuffledBatches, batches, collate
from pyro_stcn.data.checks import DataError, check_sequence, check_sequences
from pyro_stcn.data.corpus import Corpus
from pyro_stcn.data.standardise import Standardiser
from pyro_stcn.data.synthetic import synthetic_timit
from pyro_stcn.data.timit import Validation, load_timit

__all__ = [
    "Audio",
    "AudioError",
    "AudioFormat",
    "Corpus",
    "DataError",
    "SequenceBatch",
    "SequenceDataset",
    "ShuffledBatches",
    "Standardiser",
    "Validation",
    "batches",
    "check_sequence",
    "check_sequences",
    "collate",
    "frames",
    "load_timit",
    "read_audio",
    "synthetic_timit",
    "write_sphere",
    "write_wav",
]
