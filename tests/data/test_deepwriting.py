import os
import warnings

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

from pyro_stcn.data.batch import ShuffledBatches
from pyro_stcn.data.checks import DataError
from pyro_stcn.data.deepwriting import load_deepwriting
from pyro_stcn.data.stroke_files import read_stroke_file
from pyro_stcn.data.synthetic_deepwriting import synthetic_deepwriting
from pyro_stcn.data.synthetic_strokes import synthetic_strokes
from pyro_stcn.observation import PenStrokeConfig

from ..small import small_stcn
from .ink import DATA

PARTS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return synthetic_deepwriting(tmp_path_factory.mktemp("cache"), words=(12, 4))


def objects(items):
    array = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        array[i] = item
    return array


def statistics(sequences, off=0.0):
    every = np.concatenate(sequences).astype(np.float64)
    return np.array({"mean_channel": every.mean(0) + off, "std_channel": every.std(0)}, dtype=object)


def save(folder, name="train.npz", **changes):
    """A good file, with some arrays changed, or left out where None."""
    arrays = {"samples": objects(DATA["train"] + DATA["valid"]), **changes}
    np.savez(folder / name, **{key: array for key, array in arrays.items() if array is not None})
    return folder / name


def test_the_synthetic_pair_is_read_as_it_was_made(pair, tmp_path):
    strokes = read_stroke_file(synthetic_strokes(tmp_path, words=(12, 4, 1)), 2**20).parts
    corpus = load_deepwriting(*pair, valid_fraction=0.25)
    assert (corpus.name, corpus.data_dim) == ("synthetic-deepwriting", 3)
    assert (len(corpus.train), len(corpus.valid), len(corpus.test)) == (9, 3, 4)
    for part in PARTS:
        data = getattr(corpus, part)
        for name, x in zip(data.names, data.sequences, strict=True):
            origin, number = name.split("/")
            assert origin == ("valid" if part == "test" else "train")
            original = strokes[origin].sequences[int(number)]
            np.testing.assert_allclose(corpus.standardiser.invert(x), original, atol=1e-4)
            np.testing.assert_array_equal(x[:, 2], original[:, 2])
    train = np.concatenate([strokes["train"].sequences[int(n.split("/")[1])] for n in corpus.train.names])
    np.testing.assert_allclose(corpus.standardiser.mean, (*train.mean(0, dtype=np.float64)[:2], 0), rtol=1e-6)
    np.testing.assert_allclose(corpus.standardiser.std, (*train.std(0, dtype=np.float64)[:2], 1), rtol=1e-6)
    assert corpus.description.startswith("Synthetic pen strokes in the format of Deepwriting, not handwriting.")
    for sentence in (
        "Validation: 3 sequences held out of the 12 of deepwriting_v2_training.npz, seed 0. "
        "Test: deepwriting_v2_validation.npz.",
        "Preprocessing according to deepwriting_v2_training.npz: pyro-stcn-synthetic, offsets.",
        "The statistics in deepwriting_v2_training.npz are those of its samples.",
    ):
        assert sentence in corpus.description


def test_the_files_are_pickles_made_once(pair):
    with np.load(pair[0], allow_pickle=True) as file:
        assert file["samples"].dtype == object
        assert file["statistics"].item().keys() == {"mean_channel", "std_channel", "mean_all", "std_all"}
    before = pair[0].stat().st_mtime_ns
    assert synthetic_deepwriting(pair[0].parents[1], words=(12, 4)) == pair
    assert pair[0].stat().st_mtime_ns == before
    assert len(list(pair[0].parents[1].iterdir())) == 1
    with pytest.raises(ValueError, match="at least one word"):
        synthetic_deepwriting(words=(0, 1))


def test_a_damaged_pair(tmp_path):
    train, _ = synthetic_deepwriting(tmp_path, words=(2, 1))
    train.unlink()
    with pytest.raises(DataError, match="deepwriting_v2_training.npz is missing: remove this folder"):
        synthetic_deepwriting(tmp_path, words=(2, 1))


def test_what_is_held_out(pair):
    first, again = (load_deepwriting(*pair, valid_fraction=0.25, seed=1) for _ in range(2))
    assert first.valid.digest() == again.valid.digest()
    assert len({load_deepwriting(*pair, seed=seed).valid.names for seed in range(8)}) > 2
    assert not set(first.valid.names) & set(first.train.names)
    published = load_deepwriting(*pair, split="published")
    assert (len(published.train), len(published.valid), len(published.test)) == (12, 4, 4)
    for a, b in zip(published.valid.sequences, published.test.sequences, strict=True):
        np.testing.assert_array_equal(a, b)
    assert "validation and test are the same sequences" in published.description
    assert "not held out" in published.description
    with pytest.raises(ValueError, match="valid_fraction=1"):
        load_deepwriting(*pair, valid_fraction=1)
    with pytest.raises(ValueError, match="'chung' is not a valid DeepwritingSplit; there are: held out, published"):
        load_deepwriting(*pair, split="chung")


@pytest.mark.parametrize("pickled", [False, True])
def test_file_ids_are_held_out_whole(tmp_path, pickled):
    ids = ["a", "a", "b", "c", "b", "c"]
    path = save(tmp_path, file_ids=objects(ids) if pickled else np.array(ids))
    corpus = load_deepwriting(path, path, valid_fraction=0.3)
    held = {ids[int(name.split("/")[1])] for name in corpus.valid.names}
    assert len(held) == 1
    assert len(corpus.valid) == 2
    assert "2 sequences with 1 of the 3 file_ids held out of the 6" in corpus.description
    with pytest.raises(DataError, match="there are 6 sequences and 5 file_ids"):
        load_deepwriting(save(tmp_path, file_ids=np.array(ids[1:])), path)


