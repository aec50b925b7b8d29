"""Small trees of recordings."""

import numpy as np
import soundfile

from pyro_stcn.data.audio import write_wav
from pyro_stcn.data.tape import Recording, Tape

RATE = 16000


def noise(*key, samples=3000):
    """int16 noise that is the same for the same key."""
    rng = np.random.default_rng([ord(c) for c in "/".join(map(str, key))])
    return (2000 * rng.standard_normal(samples)).astype(np.int16)


def melody(samples, seed=0):
    """int16 sound that an MP3 encoder spends few and many bits on in turn."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / RATE
    loud = 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * 0.7 * t))
    x = loud * (np.sin(2 * np.pi * (200 + 100 * np.sin(t)) * t) + 0.1 * rng.standard_normal(samples))
    return (8000 * x).astype(np.int16)


def write_mp3(path, samples, rate=RATE, mode="VARIABLE"):
    with soundfile.SoundFile(
        path, "w", rate, 1, "MPEG_LAYER_III", format="MP3", bitrate_mode=mode, compression_level=0.5
    ) as file:
        file.write(samples)


def write_tree(root, lengths):
    """Write ``{"a/one": 3000}`` as RIFF files of noise."""
    for name, samples in lengths.items():
        path = root / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_wav(path, noise(name, samples=samples), RATE)
    return root


def tape_of(root, arrays, folder=None):
    """A tape of raw files."""
    root.mkdir(parents=True, exist_ok=True)
    recordings = []
    for i, array in enumerate(arrays):
        path = root / f"{i}.raw"
        path.write_bytes(b"head" + array.astype("<i2").tobytes())
        recordings.append(Recording(f"r{i}", path, 4, len(array), f"hash of {i}"))
    return Tape(recordings, folder)
