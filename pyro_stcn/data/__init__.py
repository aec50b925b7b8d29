"""Data: sequences and batches, checks, standardisation, audio files, TIMIT, pen strokes, and synthetic doubles."""

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
from .stroke_files import write_strokes
from .strokes import StrokeNormaliser, load_strokes
from .synthetic import synthetic_timit
from .synthetic_strokes import synthetic_strokes
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
    "StrokeNormaliser",
    "Validation",
    "batches",
    "check_sequence",
    "check_sequences",
    "collate",
    "frames",
    "load_strokes",
    "load_timit",
    "read_audio",
    "synthetic_strokes",
    "synthetic_timit",
    "write_sphere",
    "write_strokes",
    "write_wav",
]
