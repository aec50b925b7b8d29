"""A small file of pen strokes, and the same with something wrong."""

import numpy as np

_RNG = np.random.default_rng(0)
LENGTHS = {"train": (5, 9, 2, 7), "valid": (4, 3), "test": (6,)}


def _strokes(steps):
    pen = _RNG.random(steps) < 0.3
    pen[-1] = True
    return np.column_stack([_RNG.normal([2, -1], [7, 3], (steps, 2)), pen]).astype(np.float32)


DATA = {part: [_strokes(n) for n in lengths] for part, lengths in LENGTHS.items()}


def arrays(**changes):
    """The arrays of a good file, with some changed, or left out where None."""
    good = {f"{part}_points": np.concatenate(s) for part, s in DATA.items()}
    good |= {f"{part}_lengths": np.array(n, dtype=np.int32) for part, n in LENGTHS.items()}
    return {name: array for name, array in (good | changes).items() if array is not None}


def save(path, **changes):
    np.savez_compressed(path, **arrays(**changes))
    return path