def test_one_array_and_masks(tmp_path):
    lengths = np.array([5, 2, 4, 1])
    samples = np.concatenate([np.random.default_rng(0).normal(size=(4, 5, 2)), np.ones((4, 5, 1))], axis=2)
    masks = np.arange(5) < lengths[:, None]
    whole = save(tmp_path, "whole.npz", samples=samples)
    path = save(tmp_path, samples=np.where(masks[..., None], samples, np.nan), masks=masks.astype(np.float32))
    corpus = load_deepwriting(path, whole)
    found = {name: len(x) for p in (corpus.train, corpus.valid) for name, x in zip(p.names, p.sequences, strict=True)}
    assert found == {f"train/{i}": n for i, n in enumerate(lengths)}
    assert corpus.test.lengths.tolist() == [5] * 4
    for bad, message in ((masks[:, ::-1], "sequence 1 of 'masks' is masked before its end"), (masks[:3], "'masks' is")):
        with pytest.raises(DataError, match=message):
            load_deepwriting(save(tmp_path, samples=samples, masks=bad), whole)


def test_stored_statistics_that_are_others(tmp_path):
    everything = DATA["train"] + DATA["valid"]
    path = save(tmp_path, statistics=statistics(everything))
    description = load_deepwriting(path, path).description
    assert "The statistics in train.npz are those of its samples." in description
    assert "It gives the pen the mean" in description
    description = load_deepwriting(save(tmp_path, statistics=statistics(everything, 1.0)), path).description
    assert "are not those of its samples" in description
    assert "they were not used" in description
    for useless in (None, np.array({"mean_all": 1.0}, dtype=object), np.array({"mean_channel": "x"}, dtype=object)):
        corpus = load_deepwriting(save(tmp_path, statistics=useless), path)
        assert "train.npz has no statistics per channel" in corpus.description


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_files_with_something_wrong(tmp_path):
    good, marker = save(tmp_path, "good.npz"), tmp_path / "marker"
    sequences = DATA["train"]
    for changes, message in (
        ({"samples": objects([*sequences, Evil(marker)])}, "'samples': is a pickle that asks for posix.mkdir"),
        ({"statistics": np.array({"a": Evil(marker)}, dtype=object)}, "'statistics': is a pickle that asks for"),
        ({"samples": None}, "there is no array 'samples': expected a file such as deepwriting_v2_training.npz"),
        ({"samples": np.ones((3, 3))}, r"'samples' has shape \(3, 3\), expected \(N, T, 3\)"),
        ({"samples": objects([])}, "'samples' holds no sequences"),
        ({"samples": objects([*sequences, np.ones((3, 4))])}, r"sequence 4 of 'samples' has shape \(3, 4\)"),
        ({"samples": objects([*sequences, np.ones((0, 3))])}, r"sequence 4 of 'samples' has shape \(0, 3\)"),
        ({"samples": objects([*sequences, 7])}, "sequence 4 of 'samples' is a int"),
        (
            {"samples": objects([*sequences, np.full((2, 3), (0, np.nan, 1))])},
            "sequence 4 of 'samples': step 0, channel 1 .dy. is nan, expected a finite number, the first of 2 such",
        ),
        (
            {"samples": objects([*sequences, np.full((2, 3), 2)])},
            "sequence 4 of 'samples': step 0, channel 2 .pen. is 2.0, expected 0 or 1",
        ),
        ({"samples": objects([np.ones((3, 3))] * 3)}, "the training part cannot be standardised: dx and dy never"),
        ({"samples": objects(sequences[:1])}, "one sequence is not enough to hold out another"),
    ):
        with pytest.raises(DataError, match=f"train.npz: {message}"):
            load_deepwriting(save(tmp_path, **changes), good)
    assert load_deepwriting(save(tmp_path, targets=objects([Evil(marker)])), good).data_dim == 3  # not read
    assert not marker.exists()
    with pytest.raises(DataError, match="nowhere.npz: does not exist"):
        load_deepwriting(good, tmp_path / "nowhere.npz")
    with pytest.raises(DataError, match="and max_bytes is 100"):
        load_deepwriting(good, good, max_bytes=100)


def test_damage_of_every_kind_is_an_error_of_ours(pair, tmp_path):
    path, rng = tmp_path / "damaged.npz", np.random.default_rng(0)
    with np.load(pair[1], allow_pickle=True) as file:
        np.savez(path, **{name: file[name] for name in file.files})
    whole = path.read_bytes()
    places = [int(n) for n in rng.integers(0, len(whole), 20)]
    damaged = [whole[:n] for n in places]
    for _ in range(200):
        content = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 4)):
            content[place] = rng.integers(256)
        damaged.append(bytes(content))
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # numpy's, on a header of Python 2
                load_deepwriting(pair[0], path)
        except DataError:
            refused += 1
    assert refused > 150  # some bytes, such as a date, mean nothing


def test_two_updates(pair):
    corpus = load_deepwriting(*pair)
    net = small_stcn(data_dim=3, observation=PenStrokeConfig())
    svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    stream = ShuffledBatches(corpus.train, 4, seed=0)
    losses = [svi.step(batch.x, batch.mask) for batch in (stream.next(), stream.next())]
    assert torch.isfinite(torch.tensor(losses)).all()
