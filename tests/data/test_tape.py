import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_all_start_methods, get_context

import numpy as np
import pytest

from pyro_stcn.data import tape as module
from pyro_stcn.data.audio import AudioError

from .recordings import noise, tape_of

ARRAYS = [noise(i, samples=n) for i, n in enumerate((50, 1, 7, 120))]
WHOLE = np.concatenate(ARRAYS)


def test_every_stretch_is_read_as_it_is(tmp_path):
    tape = tape_of(tmp_path, ARRAYS)
    assert len(tape) == len(WHOLE) == 178
    for start in range(0, 178, 3):
        for count in (0, 1, 9, 60, 178 - start):
            count = min(count, 178 - start)
            samples = tape.read(start, count)
            assert samples.dtype == np.int16
            np.testing.assert_array_equal(samples, WHOLE[start : start + count])
    assert [tape.place(i) for i in (0, 49, 50, 51, 57, 58)] == [(0, 0), (0, 49), (1, 0), (2, 0), (2, 6), (3, 0)]


@pytest.mark.parametrize(("start", "count"), [(-1, 2), (170, 9), (0, 179), (5, -1)])
def test_beyond_the_ends_there_is_nothing(tmp_path, start, count):
    with pytest.raises(IndexError, match="not on a tape of 178"):
        tape_of(tmp_path, ARRAYS).read(start, count)


def open_files(folder):
    links = (os.path.join("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd"))
    return sum(os.path.realpath(link).startswith(os.path.realpath(folder)) for link in links)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_few_files_are_open_however_many_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "OPEN_FILES", 3)
    arrays = [noise(i, samples=10) for i in range(8)]
    tape = tape_of(tmp_path, arrays)
    whole = np.concatenate(arrays)
    for start in np.random.default_rng(0).integers(0, 75, 50):
        np.testing.assert_array_equal(tape.read(start, 5), whole[start : start + 5])
        assert 1 <= open_files(tmp_path) <= 3
    del tape
    assert open_files(tmp_path) == 0


def sums(tape):
    return [int(tape.read(start, 100).astype(int).sum()) for start in np.random.default_rng(1).integers(0, 78, 300)]


INHERITED = {}


def sums_of_inherited(_):
    return [sums(INHERITED["tape"]) for _ in range(10)]


@pytest.mark.skipif("fork" not in get_all_start_methods(), reason="no fork here")
def test_processes_do_not_move_in_each_others_files(tmp_path, monkeypatch):
    tape = tape_of(tmp_path, ARRAYS)
    expected = sums(tape)  # files are open before the fork
    monkeypatch.setitem(INHERITED, "tape", tape)
    with get_context("fork").Pool(2) as pool:
        assert pool.map(sums_of_inherited, range(2), chunksize=1) == [[expected] * 10] * 2


def test_a_tape_goes_to_other_processes_without_its_files(tmp_path):
    tape = tape_of(tmp_path, ARRAYS)
    expected = sums(tape)
    assert sums(pickle.loads(pickle.dumps(tape))) == expected


def test_threads_share_a_tape(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "OPEN_FILES", 2)
    tape = tape_of(tmp_path, ARRAYS)
    expected = sums(tape)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(sums, [tape] * 8)) == [expected] * 8


def test_a_file_that_became_shorter_or_went_away_is_named(tmp_path):
    tape = tape_of(tmp_path, ARRAYS)
    path = tape.recordings[3].path
    path.write_bytes(path.read_bytes()[:-2])
    tape.read(0, 177)
    with pytest.raises(AudioError, match=r"3\.raw: ends before sample 120 of 120: it was changed after it was loaded"):
        tape.read(100, 78)
    tape.recordings[0].path.unlink()
    with pytest.raises(AudioError, match=r"0\.raw: cannot be read: No such file"):
        pickle.loads(pickle.dumps(tape)).read(0, 1)  # with no file open


def test_the_digest_is_of_names_lengths_and_hashes(tmp_path):
    tape = tape_of(tmp_path / "a", ARRAYS)
    assert tape.digest() == tape_of(tmp_path / "b", ARRAYS).digest()
    r = tape.recordings[1]
    for changed in ("name", "sha256"):
        other = module.Recording(**(vars(r) | {changed: "x"}))
        assert module.Tape([tape.recordings[0], other, *tape.recordings[2:]]).digest() != tape.digest()
    assert module.Tape(tape.recordings[::-1]).digest() != tape.digest()
