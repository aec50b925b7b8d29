import numpy as np
import pytest
import soundfile
import torch

from pyro_stcn.data.arrays import load_arrays
from pyro_stcn.data.audio import AudioError, write_sphere, write_wav
from pyro_stcn.data.checks import DataError

RNG = np.random.default_rng(0)
SEQUENCES = [RNG.normal([3, -2], [5, 0.1], (steps, 2)) for steps in (4, 9, 2, 7, 5, 3, 8, 6, 4, 5)]
PARTS = ("train", "valid", "test")


def raw(corpus):
    """The sequences of all parts by name, in the unit in which they were given."""
    return {
        name: corpus.standardiser.invert(x.astype(np.float64))
        for part in PARTS
        for name, x in zip(getattr(corpus, part).names, getattr(corpus, part).sequences, strict=True)
    }


def assert_holds(corpus, expected):
    found = raw(corpus)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=1e-5 * (1 + np.abs(array).max()))


def test_a_list_is_split_by_sequence():
    corpus = load_arrays(SEQUENCES, valid_fraction=0.2, test_fraction=0.3, name="mine")
    assert_holds(corpus, {str(i): s for i, s in enumerate(SEQUENCES)})
    assert (len(corpus.train), len(corpus.valid), len(corpus.test)) == (5, 2, 3)
    assert (corpus.name, corpus.data_dim, corpus.sample_rate, corpus.frame) == ("mine", 2, None, None)
    train = np.concatenate([SEQUENCES[int(name)] for name in corpus.train.names])
    np.testing.assert_allclose(corpus.standardiser.mean, train.mean(0))
    np.testing.assert_allclose(corpus.standardiser.std, train.std(0))
    assert "Valid is 2 of the 10 sequences given, held out at random, seed 0." in corpus.description
    assert "Train: 5 sequences" in corpus.description
    again = load_arrays(SEQUENCES, valid_fraction=0.2, test_fraction=0.3)
    assert again.test.digest() == corpus.test.digest()
    splits = {load_arrays(SEQUENCES, seed=seed).test.names for seed in range(20)}
    assert len(splits) > 3
    small = load_arrays(SEQUENCES[:3])
    assert (len(small.train), len(small.valid), len(small.test)) == (1, 1, 1)
    with pytest.raises(DataError, match="train has 2 sequences, and valid and test must be held out of it: give 3"):
        load_arrays(SEQUENCES[:2])


def test_parts_that_are_given():
    corpus = load_arrays(SEQUENCES[:6], SEQUENCES[6:8], [torch.tensor(s) for s in SEQUENCES[8:]])
    assert corpus.valid.names == ("valid/0", "valid/1")
    assert corpus.train.names == tuple(f"train/{i}" for i in range(6))
    assert "Valid was given. Test was given." in corpus.description
    corpus = load_arrays(SEQUENCES[:6], test=SEQUENCES[6:])
    assert (len(corpus.train), len(corpus.valid), len(corpus.test)) == (5, 1, 4)
    assert corpus.valid.names[0].startswith("train/")
    twice = load_arrays(SEQUENCES, SEQUENCES[:2], SEQUENCES[1:4])
    assert "2 sequences of valid are also in the training part" in twice.description
    assert "3 sequences of test are also in the training part" in twice.description
    single = [np.round(100 * s).astype(np.float32) for s in SEQUENCES]
    other = load_arrays([s.astype(np.float64) for s in single], single[:1], [s.astype(int) for s in single[:2]])
    assert "1 sequences of valid are also in the training part" in other.description
    assert "2 sequences of test are also in the training part" in other.description


def test_one_array_and_one_channel():
    stack = RNG.normal(size=(10, 6, 3))
    for given in (stack, torch.tensor(stack)):
        assert_holds(load_arrays(given), {str(i): s for i, s in enumerate(stack)})
    assert load_arrays([s[:, 0] for s in SEQUENCES]).data_dim == 1
    with pytest.raises(
        DataError, match=r"train is one array of shape \(10, 6\), expected \(N, T, D\).*train\[..., None"
    ):
        load_arrays(stack[..., 0])


