import shutil

import numpy as np
import pytest

from pyro_stcn.data.audio import AudioError, write_sphere, write_wav
from pyro_stcn.data.checks import DataError
from pyro_stcn.data.timit import load_timit
from pyro_stcn.data.timit_files import read_timit_files

RATE = 16000
SPEAKERS = ["fabc0", "mdef0", "fghi0", "mjkl1"]


def samples_of(*key):
    rng = np.random.default_rng([ord(c) for c in "".join(key)])
    return (500 * rng.standard_normal(rng.integers(2500, 4000))).astype(np.int16)


def write_ldc(root, speakers=SPEAKERS, test=(), write=write_sphere, top="TIMIT"):
    for speaker in (*speakers, *test):
        part = "TEST" if speaker in test else "TRAIN"
        folder = root / top / part / "DR2" / speaker.upper()
        folder.mkdir(parents=True)
        for sentence in ("SA1", "SI20", "SX3"):
            write(folder / f"{sentence}.WAV", samples_of(speaker, sentence), RATE)
    return root


def write_nltk(root, speakers=SPEAKERS):
    for speaker in speakers:
        folder = root / f"dr2-{speaker}"
        folder.mkdir(parents=True)
        for sentence in ("SA1", "SI20", "SX3"):
            write_wav(folder / f"{sentence.lower()}.wav", samples_of(speaker, sentence), RATE)
    return root


def waveform(utterances):
    return np.concatenate([u.samples for u in utterances])


def assert_same_corpus(a, b):
    for part in ("train", "valid", "test"):
        x, y = getattr(a, part), getattr(b, part)
        assert x.names == y.names
        for left, right in zip(x.sequences, y.sequences, strict=True):
            np.testing.assert_array_equal(left, right)
    assert a.standardiser == b.standardiser
    assert a.description == b.description


def speakers_of(dataset):
    return {name.split("/")[1] for name in dataset.names}


def test_both_layouts_give_the_same_data(tmp_path):
    ldc = load_timit(write_ldc(tmp_path / "a"), segment=5)
    nltk = load_timit(write_nltk(tmp_path / "b"), segment=5)
    assert_same_corpus(ldc, nltk)
    assert_same_corpus(ldc, load_timit(tmp_path / "a" / "TIMIT" / "TRAIN", segment=5))


@pytest.mark.parametrize("case", [str.lower, str.title, str.upper])
def test_letter_case_and_depth_do_not_matter(tmp_path, case):
    write_ldc(tmp_path / "a", test=["fxyz0"], top=case("data/timit/timit"))
    root = tmp_path / "b"
    for path in (tmp_path / "a").rglob("*.WAV"):
        target = root / case(path.relative_to(tmp_path / "a").as_posix())
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    corpus = load_timit(root, segment=5)
    assert speakers_of(corpus.test) == {"fxyz0"}
    assert corpus.test.names == ("dr2/fxyz0/sa1", "dr2/fxyz0/si20", "dr2/fxyz0/sx3")


