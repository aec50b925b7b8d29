import json

import numpy as np
import pytest
import torch

from pyro_stcn.data import Corpus, RawFormat, SequenceDataset, StepKind, load_arrays, load_corpus, read_audio
from pyro_stcn.data.checks import DataError
from pyro_stcn.data.standardise import Standardiser

ONE = Standardiser(0.0, 1.0)
RNG = np.random.default_rng(0)


def test_facts_lead_back_to_raw_units_after_json(tmp_path):
    sequences = [RNG.normal([3, -2], [5, 0.1], (6, 2)) for _ in range(5)]
    corpus = load_arrays(sequences, name="mine")
    facts = json.loads(json.dumps(corpus.facts()))
    assert (facts["corpus"], facts["data"], facts["kind"]) == ("mine", corpus.description, "real")
    raw = RawFormat.from_facts(facts)
    assert raw == corpus.raw
    expected = sequences[int(corpus.test.names[0])]
    np.testing.assert_allclose(raw.undo(corpus.test[0]), expected, atol=1e-5)
    np.testing.assert_allclose(raw.undo(torch.from_numpy(corpus.test[0])), expected, atol=1e-5)
    (path,) = raw.write(tmp_path / "new", "made", [corpus.test[0]])
    assert path.name == "made-0.csv"
    np.testing.assert_allclose(np.loadtxt(path, delimiter=",", skiprows=1), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["timit", "strokes", "iamondb", "deepwriting"])
def test_corpora_say_what_their_steps_are(name, tmp_path):
    corpus = load_corpus(name)
    kind = StepKind.AUDIO if name == "timit" else StepKind.STROKES
    assert corpus.kind is kind
    (path,) = corpus.raw.write(tmp_path, "x", [corpus.test[0]])
    raw = RawFormat.from_facts(corpus.facts()).undo(corpus.test[0])
    if kind is StepKind.AUDIO:
        assert raw.shape == (corpus.test[0].size,)
        np.testing.assert_array_equal(read_audio(path, expected_rate=16000).samples, np.rint(raw))
    else:
        assert path.read_text().startswith("dx,dy,pen")
        np.testing.assert_allclose(np.loadtxt(path, delimiter=",", skiprows=1), raw, rtol=1e-6)
        assert set(raw[:, 2]) <= {0, 1}


def test_notes_and_labels():
    roll = RawFormat(StepKind.ROLL, ONE, ("60", "64", "67"))
    assert roll.undo(np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]])) == [[60, 67], [], [64]]
    labels = RawFormat(StepKind.CATEGORIES, ONE, ("a", "b,c"))
    assert labels.undo(np.eye(2, dtype=np.float32)[[1, 0, 1]]).tolist() == ["b,c", "a", "b,c"]
    with pytest.raises(DataError, match="roll hold only 0 and 1, and here is 0.5"):
        roll.undo(np.full((1, 3), 0.5))
    with pytest.raises(DataError, match="step 1 holds 2 labels"):
        labels.undo(np.array([[1, 0], [1, 1]]))
    with pytest.raises(DataError, match="x has 3 channels, and the data had 2"):
        labels.undo(np.ones((1, 3)))
    with pytest.raises(DataError, match=r"x has shape \(1, 2, 3\), expected one sequence"):
        roll.undo(np.zeros((1, 2, 3)))


def test_files_of_notes_and_labels(tmp_path):
    roll = RawFormat(StepKind.ROLL, ONE, ("60", "64"))
    (path,) = roll.write(tmp_path, "notes", [np.eye(2), np.zeros((1, 2))])
    assert json.loads(path.read_text()) == [[[60], [64]], [[]]]
    labels = RawFormat(StepKind.CATEGORIES, ONE, ("a", "b,c"))
    paths = labels.write(tmp_path, "labels", [np.eye(2), np.eye(2)[:1]])
    assert paths[0].read_text().splitlines() == ["label", "a", '"b,c"']


def test_sound_beyond_16_bits_is_clipped(tmp_path):
    raw = RawFormat(StepKind.AUDIO, Standardiser(0.0, 1e5), None, 8000)
    (path,) = raw.write(tmp_path, "loud", [np.array([[1.0, -1.0], [0.001, 0.0]])])
    assert read_audio(path, expected_rate=8000).samples.tolist() == [32767, -32768, 100, 0]


def test_facts_that_say_too_little():
    assert RawFormat.from_facts({"standardiser": ONE.to_dict()}).kind is StepKind.REAL
    for facts in ({}, {"standardiser": 3}, {"standardiser": ONE.to_dict(), "kind": "smell"}, None):
        with pytest.raises(DataError, match="do not say how to get back to raw data"):
            RawFormat.from_facts(facts)
    with pytest.raises(DataError, match="audio needs its sample rate"):
        RawFormat(StepKind.AUDIO, ONE)
    with pytest.raises(DataError, match="need the names of their channels"):
        RawFormat(StepKind.ROLL, ONE)


def test_the_kind_follows_from_the_frame():
    sets = [SequenceDataset((np.ones((2, 4)),), (name,)) for name in "abc"]
    assert Corpus("x", *sets, ONE, "words", 8000, 4).kind is StepKind.AUDIO
    assert Corpus("x", *sets, ONE, "words").kind is StepKind.REAL
