import math
import sys

import numpy as np
import pytest

from pyro_stcn.data.checks import DataError
from pyro_stcn.data.stroke_files import PARTS, read_stroke_file, write_strokes
from pyro_stcn.data.strokes import StrokeNormaliser, load_strokes
from pyro_stcn.data.synthetic_strokes import synthetic_strokes

from .ink import DATA, LENGTHS, arrays, save


@pytest.fixture
def path(tmp_path):
    return tmp_path / "my ink.stroke3.npz"


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    return synthetic_strokes(tmp_path_factory.mktemp("cache"))


def test_what_is_written_is_read(path):
    assert write_strokes(path, **DATA) == path
    assert list(path.parent.iterdir()) == [path]
    corpus = load_strokes(path)
    assert (corpus.name, corpus.data_dim, corpus.sample_rate, corpus.frame) == ("my ink", 3, None, None)
    for part in PARTS:
        data = getattr(corpus, part)
        assert data.names == tuple(f"{part}/{i}" for i in range(len(LENGTHS[part])))
        for x, raw in zip(data.sequences, DATA[part], strict=True):
            np.testing.assert_allclose(corpus.standardiser.invert(x), raw, atol=1e-5)
            np.testing.assert_array_equal(x[:, 2], raw[:, 2])
    assert (
        "Train: 4 sequences, 23 steps. Valid: 2 sequences, 7 steps. Test: 1 sequences, 6 steps." in corpus.description
    )
    assert corpus.description.startswith("Pen strokes of my ink.stroke3.npz.")


@pytest.mark.parametrize("kind", [np.int16, np.float64, np.float16, np.uint8])
def test_points_of_any_real_type_and_order(path, kind):
    points = np.asfortranarray(np.abs(arrays()["train_points"]).astype(kind))
    corpus = load_strokes(save(path, train_points=points))
    raw = np.concatenate([corpus.standardiser.invert(s) for s in corpus.train.sequences])
    np.testing.assert_allclose(raw, points.astype(np.float32), atol=1e-5)


def test_the_unit_of_each_normaliser(path):
    save(path)
    dx, dy, _ = np.concatenate(DATA["train"]).astype(np.float64).T
    channel = load_strokes(path).standardiser
    np.testing.assert_allclose(channel.mean, (dx.mean(), dy.mean(), 0), rtol=1e-12)
    np.testing.assert_allclose(channel.std, (dx.std(), dy.std(), 1), rtol=1e-12)
    corpus = load_strokes(path, normaliser="chung")
    chung, mean = corpus.standardiser, dx.mean() + dy.mean()
    std = np.sqrt((dx**2).mean() + (dy**2).mean() - mean**2)
    np.testing.assert_allclose(chung.mean, (mean, mean, 0), rtol=1e-12)
    np.testing.assert_allclose(chung.std, (std, std, 1), rtol=1e-12)
    assert f"{2 * np.log(std) - np.log(dx.std()) - np.log(dy.std()):.3f} nats per step above" in corpus.description
    assert "Chung" in corpus.description


def test_chung_adds_log_two_where_the_means_are_zero():
    points = np.random.default_rng(0).normal(size=(50, 2)) * 5
    points = np.concatenate([points, -points, points[:, ::-1], -points[:, ::-1]])  # means 0, one variance
    sequences = [np.column_stack([points, np.ones(200)])]
    chung, channel = StrokeNormaliser.CHUNG.fit(sequences), StrokeNormaliser.CHANNEL.fit(sequences)
    assert channel.log_jacobian(3) - chung.log_jacobian(3) == pytest.approx(math.log(2), abs=1e-9)


def test_longer_sequences_are_left_out_and_not_standardised_on(path):
    corpus = load_strokes(save(path), max_steps=6)
    assert corpus.train.names == ("train/0", "train/2")
    kept = np.concatenate([DATA["train"][0], DATA["train"][2]]).astype(np.float64)
    np.testing.assert_allclose(corpus.standardiser.mean[:2], kept.mean(0)[:2], rtol=1e-6)
    assert "longer than 6 steps are left out: 2 of 4 in train, 0 of 2 in valid, 0 of 1 in test" in corpus.description
    with pytest.raises(
        DataError, match="no sequence of test has 5 steps or fewer, the shortest has 6: raise max_steps"
    ):
        load_strokes(path, max_steps=5)