def test_scaling_and_channels_that_are_kept():
    bits = [np.column_stack([s, RNG.random(len(s)) < 0.5]) for s in SEQUENCES]
    assert "Channels [2] hold only 0 and 1" in load_arrays(bits).description
    corpus = load_arrays(bits, keep=[2])
    assert (corpus.standardiser.mean[2], corpus.standardiser.std[2]) == (0, 1)
    assert "channels 2 are as they were" in corpus.description
    assert "hold only 0 and 1" not in corpus.description
    scalar = load_arrays(SEQUENCES, standardise="scalar")
    values = np.concatenate([SEQUENCES[int(n)].ravel() for n in scalar.train.names])
    assert scalar.standardiser.mean == pytest.approx(values.mean())
    kept = load_arrays(bits, standardise="scalar", keep=[2]).standardiser
    assert kept.mean[0] == kept.mean[1] != kept.mean[2] == 0
    none = load_arrays(SEQUENCES, standardise="none")
    np.testing.assert_allclose(none.train[0], SEQUENCES[int(none.train.names[0])], rtol=1e-6)
    assert "Not standardised." in none.description
    with pytest.raises(DataError, match="train: the training part cannot be standardised: channels .1. hold one value"):
        load_arrays([s * (1, 0) for s in SEQUENCES])
    with pytest.raises(DataError, match="keep names the channel 2, and there are 2, counted from 0"):
        load_arrays(SEQUENCES, keep=[2])
    with pytest.raises(DataError, match="keep names the channel 'pen', and there are no names"):
        load_arrays(SEQUENCES, keep=["pen"])


