import itertools
import os
import signal
import time

import numpy as np
import pytest
import torch

from pyro_stcn.data.audio import AudioError
from pyro_stcn.data.batch import ShuffledBatches
from pyro_stcn.data.prefetch import AHEAD, PrefetchedBatches
from pyro_stcn.data.standardise import Standardiser
from pyro_stcn.data.streamed import StreamedWindows

from .recordings import noise, tape_of


@pytest.fixture
def windows(tmp_path):
    tape = tape_of(tmp_path, [noise(i, samples=400) for i in range(4)])
    return StreamedWindows(tape, np.arange(15) * 100, 4, 25, Standardiser(0.0, 2000.0))


@pytest.fixture
def stream(windows):
    made = PrefetchedBatches(windows, 4, 7, workers=2)
    yield made
    made.close()


def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(pid) for pid in file.read().split()]


def test_the_batches_are_those_without_workers_across_epochs(windows, stream):
    for ours, theirs in itertools.islice(zip(stream, ShuffledBatches(windows, 4, 7), strict=True), 9):
        assert ours.names == theirs.names
        for name in ("x", "mask", "lengths"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))


def test_the_place_is_that_of_the_batches_given_out(windows, stream):
    plain = ShuffledBatches(windows, 4, 7)
    for _ in range(5):
        next(stream), next(plain)
        assert stream.state_dict() == plain.state_dict()
    expected = [batch.names for batch in itertools.islice(plain, 4)]
    other = PrefetchedBatches(windows, 4, 7, workers=1)
    next(other)
    other.load_state_dict(stream.state_dict())
    assert [batch.names for batch in itertools.islice(other, 4)] == expected
    stream.close()
    assert [batch.names for batch in itertools.islice(stream, 4)] == expected, "closing loses nothing"
    other.close()


def test_the_random_state_is_left_alone(stream):
    before = torch.get_rng_state()
    next(stream)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_more_is_read_than_a_few_batches_ahead(windows, tmp_path):
    """A mark in a file for each window that is read, by whichever process."""

    class Marked(StreamedWindows):
        def __getitem__(self, index):
            with open(tmp_path / "read", "a") as file:
                file.write("x")
            return super().__getitem__(index)

    marked = Marked(windows.tape, windows.starts, 4, 25, windows.standardiser)
    stream = PrefetchedBatches(marked, 3, 0, workers=2)
    for given in (1, 2, 3):
        next(stream)
        time.sleep(0.3)
        assert os.path.getsize(tmp_path / "read") <= 3 * (given + 2 * AHEAD)
    stream.close()


def test_an_error_of_the_data_arrives_as_it_is(windows, stream):
    windows.tape.recordings[2].path.unlink()
    with pytest.raises(AudioError, match=r"^\S+2\.raw: cannot be read"):
        list(itertools.islice(stream, 4))


def test_after_an_error_the_stream_is_still_where_it_was(windows, stream):
    path = windows.tape.recordings[2].path
    path.rename(path.with_suffix(".away"))
    with pytest.raises(AudioError):
        list(itertools.islice(stream, 4))
    path.with_suffix(".away").rename(path)
    plain = ShuffledBatches(windows, 4, 7)
    plain.load_state_dict(stream.state_dict())
    assert [next(stream).names for _ in range(3)] == [next(plain).names for _ in range(3)]


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="finds workers in /proc")
def test_signals_reach_the_workers_and_do_not_end_them(stream):
    before = set(children())
    next(stream)
    workers = set(children()) - before
    assert len(workers) == 2
    time.sleep(0.5)  # they have started
    for pid in workers:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    for _ in range(12):
        next(stream)
    assert workers <= set(children())
    stream.close()
    assert not workers & set(children())


def test_no_workers_is_not_for_this_class(windows):
    with pytest.raises(ValueError, match="workers is 0"):
        PrefetchedBatches(windows, 4, 7, workers=0)