def test_the_published_protocol(tmp_path):
    corpus = load_timit(write_ldc(tmp_path, test=["fxyz0"]), segment=5, frame=100)
    files = read_timit_files(tmp_path).utterances
    train = [u for u in files if u.speaker[4:] in speakers_of(corpus.train)]
    stream = waveform(train)
    s = corpus.standardiser
    assert s.mean == pytest.approx(stream.mean(), rel=1e-12)
    assert s.std == pytest.approx(stream.std(), rel=1e-12)
    assert len(corpus.train) == len(stream) // 500
    joined = np.concatenate([s.invert(x).ravel() for x in corpus.train.sequences])
    np.testing.assert_allclose(joined, stream[: len(joined)], atol=1e-3)
    test = [u for u in files if u.part == "test"]
    for u, x in zip(test, corpus.test.sequences, strict=True):
        assert x.shape == (len(u.samples) // 100, 100)
        np.testing.assert_allclose(s.invert(x).ravel(), u.samples[: x.size], atol=1e-3)
    assert (corpus.frame, corpus.sample_rate, corpus.data_dim) == (100, RATE, 100)


def test_a_segment_is_named_after_the_place_where_it_begins(tmp_path):
    corpus = load_timit(write_ldc(tmp_path), segment=3)
    files = {u.name: u.samples for u in read_timit_files(tmp_path).utterances}
    assert corpus.train.names[0].endswith("sa1+sample 0")
    for name, x in zip(corpus.train.names, corpus.train.sequences, strict=True):
        utterance, _, sample = name.partition("+sample ")
        there = files[utterance][int(sample) :][:600]
        assert len(there) > 0
        begins = corpus.standardiser.invert(x).ravel()[: len(there)]
        np.testing.assert_allclose(begins, there, atol=1e-3)


def test_dropping_the_last_frame_as_published(tmp_path):
    write_ldc(tmp_path, test=["fxyz0"])
    usual = load_timit(tmp_path, segment=3)
    dropped = load_timit(tmp_path, segment=3, drop_last_frame=True)
    np.testing.assert_array_equal(dropped.test.lengths, usual.test.lengths - 1)
    for x, y in zip(usual.test.sequences, dropped.test.sequences, strict=True):
        np.testing.assert_array_equal(x[:-1], y)
    assert usual.train.steps - dropped.train.steps in (0, 3)


def test_whole_utterances_for_training_and_validation(tmp_path):
    write_ldc(tmp_path, test=["fxyz0"])
    whole = load_timit(tmp_path, segment=None)
    assert len(whole.train) + len(whole.valid) == 12
    mixed = load_timit(tmp_path, segment=3, whole_validation=True)
    assert mixed.valid.names == whole.valid.names
    assert all("+" in name for name in mixed.train.names)


def test_no_speaker_is_in_two_parts(tmp_path):
    speakers = [f"{sex}{a}bc0" for sex in "fm" for a in "abcde"]
    write_nltk(tmp_path, speakers)
    for seed in range(4):
        corpus = load_timit(tmp_path, segment=5, seed=seed)
        parts = [speakers_of(d) for d in (corpus.train, corpus.valid, corpus.test)]
        assert [len(p) for p in parts] == [6, 2, 2]
        assert set.union(*parts) == set(speakers)
        # women and men in the proportion of all
        assert [sum(s[0] == "f" for s in p) for p in parts] == [3, 1, 1]


def test_the_seed_chooses_the_split(tmp_path):
    write_nltk(tmp_path)
    splits = {frozenset(speakers_of(load_timit(tmp_path, segment=5, seed=s).test)) for s in range(9)}
    assert len(splits) > 1
    assert_same_corpus(load_timit(tmp_path, segment=5, seed=3), load_timit(tmp_path, segment=5, seed=3))


def test_validation_by_files(tmp_path):
    write_ldc(tmp_path, test=["fxyz0"])
    corpus = load_timit(tmp_path, segment=None, validation="files", valid_fraction=0.3)
    assert len(corpus.valid) == int(0.3 * 12)
    assert len(corpus.train) == 12 - len(corpus.valid)
    assert "speakers are also in the training data" in corpus.description
    with pytest.raises(ValueError, match="'words' is not a valid Validation; there are: speakers, files"):
        load_timit(tmp_path, validation="words")


def test_without_the_sa_sentences(tmp_path):
    write_ldc(tmp_path, test=["fxyz0"])
    corpus = load_timit(tmp_path, segment=None, include_sa=False)
    names = corpus.train.names + corpus.valid.names + corpus.test.names
    assert len(names) == 10
    assert not any("sa1" in name for name in names)
    assert "SA1 and SA2 are left out" in corpus.description


def test_the_description_says_what_the_data_are(tmp_path):
    write_ldc(tmp_path, test=["fxyz0"])
    corpus = load_timit(tmp_path, segment=5)
    for fact in (
        "A part of TIMIT, 15 recordings of 5 speakers",
        "not comparable",
        "Test: the TEST part, 1 speakers",
        "Validation: 1 speakers held out of 4",
        "segments of 5 frames",
        f"Test: 3 sequences, {corpus.test.steps} steps.",
        f"standard deviation {corpus.standardiser.std:.4f}",
    ):
        assert fact in corpus.description


def test_converted_copies_beside_the_originals(tmp_path):
    write_ldc(tmp_path / "a")
    for path in list((tmp_path / "a").rglob("*.WAV")):
        samples = samples_of(path.parent.name.lower(), path.stem)
        write_wav(f"{path}.wav", samples, RATE)
        (path.parent / f"._{path.name}").write_bytes(b"a leftover of another system")
    both = load_timit(tmp_path / "a", segment=5)
    one = load_timit(write_ldc(tmp_path / "b"), segment=5)
    assert both.train.names == one.train.names
    assert "12 further copies" in both.description


def test_a_readable_copy_replaces_an_unreadable_one(tmp_path):
    write_ldc(tmp_path)
    path = tmp_path / "TIMIT/TRAIN/DR2/FABC0/SA1.WAV"
    content = path.read_bytes()
    write_wav(f"{path}.wav", samples_of("fabc0", "SA1"), RATE)
    path.write_bytes(content[:1024] + b"ajkg" + content[1028:])
    utterance = read_timit_files(tmp_path).utterances[0]
    np.testing.assert_array_equal(utterance.samples, samples_of("fabc0", "SA1"))


def test_copies_that_differ_are_refused(tmp_path):
    write_ldc(tmp_path)
    path = tmp_path / "TIMIT/TRAIN/DR2/FABC0/SA1.WAV"
    write_wav(f"{path}.wav", samples_of("fabc0", "SA1")[1:], RATE)
    with pytest.raises(DataError, match="'dr2/fabc0/sa1' is there twice with different samples"):
        load_timit(tmp_path)


def test_a_recording_in_both_parts_is_refused(tmp_path):
    write_ldc(tmp_path)
    shutil.copytree(tmp_path / "TIMIT/TRAIN/DR2/FABC0", tmp_path / "TIMIT/TEST/DR2/FABC0")
    with pytest.raises(DataError, match="'dr2/fabc0/sa1' is in TRAIN and in TEST"):
        load_timit(tmp_path)


def test_a_loop_of_links_is_walked_once(tmp_path):
    write_ldc(tmp_path / "a")
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "linked").symlink_to(tmp_path / "a")
    assert len(read_timit_files(tmp_path / "b").utterances) == 12
    assert read_timit_files(tmp_path / "b").remarks == ()


