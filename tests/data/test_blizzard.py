"""The loader, and training and evaluation on what it streams."""

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyro_stcn.checkpoint import CheckpointError, load_tensors
from pyro_stcn.data import blizzard, load_corpus
from pyro_stcn.data.audio import AudioError, write_wav
from pyro_stcn.data.batch import SequenceDataset
from pyro_stcn.data.blizzard import BlizzardNormaliser, BlizzardSplit, load_blizzard
from pyro_stcn.data.checks import DataError
from pyro_stcn.data.standardise import Standardiser
from pyro_stcn.evaluation import evaluate
from pyro_stcn.presets import PRESETS
from pyro_stcn.protocols import PROTOCOLS, evaluate_as
from pyro_stcn.training import fit
from pyro_stcn.training_config import TrainingConfig

from ..small import CAUSAL, small_stcn
from .recordings import RATE, noise, write_tree

TREE = {f"book{b}/{c}": 6000 + 700 * b + 100 * c for b in range(4) for c in range(3)}
SMALL = {"frame": 20, "segment": 10, "streams": 6, "group": 5, "valid_fraction": 0.1, "test_fraction": 0.15}
ROW = 200


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch, request):
    if "synthetic" not in request.fixturenames:
        monkeypatch.setenv("PYRO_STCN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    return write_tree(tmp_path / "in", TREE)


def rows_by_hand(group, streams):
    """Join, cut into streams, cut into rows, one row of each stream after the other."""
    arrays = [noise(name, samples=TREE[name]) for name in sorted(TREE)]
    rows = []
    for first in range(0, len(arrays), group):
        joined = np.concatenate(arrays[first : first + group])
        length = len(joined) // streams
        stream = joined[: streams * length].reshape(streams, length)
        for i in range((length - 1) // ROW):
            rows.extend(stream[:, i * ROW : (i + 1) * ROW])
    return np.array(rows)


@pytest.mark.parametrize(("group", "streams"), [(5, 6), (200, 7)])
def test_the_published_rows(root, group, streams):
    corpus = load_blizzard(root, **SMALL | {"group": group, "streams": streams})
    rows = rows_by_hand(group, streams)
    parts = [corpus.train, corpus.valid, corpus.test]
    assert all(len(part) % streams == 0 for part in parts)
    assert sum(len(part) for part in parts) == len(rows) - streams, "the last of each stream is left out"
    assert len(corpus.test) == streams * round(0.15 * len(rows) / streams)
    assert len(corpus.valid) == streams * round(0.1 * len(rows) / streams)
    found = np.concatenate([corpus.standardiser.invert(x).reshape(1, ROW) for part in parts for x in part])
    np.testing.assert_allclose(found, rows[:-streams], atol=0.01)
    assert corpus.train[0].shape == (10, 20)
    assert (corpus.data_dim, corpus.frame, corpus.sample_rate) == (20, 20, RATE)


def test_the_published_boundaries():
    rows = np.broadcast_to(np.int64(0), (2_267_008 // 128, 128))
    parts, _ = blizzard._published(rows, 880 / 17711, 892 / 17711)
    ends = np.cumsum([len(parts[name]) for name in ("train", "valid", "test")])
    assert ends.tolist() == [2_040_064, 2_152_704, 2_266_880]


def test_its_unit_is_exact_and_of_training_rows_only(root):
    corpus = load_blizzard(root, **SMALL)
    train = rows_by_hand(5, 6)[: len(corpus.train)]
    expected = Standardiser.scalar([train])
    assert corpus.standardiser.mean == pytest.approx(expected.mean, rel=1e-13)
    assert corpus.standardiser.std == pytest.approx(expected.std, rel=1e-13)
    values = np.concatenate([x.ravel() for x in corpus.train]).astype(float)
    assert values.mean() == pytest.approx(0, abs=1e-6)
    assert values.std() == pytest.approx(1, rel=1e-6)


def test_the_published_unit(root, monkeypatch):
    monkeypatch.setattr(blizzard, "_BLOCK", 80)
    corpus = load_blizzard(root, normaliser="published", **SMALL)
    rows = rows_by_hand(5, 6).astype(float)
    mean, variance, seen = None, 0.0, 0
    for first in range(0, len(rows), 80):
        block, seen = rows[first : first + 80], seen + 1
        if mean is None:
            mean = block.mean()
            continue
        moved = mean + (block - mean).mean() / seen
        variance += ((block - mean) * (block - moved)).mean()
        mean = moved
    assert seen > 3
    assert corpus.standardiser.mean == pytest.approx(mean, rel=1e-9)
    assert corpus.standardiser.std == pytest.approx(math.sqrt(variance / seen), rel=1e-12)
    assert corpus.standardiser.std == pytest.approx(rows.std() * math.sqrt(1 - 1 / seen), rel=0.02)
    assert "a running estimate over all rows" in corpus.description
    monkeypatch.setattr(blizzard, "_BLOCK", 10_000)
    with pytest.raises(DataError, match="rows are one block of 10000"):
        load_blizzard(root, normaliser=BlizzardNormaliser.PUBLISHED, **SMALL)


def recordings_of(part):
    return {name.rpartition("[")[0] for name in part.names}


@pytest.mark.parametrize("split", ["recordings", "folders"])
def test_whole_recordings_or_folders_are_held_out(root, split):
    corpus = load_blizzard(root, split=split, **SMALL)
    parts = [recordings_of(part) for part in (corpus.train, corpus.valid, corpus.test)]
    assert sorted(name for part in parts for name in part) == sorted(TREE)
    units = [{name.split("/")[0] for name in part} if split == "folders" else part for part in parts]
    assert sum(map(len, units)) == len(set.union(*units))
    assert len(corpus.valid) >= 0.1 * sum(n // ROW for n in TREE.values())
    assert len(corpus.test) >= 0.15 * sum(n // ROW for n in TREE.values())
    for part in (corpus.train, corpus.test):
        for name, x in zip(part.names, part, strict=True):
            recording, _, place = name.rpartition("[")
            first, last = map(int, place[:-1].split(":"))
            assert first % ROW == 0
            raw = noise(recording, samples=TREE[recording])[first:last]
            np.testing.assert_allclose(corpus.standardiser.invert(x).ravel(), raw, atol=0.01)
    again = load_blizzard(root, split=split, **SMALL)
    assert again.train.digest() == corpus.train.digest()
    assert len({frozenset(recordings_of(load_blizzard(root, split=split, **SMALL, seed=s).test)) for s in range(8)}) > 1
    assert f"Whole {split} are held out, drawn with seed 0" in corpus.description


def test_a_copy_of_a_recording_is_not_held_out_from_it(root):
    for i in range(8):  # wherever it falls
        write_wav(root / f"book{i % 4}" / f"copy{i}.wav", noise("book0/0", samples=TREE["book0/0"]), RATE)
    corpus = load_blizzard(root, **SMALL)
    assert corpus.description.endswith("8 recordings hold the same samples as another.")
    with pytest.raises(DataError, match="hold the same samples, and would be in"):
        load_blizzard(root, split=BlizzardSplit.RECORDINGS, **SMALL)


def test_too_little_sound(tmp_path):
    root = write_tree(tmp_path / "in", {"a/1": 1000, "a/2": 1000, "a/3": 150})
    with pytest.raises(DataError, match=r"rows in each of 6 streams are too few.*split='recordings'"):
        load_blizzard(root, **SMALL)
    with pytest.raises(DataError, match="2 recordings as long as a row of 200 samples: three are needed"):
        load_blizzard(root, split="recordings", **SMALL)
    with pytest.raises(DataError, match="1 folders as long as a row"):
        load_blizzard(root, split="folders", **SMALL)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"streams": 0}, "streams=0"),
        ({"valid_fraction": 0}, "fractions 0 and"),
        ({"test_fraction": 0.95}, "together below 1"),
        ({"split": "books"}, "'books' is not a valid BlizzardSplit"),
        ({"split": "recordings", "normaliser": "published"}, "of the rows of the published split"),
    ],
)
def test_impossible_arguments(root, wrong, message):
    with pytest.raises(ValueError, match=message):
        load_blizzard(root, **SMALL | wrong)


def test_a_wrong_rate_is_refused_with_the_way_out(root):
    write_wav(root / "book0" / "bad.wav", noise("bad"), 44100)
    with pytest.raises(AudioError, match=r"bad\.wav: was sampled at 44100 Hz, expected 16000.*ffmpeg -i IN -ar 16000"):
        load_blizzard(root, **SMALL)


# ---------------------------------------------------------------------------------------------- training and evaluation


@pytest.fixture
def corpus(root):
    return load_blizzard(root, **SMALL)


def net():
    return small_stcn(CAUSAL, data_dim=20)


def train(corpus, folder, steps=6, workers=0, **options):
    config = TrainingConfig(steps=steps, batch_size=50, evaluate_every=3, log_every=1, kl_increment=0.1)
    result = fit(
        options.pop("net", None) or net(),
        corpus.train,
        corpus.valid.subset(range(6)),
        elbo=Trace_ELBO(),
        config=config,
        folder=folder,
        workers=workers,
        progress=False,
        **options,
    )
    return load_tensors(result.folder / "last.safetensors")[0]


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_training_is_the_same_with_any_number_of_workers_and_as_in_memory(corpus, tmp_path):
    plain = train(corpus, tmp_path / "0")
    assert_same(train(corpus, tmp_path / "2", workers=2), plain)
    held = {
        part: SequenceDataset(tuple(getattr(corpus, part)), tuple(getattr(corpus, part).names))
        for part in ("train", "valid", "test")
    }
    assert_same(train(replace(corpus, **held), tmp_path / "held"), plain)


def test_a_run_resumes_bit_for_bit_with_other_workers(corpus, tmp_path):
    plain = train(corpus, tmp_path / "whole", steps=7)
    train(corpus, tmp_path / "part", steps=4, workers=2)
    assert_same(train(corpus, tmp_path / "part", steps=7, workers=1, resume=True), plain)


SCRIPT = """
import sys
import tests.data.test_blizzard as here

def fit_and_tell(*arguments, fit=here.fit, **options):
    result = fit(*arguments, **options)
    print(result.stopped, flush=True)
    return result

here.fit = fit_and_tell
here.train(here.load_blizzard(sys.argv[1], **here.SMALL), sys.argv[2], steps=100_000, workers=2)
"""


def test_ctrl_c_on_a_terminal_saves_and_leaves_no_process(root, corpus, tmp_path):
    """The signal goes to the workers as well."""
    run = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT, str(root), str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Sums over another number of threads end in other digits.
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    log = tmp_path / "run" / "train.csv"
    deadline = time.monotonic() + 120
    while not (log.exists() and len(log.read_text().splitlines()) > 3) and time.monotonic() < deadline:
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGINT)
    out, errors = run.communicate(timeout=60)
    assert (run.returncode, out, errors) == (0, "stopped by SIGINT\n", "")
    with pytest.raises(ProcessLookupError):
        os.killpg(run.pid, 0)
    step = int(log.read_text().splitlines()[-1].split(",")[0])
    resumed = train(corpus, tmp_path / "run", steps=step + 2, resume=True)
    assert_same(resumed, train(corpus, tmp_path / "undisturbed", steps=step + 2))


def test_other_data_are_not_resumed(root, corpus, tmp_path):
    train(corpus, tmp_path / "run", steps=3)
    write_wav(root / "book0" / "0.wav", noise("changed", samples=TREE["book0/0"]), RATE)
    changed = load_blizzard(root, **SMALL)
    with pytest.raises(CheckpointError, match="written with another data; different: train, valid"):
        train(changed, tmp_path / "run", steps=6, resume=True)


def test_the_protocol_scores_it_without_reading_it_all(corpus, monkeypatch):
    protocol = replace(PROTOCOLS["blizzard/vrnn"], segment=5)
    model = net()
    result = evaluate_as(protocol, model, corpus, particles=2, progress=False)
    own = evaluate(model, corpus.test.cut(5), standardiser=corpus.standardiser, particles=2, progress=False)
    np.testing.assert_allclose(result.iwae, own.iwae, rtol=1e-6)  # its unit is that of the corpus
    assert len(result.names) == 2 * len(corpus.test)
    assert set(result.recordings) == recordings_of(corpus.test)
    monkeypatch.setattr(type(corpus.train), "__getitem__", lambda *_: pytest.fail("training data are read"))
    assert protocol.unit_of(corpus) == corpus.standardiser
    with pytest.raises(ValueError, match="its unit .*: of streamed windows only one mean"):
        PROTOCOLS["iamondb/vrnn"].unit_of(corpus)


def test_the_protocol_has_its_unit_whatever_the_corpus_is_in(root, monkeypatch):
    monkeypatch.setattr(blizzard, "_BLOCK", 80)
    protocol = replace(PROTOCOLS["blizzard/vrnn"], segment=10)
    exact, low = load_blizzard(root, **SMALL), load_blizzard(root, normaliser="published", **SMALL)
    assert low.standardiser != exact.standardiser
    assert protocol.unit_of(low) == protocol.unit_of(exact) == exact.standardiser


def test_the_synthetic_corpus_by_its_name_from_a_fresh_clone(tmp_path, synthetic):
    """In the shapes of the real presets: 200 channels, 40 steps, the published split."""
    assert synthetic.name == "synthetic-blizzard"
    assert (synthetic.train[0].shape, len(synthetic.train) % 128, len(synthetic.test)) == ((40, 200), 0, 128)
    small = PRESETS["timit/stcn-dense-normal-small"]
    config = replace(small.training, steps=3, batch_size=4, evaluate_every=3, log_every=1)
    result = fit(
        small.model.build(),
        synthetic.train,
        synthetic.valid.subset(range(4)),
        elbo=Trace_ELBO(),
        config=config,
        folder=tmp_path / "run",
        workers=1,
        facts={"data": synthetic.description},
        progress=False,
    )
    assert result.step == 3
    part = replace(synthetic, test=synthetic.test.subset(range(6)))
    found = evaluate_as("blizzard/vrnn", small.model.build(), part, particles=1, progress=False)
    assert np.isfinite(found.iwae).all()
    assert found.scored.tolist() == [40] * 6


@pytest.fixture(scope="module")
def synthetic():
    return load_corpus("blizzard")
