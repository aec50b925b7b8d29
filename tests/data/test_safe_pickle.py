import builtins
import contextlib
import io
import os
import pickle
import struct
import subprocess
import tracemalloc
import zipfile

import numpy as np
import pytest

from pyro_stcn.data.checks import DataError
from pyro_stcn.data.npz_files import read_npy, read_npz
from pyro_stcn.data.safe_pickle import Objects, read_objects

RNG = np.random.default_rng(0)
WHERE = "ink.npz: 'samples'"


def objects(*items, shape=None):
    array = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        array[i] = item
    return array if shape is None else array.reshape(shape)


def read(pickled, max_bytes=10**6):
    return read_objects(pickled, WHERE, max_bytes=max_bytes)


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["f2", "<f4", ">f4", "f8", "i1", ">i2", "i8", "u4", "?"])
def test_arrays_of_numbers_are_read_as_numpy_reads_them(protocol, dtype):
    arrays = [(RNG.normal(size=shape) * 50).astype(dtype) for shape in ((4, 3), (1, 3), (0, 3), (2,), (), (2, 3, 2))]
    arrays += [np.asfortranarray(arrays[0]), arrays[0][::2], arrays[0]]
    found = read(pickle.dumps(objects(*arrays), protocol))
    assert found.shape == (len(arrays),)
    for item, array in zip(found.items, arrays, strict=True):
        np.testing.assert_array_equal(item, array, strict=False)
        assert item.dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_statistics_texts_and_numbers(protocol):
    inside = {"mean_channel": np.arange(3.0), "mean_all": np.float32(2.5), "n": 7, "x": 0.1, "big": 2**40, "name": "é"}
    found = read(pickle.dumps(np.array(inside, dtype=object), protocol))
    assert found.shape == ()
    assert found.items[0].keys() == inside.keys()
    np.testing.assert_array_equal(found.items[0].pop("mean_channel"), inside.pop("mean_channel"))
    assert found.items[0] == inside
    mixed = objects(1, "a", True, np.int64(4), 2.5, -3, shape=(2, 3))
    found = read(pickle.dumps(np.asfortranarray(mixed), protocol))
    assert (found.shape, list(found.items)) == ((2, 3), [1, "a", True, 4, 2.5, -3])


def test_what_python_2_wrote():
    # numpy.save of an object array of one float32 array, as Python 2 pickles it: bytes are SHORT_BINSTRING.
    head = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R"
    dtype = b"cnumpy\ndtype\nU\2%sK\0K\1\x87R(K\3U\1%sNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    values = np.array([[1.5, -2, 0]], "<f4").tobytes()
    inner = head + b"(K\1K\1K\3\x86" + dtype % (b"f4", b"<") + b"\x89U\x0c" + values + b"tb"
    found = read(b"\x80\2" + head + b"(K\1K\1\x85" + dtype % (b"O8", b"|") + b"\x89](" + inner + b"etb.")
    np.testing.assert_array_equal(found.items[0], [[1.5, -2, 0]])


def hostile(marker):
    """Calls that would make the marker, or read or run something, and the name to be refused."""
    make = f"touch {marker}"
    yield Call(os.system, make), "posix.system"
    yield Call(builtins.eval, f"open({str(marker)!r}, 'w')"), "builtins.eval"
    yield Call(builtins.exec, f"open({str(marker)!r}, 'w')"), "builtins.exec"
    yield Call(subprocess.Popen, ["touch", str(marker)]), "subprocess.Popen"
    yield Call(builtins.getattr, "os", "mkdir"), "builtins.getattr"
    yield Call(open, str(marker), "w"), "io.open"
    yield Call(np.load, str(marker)), "numpy.load"
    yield Call(np.fromfile, str(marker)), "numpy.fromfile"
    yield Call(map, os.mkdir, [str(marker)]), "builtins.map"
    yield pickle.PickleBuffer, "_pickle.PickleBuffer"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("place", ["element", "dict", "list", "array", "alone"])
