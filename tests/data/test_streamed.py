import itertools

import numpy as np
import pytest
import torch

from pyro_stcn.data import tape_statistics
from pyro_stcn.data.batch import SequenceDataset, ShuffledBatches, batches, collate
from pyro_stcn.data.checks import DataError
from pyro_stcn.data.corpus import Corpus
from pyro_stcn.data.standardise import Standardiser
from pyro_stcn.data.streamed import StreamedWindows

from .recordings import noise, tape_of

ARRAYS = [noise(i, samples=n) for i, n in enumerate((500, 90, 700))]
WHOLE = np.concatenate(ARRAYS)
UNIT = Standardiser(5.0, 2000.0)
STARTS = np.array([0, 480, 60, 540, 1170])


@pytest.fixture
def windows(tmp_path):
    return StreamedWindows(tape_of(tmp_path / "tape", ARRAYS, tmp_path), STARTS, 6, 20, UNIT)


def in_memory(windows):
    """The same windows as arrays."""
    count = windows.window * windows.frame
    arrays = (UNIT.apply(WHOLE[s : s + count]).reshape(windows.window, windows.frame) for s in windows.starts)
    return SequenceDataset(tuple(arrays), tuple(windows.names))


def test_it_is_the_dataset_that_holds_the_same_arrays(windows):
    held = in_memory(windows)
    assert (len(windows), windows.data_dim, windows.steps) == (len(held), held.data_dim, held.steps) == (5, 20, 30)
    np.testing.assert_array_equal(windows.lengths, held.lengths)
    assert windows.lengths.dtype == held.lengths.dtype
    for source in (windows, windows.sequences, [windows[i] for i in range(5)]):
        for x, y in zip(source, held.sequences, strict=True):
            assert x.dtype == np.float32
            np.testing.assert_array_equal(x, y)
    for ours, theirs in zip(batches(windows, 2), batches(held, 2), strict=True):
        assert torch.equal(ours.x, theirs.x)
        assert torch.equal(ours.mask, theirs.mask)
        assert ours.names == theirs.names
    ours, theirs = ShuffledBatches(windows, 2, 3), ShuffledBatches(held, 2, 3)
    for a, b in itertools.islice(zip(ours, theirs, strict=True), 7):
        assert torch.equal(a.x, b.x)


def test_names_say_where_a_window_is(windows):
    assert list(windows.names) == ["r0[0:120]", "r0[480:600]", "r0[60:180]", "r1[40:160]", "r2[580:700]"]
    assert windows.names[-1] == "r2[580:700]"
    assert list(windows.names[1:3]) == ["r0[480:600]", "r0[60:180]"]
    assert "r1[40:160]" in windows.names


def test_nothing_grows_with_the_data_but_eight_bytes_a_window(tmp_path):
    class Endless:
        recordings = ()

        def __len__(self):
            return 10**12

    windows = StreamedWindows(Endless(), np.arange(2_267_008) * 8000, 40, 200, UNIT)
    assert windows.starts.nbytes == 8 * len(windows)
    assert windows.lengths.strides == (0,)
    assert len(windows.names) == 2_267_008
    assert ShuffledBatches(windows, 128, 0)._order.nbytes == 8 * len(windows)


def test_a_subset_reads_the_same_windows(windows):
    part = windows.subset([3, 0])
    assert list(part.names) == ["r1[40:160]", "r0[0:120]"]
    np.testing.assert_array_equal(part[0], windows[3])
    assert collate(windows, [3]).names == ("r1[40:160]",)


def test_pieces_of_windows(windows):
    pieces = windows.cut(2)
    assert len(pieces) == 15
    assert list(pieces.names[:4]) == ["r0[0:40]", "r0[40:80]", "r0[80:120]", "r0[480:520]"]
    np.testing.assert_array_equal(np.concatenate([pieces[i] for i in (3, 4, 5)]), windows[1])
    assert windows.cut(6) is windows
    assert len(windows.cut(4)) == 5, "what is left over is dropped"
    with pytest.raises(ValueError, match="pieces of 7 steps are wanted, and the windows have 6"):
        windows.cut(7)