def test_what_is_no_set_of_sequences():
    bad = np.where(np.arange(2) == 1, np.nan, SEQUENCES[3])
    for given, message in (
        ([], "train: there are no sequences"),
        (3, "train is a int: expected a list of arrays"),
        ([*SEQUENCES, np.ones((3, 4))], "sequence 'train/10' has 4 channels and sequence 'train/0' has 2"),
        ([*SEQUENCES, np.ones((0, 2))], r"sequence 'train/10' has shape \(0, 2\)"),
        ([*SEQUENCES, [[1, 2]]], "sequence 'train/10' is a list, expected a numpy array"),
        ([*SEQUENCES, np.array([["a", "b"]])], "dtype <U1, expected real numbers"),
        ([*SEQUENCES, np.full((2, 2), np.inf)], "sequence 'train/10' is not finite: inf at step 0, channel 0"),
        (
            [*SEQUENCES, bad],
            "train: sequence '10' has 7 missing values, the first at step 0, channel 1; 1 of 11 sequences have some. "
            "They are not filled in: give missing='mark' .*leave .*interpolate .*pyro_stcn.impute",
        ),
        ([*SEQUENCES, np.ma.masked_greater(np.eye(2), 0.5)], "sequence '10' has 2 missing values, the first at step 0"),
    ):
        with pytest.raises(DataError, match=message):
            load_arrays(given)
    for options in ({"valid_fraction": 0}, {"valid_fraction": 0.6, "test_fraction": 0.4}, {"frame": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match="expected (fractions above 0 and together below 1|integers >= 1)"):
            load_arrays(SEQUENCES, **options)


def test_missing_values_are_marked_by_the_step_and_no_part_of_the_statistics():
    given = [s.copy() for s in SEQUENCES]
    given[1][2, 0] = given[1][2, 1] = given[6][0, 1] = given[6][5, 0] = np.nan
    given[3] = np.ma.masked_array(given[3], np.arange(14).reshape(7, 2) == 4)
    corpus = load_arrays(given, missing="mark")
    marks = {}
    for part in PARTS:
        data = getattr(corpus, part)
        marks |= {int(name): np.flatnonzero(~data.mask(i)).tolist() for i, name in enumerate(data.names)}
        share = f", {data.missing.sum()} of them marked as missing." if data.missing.sum() else "."
        assert f"{part.capitalize()}: {len(data)} sequences, {data.steps} steps{share}" in corpus.description
    assert {name: steps for name, steps in marks.items() if steps} == {1: [2], 6: [0, 5], 3: [2]}
    train = [int(name) for name in corpus.train.names]
    assert {1, 3, 6} & set(train), "the seed must leave holes in the training part"
    complete = np.concatenate([np.delete(SEQUENCES[i], marks[i], axis=0) for i in train])
    np.testing.assert_allclose(corpus.standardiser.mean, complete.mean(0))
    np.testing.assert_allclose(corpus.standardiser.std, complete.std(0))
    seen = np.concatenate([corpus.train.seen(i) for i in range(len(train))])
    np.testing.assert_allclose(corpus.standardiser.invert(seen), complete, atol=1e-5)
    same = load_arrays(SEQUENCES, missing="mark")
    assert same.train.digest() == load_arrays(SEQUENCES).train.digest()


def test_what_cannot_be_marked():
    nothing = np.full((4, 2), np.nan)
    nothing[:2, 0] = 1  # something is there, and no step is complete
    for given, message in (
        ([*SEQUENCES, nothing], "train: sequence '10' has a missing value in every step.*1 of 11 sequences are such"),
        ([*SEQUENCES, np.array([[np.nan, 0], [0, np.inf]])], "'train/10' is not finite: inf at step 1, channel 1"),
    ):
        with pytest.raises(DataError, match=message):
            load_arrays(given, missing="mark")


def test_missing_cells_of_a_table(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n" + "1,2\n,3\n4,NA\n5,6\n" * 3)
    corpus = load_arrays([tmp_path / "a.csv"] * 1, [tmp_path / "a.csv"], [tmp_path / "a.csv"], missing="mark")
    assert corpus.train.missing.tolist() == [6]
    assert corpus.channels == corpus.raw.channels == ("x", "y")
    assert corpus.standardiser.mean == (3, 4)


def test_npz_and_npy(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, **{f"s{i}": s for i, s in enumerate(SEQUENCES)}, stack=np.ones((2, 3, 2)))
    stack = {f"mine/stack/{i}": np.ones((3, 2)) for i in range(2)}
    assert_holds(load_arrays(path), {f"mine/s{i}": s for i, s in enumerate(SEQUENCES)} | stack)
    np.save(tmp_path / "mine.npy", np.arange(24).reshape(4, 3, 2))
    corpus = load_arrays(path, str(tmp_path / "mine.npy"), path)
    assert corpus.valid.names == tuple(f"valid/mine/{i}" for i in range(4))
    array = np.empty(2, dtype=object)
    array[:] = SEQUENCES[:2]
    for name, content, message in (
        ("train_points", np.ones((3, 3)), "holds pen strokes in the stroke-3 format: read it with load_strokes"),
        ("a", array, "'a' is an array of objects. .*pickle.*not read here: write the sequences as arrays of their own"),
        ("a", np.ones((2, 2, 2, 2)), "'mine/a' has shape"),
        ("a", np.array(["text"]), "'mine/a' has shape .* and dtype <U4, expected numbers"),
        ("a", np.ones((0, 2)), "holds nothing: leave it out"),
    ):
        np.savez(path, **{name: content}, train_lengths=np.array([3]))
        with pytest.raises(DataError, match=f"mine.npz: {message}|mine.npz: 'a' has shape .*{message}"):
            load_arrays(path)
    with pytest.raises(DataError, match="has 320 bytes, and max_bytes is 100"):
        load_arrays(tmp_path / "mine.npy", max_bytes=100)
    with pytest.raises(DataError, match="nowhere.npz: does not exist"):
        load_arrays(tmp_path / "nowhere.npz")


def table(rows, header=None, delimiter=","):
    lines = [] if header is None else [header]
    return "\n".join(lines + [delimiter.join(str(cell) for cell in row) for row in rows]) + "\n"


def test_csv(tmp_path):
    for i, s in enumerate(SEQUENCES):
        header = (None, "a,b", '"a", b', "a;b")[i % 4]
        (tmp_path / f"s{i}.csv").write_text(table(s, header, ";" if i % 4 == 3 else ","), encoding="utf-8-sig")
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / ".hidden.csv").write_text("not data")
    corpus = load_arrays(tmp_path)
    assert_holds(corpus, {f"s{i}": s for i, s in enumerate(SEQUENCES)})
    assert_holds(
        load_arrays([tmp_path / f"s{i}.csv" for i in range(3)]),
        {f"s{i}": SEQUENCES[i] for i in range(3)},
    )
    rows = [(f"no {i}", *row) for i, s in enumerate(SEQUENCES) for row in s]
    for header, column in ((None, 0), ("who,x,y", "who"), ("who,x,y", 0)):
        (tmp_path / "all.csv").write_text(table(rows, header))
        corpus = load_arrays(tmp_path / "all.csv", sequence_column=column, keep=["y"] if header else ())
        assert_holds(corpus, {f"all/no {i}": s for i, s in enumerate(SEQUENCES)})
        assert (corpus.standardiser.std[1] == 1) == (header is not None)
    numbered = [(*row, i) for i, s in enumerate(SEQUENCES) for row in s]
    (tmp_path / "all.csv").write_text(table(numbered[::-1]))  # groups need not be in order
    corpus = load_arrays(tmp_path / "all.csv", sequence_column=2)
    assert_holds(corpus, {f"all/{i}": s[::-1] for i, s in enumerate(SEQUENCES)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a.csv: is empty \(0 bytes\)"),
        ("\n\n", "a.csv: is empty: leave it out"),
        ("x,y\n", "a.csv: has a header and no rows"),
        ("x,y\n1,2\n\n3\n", "a.csv: line 4 has 1 cells and line 1 has 2: every row needs one cell for each column"),
        ("x,y\n1,2\n3,4,5\n", "a.csv: line 3 has 3 cells and line 1 has 2"),
        ("x,y\n1,2\n3,high\n", "a.csv: line 3, column 1 .'y'. is 'high', which is no number"),
        ("1,2\n3,1_000\n", "a.csv: line 2, column 1 is '1_000', which is no number"),
        ("a,1\nb,2\n", "a.csv: line 1, column 0 is 'a', which is no number: .*name it with sequence_column"),
        (
            "x,y\n1,2\n3,\nNaN,4\n",
            "a.csv: sequence 'a' has 2 missing values, the first at step 1, channel 1 .'y'.; 1 of 1",
        ),
        ("1,2\n3,inf\n", "sequence 'train/a' is not finite: inf at step 1, channel 1"),
        ("x,y\n\xff\n", "a.csv: cannot be read as text in UTF-8"),
        ('1,"' + "a" * 200_000 + '"\n', "a.csv: line 1 is not CSV"),
    ],
)
def test_csv_with_something_wrong(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=message):
        load_arrays(path)


def test_csv_columns_that_do_not_fit(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("who,x\na,1\n,2\n")
    for column, message in (
        ("name", "0 columns are named 'name' among who, x"),
        ("who", "line 3 names no sequence in the column 'who'"),
        (5, "has 2 columns, counted from 0, and sequence_column is 5"),
    ):
        with pytest.raises(DataError, match=f"a.csv: {message}"):
            load_arrays(path, sequence_column=column)
    path.write_text("x,y\n1,2\n3,5\n")
    (tmp_path / "b.csv").write_text("y,x\n1,2\n3,5\n")
    with pytest.raises(DataError, match="b.csv: has the columns y, x and .*a.csv has x, y: the files need the same"):
        load_arrays(tmp_path)


@pytest.mark.parametrize("name", ["a.flac", "a.aiff", "float.wav"])
def test_silence_is_refused_in_every_encoding(tmp_path, name):
    subtype = "FLOAT" if name.startswith("float") else "PCM_16"
    soundfile.write(tmp_path / name, np.zeros(900, np.float32), 8000, subtype=subtype)
    with pytest.raises(AudioError, match=rf"{name}: holds silence only \(900 samples, all 0\): leave it out"):
        load_arrays(tmp_path / name)


def wave(count):
    return (8000 * np.sin(np.arange(count) * RNG.uniform(0.05, 0.2)) + RNG.normal(0, 50, count)).astype(np.int16)


def test_folder_of_audio(tmp_path):
    waves = [wave(count) for count in (100, 257, 333, 90, 61)]
    (tmp_path / "a").mkdir()
    write_wav(tmp_path / "a" / "0.wav", waves[0], 8000)
    write_sphere(tmp_path / "1.wav", waves[1], 8000)
    soundfile.write(tmp_path / "2.FLAC", waves[2], 8000, subtype="PCM_16", format="FLAC")
    soundfile.write(tmp_path / "3.wav", waves[3] / 32768, 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "4.aiff", waves[4], 8000, subtype="PCM_16")
    corpus = load_arrays(tmp_path, frame=20)
    names = ("a/0", "1", "2", "3", "4")
    assert_holds(corpus, {n: w[: len(w) // 20 * 20].reshape(-1, 20) for n, w in zip(names, waves, strict=True)})
    assert (corpus.sample_rate, corpus.frame, corpus.data_dim) == (8000, 20, 20)
    assert isinstance(corpus.standardiser.mean, float)
    assert "20 channels, 20 samples at 8000 Hz." in corpus.description
    assert "41 samples at ends of files fill no step" in corpus.description

    for name, content, options, message in (
        ("z.wav", wave(100), {"samplerate": 16000}, "z.wav: was sampled at 16000 Hz and .*1.wav at 8000 Hz: resample"),
        ("z.flac", np.column_stack([wave(100)] * 2), {"samplerate": 8000}, "z.flac: has 2 channels, expected 1"),
        ("z.wav", wave(10), {"samplerate": 8000}, "z.wav: has 10 samples, fewer than a step of 20"),
    ):
        soundfile.write(tmp_path / name, content, **options)
        with pytest.raises(AudioError, match=message):
            load_arrays(tmp_path, frame=20)
        (tmp_path / name).unlink()
    (tmp_path / "z.mp3").write_bytes(b"no audio")
    with pytest.raises(AudioError, match="z.mp3"):
        load_arrays(tmp_path, frame=20)
    (tmp_path / "z.mp3").unlink()
    (tmp_path / "z.csv").write_text("1,2\n")
    with pytest.raises(DataError, match="holds audio .1.wav. and arrays .z.csv.: put them into two folders"):
        load_arrays(tmp_path)


def test_folders_without_data(tmp_path):
    with pytest.raises(DataError, match="holds no file that is read .nothing.: expected .npz, .npy, .csv or audio"):
        load_arrays(tmp_path)
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(DataError, match="holds no file that is read ..txt."):
        load_arrays(tmp_path)
    with pytest.raises(DataError, match="a.txt: expected .npz"):
        load_arrays(tmp_path / "a.txt")


def test_files_of_one_name_are_told_apart(tmp_path):
    for suffix in "ab":
        np.save(tmp_path / f"{suffix}.npy", SEQUENCES[0])
    (tmp_path / "a.csv").write_text(table(SEQUENCES[1]))
    assert_holds(load_arrays(tmp_path), {"a.csv": SEQUENCES[1], "a.npy": SEQUENCES[0], "b.npy": SEQUENCES[0]})


def test_spoken_digits(corpora):
    folder = corpora / "fsdd" / "recordings"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: the Free Spoken Digit Dataset")
    corpus = load_arrays(folder, frame=200, name="fsdd")
    assert (len(corpus.train), len(corpus.valid), len(corpus.test)) == (2400, 300, 300)
    assert (corpus.sample_rate, corpus.data_dim) == (8000, 200)
    lengths = np.concatenate([getattr(corpus, part).lengths for part in PARTS])
    assert (lengths.min(), np.median(lengths), lengths.max()) == (5, 16, 91)
    assert np.concatenate(corpus.train.sequences).std() == pytest.approx(1, abs=0.02)


def test_files_of_a_list_are_called_by_where_they_lie_from_the_folder_of_all(tmp_path):
    for name in ("a/x", "a/y", "b/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / f"{name}.npy", RNG.normal(size=(5, 2)))
    given = [tmp_path / f"{name}.npy" for name in ("a/x", "a/y", "b/x")]
    assert load_arrays(given, given[:1], given[:1]).train.names == ("train/a/x", "train/a/y", "train/b/x")
    (tmp_path / "a" / "x.csv").write_text("1,2\n3,5\n")
    twice = [tmp_path / "a" / "x.csv", *given[:2]]
    assert load_arrays(twice, given[:1], given[:1]).train.names == ("train/x.csv", "train/x.npy", "train/y.npy")