def test_nothing_is_called(protocol, place, tmp_path):
    marker = tmp_path / "marker"
    for evil, name in hostile(marker):
        content = {
            "element": objects(np.ones((2, 3)), evil),
            "dict": np.array({"mean_channel": evil}, dtype=object),
            "list": objects([evil], (evil,)),
            "array": objects(objects(objects(evil))),
            "alone": evil,
        }[place]
        written = pickle.dumps(content, protocol)
        with pytest.raises(
            DataError, match=rf"ink.npz: 'samples': is a pickle that asks for .*{name.split('.')[1]}; it"
        ):
            read(written)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Call(os.system, f"touch {marker}")))
    assert marker.exists()  # the payload is a live one


def test_reduces_inside_reduces(tmp_path):
    marker = tmp_path / "marker"
    evil = Call(os.mkdir, str(marker))
    for depth in range(5):
        with pytest.raises(DataError, match="asks for posix.mkdir"):
            read(pickle.dumps(objects(evil)))
        evil = Call(np.dtype, evil) if depth % 2 else Call(np._core.multiarray._reconstruct, np.ndarray, (evil,), b"b")
    assert not marker.exists()


REBUILD = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\1b\x87R"
F4, OBJECT = (b"cnumpy\ndtype\nX\2\0\0\0%s\x89\x88\x87R" % code for code in (b"f4", b"O8"))


def array(shape, data, dtype=F4):
    """The pickle of an array of which the pieces are given."""
    return REBUILD + b"(K\1" + shape + dtype + b"\x89" + data + b"tb"


