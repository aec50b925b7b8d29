import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_stcn.data.batch import SequenceDataset, ShuffledBatches, batches, collate
from pyro_stcn.data.checks import DataError


def make(lengths, dim=3):
    rng = np.random.default_rng(0)
    sequences = tuple(1 + rng.random((n, dim), dtype=np.float32) for n in lengths)
    return SequenceDataset(sequences, tuple(f"s{i}" for i in range(len(lengths))))


@pytest.fixture
def dataset():
    return make([4, 1, 7, 2, 5, 3, 6])


def test_dataset_facts(dataset):
    assert (len(dataset), dataset.data_dim, dataset.steps) == (7, 3, 28)
    np.testing.assert_array_equal(dataset.lengths, [4, 1, 7, 2, 5, 3, 6])
    assert dataset[2] is dataset.sequences[2]
    assert "7 sequences, 28 steps, 3 channels" in repr(dataset)


def test_dataset_converts_to_float32_and_keeps_what_is():
    kept = np.ones((2, 1), dtype=np.float32)
    dataset = SequenceDataset((kept, np.ones((3, 1)), np.ones((2, 1), dtype=np.int16)), ("a", "b", "c"))
    assert dataset[0] is kept
    assert all(array.dtype == np.float32 for array in dataset.sequences)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_dataset_names_what_is_not_finite_in_float32(value):
    bad = np.ones((5, 2))
    bad[3, 1] = value
    with pytest.raises(DataError, match="'mine'.*step 3, channel 1"):
        SequenceDataset((np.ones((2, 2)), bad), ("good", "mine"))


def test_dataset_checks_names():
    with pytest.raises(DataError, match="both named 'a'"):
        SequenceDataset((np.ones((2, 2)), np.ones((2, 2))), ("a", "a"))


def test_subset_keeps_names_with_data(dataset):
    subset = dataset.subset([5, 0])
    assert subset.names == ("s5", "s0")
    assert subset[0] is dataset[5]


def test_collate_pads_at_the_end(dataset):
    batch = collate(dataset, [1, 2, 0])
    assert batch.x.shape == (3, 7, 3)
    assert batch.x.dtype == torch.float32
    assert batch.names == ("s1", "s2", "s0")
    assert len(batch) == 3
    assert batch.lengths.tolist() == [1, 7, 4]
    assert batch.lengths.dtype == torch.int64
    assert batch.mask.dtype == torch.bool
    assert batch.mask.sum(1).tolist() == [1, 7, 4]
    for row, i in enumerate([1, 2, 0]):
        np.testing.assert_array_equal(batch.x[row][batch.mask[row]].numpy(), dataset[i])
    assert (batch.x[~batch.mask] == 0).all()
    with pytest.raises(ValueError, match="at least one"):
        collate(dataset, [])


def test_a_batch_shares_no_memory_with_the_data(dataset):
    batch = collate(dataset, [0])
    batch.x.zero_()
    assert (dataset[0] >= 1).all()


def test_to_moves_tensors_and_keeps_names(dataset):
    batch = collate(dataset, [0, 1]).to("meta")
    assert {batch.x.device.type, batch.mask.device.type, batch.lengths.device.type} == {"meta"}
    assert batch.names == ("s0", "s1")


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_batches_give_everything_once_in_order(dataset, batch_size):
    names = [name for batch in batches(dataset, batch_size) for name in batch.names]
    assert names == list(dataset.names)


def test_batch_sizes_below_one_are_refused(dataset):
    with pytest.raises(ValueError, match="batch_size is 0"):
        batches(dataset, 0)  # at the call, not at the first batch
    with pytest.raises(ValueError, match="batch_size is 0"):
        ShuffledBatches(dataset, 0, seed=0)
    with pytest.raises(ValueError, match="seed is -1"):
        ShuffledBatches(dataset, 1, seed=-1)


def epochs(sampler, count):
    return [[name for _ in range(sampler.batches_per_epoch) for name in sampler.next().names] for _ in range(count)]


@given(
    size=st.integers(1, 12),
    batch_size=st.integers(1, 15),
    seed=st.integers(0, 2**31),
    drop_last=st.booleans(),
)
def test_every_sequence_at_most_once_an_epoch(size, batch_size, seed, drop_last):
    dataset = make([1] * size)
    sampler = ShuffledBatches(dataset, batch_size, seed, drop_last)
    for names in epochs(sampler, 3):
        assert len(set(names)) == len(names)
        if not drop_last or size % min(size, batch_size) == 0:
            assert set(names) == set(dataset.names)
        else:
            assert len(names) == size - size % batch_size


def test_the_order_is_a_function_of_seed_and_epoch(dataset):
    first, second = epochs(ShuffledBatches(dataset, 1, seed=3), 2)
    assert [first, second] == epochs(ShuffledBatches(dataset, 7, seed=3), 2)
    assert first != second
    assert first != epochs(ShuffledBatches(dataset, 1, seed=4), 1)[0]
    sampler = ShuffledBatches(dataset, 1, seed=3)
    assert [dataset.names[i] for i in sampler.order(1)] == second


