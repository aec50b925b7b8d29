"""Checkpoints are whole or refused, whatever happened to the file, and execute nothing."""

import errno
import json
import os
import pickle
import random
import resource
import stat
import struct
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pyro_stcn import checkpoint
from pyro_stcn.checkpoint import CheckpointError, load_model, load_tensors, load_weights, save_model, save_tensors
from pyro_stcn.observation import BernoulliConfig

from .small import CAUSAL, POINTWISE, small_stcn

posix = pytest.mark.skipif(os.name != "posix", reason="umask and file limits are POSIX")


def some_tensors(seed=0):
    g = torch.Generator().manual_seed(seed)
    tensors = {
        "a": torch.randn(5, 3, generator=g),
        "b": torch.arange(7),
        "c": torch.rand(4, generator=g, dtype=torch.float64),
    }
    return tensors | {
        "d": torch.zeros(()),
        "e": torch.randn(2, 2, generator=g).bfloat16(),
        "f": torch.tensor([True, False]),
    }


META = {"step": 3, "nested": {"list": [1, 2.5, None, "ü"]}}


def same(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "run" / "a.safetensors"
    save_tensors(path, some_tensors(), META)
    return path


# ----------------------------------------------------------------------------------------------------------- round trip


def test_tensors_and_facts_come_back(saved):
    tensors, meta = load_tensors(saved)
    assert same(tensors, some_tensors())
    assert meta == META


def test_views_that_share_memory_come_back(tmp_path):
    base = torch.randn(4, 6)
    tensors = {"whole": base, "part": base[1:3], "turned": base.T}
    save_tensors(tmp_path / "a", tensors, {})
    assert same(load_tensors(tmp_path / "a")[0], tensors)


@pytest.mark.parametrize("options", [{}, {"output": CAUSAL, "dense": False}, {"observation": BernoulliConfig()}])
def test_a_model_comes_back(tmp_path, options):
    net = small_stcn(**options)
    save_model(tmp_path / "m.safetensors", net, note="hello")
    again, meta = load_model(tmp_path / "m.safetensors")
    assert again.config == net.config
    assert same(again.state_dict(), net.state_dict())
    assert meta["note"] == "hello"


@posix
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_permissions_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        save_tensors(tmp_path / "a", some_tensors(), {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask


# ------------------------------------------------------------------------------------------------------- failing writes


def assert_old_file_is_whole_and_alone(path):
    tensors, meta = load_tensors(path)
    assert same(tensors, some_tensors())
    assert meta == META
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@posix
def test_a_write_that_the_system_cuts_short_leaves_the_old_file(saved):
    """A limit on the size of files: the write fails half-way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError):
            save_tensors(saved, {"a": torch.randn(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_old_file_is_whole_and_alone(saved)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), OSError(errno.EROFS, "Read-only"), KeyboardInterrupt()]
)
def test_an_error_at_any_point_leaves_the_old_file(saved, monkeypatch, call, error):
    def fail(*args):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, call, fail)
        with pytest.raises(type(error)):
            save_tensors(saved, some_tensors(seed=1), {})
    assert_old_file_is_whole_and_alone(saved)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_leaves_the_old_file(saved):
    saved.parent.chmod(0o555)
    try:
        with pytest.raises(PermissionError):
            save_tensors(saved, some_tensors(seed=1), {})
    finally:
        saved.parent.chmod(0o755)
    assert_old_file_is_whole_and_alone(saved)


def test_facts_that_are_not_json_leave_the_old_file(saved):
    with pytest.raises(TypeError, match="JSON"):
        save_tensors(saved, some_tensors(seed=1), {"x": object()})
    assert_old_file_is_whole_and_alone(saved)


# -------------------------------------------------------------------------------------------------------- damaged files


def refused_or_identical(path, expected):
    """Load a damaged file: True where it is refused by name, False where it holds what was written, else fail."""
    try:
        tensors, meta = load_tensors(path)
    except CheckpointError as error:
        refusal = str(error)
    else:
        assert same(tensors, expected[0]), "a damaged file was loaded"
        assert meta == expected[1], "a damaged file was loaded"
        return False
    assert str(path) in refusal
    return True


def test_truncated_files_are_refused(saved):
    whole, expected = saved.read_bytes(), load_tensors(saved)
    for percent in range(0, 100, 5):
        saved.write_bytes(whole[: len(whole) * percent // 100])
        assert refused_or_identical(saved, expected), f"cut at {percent} %"
    saved.write_bytes(whole + b"\0")
    assert refused_or_identical(saved, expected), "a byte too many"


def flips(path, positions_and_bits):
    whole, expected, refused = path.read_bytes(), load_tensors(path), 0
    for position, bit in positions_and_bits:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        refused += refused_or_identical(path, expected)
    return refused


def test_a_flipped_bit_in_any_byte_is_refused(saved):
    rng, size = random.Random(0), saved.stat().st_size
    assert flips(saved, [(position, rng.randrange(8)) for position in range(size)]) > 0.98 * size  # the rest is padding


@pytest.mark.slow
def test_every_flipped_bit_is_refused(saved):
    places = [(position, bit) for position in range(saved.stat().st_size) for bit in range(8)]
    assert flips(saved, places) > 0.98 * len(places)


def test_flipped_bits_in_the_weights_of_a_model_are_refused(tmp_path):
    path, rng = tmp_path / "m.safetensors", random.Random(1)
    save_model(path, small_stcn())
    size = path.stat().st_size
    assert flips(path, [(rng.randrange(size // 2, size), rng.randrange(8)) for _ in range(30)]) == 30


def test_overwritten_stretches_are_refused(saved):
    whole, expected, rng = saved.read_bytes(), load_tensors(saved), random.Random(2)
    for _ in range(100):
        start = rng.randrange(len(whole) - 16)
        saved.write_bytes(whole[:start] + rng.randbytes(16) + whole[start + 16 :])
        assert refused_or_identical(saved, expected)


@pytest.mark.parametrize(
    ("old", "new"), [(b'"F64"', b'"I64"'), (b"[5,3]", b"[3,5]"), (b'"a":', b'"g":'), (b'step\\": 3', b'step\\": 4')]
)
def test_a_header_that_says_something_else_is_refused(saved, old, new):
    whole = saved.read_bytes()
    assert whole.count(old) == 1
    saved.write_bytes(whole.replace(old, new))
    with pytest.raises(CheckpointError, match="was altered or damaged after it was written"):
        load_tensors(saved)


# -------------------------------------------------------------------------------------------------------- hostile files


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def pickled(canary, path):
    path.write_bytes(pickle.dumps(canary))


def torch_saved(canary, path):
    torch.save({"state_dict": canary}, path)


def numpy_saved(canary, path):
    with path.open("wb") as file:
        np.savez(file, a=np.array([canary], dtype=object))


@pytest.mark.parametrize("write", [pickled, torch_saved, numpy_saved])
def test_a_pickle_is_refused_unread(tmp_path, write):
    canary, path = tmp_path / "canary", tmp_path / "last.safetensors"
    write(Canary(canary), path)
    for load in (load_tensors, load_model):
        with pytest.raises(CheckpointError, match="last.safetensors is not a whole safetensors file"):
            load(path)
    assert not canary.exists()
    pickle.loads(pickle.dumps(Canary(canary)))
    assert canary.exists(), "the canary does not sing"


def header(text, length=None):
    return struct.pack("<Q", len(text) if length is None else length) + text


HUGE = b'{"a":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}' % (2**50, 2**52)
BOMBS = {
    "header of 2**60 bytes": header(b"{}", 2**60),
    "header of 2**64 - 1 bytes": header(b"{}", 2**64 - 1),
    "tensor of 2**52 bytes": header(HUGE) + b"\0" * 64,
    "product that overflows": header(b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'),
    "deep nesting": header(b'{"a":' + b"[" * 100_000),
    "not UTF-8": header(b'{"\xff\xfe":1}'),
    "overlapping": header(
        b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'
    )
    + b"\0" * 4,
    "header is a list": header(b"[]"),
}


@contextmanager
def little_memory():
    """Fail where more than 300 MB are taken."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / (1024 if sys.platform == "linux" else 2**20)
    assert taken < 300, f"{taken:.0f} MB"


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused(tmp_path, name):
    path = tmp_path / "a.safetensors"
    path.write_bytes(BOMBS[name])
    with little_memory(), pytest.raises(CheckpointError, match="a.safetensors"):
        load_tensors(path)


def forged(path, meta, tensors=None):
    """Write a file whose digest is right, as one who means ill would."""
    tensors = tensors or {"a": torch.zeros(2)}
    head = {"format": checkpoint.FORMAT, "meta": meta, "sha256": checkpoint._digest(tensors, meta)}
    save_file(tensors, path, metadata=head)


@pytest.mark.parametrize("meta", ["not JSON", "[" * 100_000, '{"a":', ""])
def test_facts_that_cannot_be_read_are_refused(tmp_path, meta):
    path = tmp_path / "a.safetensors"
    forged(path, meta)
    with pytest.raises(CheckpointError, match="a.safetensors"):
        load_tensors(path)


@pytest.mark.parametrize(
    "meta",
    [
        {"model": {"type": "Popen", "args": ["touch", "x"]}},
        {"model": {"type": "STCNConfig", "backbone": {"type": "os.system"}}},
        {"model": {"type": "NormalConfig"}},
        {"model": {"type": ["STCNConfig"]}},
        {"model": "STCN()"},
        {"model": {"type": "STCNConfig", "data_dim": "four"}},
        {"model": {"type": "STCNConfig", "data_dim": -1}},
        {"model": {"type": "STCNConfig", "backbone": {"type": "NormalConfig"}}},
        {},
        [],
        None,
    ],
)
def test_a_configuration_that_makes_no_model_is_refused(tmp_path, meta):
    path = tmp_path / "m.safetensors"
    save_tensors(path, {"model.a": torch.zeros(2)}, meta)
    with pytest.raises(CheckpointError, match="m.safetensors: configuration and weights do not make a model"):
        load_model(path)


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "another model"])
def test_weights_that_do_not_fit_are_refused(tmp_path, change):
    net = small_stcn()
    tensors = checkpoint.model_tensors(net)
    first = next(iter(tensors))
    if change == "missing":
        del tensors[first]
    elif change == "extra":
        tensors["model.extra"] = torch.zeros(1)
    elif change == "shape":
        tensors[first] = torch.zeros(1)
    else:
        tensors = checkpoint.model_tensors(small_stcn(CAUSAL))
    path = tmp_path / "m.safetensors"
    save_tensors(path, tensors, {"model": checkpoint.config_to_dict(net.config)})
    with pytest.raises(CheckpointError, match="m.safetensors: configuration and weights do not make a model"):
        load_model(path)


def test_weights_of_a_checkpoint_go_into_a_model_of_ones_own():
    net, other = small_stcn(), small_stcn(seed=2)
    load_weights(other, checkpoint.model_tensors(net) | {"adam.step": torch.zeros(1)})
    assert same(other.state_dict(), net.state_dict())


# ------------------------------------------------------------------------------------------------------------- not ours


def test_another_programs_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "theirs.safetensors"
    for metadata in (None, {"format": "pt"}, {"format": "pyro-stcn/2", "meta": "{}"}, {"format": checkpoint.FORMAT}):
        save_file({"a": torch.zeros(2)}, path, metadata=metadata)
        with pytest.raises(
            CheckpointError, match="theirs.safetensors is a safetensors file, but not a checkpoint of pyro-stcn"
        ):
            load_tensors(path)


def test_an_empty_file_a_folder_and_nothing(tmp_path):
    empty = tmp_path / "empty.safetensors"
    empty.touch()
    with pytest.raises(CheckpointError, match="empty.safetensors"):
        load_tensors(empty)
    for path in (tmp_path, tmp_path / "none.safetensors"):
        with pytest.raises(FileNotFoundError, match=str(path)):
            load_tensors(path)


def test_pointwise_and_causal_models_differ():
    """What the test of weights that do not fit relies on."""
    assert checkpoint.model_tensors(small_stcn(POINTWISE)).keys() != checkpoint.model_tensors(small_stcn(CAUSAL)).keys()


def test_digest_is_in_the_header(saved):
    raw = saved.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    head = json.loads(raw[8 : 8 + size])["__metadata__"]
    assert head["sha256"] == checkpoint._digest(some_tensors(), head["meta"])