def of(*items):
    """The pickle of an array of these objects."""
    return b"\x80\3" + array(b"K%c\x85" % len(items), b"](" + b"".join(items) + b"e", OBJECT) + b"."


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (of(b"cos\nsystem\n"), "asks for os.system"),
        (of(b"cnumpy\nndarray\n"), "holds a name as an element"),
        (of(b"cnumpy\nndarray\n)R"), "calls ndarray with 0 arguments"),
        (of(b"cnumpy\nndarray\n)\x81"), "instruction NEWOBJ at byte"),
        (of(b"Pabc\n"), "instruction PERSID"),
        (of(b"K\1Q"), "instruction BINPERSID"),
        (of(b"\x82\1"), "instruction EXT1"),
        (of(b"(ios\nsystem\n"), "instruction INST"),
        (of(b"(cos\nsystem\no"), "asks for os.system"),
        (of(b"\x97"), "instruction NEXT_BUFFER"),
        (of(b"cnumpy\ndtype\n}b"), "has a dict where a state belongs"),
        (of(b"cnumpy\ndtype\nK\1\x85b"), "sets the state of a name"),
        (of(b"K\1K\2\x85R"), "calls a int with 1 arguments"),
        (of(b"]K\1\x85b"), "sets the state of a list"),
        (of(b"cnumpy\ndtype\nX\3\0\0\0O,O\x85R"), "type 'O,O', which are no real numbers"),
        (of(b"cnumpy\ndtype\n}\x85R"), "calls dtype with 1 arguments"),
        (of(REBUILD.replace(b"cnumpy\nndarray\n", b"K\1")), "calls _reconstruct with 3 arguments, not as NumPy does"),
        (of(REBUILD), "holds an array of objects or without content"),
        (of(array(b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", b"C\4abcd")), "has 4"),
        (of(array(b"\x8a\x0a" + b"\xff" * 9 + b"\x0f\x85", b"C\0")), "whose shape is no tuple"),
        (of(array(b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86", b"C\4abcd")), "whose shape is no tuple"),
        (of(array(b"\x88\x85", b"C\4abcd")), "whose shape is no tuple"),
        (of(array(b"(" + b"K\1" * 40 + b"t", b"C\4abcd")), "whose shape is no tuple"),
        (of(array(b"K\1\x85", b"C\4abcd", OBJECT)), "has a bytes where a list of objects belongs"),
        (of(array(b"K\1\x85", b"](K\1e")), "holds numbers in a list, expected bytes"),
        (of(array(b"K\1\x85", b"C\4abcd") + b"(K\1K\1\x85N\x89C\0tb"), "sets the state of a array"),
        (of(array(b"K\1\x85", b"](K\1e", OBJECT)), "holds an array of objects or without content"),
        (of(b"N"), "holds a nonetype as an element"),
        (of(b"}K\1K\2s"), "keys that are no strings"),
        (of(b"}X\1\0\0\0a}s"), "holds a dict as an element"),
        (of(b"K\1").replace(b"K\1\x85", b"K\2\x85"), "declares 2 objects, of shape .2,., and has 1"),
        (b"\x80\3K\1.", "does not hold an array of objects"),
        (b"\x80\3.", "truncated or damaged"),
        (of(b"K\1") + b"cos\nsystem\n", "11 bytes follow its end"),
        (of(b"h\7"), "truncated or damaged .KeyError"),
        (b"0" * 5, "instruction POP"),
        (b"", "truncated or damaged"),
    ],
)
def test_no_other_program_is_carried_out(pickled, message):
    with pytest.raises(DataError, match=f"ink.npz: 'samples': .*{message}"):
        read(pickled)


def test_a_recursive_array_ends():
    with pytest.raises(DataError, match="holds an array of objects"):
        read(b"\x80\3" + REBUILD + b"q\1(K\1K\1\x85" + OBJECT + b"\x89](h\1etb.")
    with pytest.raises(DataError, match="holds a list as an element"):
        read(of(b"]q\1h\1a"))


def test_bombs():
    laughs = b"C\1a"
    for level in range(40):  # 2 ** 40 elements
        laughs += b"q%ch%c\x86" % (level, level)
    bombs = {
        "memo": (of(b"K\1r\xff\xff\xff\x7fj\xff\xff\xff\x7f"), None),  # a table of 2 ** 31 places
        "laughs": (of(laughs), "holds a tuple"),
        "frame": (b"\x80\4\x95" + b"\xff" * 7 + b"\x0f" + of(b"K\1")[2:], None),
        "bytes": (of(b"\x8e" + struct.pack("<Q", 2**62)), "truncated"),
        "buffer": (of(b"\x96" + struct.pack("<Q", 2**62)), "truncated"),
        "text": (of(b"\x8d" + struct.pack("<Q", 2**62)), "truncated"),
        "long": (of(b"\x8b" + struct.pack("<i", 2**31 - 1)), "truncated|instruction LONG4"),
        "nested": (of(b"(" * 5_000 + b"t" * 5_000), "holds a tuple"),
        "deep": (of(b")" + b"\x85" * 20_000), "holds a tuple"),
        "encoded": (  # 100 kB of text, made bytes 1000 times
            of(b"c_codecs\nencode\nX\xa0\x86\1\0" + b"a" * 100_000 + b"X\6\0\0\0latin1\x86q\1R"
               + b"c_codecs\nencode\nh\1R" * 1000),
            "holds more than 1000000 bytes",
        ),
        "repeated": (
            b"\x80\3" + array(b"M\xe8\3\x85", b"](" + array(b"M\xa8\x61\x85", b"B\xa0\x86\1\0" + bytes(100_000))
                              + b"q\1" + b"h\1" * 999 + b"e", OBJECT) + b".",
            "holds more than 1000000 bytes",
        ),
    }  # fmt: skip
    for name, (pickled, message) in bombs.items():
        tracemalloc.start()
        if message is None:
            assert read(pickled).items == (1,) if name == "frame" else (1, 1), name
        else:
            with pytest.raises(DataError, match=message):
                read(pickled)
        assert tracemalloc.get_traced_memory()[1] < 3 * 10**7, name
        tracemalloc.stop()


def test_too_many_instructions(monkeypatch):
    monkeypatch.setattr("pyro_stcn.data.safe_pickle._STEPS", 1000)
    with pytest.raises(DataError, match="more than 1000 instructions"):
        read(of(b"K\1q\1" + b"h\1" * 200 * 5))


def test_damage_of_every_kind_is_an_error_of_ours():
    statistics = {"mean_channel": np.ones(3), "n": np.float32(1)}
    for protocol in (2, 4, 5):
        whole = pickle.dumps(objects(np.ones((2, 3), "f4"), "text", statistics, np.zeros((1, 3))), protocol)
        for end in range(0, len(whole), 3):
            with pytest.raises(DataError):
                read(whole[:end])
        for _ in range(300):
            content = bytearray(whole)
            for place in RNG.integers(0, len(whole), RNG.integers(1, 4)):
                content[place] = RNG.integers(256)
            with contextlib.suppress(DataError):
                assert isinstance(read(bytes(content)), Objects)


def test_npz_with_pickles(tmp_path):
    path, samples = tmp_path / "a.npz", objects(np.ones((2, 3)), np.zeros((1, 3)))
    np.savez(path, samples=samples, plain=np.arange(6.0).reshape(2, 3).T, name=np.array(["a", "bc"]))
    found = read_npz(path, max_bytes=10**5, pickles=True)
    assert list(found) == ["samples", "plain", "name"]
    assert found["samples"].shape == (2,)
    np.testing.assert_array_equal(found["plain"], np.arange(6.0).reshape(2, 3).T)
    assert found["name"].tolist() == ["a", "bc"]
    with pytest.raises(DataError, match="a.npz: 'samples' is an array of objects.*pickle.*savez"):
        read_npz(path, max_bytes=10**5)
    assert list(read_npz(path, max_bytes=10**5, names=("plain",))) == ["plain"]
    np.savez(path, samples=np.zeros((300_000, 3)))  # more than is read at once
    assert read_npz(path, max_bytes=10**8)["samples"].shape == (300_000, 3)
    np.save(tmp_path / "a.npy", objects(Call(os.mkdir, str(tmp_path / "marker"))), allow_pickle=True)
    with pytest.raises(DataError, match="a.npy is an array of objects"):
        read_npy(tmp_path / "a.npy", max_bytes=10**5)
    assert not (tmp_path / "marker").exists()


def test_npz_that_lie(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=objects(np.zeros((10**6,))))
    assert path.stat().st_size < 2**16
    with pytest.raises(DataError, match=r"unpacks to 8\d{6} bytes, and max_bytes is 100000: raise it"):
        read_npz(path, max_bytes=10**5, pickles=True)
    content = path.read_bytes()
    at = content.rindex(b"PK\1\2")
    path.write_bytes(content[: at + 24] + struct.pack("<I", 1000) + content[at + 28 :])
    tracemalloc.start()
    with pytest.raises(DataError, match="a.npz: 'a' cannot be read"):
        read_npz(path, max_bytes=10**6, pickles=True)
    assert tracemalloc.get_traced_memory()[1] < 3 * 10**6  # of 8
    tracemalloc.stop()
    buffer = io.BytesIO()
    np.save(buffer, objects(np.ones(3)), allow_pickle=True)
    for change, message in (
        (lambda b: b.replace(b"(1,)", b"(2,)", 1), r"should have shape \(2,\), and has \(1,\)"),
        (lambda b: b.replace(b"'|O'", b"'<f8'", 1).replace(b" \n", b"\n", 1), "should have 8 bytes"),
        (lambda b: b[:-3], "truncated or damaged"),
        (lambda b: b"no array", "not a readable array"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", change(buffer.getvalue()))
        with pytest.raises(DataError, match=f"a.npz: 'a':? .*{message}"):
            read_npz(path, max_bytes=10**6, pickles=True)
    for bad, message in ((b"PK\3\4", "truncated or damaged"), (b"", "begins with b''")):
        path.write_bytes(bad)
        with pytest.raises(DataError, match=message):
            read_npz(path, max_bytes=10**6)