def test_names_hold_the_text(path):
    text = np.array(["the", "the", "", "two\nlines, and more than twenty"])
    names = load_strokes(save(path, train_text=text)).train.names
    assert names == ("train/0 the", "train/1 the", "train/2", "train/3 two?lines, and more")
    assert load_strokes(path).valid.names == ("valid/0", "valid/1")


def test_what_is_odd_is_described(path):
    whole = {part: [np.round(s) for s in sequences] for part, sequences in DATA.items()}
    for s in (s for sequences in whole.values() for s in sequences):
        s[0, :2] = 0
    whole["test"].append(whole["train"][1])
    whole["valid"][1][1, 1] = -5000
    whole["valid"][1][-1, 2] = 0
    corpus = load_strokes(write_strokes(path, **whole))
    sx, sy, _ = corpus.standardiser.std
    for fact in (
        "Every sequence begins with the offset (0, 0)",
        f"above {math.log(sx * sy):.2f} nats per step",
        "1 offsets are beyond 20 standard deviations",
        "is dy at step 1 of 'valid/1'",
        "1 sequences end with the pen down",
        "point for point: 0 of valid and 1 of test",
    ):
        assert fact in corpus.description


def bad(part, row, channel, value):
    points = np.concatenate(DATA[part]).astype(np.float64)
    points[row, channel] = value
    return {f"{part}_points": points}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"valid_points": None, "test_lengths": None}, "no valid_points, test_lengths among .*: write such a file"),
        (dict.fromkeys(arrays()) | {"x": np.ones(1)}, "no train_points, train_lengths, .* among x: "),
        ({"train_lengths": np.array([5, 9, 2, 6])}, "train_lengths sum to 22, and train_points has 23 rows"),
        ({"train_lengths": np.array([5, 9, 2, 8])}, "train_lengths sum to 24, and train_points has 23 rows"),
        ({"train_lengths": np.array([14, 0, 9])}, "'train/1' has 0 steps of the 23 in train_points, at least one"),
        ({"train_lengths": np.array([14, -1, 10])}, "'train/1' has -1 steps"),
        (
            {"train_lengths": np.array([23, 2**63, 2**63], np.uint64)},
            "'train/1' has 9223372036854775808 steps of the 23",
        ),
        ({"train_lengths": np.array(23)}, r"train_lengths has shape \(\), expected one number per sequence"),
        ({"test_lengths": np.zeros(0, int)}, r"test_lengths has shape \(0,\), .*at least 1"),
        ({"train_lengths": np.array([5.0, 18.0])}, "train_lengths has dtype float64, expected integers"),
        ({"test_points": np.ones((6, 5))}, r"test_points has shape \(6, 5\), expected \(N, 3\)"),
        ({"test_points": np.ones(18)}, r"test_points has shape \(18,\)"),
        ({"test_points": np.ones((6, 3), complex)}, "test_points has dtype complex128, expected real numbers"),
        (bad("train", 6, 1, np.nan), r"train_points: sequence 'train/1', step 1, channel 1 \(dy\) is nan.*first of 1"),
        (bad("valid", 4, 0, -np.inf), r"sequence 'valid/1', step 0, channel 0 \(dx\) is -inf.*leave the sequence out"),
        (bad("test", 5, 0, 1e39), r"sequence 'test/0', step 5, channel 0 \(dx\) is inf, not a finite float32"),
        (bad("train", 22, 2, 0.5), r"sequence 'train/3', step 6, channel 2 \(pen\) is 0.5, neither 0 nor 1"),
        (bad("train", 13, 2, -1), r"sequence 'train/1', step 8, channel 2 \(pen\) is -1.0.*last point of a stroke"),
        (bad("train", slice(None), 1, 3), "the training part cannot be standardised: dy never change"),
        (bad("train", slice(None), 2, np.nan), "'train/0', step 0, channel 2 .*first of 23"),
        ({"train_text": np.array(["a", "b"])}, r"train_text has shape \(2,\), and there are 4 sequences"),
        ({"train_text": np.ones(4)}, "train_text has dtype float64, expected strings"),
        ({"train_text": np.full(4, 0x7FFFFFFF, np.uint32).view("U1")}, "train_text is not text"),
    ],
)
def test_data_that_cannot_be(path, changes, message):
    with pytest.raises(DataError, match=f"my ink.stroke3.npz: .*{message}"):
        load_strokes(save(path, **changes))


