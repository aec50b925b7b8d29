"""A small source-filter synthesiser of speech-like sound, for data that carry no licence.

A sentence is a string of phones. Phones become tracks of what the speech organs do: pitch, strength of voice, breath
and friction, and the resonances (formants) of the vocal tract, gliding from one phone to the next as in real speech. A
train of glottal pulses and two kinds of noise are then shaped by those resonances, frame by frame, by overlap-add of
short spectra.

The vowel formants are round figures near the averages that phonetics textbooks give for American English; everything
else is chosen to look and sound plausible, and claims nothing more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

SAMPLE_RATE = 16000
_HOP = 80  # samples between spectra: 5 ms
_WINDOW = 320  # samples
_FFT = 1024  # room for a window and for resonances ringing 44 ms beyond it
_BANDWIDTHS = (70.0, 90.0, 130.0)  # Hz, of the three formants that move
_FIXED = ((3500.0, 200.0), (4500.0, 260.0), (5500.0, 350.0), (6500.0, 450.0))  # Hz: those above, widths


@dataclass(frozen=True)
class Speaker:
    """What makes a voice.

    :param pitch: mean fundamental frequency in Hz.
    :param tract: factor on all formants: about 1 for men, 1.15 for women (a shorter tract).
    :param tempo: factor on all durations.
    :param loudness: standard deviation of the waveform, in int16 units.
    :param breath: strength of breath noise mixed with the voice.
    :param noise: standard deviation of the room and microphone noise, in int16 units.
    """

    pitch: float
    tract: float
    tempo: float
    loudness: float
    breath: float
    noise: float


@dataclass(frozen=True)
class _Segment:
    """A stretch of constant targets. Amplitudes are relative to an open vowel's voice."""

    duration: float  # seconds
    voice: float = 0.0
    breath: float = 0.0
    friction: float = 0.0
    formants: tuple[float, float, float] | None = None  # Hz; None: glide through
    band: tuple[float, float] = (4000.0, 1500.0)  # Hz: centre and width of the friction noise


def _vowel(duration: float, *targets: tuple[float, float, float]) -> tuple[_Segment, ...]:
    return tuple(_Segment(duration / len(targets), voice=1.0, formants=f) for f in targets)


def _fricative(centre: float, width: float, friction: float, voice: float) -> tuple[_Segment, ...]:
    duration = 0.075 if voice else 0.115
    return (_Segment(duration, voice=voice, friction=friction, band=(centre, width)),)


def _stop(locus: tuple[float, float, float], band: tuple[float, float], voiced: bool) -> tuple[_Segment, ...]:
    burst = _Segment(0.012, friction=0.22, formants=locus, band=band)
    if voiced:
        return (_Segment(0.055, voice=0.12, formants=(200.0, *locus[1:])), burst)
    return (_Segment(0.07, formants=locus), burst, _Segment(0.04, breath=0.35, friction=0.03))


_IY, _IH, _EH, _AE = (280, 2250, 2950), (390, 1990, 2550), (530, 1840, 2480), (660, 1720, 2410)
_AA, _AO, _UH, _UW = (730, 1100, 2450), (570, 850, 2410), (440, 1020, 2240), (310, 900, 2240)
_AH, _ER = (630, 1200, 2400), (480, 1350, 1700)
_LIPS, _TEETH, _PALATE = (350, 900, 2200), (350, 1750, 2650), (350, 2000, 2300)  # places of closure

VOWELS: dict[str, tuple[_Segment, ...]] = {
    "iy": _vowel(0.11, _IY),
    "ih": _vowel(0.07, _IH),
    "eh": _vowel(0.09, _EH),
    "ae": _vowel(0.13, _AE),
    "aa": _vowel(0.13, _AA),
    "ao": _vowel(0.12, _AO),
    "uh": _vowel(0.07, _UH),
    "uw": _vowel(0.11, _UW),
    "ah": _vowel(0.06, _AH),
    "er": _vowel(0.11, _ER),
    "ay": _vowel(0.16, _AA, _IH),
    "aw": _vowel(0.17, _AE, _UH),
    "ey": _vowel(0.13, _EH, _IY),
    "ow": _vowel(0.14, _AO, _UW),
}
CONSONANTS: dict[str, tuple[_Segment, ...]] = {
    "s": _fricative(5800, 1400, 0.30, 0.0),
    "sh": _fricative(3300, 1100, 0.30, 0.0),
    "f": _fricative(5000, 3500, 0.07, 0.0),
    "th": _fricative(6200, 2500, 0.06, 0.0),
    "z": _fricative(5800, 1400, 0.16, 0.25),
    "v": _fricative(4500, 3500, 0.04, 0.35),
    "hh": (_Segment(0.06, breath=0.35),),
    "m": (_Segment(0.07, voice=0.40, formants=(250, 1000, 2200)),),
    "n": (_Segment(0.06, voice=0.40, formants=(250, 1500, 2500)),),
    "l": (_Segment(0.06, voice=0.60, formants=(360, 1150, 2700)),),
    "r": (_Segment(0.06, voice=0.60, formants=(320, 1060, 1400)),),
    "w": (_Segment(0.06, voice=0.55, formants=(300, 650, 2150)),),
    "y": (_Segment(0.05, voice=0.60, formants=(270, 2200, 3000)),),
    "p": _stop(_LIPS, (1200, 1200), False),
    "t": _stop(_TEETH, (4500, 1500), False),
    "k": _stop(_PALATE, (2200, 800), False),
    "b": _stop(_LIPS, (1200, 1200), True),
    "d": _stop(_TEETH, (4500, 1500), True),
    "g": _stop(_PALATE, (2200, 800), True),
}
PAUSE = "pau"
_PHONES = {**VOWELS, **CONSONANTS, PAUSE: (_Segment(0.14),)}


