import io
import os
import re
import struct
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest

from pyro_stcn.data.checks import DataError
from pyro_stcn.data.stroke_files import CONVERSION, PARTS, read_stroke_file, write_strokes
from pyro_stcn.data.strokes import load_strokes

from .ink import DATA, arrays, save


@pytest.fixture
def path(tmp_path):
    return tmp_path / "my ink.stroke3.npz"


def test_nothing_is_written_of_what_could_not_be_read(path):
    for changes, message in (
        ({"train": []}, r"train_lengths has shape \(0,\)"),
        ({"valid": [DATA["valid"][0], np.ones((3, 2))]}, r"sequence 'valid/1' has shape \(3, 2\), expected \(T, 3\)"),
        ({"valid": [DATA["valid"][0], np.full((3, 3), 7)]}, "'valid/1', step 0, channel 2"),
        ({"texts": {"test": ["a", "b"]}}, r"test_text has shape \(2,\)"),
        ({"texts": {"dev": []}}, "texts for dev: expected train, valid, test"),
    ):
        with pytest.raises(ValueError, match=message):
            write_strokes(path, **(DATA | changes))
    with pytest.raises(FileNotFoundError):
        write_strokes(path.parent / "nowhere" / "a.npz", **DATA)
    assert list(path.parent.iterdir()) == []


class Payload:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("name", ["train_points", "test_lengths", "valid_text", "pyro_stcn_origin", "unused", None])
def test_pickles_are_not_run(path, tmp_path, name):
    canary = tmp_path / "canary"
    evil = np.array([Payload(canary)] * 4, dtype=object)
    if name is None:  # the layout of sketch-rnn
        np.savez_compressed(path, **dict.fromkeys(PARTS, evil))
    else:
        save(path, **{name: evil})
    if name == "unused":
        assert load_strokes(path).data_dim == 3
    else:
        with pytest.raises(
            DataError, match=f"{name or 'train'}'? is an array of objects.*pickle, which can run any code"
        ):
            load_strokes(path)
    assert not canary.exists()
    with np.load(path, allow_pickle=True) as file:
        assert file[name or "train"].dtype == object
    assert canary.exists()  # the payload is a live one


def test_the_conversion_works(path, tmp_path):
    integers = {part: [np.round(s).astype(np.int16) for s in sequences] for part, sequences in DATA.items()}
    objects = {part: np.empty(len(s), dtype=object) for part, s in integers.items()}
    for part, sequences in integers.items():
        objects[part][:] = sequences
    np.savez_compressed(path, **objects)
    with pytest.raises(DataError, match=re.escape(CONVERSION)):
        load_strokes(path)
    exec(CONVERSION, {"path": path, "new": tmp_path / "new.npz"})
    for part, data in read_stroke_file(tmp_path / "new.npz", 2**20).parts.items():
        for x, raw in zip(data.sequences, integers[part], strict=True):
            np.testing.assert_array_equal(x, raw)


def test_files_that_are_no_archive(path, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load_strokes(path)
    with pytest.raises(DataError, match="is not a regular file"):
        load_strokes(tmp_path)
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    with pytest.raises(DataError, match="is not a regular file"):
        load_strokes(tmp_path / "pipe")
    for content, message in (
        (b"", "begins with b''"),
        (b"\x93NUMPY", "begins with b'.x93NUM'"),
        (b"PK\3\4", "truncated"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            load_strokes(path)


def test_damage_of_every_kind_is_an_error_of_ours(path):
    np.savez(path, **arrays(train_text=np.array(["a", "b", "c", "d"])))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[: int(n)] for n in rng.integers(0, len(whole), 60)]
    for _ in range(600):
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
                load_strokes(path)
        except DataError:
            refused += 1
    assert refused > 400  # some bytes, such as a date, mean nothing


def with_member(path, name, content, method=zipfile.ZIP_DEFLATED):
    """A good file, but for the content of one member."""
    save(path, **{name: None})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{name}.npy", content, method)
    return path


def npy(shape, content=b"", dtype="<f4", version=1):
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return (
        b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(header)) + header + content
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy("(1000000000000, 3)"), r"should have 12000000000000 bytes, of shape .* and has 0: the file is damaged"),
        (npy("(-2, -3)", bytes(24)), "should have 24 bytes"),
        (npy("(6, 3)", bytes(71)), "should have 72 bytes, .* has 71"),
        (npy("(6, 3)", bytes(73)), "should have 72 bytes, .* has 73"),
        (npy("(1000000000000,)", dtype="|V0"), "has dtype |V0, expected real numbers"),
        (npy("(6, 3)", bytes(72), version=3), "is not a readable array"),
        (npy("(6, 3)" + " " * 5000, bytes(72)), "is not a readable array"),
        (npy("(" * 900, bytes(72)), "is not a readable array"),
        (npy("(__import__('os').abort(), 3)", bytes(72)), "is not a readable array"),
        (b"not an array", "is not a readable array"),
    ],
)
def test_headers_that_lie(path, content, message):
    with pytest.raises(DataError, match=f"test_points {message}"):
        load_strokes(with_member(path, "test_points", content))


def test_texts_of_no_width_are_not_counted_through(path):
    with pytest.raises(DataError, match="train_text should have 0 bytes"):
        load_strokes(with_member(path, "train_text", npy("(1000000000000,)", dtype="<U0")))


def test_bombs_are_not_unpacked(path):
    save(path, train_points=np.zeros((2**20, 3), np.float32))
    assert path.stat().st_size < 2**16
    with pytest.raises(
        DataError, match=r"unpacks to 125\d{5} bytes, and max_bytes is 1000000: raise it if this is right"
    ):
        load_strokes(path, max_bytes=10**6)
    with pytest.raises(DataError, match=r"has \d+ bytes, and max_bytes is 100"):
        load_strokes(path, max_bytes=100)
    content = path.read_bytes()  # a directory that promises less is believed, and what goes beyond it is not unpacked
    at = content.rindex(b"PK\1\2", 0, content.index(b"train_points.npy", content.index(b"PK\1\2")))
    path.write_bytes(content[: at + 24] + struct.pack("<I", 1000) + content[at + 28 :])
    tracemalloc.start()
    with pytest.raises(DataError, match="train_points is not a readable array .Bad CRC-32"):
        load_strokes(path, max_bytes=10**6)
    assert tracemalloc.get_traced_memory()[1] < 3 * 10**6  # of 12
    tracemalloc.stop()


def test_other_ways_of_packing(path):
    buffer = io.BytesIO()
    np.save(buffer, arrays()["test_points"])
    with pytest.raises(DataError, match="test_points is encrypted or packed as numpy never does"):
        load_strokes(with_member(path, "test_points", buffer.getvalue(), zipfile.ZIP_LZMA))
    assert load_strokes(with_member(path, "test_points", buffer.getvalue(), zipfile.ZIP_STORED)).data_dim == 3
    content = path.read_bytes()
    at = content.rindex(b"PK\1\2")
    path.write_bytes(content[: at + 8] + b"\1" + content[at + 9 :])
    with pytest.raises(DataError, match="test_points is encrypted"):
        load_strokes(path)


def test_a_directory_without_end_is_not_read(path):
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(40):
            archive.writestr(f"{i}" * 15_000 + ".npy", b"")
    with pytest.raises(DataError, match="truncated or damaged .its directory or a value has more than 1048576 bytes"):
        load_strokes(path)
