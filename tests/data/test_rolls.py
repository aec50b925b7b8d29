import json

import numpy as np
import pytest

from pyro_stcn.data import DataError, StepKind, load_rolls

RNG = np.random.default_rng(0)
TUNES = [[[60, 64, 67], [], [72]], [[48], [50, 48]], [[21], [108], [60], []], [[60]]]


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def notes(corpus):
    return [corpus.raw.undo(x) for part in (corpus.train, corpus.valid, corpus.test) for x in part.sequences]


def in_order(tunes):
    return sorted([[sorted(step) for step in tune] for tune in tunes])


def test_chorales_as_they_are_passed_on(tmp_path):
    path = write(tmp_path / "jsb.json", {"train": TUNES[:2], "valid": TUNES[2:3], "test": TUNES[3:]})
    corpus = load_rolls(path, name="jsb")
    assert corpus.kind is StepKind.ROLL
    assert (corpus.data_dim, corpus.channels[0], corpus.channels[-1]) == (88, "21", "108")
    assert notes(corpus) == [[sorted(step) for step in tune] for tune in TUNES]
    assert corpus.train.names == ("train/0", "train/1")
    assert corpus.standardiser.std == (1.0,) * 88
    assert "88 notes, MIDI 21 to 108; 1.40 sound at a step" in corpus.description
    assert "Valid was given. Test was given." in corpus.description
    made = corpus.raw.write(tmp_path, "made", corpus.train.sequences)
    assert in_order(notes(load_rolls(made[0], made[0], made[0]))) == in_order(TUNES[:2] * 3)


def test_lists_that_leave_the_piano_voices_that_pause_and_parts_that_are_held_out(tmp_path):
    low = [[[0, 60.0], [-1, 62]], *TUNES]
    for given in (low, write(tmp_path / "low.json", low)):
        corpus = load_rolls(given)
        assert (corpus.data_dim, corpus.channels[0]) == (128, "0")
        assert in_order(notes(corpus)) == in_order([[[0, 60], [62]], *TUNES])
        assert "Valid is 1 of the 5 sequences given" in corpus.description


def test_arrays_of_bits(tmp_path):
    arrays = [(RNG.random((n, 88)) < 0.1).astype(kind) for n, kind in ((3, bool), (4, int), (5, float))]
    corpus = load_rolls(arrays)
    assert corpus.channels[0] == "21"
    np.savez(tmp_path / "a.npz", *arrays)
    assert sorted(map(len, notes(load_rolls(tmp_path / "a.npz")))) == [3, 4, 5]
    assert load_rolls([a[:, :12] for a in arrays], lowest=60).channels[-1] == "71"
    wide = [np.pad(a.astype(float), ((0, 0), (21, 19))) for a in arrays]
    assert in_order(notes(load_rolls(wide))) == in_order(notes(corpus))
    for given, options, error, message in (
        ([a[:, :12] for a in arrays], {}, DataError, "these rolls have 12 notes: give lowest"),
        ([a[:, :12] for a in arrays], {"lowest": 120}, ValueError, "lowest is 120: 12 notes from there"),
        (TUNES, {"lowest": 3}, ValueError, "lowest is for arrays"),
        ([*arrays, np.full((2, 88), 0.5)], {}, DataError, "'train/3' holds 0.5 at step 0, channel 0, the first of 176"),
        ([*arrays, np.zeros((2, 80))], {}, DataError, "'train/3' has 80 channels"),
        ([], {}, DataError, "there are no sequences"),
        (TUNES, {"seed": -1}, ValueError, "a seed >= 0"),
    ):
        with pytest.raises(error, match=message):
            load_rolls(given, **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[[[60]", "is not JSON"),
        ("[[[NaN]], [[1]], [[2]]]", "NaN is no JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[[[" + "9" * 5000 + "]]]", "is not JSON|holds 9"),
        ("3", "holds 3 where a sequence is expected: a list of steps"),
        (["/etc/passwd", "other.npy"], "holds '/etc/passwd' where a sequence is expected"),
        ('"/etc/passwd"', "holds '/etc/passwd' where a sequence is expected"),
        ({"train": "/etc/passwd"}, "holds '/etc/passwd' where a sequence is expected"),
        ({"valid": TUNES}, "has the parts valid: expected train"),
        ({"train": TUNES, "dev": TUNES}, "has the parts train, dev"),
        ([[[60]], [[200]], [[1]]], "step 0 of sequence 1 holds 200, and a MIDI note is a whole number from 0 to 127"),
        ([[[60]], [[1], [60.5]], [[1]]], "step 1 of sequence 1 holds 60.5"),
        ([[[60]], [[True]], [[1]]], "holds True"),
        ([[[60]], [["c4"]], [[1]]], "holds 'c4'"),
        ([[[60]], [60, 62], [[1]]], r"step 0 of sequence 1 is 60, expected a list of MIDI note numbers, \[\]"),
        ([[[60]], [], [[1]]], "sequence 1 has no steps"),
        ([[[60]], [[1]]], "train has 2 sequences"),
    ],
)
def test_what_is_no_file_of_notes(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        load_rolls(write(tmp_path / "x.json", content))


def test_a_file_cannot_ask_for_more_memory_than_is_allowed(tmp_path):
    path = write(tmp_path / "silence.json", [[[]] * 10_000] * 3)
    with pytest.raises(DataError, match="30000 steps of 88 notes need 10560000 bytes, and max_bytes is 3000000"):
        load_rolls(path, max_bytes=3_000_000)
    with pytest.raises(DataError, match="holds 30004 lists, which need 88 bytes each, and max_bytes is 1000000"):
        load_rolls(path, max_bytes=1_000_000)
    with pytest.raises(DataError, match="has 120006 bytes, and max_bytes is 1000"):
        load_rolls(path, max_bytes=1000)
    with pytest.raises(DataError, match="does not exist"):
        load_rolls(tmp_path / "none.json")
    parts = write(tmp_path / "parts.json", {"train": TUNES})
    with pytest.raises(DataError, match="holds parts of its own .train.: give it alone"):
        load_rolls(parts, TUNES)


def test_the_file_and_the_part_are_named(tmp_path):
    one = write(tmp_path / "one.json", [[[60]], [[60], [200]], [[60]]])
    with pytest.raises(DataError, match=r"one\.json: step 1 of sequence 1 holds 200"):
        load_rolls(one)
    whole = write(tmp_path / "whole.json", {"train": TUNES, "valid": [[[60]]], "test": [[[60]], [[200]]]})
    with pytest.raises(DataError, match=r"whole\.json: test: step 0 of sequence 1 holds 200"):
        load_rolls(whole)
    with pytest.raises(DataError, match=r"number\.json: holds 5 where"):
        load_rolls(write(tmp_path / "number.json", "5"))
    np.save(tmp_path / "bits.npy", np.full((4, 3, 88), 0.5))
    with pytest.raises(DataError, match=r"bits\.npy: sequence 'train/bits/0' holds 0\.5 at step 0, channel 0"):
        load_rolls(tmp_path / "bits.npy")