def test_a_path_with_spaces_and_letters_of_all_kinds(tmp_path):
    assert load_timit(write_ldc(tmp_path / "meine Daten ü 日本"), segment=5).name == "timit"


def test_folders_without_recordings(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: does not exist.*TRAIN/DR1/FVMH0/SA1.WAV"):
        load_timit(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no TIMIT recording.*no \.wav file.*dr1-fvmh0/sa1.wav"):
        load_timit(tmp_path)
    write_wav(tmp_path / "hello.wav", samples_of("x"), RATE)
    with pytest.raises(DataError, match=r"1 \.wav files, such as .*hello.wav"):
        load_timit(tmp_path)
    with pytest.raises(DataError, match="is a file, not a folder"):
        load_timit(tmp_path / "hello.wav")


def test_other_recordings_are_left_aside_and_counted(tmp_path):
    write_ldc(tmp_path)
    write_wav(tmp_path / "hello.wav", samples_of("x"), RATE)
    assert "1 other .wav files" in load_timit(tmp_path, segment=5).description


def test_broken_recordings_are_named_and_counted(tmp_path):
    write_ldc(tmp_path)
    folder = tmp_path / "TIMIT/TRAIN/DR2/FABC0"
    path = folder / "SI20.WAV"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(AudioError, match=r"SI20.WAV: is truncated[^(]*$"):
        load_timit(tmp_path)
    write_sphere(folder / "SX3.WAV", samples_of("x"), 8000)
    with pytest.raises(AudioError, match=r"SI20.WAV: is truncated.*\(2 of 12 recordings"):
        load_timit(tmp_path)
    path.unlink()
    with pytest.raises(AudioError, match=r"SX3.WAV: was sampled at 8000 Hz"):
        load_timit(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"frame": 5000, "segment": None}, DataError, "too few for 1 frames of 5000"),
        ({"segment": 10_000}, DataError, "too few for a segment of 10000"),
        ({"frame": 0}, ValueError, "frame is 0"),
        ({"segment": 0}, ValueError, "segment 0"),
        ({"valid_fraction": 1.5}, ValueError, "valid_fraction is 1.5"),
    ],
)
def test_arguments_that_fit_nothing(tmp_path, arguments, error, message):
    write_ldc(tmp_path)
    with pytest.raises(error, match=message):
        load_timit(tmp_path, **arguments)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_speakers_to_split(tmp_path, count):
    write_ldc(tmp_path, SPEAKERS[:count])
    with pytest.raises(DataError, match="needs 3 speakers"):
        load_timit(tmp_path, segment=5)


@pytest.fixture(scope="module")
def sample(corpora):
    return corpora / "timit_sample"


def test_the_two_copies_of_the_sample_are_identical(sample):
    nltk, ldc = load_timit(sample / "nltk_layout"), load_timit(sample / "ldc_layout")
    assert_same_corpus(nltk, ldc)
    assert [len(speakers_of(d)) for d in (nltk.train, nltk.valid, nltk.test)] == [12, 2, 2]
    both = load_timit(sample)  # both copies in one folder: each recording once
    assert both.train.names == nltk.train.names
    assert "160 further copies" in both.description


def test_facts_of_the_sample(sample):
    utterances = read_timit_files(sample / "nltk_layout").utterances
    assert len(utterances) == 160
    assert utterances[0].name == "dr1/fvmh0/sa1"
    lengths = np.array([len(u.samples) for u in utterances])
    assert (lengths.min(), lengths.max()) == (22938, 88372)
    counts = lengths // 200
    assert (counts.min(), counts.max(), counts.sum()) == (114, 441, 39123)
    x = waveform(utterances)
    assert (x.min(), x.max()) == (-10448, 12039)
    assert x.std(dtype=np.float64) == pytest.approx(546.20, abs=0.005)
