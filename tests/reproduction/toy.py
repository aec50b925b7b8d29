"""Corpora of a few short random sequences, in the channels of the paper's."""

import numpy as np

from pyro_stcn.data import Corpus, SequenceDataset, Standardiser


def strokes(name="toy", test=3, seed=0):
    """Return a corpus of pen strokes: 12, 4 and ``test`` sequences of 6 to 9 steps."""
    return _corpus(name, (12, 4, test), seed, 3)


def speech(name="timit", test=3, steps=(6, 9)):
    """Return a corpus of frames of 200 samples."""
    return _corpus(name, (4, 2, test), 0, 200, steps)


def _corpus(name, counts, seed, dim, steps=(6, 9)):
    rng = np.random.default_rng(seed)
    standardiser = Standardiser((1.0, 2.0, 0.0), (3.0, 4.0, 1.0)) if dim == 3 else Standardiser(0.5, 500.0)
    parts = []
    for part, count in zip(("train", "valid", "test"), counts, strict=True):
        sequences = [rng.normal(size=(rng.integers(*steps, endpoint=True), dim)) for _ in range(count)]
        if dim == 3:
            for sequence in sequences:
                sequence[:, 2] = rng.integers(0, 2, len(sequence))
        parts.append(SequenceDataset(tuple(sequences), tuple(f"{part}/{i}" for i in range(count))))
    return Corpus(name, *parts, standardiser, f"Random numbers named {name}.", *((16000, 200) if dim == 200 else ()))