def test_neighbouring_seeds_do_not_share_epochs():
    dataset = make([1] * 50)
    orders = {tuple(ShuffledBatches(dataset, 1, seed).order(epoch)) for seed in range(6) for epoch in range(6)}
    assert len(orders) == 36


def test_global_randomness_is_neither_used_nor_moved(dataset):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = epochs(ShuffledBatches(dataset, 2, seed=1), 2)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert epochs(ShuffledBatches(dataset, 2, seed=1), 2) == first


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("stop", range(9))
def test_resuming_continues_exactly(dataset, stop, drop_last):
    whole = [b.names for b in itertools.islice(ShuffledBatches(dataset, 2, 5, drop_last), 12)]
    sampler = ShuffledBatches(dataset, 2, 5, drop_last)
    list(itertools.islice(sampler, stop))
    state = sampler.state_dict()
    assert set(state) == {"epoch", "position"}
    resumed = ShuffledBatches(dataset, 2, 5, drop_last)
    resumed.load_state_dict(state)
    assert [b.names for b in itertools.islice(resumed, 12 - stop)] == whole[stop:]
    # and going back within one sampler
    sampler.load_state_dict({"epoch": 0, "position": 0})
    assert [b.names for b in itertools.islice(sampler, 12)] == whole


def test_a_state_of_another_dataset_is_refused(dataset):
    sampler = ShuffledBatches(dataset, 2, seed=0)
    with pytest.raises(DataError, match="epoch 1, batch 3: an epoch has 3 batches"):
        sampler.load_state_dict({"epoch": 1, "position": 3})


def test_fewer_sequences_than_a_batch_give_the_whole_set(dataset):
    sampler = ShuffledBatches(dataset, 64, seed=0)
    assert sampler.batches_per_epoch == 1
    assert [sorted(next(sampler).names) for _ in range(3)] == [sorted(dataset.names)] * 3


# ------------------------------------------------------------------------------------------------------ missing steps


def with_holes():
    rng = np.random.default_rng(0)
    sequences = [1 + rng.random((n, 2)) for n in (4, 3, 5)]
    marks = (np.array([True, False, True, True]), None, np.array([False, True, False, True, False]))
    sequences[0][1] = np.nan
    sequences[2][0, 1] = np.inf
    return sequences, marks


def test_missing_steps_are_masked_out_and_hold_nothing():
    sequences, marks = with_holes()
    dataset = SequenceDataset(tuple(sequences), ("a", "b", "c"), marks)
    assert dataset.missing.tolist() == [1, 0, 3]
    assert dataset.lengths.tolist() == [4, 3, 5]
    np.testing.assert_allclose(dataset.seen(0), sequences[0][[0, 2, 3]])
    np.testing.assert_array_equal(dataset.seen(1), dataset[1])
    batch = collate(dataset, [2, 0, 1])
    assert batch.lengths.tolist() == [5, 4, 3]
    assert batch.mask.int().tolist() == [[0, 1, 0, 1, 0], [1, 0, 1, 1, 0], [1, 1, 1, 0, 0]]
    assert (batch.x[~batch.mask] == 0).all()
    assert np.isnan(sequences[0][1]).all(), "the caller's arrays are not changed"
    assert [m for b in batches(dataset, 2) for m in b.mask.sum(1).tolist()] == [3, 3, 2]


def test_marks_travel_with_subsets_and_count_in_the_digest():
    sequences, marks = with_holes()
    dataset = SequenceDataset(tuple(sequences), ("a", "b", "c"), marks)
    subset = dataset.subset([2, 1])
    assert subset.missing.tolist() == [3, 0]
    assert dataset.subset([1]).observed == ()
    zeros = tuple(np.where(np.isfinite(s), s, 0) for s in dataset.sequences)
    assert SequenceDataset(zeros, ("a", "b", "c"), marks).digest() == dataset.digest(), "what is under a mark counts"
    assert SequenceDataset(zeros, ("a", "b", "c")).digest() != dataset.digest()
    complete = SequenceDataset(zeros, ("a", "b", "c"), (np.ones(4, dtype=bool), None, None))
    assert complete.digest() == SequenceDataset(zeros, ("a", "b", "c")).digest()


def test_marks_that_do_not_fit_are_refused():
    sequences, marks = with_holes()
    for observed, message in (
        ((marks[0],), "3 sequences and 1 marks"),
        ((marks[0][:3], None, None), r"mark of sequence 'b0' must be a bool array of shape \(T,\), here \(4,\)"),
        ((marks[0].astype(int), None, None), "mark of sequence 'b0' must be a bool array"),
        ((np.array([1, 3]), None, None), "mark of sequence 'b0' must be a bool array"),  # the numbers of steps
        ((np.ones(3, dtype=bool), None, None), r"'b0' must be a bool array of shape \(T,\), here \(4,\)"),
        ((np.ones(4, dtype=bool),), "3 sequences and 1 marks"),
        ((None, np.zeros(3, dtype=bool), None), "sequence 'b1' has no step that is observed: leave it out"),
        ((None, None, marks[2]), "'b0' is not finite: nan at step 1, channel 0"),
    ):
        with pytest.raises(DataError, match=message):
            SequenceDataset(tuple(sequences), ("b0", "b1", "b2"), observed)
