"""TensorFlow's checkpoints are read exactly, or refused with one clear error, whatever is in the files."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from pyro_stcn import tensorflow_files
from pyro_stcn.checkpoint import CheckpointError
from pyro_stcn.tensorflow_files import read_arrays, read_index

from .tensor_bundle import entry, field, header, write_bundle, write_index

FIXTURES = Path(__file__).parent / "fixtures"
BY_TENSORFLOW = FIXTURES / "tensorflow" / "model-4"
MANY = 10**6


def some_arrays():
    rng = np.random.default_rng(0)
    arrays = {f"layer_{i}/{kind}": rng.normal(size=(i + 1, 2)).astype("f4") for i in range(9) for kind in ("a", "b")}
    return arrays | {"double": rng.normal(size=(3,)), "half": np.arange(4, dtype="f2"), "n": np.array(7, dtype="i8")}


def read(prefix):
    entries = read_index(prefix)
    return read_arrays(entries, entries, max_bytes=MANY)


def same(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k]) for k in a)


@pytest.fixture
def copied(tmp_path):
    """A checkpoint that TensorFlow wrote, to be damaged."""
    for path in BY_TENSORFLOW.parent.glob("model-4.*"):
        shutil.copy(path, tmp_path)
    return tmp_path / "model-4"


def test_what_tensorflow_wrote():
    found = read(BY_TENSORFLOW)
    with np.load(FIXTURES / "vrnn" / "vrnn_gmm_zero_noise.npz") as file:
        weights = {name[2:]: file[name] for name in file.files if name.startswith("w/")}
    assert len(weights) == 28
    assert all(
        np.array_equal(found[name], value) and found[name].dtype == np.float32 for name, value in weights.items()
    )
    assert found["global_step"] == 4
    np.testing.assert_allclose(found["beta1_power"], 0.9**4, rtol=1e-6)
    rest = found.keys() - weights.keys() - {"global_step", "beta1_power", "beta2_power"}
    assert rest == {f"{name}/{slot}" for name in weights for slot in ("Adam", "Adam_1")}


@pytest.mark.parametrize("block_size", [1, 4, MANY])
def test_blocks_of_every_size(tmp_path, block_size):
    arrays = some_arrays()
    assert same(read(write_bundle(tmp_path / "model", arrays, block_size=block_size)), arrays)


def test_arrays_in_several_files(tmp_path):
    a, b = np.ones((2, 3), "f4"), np.zeros(4, "f4")
    prefix = tmp_path / "model"
    write_index(prefix, [(b"", header(2)), (b"a", entry(a)), (b"b", entry(b, shard=1))])
    (tmp_path / "model.data-00000-of-00002").write_bytes(a.tobytes())
    (tmp_path / "model.data-00001-of-00002").write_bytes(b.tobytes())
    assert same(read(prefix), {"a": a, "b": b})


def test_only_what_is_asked_for_is_read(tmp_path):
    prefix = write_bundle(tmp_path / "model", some_arrays())
    entries = read_index(prefix)
    assert read_arrays(entries, ("half", "n"), max_bytes=16).keys() == {"half", "n"}
    with pytest.raises(CheckpointError, match="have 16 bytes, and max_bytes is 15"):
        read_arrays(entries, ("half", "n"), max_bytes=15)


# ------------------------------------------------------------------------------------------------------- hostile files


def test_an_index_cut_anywhere_is_refused(copied):
    index = copied.with_name("model-4.index")
    whole = index.read_bytes()
    for end in [*range(0, len(whole) - 1, 41), len(whole) - 1]:
        index.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match="model-4.index"):
            read_index(copied)


def test_an_index_with_a_changed_bit_is_refused_or_says_the_same(copied):
    index = copied.with_name("model-4.index")
    whole, expected = index.read_bytes(), read_index(copied)
    errors = []
    random.seed(0)
    for place in [*range(0, len(whole) - 48, 37), *range(len(whole) - 48, len(whole))]:
        changed = bytearray(whole)
        changed[place] ^= 1 << random.randrange(8)
        index.write_bytes(changed)
        try:
            assert read_index(copied) == expected  # the unused bytes of the footer
        except CheckpointError as error:
            errors.append(str(error))
    assert len(errors) > 80
    assert all("model-4.index" in error for error in errors)


def test_a_changed_bit_in_the_data_is_named_by_variable(copied):
    entries = read_index(copied)
    data = copied.with_name("model-4.data-00000-of-00001")
    changed = bytearray(data.read_bytes())
    name, place = next((name, entry.offset) for name, entry in entries.items() if name.endswith("lstm_cell/kernel"))
    changed[place + 5] ^= 16
    data.write_bytes(changed)
    with pytest.raises(CheckpointError, match=f"'{name}' does not match its checksum"):
        read_arrays(entries, entries, max_bytes=MANY)
    assert len(read_arrays(entries, entries.keys() - {name}, max_bytes=MANY)) == len(entries) - 1


def test_data_that_are_cut_or_missing_are_refused(copied):
    data = copied.with_name("model-4.data-00000-of-00001")
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="an array in it ends at .*: it is truncated, or of another checkpoint"):
        read(copied)
    data.unlink()
    with pytest.raises(CheckpointError, match="data-00000-of-00001 does not exist: .* belong together"):
        read(copied)


@pytest.mark.parametrize("content", [b"", b"PK\3\4" + bytes(100), bytes(47), bytes(4000)])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "model.index").write_bytes(content)
    with pytest.raises(CheckpointError, match="model.index is no table of contents"):
        read_index(tmp_path / "model")


def test_a_missing_index_and_one_that_is_no_file(tmp_path):
    with pytest.raises(CheckpointError, match="model.index does not exist"):
        read_index(tmp_path / "model")
    (tmp_path / "model.index").mkdir()
    with pytest.raises(CheckpointError, match="model.index is not a regular file"):
        read_index(tmp_path / "model")


ONE = np.ones((2, 3), "f4")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": 7}, "'a' has TensorFlow's type 7, and weights are floats"),
        ({"dtype": 2}, r"'a' should have shape \(2, 3\), and has 24 bytes"),
        ({"shape": (2**62, 4)}, "'a' should have shape"),
        ({"shape": (2**64 - 1, 2**64 - 6)}, "'a' should have shape"),  # minus one, minus six
        ({"shape": (1,) * 5000 + (6,)}, "'a' should have shape"),
        ({"shape": (2**63 - 1,) * 100_000}, "'a' should have shape"),  # whose product takes a minute
        ({"shape": (0, 2**62), "size": 0}, "'a' should have shape"),
        ({"size": 2**40}, "max_bytes"),
        ({"size": 25}, "an array in it ends at 25"),
        ({"crc": 0}, "'a' does not match its checksum"),
        ({"shard": 3}, "data-00003-of-00001 does not exist"),
        ({"more": field(7, b"")}, "'a' is stored in parts"),
    ],
)
def test_entries_that_do_not_fit_are_refused_by_name(tmp_path, changes, message):
    prefix = write_bundle(tmp_path / "model", {"a": ONE}, **changes)
    with pytest.raises(CheckpointError, match=message):
        read(prefix)


def test_arrays_on_each_other_are_refused(tmp_path):
    """Or a small file would fill any memory."""
    prefix = write_bundle(tmp_path / "model", {"a": ONE})
    write_index(prefix, [(b"", header()), *((f"{i:03}".encode(), entry(ONE)) for i in range(100))])
    with pytest.raises(CheckpointError, match="two arrays lie on each other at byte 0"):
        read(prefix)


@pytest.mark.parametrize(
    ("pairs", "options", "message"),
    [
        ([(b"", header(endianness=1)), (b"a", entry(ONE))], {}, "big-endian"),
        ([(b"", header()), (b"a", entry(ONE))], {"compression": 1}, "is compressed"),
        ([(b"", header())], {}, "lists no variables"),
        ([(b"b", entry(ONE)), (b"a", entry(ONE))], {}, "not in order"),
        ([(b"a", entry(ONE)), (b"a", entry(ONE))], {}, "not in order"),
        ([(b"a" * 1001, entry(ONE))], {}, "too long"),
        ([(b"a", b"\x08")], {}, "truncated or damaged"),
        ([(b"a", b"\x0a\x7f")], {}, "a field ends outside its message"),
        ([(b"a", b"\x0b")], {}, "a field of kind 3"),
        ([(b"a", b"\x08" + b"\xff" * 11)], {}, "more than 64 bits"),
        ([(b"a", field(2, 5))], {}, "truncated or damaged"),
        *(([(b"a", entry(ONE, more=field(n, b"no")))], {}, "is no number") for n in (1, 4, 5, 6)),
        ([(b"a", entry(ONE, more=field(2, field(2, field(1, b"no")))))], {}, "is no number"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path, pairs, options, message):
    write_index(tmp_path / "model", pairs, **options)
    with pytest.raises(CheckpointError, match=message):
        read_index(tmp_path / "model")


def test_limits_of_a_table(tmp_path, monkeypatch):
    prefix = write_bundle(tmp_path / "model", some_arrays())
    monkeypatch.setattr(tensorflow_files, "_KEYS", 5)
    with pytest.raises(CheckpointError, match="or more than 5"):
        read_index(prefix)
    monkeypatch.setattr(tensorflow_files, "_INDEX", 100)
    with pytest.raises(CheckpointError, match="at most 100"):
        read_index(prefix)
