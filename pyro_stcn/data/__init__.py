"""Data: sequences and batches, in memory or streamed, checks, audio, corpora by their loaders, synthetic doubles."""

from .arrays import Missing, Scaling, load_arrays
from .audio import (
    Audio,
    AudioError,
    AudioFormat,
    frames,
    read_audio,
    write_sphere,
    write_wav,
)
from .batch import SequenceBatch, SequenceDataset, Sequences, ShuffledBatches, batches, collate
from .blizzard import BlizzardNormaliser, BlizzardSplit, load_blizzard
from .categories import load_categories
from .checks import DataError, check_sequence, check_sequences
from .corpora import CORPORA, CorpusKind, load_corpus
from .corpus import Corpus
from .deepwriting import DeepwritingSplit, load_deepwriting
from .findings import Finding, Report, Severity, What
from .iamondb import HeldOut, load_iamondb
from .inspection import inspect_data, recognise_corpus
from .own import load_own
from .raw import RawFormat, StepKind
from .recording_files import open_recordings
from .rolls import load_rolls
from .standardise import Standardiser
from .streamed import StreamedWindows
from .stroke_files import write_strokes
from .strokes import StrokeNormaliser, load_strokes
from .synthetic import synthetic_timit
from .synthetic_blizzard import synthetic_blizzard
from .synthetic_deepwriting import synthetic_deepwriting
from .synthetic_iamondb import synthetic_iamondb
from .synthetic_strokes import synthetic_strokes
from .tape import Recording, Tape
from .timit import Validation, load_timit

__all__ = [
    "CORPORA",
    "Audio",
    "AudioError",
    "AudioFormat",
    "BlizzardNormaliser",
    "BlizzardSplit",
    "Corpus",
    "CorpusKind",
    "DataError",
    "DeepwritingSplit",
    "Finding",
    "HeldOut",
    "Missing",
    "RawFormat",
    "Recording",
    "Report",
    "Scaling",
    "SequenceBatch",
    "SequenceDataset",
    "Sequences",
    "Severity",
    "ShuffledBatches",
    "Standardiser",
    "StepKind",
    "StreamedWindows",
    "StrokeNormaliser",
    "Tape",
    "Validation",
    "What",
    "batches",
    "check_sequence",
    "check_sequences",
    "collate",
    "frames",
    "inspect_data",
    "load_arrays",
    "load_blizzard",
    "load_categories",
    "load_corpus",
    "load_deepwriting",
    "load_iamondb",
    "load_own",
    "load_rolls",
    "load_strokes",
    "load_timit",
    "open_recordings",
    "read_audio",
    "recognise_corpus",
    "synthetic_blizzard",
    "synthetic_deepwriting",
    "synthetic_iamondb",
    "synthetic_strokes",
    "synthetic_timit",
    "write_sphere",
    "write_strokes",
    "write_wav",
]
