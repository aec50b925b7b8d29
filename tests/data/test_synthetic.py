import shutil

import numpy as np
import pytest
import soundfile

from pyro_stcn.data import synthetic
from pyro_stcn.data.audio import frames
from pyro_stcn.data.checks import DataError
from pyro_stcn.data.synthesis import PAUSE, Speaker, random_sentence, synthesise
from pyro_stcn.data.synthetic import cache_folder, synthetic_timit
from pyro_stcn.data.timit import load_timit
from pyro_stcn.data.timit_files import read_timit_files

SMALL = {"speakers": (3, 2), "sentences": 4}
SPEAKER = Speaker(pitch=120.0, tract=1.0, tempo=1.0, loudness=500.0, breath=0.02, noise=2.0)


@pytest.fixture(scope="module")
def corpus_root(tmp_path_factory):
    return synthetic_timit(tmp_path_factory.mktemp("cache"), **SMALL)


def content(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_it_has_the_layout_of_timit(corpus_root):
    utterances = read_timit_files(corpus_root).utterances
    assert len(utterances) == 20
    assert len({u.speaker for u in utterances if u.part == "train"}) == 3
    assert len({u.speaker for u in utterances if u.part == "test"}) == 2
    texts = [u.sentence for u in utterances]
    assert texts.count("sa1") == texts.count("sa2") == 5
    others = [text for text in texts if text[:2] != "sa"]
    assert len(set(others)) == len(others) == 10


def test_the_loader_says_that_it_is_not_timit(corpus_root):
    corpus = load_timit(corpus_root)
    assert corpus.name == "synthetic-timit"
    assert corpus.description.startswith("Synthetic speech in the layout of TIMIT, not TIMIT")
    assert corpus.data_dim == 200
    assert len(corpus.test) == 8


def test_its_level_is_that_of_timit(corpus_root):
    utterances = read_timit_files(corpus_root).utterances
    x = np.concatenate([u.samples for u in utterances])
    assert 300 < x.std(dtype=np.float64) < 900
    assert 2000 < np.abs(x.astype(int)).max() < 20_000
    deviation = np.concatenate([frames(u.samples, 200).std(axis=1) for u in utterances])
    assert deviation.min() > 1  # no frame is constant
    assert 0.03 < (deviation < 5).mean() < 0.35  # but many are nearly silent
    seconds = np.array([len(u.samples) for u in utterances]) / 16000
    assert 1.5 < seconds.mean() < 3.5


def test_equal_arguments_give_equal_bytes(corpus_root, tmp_path):
    again = synthetic_timit(tmp_path, **SMALL)
    assert again.name == corpus_root.name
    assert content(again) == content(corpus_root)


def test_seed_and_size_have_folders_of_their_own(corpus_root, tmp_path):
    other = synthetic_timit(tmp_path, **SMALL, seed=1)
    assert other.name != corpus_root.name
    assert not set(content(other).values()) & set(content(corpus_root).values())


def test_a_corpus_that_is_there_is_used(corpus_root, monkeypatch):
    monkeypatch.setattr(synthetic, "_write_corpus", lambda *_: pytest.fail("made again"))
    assert synthetic_timit(corpus_root.parent, **SMALL) == corpus_root


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "write_sphere", interrupted)
        with pytest.raises(KeyboardInterrupt):
            synthetic_timit(tmp_path, speakers=(1, 1), sentences=1)
    assert list(tmp_path.iterdir()) == []
    assert synthetic_timit(tmp_path, speakers=(1, 1), sentences=1).is_dir()


def test_two_runs_at_once_do_no_harm(tmp_path, monkeypatch):
    write = synthetic._write_corpus

    def overtaken(root, *arguments):
        write(root, *arguments)
        monkeypatch.setattr(synthetic, "_write_corpus", write)
        synthetic_timit(tmp_path, speakers=(1, 1), sentences=1)  # finishes first

    monkeypatch.setattr(synthetic, "_write_corpus", overtaken)
    root = synthetic_timit(tmp_path, speakers=(1, 1), sentences=1)
    assert list(tmp_path.iterdir()) == [root]


def test_a_damaged_corpus_is_refused(corpus_root, tmp_path):
    shutil.copytree(corpus_root, tmp_path / corpus_root.name)
    next((tmp_path / corpus_root.name).rglob("SA1.WAV")).unlink()
    with pytest.raises(DataError, match="19 of 20 recordings are there: remove the folder"):
        synthetic_timit(tmp_path, **SMALL)


def test_the_cache_can_be_chosen(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_STCN_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    assert synthetic_timit(speakers=(1, 1), sentences=1).parent == tmp_path / "here"
    monkeypatch.delenv("PYRO_STCN_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "pyro-stcn"


@pytest.mark.parametrize("arguments", [{"speakers": (0, 1)}, {"speakers": (1, 0)}, {"sentences": 0}, {"seed": -1}])
def test_impossible_corpora(tmp_path, arguments):
    with pytest.raises(ValueError, match="at least one speaker"):
        synthetic_timit(tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


def spectrum(phone, speaker=SPEAKER):
    """Mean power spectrum in the middle of a phone said five times over, and its frequencies."""
    x = synthesise((phone,) * 5, speaker, np.random.default_rng(0)).astype(float)
    middle = x[len(x) // 2 - 2048 : len(x) // 2 + 2048]
    return np.fft.rfftfreq(4096, 1 / 16000), np.abs(np.fft.rfft(middle * np.hanning(4096))) ** 2


def power(phone, low, high, speaker=SPEAKER):
    frequency, spectra = spectrum(phone, speaker)
    return spectra[(frequency >= low) & (frequency < high)].mean()


def test_vowels_have_their_formants():
    assert power("iy", 200, 450) > 10 * power("iy", 900, 1500)  # a gap between low F1 and high F2
    assert power("iy", 2000, 2600) > 3 * power("iy", 900, 1500)
    assert power("aa", 600, 1300) > 10 * power("aa", 1700, 2200)


def test_fricatives_are_high_and_vowels_low():
    assert power("s", 4500, 7000) > 20 * power("s", 200, 2000)
    assert power("sh", 2500, 4000) > 5 * power("sh", 5500, 7500)
    assert power("aa", 200, 2000) > 20 * power("aa", 4500, 7000)


@pytest.mark.parametrize("pitch", [100.0, 220.0])
def test_voices_have_their_pitch(pitch):
    speaker = Speaker(pitch, 1.0, 1.0, 500.0, 0.0, 1.0)
    x = synthesise(("aa",) * 5, speaker, np.random.default_rng(0)).astype(float)
    middle = x[len(x) // 2 - 1024 : len(x) // 2 + 1024]
    correlation = np.correlate(middle, middle, "full")[len(middle) - 1 :]
    lags = np.arange(16000 // 400, 16000 // 60)
    found = 16000 / lags[np.argmax(correlation[lags])]
    assert 0.75 * pitch < found < 1.4 * pitch


def test_silence_where_nothing_is_said():
    x = synthesise(("aa", PAUSE, PAUSE, PAUSE, "aa"), SPEAKER, np.random.default_rng(0))
    assert x[len(x) // 2 - 800 : len(x) // 2 + 800].std() < 5
    assert x[:800].std() < 5


def test_every_phone_can_be_said():
    rng = np.random.default_rng(0)
    for _ in range(5):
        phones = random_sentence(rng, 12)
        x = synthesise(phones, SPEAKER, rng)
        assert x.dtype == np.int16
        assert len(np.unique(x)) > 100


def test_other_programs_read_the_files(corpus_root):
    path = next(corpus_root.rglob("SA1.WAV"))
    info = soundfile.info(path)
    assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
