"""Data: sequences and batches, checks, standardisation, audio files, TIMIT, pen strokes, and synthetic doubles."""

from .arrays import Scaling, load_arrays
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
from .corpora import CORPORA, CorpusKind, load_corpus
from .corpus import Corpus
from .deepwriting import DeepwritingSplit, load_deepwriting
from .findings import Finding, Report, Severity, What
from .iamondb import HeldOut, load_iamondb
from .inspection import inspect_data, recognise
from .standardise import Standardiser
from .stroke_files import write_strokes
from .strokes import StrokeNormaliser, load_strokes
from .synthetic import synthetic_timit
from .synthetic_deepwriting import synthetic_deepwriting
from .synthetic_iamondb import synthetic_iamondb
from .synthetic_strokes import synthetic_strokes
from .timit import Validation, load_timit

__all__ = [
    "CORPORA",
    "Audio",
    "AudioError",
    "AudioFormat",
    "Corpus",
    "CorpusKind",
    "DataError",
    "DeepwritingSplit",
    "Finding",
    "HeldOut",
    "Report",
    "Scaling",
    "SequenceBatch",
    "SequenceDataset",
    "Severity",
    "ShuffledBatches",
    "Standardiser",
    "StrokeNormaliser",
    "Validation",
    "What",
    "batches",
    "check_sequence",
    "check_sequences",
    "collate",
    "frames",
    "inspect_data",
    "load_arrays",
    "load_corpus",
    "load_deepwriting",
    "load_iamondb",
    "load_strokes",
    "load_timit",
    "read_audio",
    "recognise",
    "synthetic_deepwriting",
    "synthetic_iamondb",
    "synthetic_strokes",
    "synthetic_timit",
    "write_sphere",
    "write_strokes",
    "write_wav",
]