def random_sentence(rng: np.random.Generator, syllables: int) -> tuple[str, ...]:
    """Draw a string of phones: words of 1 to 3 syllables, each of at most CVC, and some pauses."""
    vowels, consonants = sorted(VOWELS), sorted(CONSONANTS)
    phones: list[str] = []
    left = syllables
    while left > 0:
        word = min(int(rng.integers(1, 4)), left)
        for _ in range(word):
            if rng.random() < 0.9:
                phones.append(str(rng.choice(consonants)))
            phones.append(str(rng.choice(vowels)))
            if rng.random() < 0.4:
                phones.append(str(rng.choice(consonants)))
        left -= word
        if left > 0 and rng.random() < 0.12:
            phones.append(PAUSE)
    return tuple(phones)


def synthesise(phones: tuple[str, ...], speaker: Speaker, rng: np.random.Generator) -> np.ndarray:
    """Speak a string of phones.

    :param phones: names from ``VOWELS`` and ``CONSONANTS``, and ``PAUSE``. Silence is added at both ends.
    :param speaker: the voice.
    :param rng: draws the durations, the melody and the noise.
    :returns: int16 samples of shape ``(N,)`` at 16 kHz.
    """
    edges = [_Segment(rng.uniform(0.08, 0.18)), _Segment(rng.uniform(0.10, 0.22))]
    spoken: list[_Segment] = []
    for phone in phones:
        stress = math.exp(0.35 * rng.standard_normal())
        spoken += [replace(s, voice=s.voice * stress) for s in _PHONES[phone]]
    segments = [edges[0], *spoken, edges[1]]
    lengths = np.array([s.duration for s in segments]) * speaker.tempo
    lengths[1:-1] *= np.exp(0.15 * rng.standard_normal(len(spoken)))
    ends = np.cumsum(lengths)
    n = int(ends[-1] * SAMPLE_RATE)
    times = np.arange(n // _HOP + 2) * (_HOP / SAMPLE_RATE)

    voice = _amplitude(segments, ends, times, "voice", 0.025)
    breath = _amplitude(segments, ends, times, "breath", 0.020)
    friction = _amplitude(segments, ends, times, "friction", 0.010)
    formants = _formants(segments, ends, times)
    bands = np.stack([_step([s.band[i] for s in segments], ends, times) for i in (0, 1)])

    pulses, openness = _glottis(_pitch(speaker, ends[-1], n, rng), rng)
    at = np.arange(n) / SAMPLE_RATE
    voiced = np.interp(at, times, voice) * pulses
    # Breath comes while the glottis is open: in bursts under a voice, steadily without one.
    breath_level = np.interp(at, times, breath + speaker.breath * voice)
    voiced += breath_level * (0.3 + openness) * rng.standard_normal(n)
    hissing = np.interp(at, times, friction) * rng.standard_normal(n)

    tract = _tract_spectra(formants, speaker.tract)
    wave = _shape(voiced, tract) + _shape(hissing, _band_spectra(*bands))
    wave *= speaker.loudness / wave.std()
    wave += speaker.noise * rng.standard_normal(n)
    return np.clip(np.round(wave), -32768, 32767).astype(np.int16)


def _step(values: list[float], ends: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The value of the segment that each time falls in."""
    return np.asarray(values)[np.minimum(np.searchsorted(ends, times, "right"), len(ends) - 1)]


def _smooth(track: np.ndarray, seconds: float) -> np.ndarray:
    """Moving average with a Hann window of about that length, of a track of shape ``(T,)``."""
    size = max(round(seconds * SAMPLE_RATE / _HOP), 1) * 2 + 1
    kernel = np.hanning(size + 2)[1:-1]
    padded = np.pad(track, size // 2, mode="edge")
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")


def _amplitude(
    segments: list[_Segment], ends: np.ndarray, times: np.ndarray, source: str, seconds: float
) -> np.ndarray:
    return _smooth(_step([getattr(s, source) for s in segments], ends, times), seconds / 2)


def _formants(segments: list[_Segment], ends: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Frequencies of the three formants that move, shape ``(3, frames)``."""
    starts = np.concatenate([[0.0], ends[:-1]])
    knots, targets = [], []
    for segment, start, end in zip(segments, starts, ends, strict=True):
        if segment.formants is not None:
            # Targets hold over the middle of a phone only, so neighbours blend into one another.
            knots += [start + 0.35 * (end - start), start + 0.65 * (end - start)]
            targets += [segment.formants] * 2
    if not knots:
        knots, targets = [0.0], [_AH]
    return np.stack([_smooth(np.interp(times, knots, np.array(targets)[:, i]), 0.02) for i in range(3)])


def _pitch(speaker: Speaker, seconds: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """Fundamental frequency at each sample: falling over the sentence, with accents and jitter."""
    accents = max(round(seconds / 0.45), 1)
    knots = np.linspace(0.0, n - 1.0, 2 * accents + 1)
    height = 0.02 * rng.standard_normal(len(knots))
    height[1::2] += rng.uniform(0.05, 0.28, accents)
    melody = np.interp(np.arange(n), knots, height)
    fall = np.interp(np.arange(n), [0.0, 0.8 * n, n], [0.12, -0.12, -0.3])
    every = np.arange(n // 400 + 2)
    flutter = np.interp(np.arange(n), 400 * every, 0.012 * rng.standard_normal(len(every)))
    return speaker.pitch * np.exp(melody + fall + flutter)


def _glottis(pitch: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pulses of the voice and how far the glottis is open, each of shape ``(N,)``.

    The flow during the open part of a cycle is s^2 - s^3, s from 0 to 1; what radiates from the lips is its derivative,
    a soft rise and a sharp close. No two pulses are equally strong.
    """
    cycles = np.cumsum(pitch) / SAMPLE_RATE + rng.random()
    number = np.floor(cycles).astype(int)
    s = (cycles - number) / 0.6  # open for 60 % of the cycle
    opened = s < 1
    strength = 1 + 0.06 * rng.standard_normal(number[-1] + 1)
    flow = np.where(opened, s**2 - s**3, 0.0) * (27 / 4)
    pulses = np.where(opened, 2 * s - 3 * s**2, 0.0) * strength[number]
    # The close is not instantaneous: a falling exponential takes away the highest harmonics.
    rounding = np.exp(-2 * math.pi * 1800 / SAMPLE_RATE * np.arange(16))
    return np.convolve(pulses, rounding / rounding.sum())[: len(pulses)], flow


def _tract_spectra(formants: np.ndarray, tract: float) -> np.ndarray:
    """Transfer function of all resonances in cascade, shape ``(frames, bins)``, complex."""
    z = np.exp(-2j * math.pi * np.arange(_FFT // 2 + 1) / _FFT)
    spectra = np.ones((1, len(z)), dtype=complex)
    resonances = [*((np.array([f]), w) for f, w in _FIXED), *zip(formants, _BANDWIDTHS, strict=True)]
    for frequency, width in resonances:
        radius = math.exp(-math.pi * width / SAMPLE_RATE)
        angle = 2 * math.pi * np.minimum(tract * frequency, 7800.0) / SAMPLE_RATE
        a = 2 * radius * np.cos(angle)[:, None]
        spectra = spectra * ((1 - a + radius**2) / (1 - a * z + radius**2 * z**2))
    return spectra


def _band_spectra(centre: np.ndarray, width: np.ndarray) -> np.ndarray:
    """A smooth band of noise around ``centre``, of unit power, shape ``(frames, bins)``."""
    frequency = np.arange(_FFT // 2 + 1) * (SAMPLE_RATE / _FFT)
    distance = (frequency - centre[:, None]) / width[:, None]
    magnitude = np.exp(-0.5 * distance**2) + 0.05
    return magnitude / np.sqrt(np.mean(magnitude**2, axis=1, keepdims=True))


def _shape(source: np.ndarray, spectra: np.ndarray) -> np.ndarray:
    """Filter a source ``(N,)`` with a spectrum every ``_HOP`` samples ``(frames, bins)``, by overlap-add."""
    n, hops = len(source), _WINDOW // _HOP
    padded = np.pad(source, (_WINDOW // 2, _WINDOW + _HOP))
    count = n // _HOP + 1
    rows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP][:count]
    # Periodic Hann windows a quarter apart sum to a constant, hops / 2.
    window = np.hanning(_WINDOW + 1)[:-1] / (hops / 2)
    shaped = np.fft.irfft(np.fft.rfft(rows * window, _FFT) * spectra[:count], _FFT)
    out = np.zeros((count + -(-_FFT // _HOP), _HOP))
    blocks = np.pad(shaped, ((0, 0), (0, -_FFT % _HOP))).reshape(count, -1, _HOP)
    for i in range(blocks.shape[1]):
        out[i : i + count] += blocks[:, i]
    return out.ravel()[_WINDOW // 2 : _WINDOW // 2 + n]
