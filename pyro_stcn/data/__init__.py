"""Data: sequences and batches, checks, standardisation, audio files, TIMIT and its synthetic double."""

from .audio import (
    Audio,
    AudioError,
    AudioFormat,
    frames,
    read_audio,
    write_sphere,
    write_wav,
)
from .batch import SequenceBatch, SequenceDataset, ShuffledBatches, batches, collate
from .checks import DataError, check_sequence, check_sequences
from .corpus import Corpus
from .standardise import Standardiser
from .synthetic import synthetic_timit
from .timit import Validation, load_timit

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