def test_an_axis_that_only_drifts_has_no_chung_unit(path):
    rng = np.random.default_rng(0)
    drift = [np.column_stack([rng.normal(9, 1, (20, 2)), np.ones(20)]) for _ in range(3)]
    write_strokes(path, drift[:1], drift[1:2], drift[2:])
    assert load_strokes(path).data_dim == 3
    with pytest.raises(DataError, match="'chung' gives the variance -.*give normaliser='channel'"):
        load_strokes(path, normaliser="chung")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"max_steps": 0}, "max_steps is 0"), ({"max_bytes": 0}, "max_bytes is 0"), ({"normaliser": "x"}, "StrokeNorm")],
)
def test_arguments_that_fit_nothing(path, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_strokes(save(path), **arguments)


# The synthetic corpus, and real ones


def test_the_synthetic_corpus(synthetic):
    corpus = load_strokes(synthetic)
    assert corpus.name == "synthetic-strokes"
    assert corpus.description.startswith("Synthetic pen strokes, not handwriting")
    assert [len(corpus.train), len(corpus.valid), len(corpus.test)] == [400, 50, 50]
    raw = [corpus.standardiser.invert(s) for s in corpus.train.sequences]
    assert all(s[-1, 2] == 1 for s in raw)
    assert 0.02 < np.mean(np.concatenate(raw)[:, 2]) < 0.1
    assert 50 < corpus.train.lengths.mean() < 100
    assert np.unique(np.concatenate(raw)[:, :2].round(3) % 1).size == 1  # whole numbers
    for name, s in zip(corpus.train.names, raw, strict=True):
        word = name.split()[1]
        assert s[:, 2].sum() >= 1 + sum(word.count(c) for c in "it")  # dots and bars are strokes of their own
        assert 20 * len(word) < np.ptp(np.cumsum(s[:, 0])) < 180 * len(word)  # the letters stand side by side


def test_equal_arguments_give_equal_bytes(tmp_path):
    first = synthetic_strokes(tmp_path / "a", words=(3, 2, 2), seed=5)
    assert synthetic_strokes(tmp_path / "b", words=(3, 2, 2), seed=5).read_bytes() == first.read_bytes()
    other, more = (synthetic_strokes(tmp_path, words=(n, 2, 2), seed=s) for n, s in ((3, 6), (4, 5)))
    names = [read_stroke_file(p, 2**20).parts["train"].names for p in (first, other, more)]
    assert names[0] == names[2][:3] != names[1]


def test_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_STCN_CACHE", str(tmp_path / "here"))
    path = synthetic_strokes(words=(2, 1, 1))
    assert list((tmp_path / "here").iterdir()) == [path]
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[synthetic_strokes.__module__], "write_word", lambda *_: pytest.fail("made again"))
        assert synthetic_strokes(words=(2, 1, 1)) == path
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="truncated or damaged.*remove this file, to have it made again"):
        synthetic_strokes(words=(2, 1, 1))
    for arguments in ({"words": (1, 0, 1)}, {"seed": -1}):
        with pytest.raises(ValueError, match="at least one word"):
            synthetic_strokes(**arguments)


@pytest.mark.parametrize(
    ("file", "counts", "longest", "first", "remark"),
    [
        ("gw_online/gw_online", (3936, 466, 458), 269, "train/1 letters", "begins with the offset (0, 0)"),
        ("kanji/short_kanji", (10000, 600, 500), 88, "train/1", "point for point: 7 of valid and 1 of test"),
    ],
)
def test_real_strokes(corpora, file, counts, longest, first, remark):
    path = corpora / f"{file}.stroke3.npz"
    corpus = load_strokes(path)
    assert (len(corpus.train), len(corpus.valid), len(corpus.test)) == counts
    assert max(d.lengths.max() for d in (corpus.train, corpus.valid, corpus.test)) == longest
    assert corpus.train.names[1] == first
    assert remark in corpus.description
    with np.load(path, allow_pickle=False) as file:
        points, ends = file["test_points"], np.cumsum(file["test_lengths"])
        train = file["train_points"].astype(np.float64)
    np.testing.assert_allclose(corpus.standardiser.std[:2], train.std(0)[:2], rtol=1e-9)
    for x, raw in zip(corpus.test.sequences, np.split(points, ends[:-1]), strict=True):
        np.testing.assert_allclose(corpus.standardiser.invert(x), raw, atol=1e-3)