def test_the_digest_depends_on_all_that_decides_what_is_read(windows, tmp_path):
    digests = {
        windows.digest(),
        windows.subset([1, 0, 2, 3, 4]).digest(),
        windows.cut(2).digest(),
        StreamedWindows(windows.tape, STARTS, 20, 6, UNIT).digest(),
        StreamedWindows(windows.tape, STARTS, 6, 20, Standardiser(5.0, 2001.0)).digest(),
        StreamedWindows(tape_of(tmp_path / "b", ARRAYS[::-1]), STARTS, 6, 20, UNIT).digest() + "other order",
    }
    assert len(digests) == 6
    assert StreamedWindows(windows.tape, list(STARTS), 6, 20, UNIT).digest() == windows.digest()


@pytest.mark.parametrize(
    ("starts", "window", "error", "message"),
    [
        ([], 6, DataError, "there are no windows"),
        ([-1], 6, DataError, "not on a tape of 1290"),
        ([1171], 6, DataError, "a window of 120 samples is not on a tape of 1290"),
        ([0], 0, ValueError, "window is 0"),
    ],
)
def test_impossible_windows(tmp_path, starts, window, error, message):
    with pytest.raises(error, match=message):
        StreamedWindows(tape_of(tmp_path / "t", ARRAYS), np.array(starts, dtype=np.int64), window, 20, UNIT)


def parts(windows, train, valid, test):
    sets = (StreamedWindows(windows.tape, np.array(s), 6, 20, UNIT) for s in (train, valid, test))
    return Corpus("c", *sets, UNIT, "")


def test_parts_of_a_corpus_may_touch_and_not_overlap(windows):
    parts(windows, [0, 120], [240], [600])
    for held in (119, 1, 239, 0):
        with pytest.raises(
            DataError, match=rf"sequence 'r0\[{held}:{held + 120}\]' of corpus 'c' is in train and in te"
        ):
            parts(windows, [0, 120], [600], [held])
    with pytest.raises(DataError, match=r"is in valid and in test"):
        parts(windows, [0], [600, 900], [300, 700])


def test_parts_in_memory_are_told_apart_by_name(windows):
    held = in_memory(windows)
    assert windows.shared_with(held) == held.shared_with(windows) == windows.names[0]
    assert windows.shared_with(SequenceDataset(held.sequences)) is None


def test_statistics_are_exact_and_made_once(windows, tmp_path, monkeypatch):
    apart = windows.subset([0, 1, 4])
    used = np.concatenate([WHOLE[s : s + 120] for s in apart.starts]).astype(object)
    sums = apart.sums()
    assert (sums.count, sums.total, sums.squares) == (360, used.sum(), (used**2).sum())
    unit, reference = sums.standardiser(), Standardiser.scalar([used.astype(float)])
    assert unit.mean == pytest.approx(reference.mean, rel=1e-14)
    assert unit.std == pytest.approx(reference.std, rel=1e-14)
    monkeypatch.setattr(type(windows.tape), "read", lambda *_: pytest.fail("read again"))
    assert apart.sums() == sums
    (tmp_path / "statistics.json").write_text("{")
    with pytest.raises(BaseException, match="read again"):
        apart.sums()


def test_statistics_of_other_windows_are_others(windows):
    assert windows.subset([0]).sums() != windows.subset([1]).sums()
    assert windows.subset([0]).sums() == windows.subset([0]).sums()


@pytest.mark.parametrize("block", [7, 100, 2**20])
def test_sums_do_not_depend_on_how_much_is_read_at_once(windows, monkeypatch, block):
    monkeypatch.setattr(tape_statistics, "_BLOCK", block)
    starts = np.array([480, 0, 120, 240])  # touching, and not in order
    found = tape_statistics.sums_over(windows.tape, starts, 120)
    used = np.r_[WHOLE[:360], WHOLE[480:600]].astype(int)
    assert found == tape_statistics.Sums(480, used.sum(), (used**2).sum())


def test_the_largest_samples_do_not_overflow():
    extreme = np.full(2**20, -(2**15), dtype=np.int16)
    sums = tape_statistics.sums_of(extreme)
    assert (sums.total, sums.squares) == (-(2**35), 2**50)
    many = tape_statistics.Sums(18 * 10**9, 0, 18 * 10**9 * 2**30)
    assert many.standardiser() == Standardiser(0.0, 2.0**15)
    with pytest.raises(DataError, match="every sample is the same"):
        sums.standardiser()
