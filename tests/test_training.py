"""The training loop: it learns, stops and resumes as it says, to the last bit."""

import csv
import dataclasses
import hashlib
import math
import multiprocessing
import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.enum import get_importance_trace
from torch.distributions import kl_divergence

from pyro_stcn import training
from pyro_stcn.bounds import IWAE
from pyro_stcn.checkpoint import CheckpointError, load_model, load_tensors, save_model
from pyro_stcn.data import SequenceDataset, ShuffledBatches
from pyro_stcn.evaluation import Evaluation, evaluate
from pyro_stcn.ladder import LadderConfig
from pyro_stcn.models import BiLSTMConfig, Evidence, ZForcingConfig
from pyro_stcn.schedules import exponential_decay, kl_weight
from pyro_stcn.tcn import DilatedTCN
from pyro_stcn.training import FitResult, NonFiniteError, TrainingConfig, fit

from .small import BACKBONE, CAUSAL, POINTWISE, small_data, small_stcn

TRAIN, VALID = small_data(50), small_data(12, prefix="v", seed=1)
QUICK = TrainingConfig(steps=8, batch_size=8, evaluate_every=4, kl_increment=0.1, log_every=2)


def run(folder, net=None, *, elbo=None, config=QUICK, train=TRAIN, valid=VALID, **options):
    """Train a small model; returns (net, result)."""
    net = small_stcn() if net is None else net
    options = {"progress": False, **options}
    return net, fit(net, train, valid, elbo=elbo or Trace_ELBO(), config=config, folder=folder, **options)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def state(folder, name="last"):
    """Everything a checkpoint holds, and the logs without their clock."""
    tensors, meta = load_tensors(folder / f"{name}.safetensors")
    logs = [rows(folder / log) for log in ("train.csv", "valid.csv") if (folder / log).exists()]
    for row in logs[0]:
        assert float(row.pop("seconds")) >= 0
    return tensors, meta, logs


def assert_same(ours, theirs):
    (tensors, meta, logs), (other, other_meta, other_logs) = ours, theirs
    assert tensors.keys() == other.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], other[name])] == []
    assert meta == other_meta
    assert logs == other_logs


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()]).clone()


# ------------------------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"elbo": Trace_ELBO()}, "another elbo; different: class"),
        ({"elbo": TraceMeanField_ELBO(num_particles=2)}, "another elbo; different: num_particles"),
        ({"train": small_data(50, seed=7)}, "another data; different: train"),
        ({"valid": small_data(12, prefix="v", seed=7)}, "another data; different: valid"),
        ({"facts": {"unit": "mm"}}, "another facts; different: unit"),
    ],
)
def test_resume_refuses_another_objective_or_other_data(tmp_path, change, named):
    facts = {"facts": {"unit": "cm"}}
    run(tmp_path, elbo=TraceMeanField_ELBO(), **facts)
    with pytest.raises(CheckpointError, match=named):
        run(tmp_path, **({"elbo": TraceMeanField_ELBO(), **facts} | change), resume=True)


def test_a_list_of_arrays_is_refused_with_the_way_to_make_a_dataset(tmp_path):
    arrays = [np.zeros((5, 4), np.float32)] * 3
    with pytest.raises(TypeError, match=r"train is a list, expected named sequences: SequenceDataset\(arrays\)"):
        run(tmp_path, train=arrays)
    with pytest.raises(TypeError, match="dataset is a list, expected named sequences"):
        evaluate(small_stcn(), arrays)


def test_a_model_in_double_precision_trains_and_loads_as_such(tmp_path):
    _, result = run(tmp_path, small_stcn().double())
    again, _ = load_model(result.best)
    assert {p.dtype for p in again.parameters()} == {torch.float64}
    assert evaluate(again, VALID, progress=False).objective.dtype == np.float64


@pytest.mark.parametrize("output", [POINTWISE, CAUSAL])
def test_it_learns(tmp_path, output):
    net = small_stcn(output)
    before = evaluate(net, VALID, progress=False).objective
    config = dataclasses.replace(QUICK, steps=40, learning_rate=1e-2, evaluate_every=40, log_every=1)
    _, result = run(tmp_path, net, config=config)
    after = evaluate(net, VALID, progress=False).objective
    assert (after > before + 5).all()
    assert result.stopped == "all steps made"
    bounds = [float(row["objective"]) for row in rows(tmp_path / "train.csv")]
    assert np.mean(bounds[-10:]) > np.mean(bounds[:10]) + 5


def expected_loss(output, config, analytic):
    """Loss of the first update, from traces alone, with nothing of the loop but its seed."""
    net = small_stcn(output)
    torch.manual_seed(config.seed)
    batch = next(ShuffledBatches(TRAIN, config.batch_size, config.seed))
    args = (batch.x, batch.mask)
    model_trace, guide_trace = get_importance_trace("flat", math.inf, net.model, net.guide, args, {}, detach=False)
    bound = model_trace.nodes["x"]["log_prob"]
    for name in net.latent_names:
        p, q = model_trace.nodes[name], guide_trace.nodes[name]
        kl = kl_divergence(q["fn"], p["fn"]) if analytic else q["log_prob"] - p["log_prob"]
        bound = bound - kl_weight(1, config.kl_increment) * kl
    bound = bound.sum(-1) if net.pointwise else bound
    return -(bound / batch.lengths if config.mean_over_steps else bound).mean(), net


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("mean_over_steps", [True, False])
@pytest.mark.parametrize("output", [POINTWISE, CAUSAL])
def test_loss_and_gradient_are_the_means_that_they_should_be(tmp_path, output, mean_over_steps, elbo):
    config = dataclasses.replace(QUICK, steps=1, mean_over_steps=mean_over_steps, clip_norm=1e6)
    loss, net = expected_loss(output, config, analytic=elbo is TraceMeanField_ELBO)
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in net.parameters()]).item()
    run(tmp_path, small_stcn(output), elbo=elbo(), config=config, valid=None)
    (row,) = rows(tmp_path / "train.csv")
    assert float(row["loss"]) == pytest.approx(loss.item(), rel=1e-5)
    assert float(row["gradient_norm"]) == pytest.approx(norm, rel=1e-4)
    tensors, _ = load_tensors(tmp_path / "last.safetensors")
    for name, p in net.named_parameters():  # the first moment of Adam is a tenth of the gradient
        torch.testing.assert_close(tensors[f"adam.exp_avg.{name}"], 0.1 * p.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("vectorised", [True, False])
def test_renyi_elbo_is_not_tempered_by_the_mean_over_the_batch(tmp_path, vectorised):
    losses = []
    config = dataclasses.replace(QUICK, steps=1, kl_increment=1.0)
    for elbo in (
        RenyiELBO(alpha=0, num_particles=50, vectorize_particles=vectorised),
        IWAE(50, ("sequences", "time"), vectorised),
    ):
        run(tmp_path / type(elbo).__name__, elbo=elbo, config=config, valid=None)
        losses.append(float(rows(tmp_path / type(elbo).__name__ / "train.csv")[0]["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_renyi_elbo_has_no_place_for_the_mean_over_steps(tmp_path):
    with pytest.raises(ValueError, match="use IWAE with mean_over_steps"):
        run(tmp_path, elbo=RenyiELBO(alpha=0, num_particles=2), config=dataclasses.replace(QUICK, mean_over_steps=True))


def test_the_log_says_what_was_done(tmp_path):
    config = dataclasses.replace(
        QUICK, steps=20, log_every=5, evaluate_every=100, decay_rate=0.5, decay_steps=10, kl_increment=0.07
    )
    run(tmp_path, config=config, elbo=TraceMeanField_ELBO())
    log = rows(tmp_path / "train.csv")
    assert [int(row["step"]) for row in log] == [1, 5, 10, 15, 20]
    for row in log:
        values = {key: float(value) for key, value in row.items()}
        step = int(values["step"])
        assert values["learning_rate"] == exponential_decay(step, 1e-3, 0.5, 10)
        assert values["kl_weight"] == kl_weight(step, 0.07)
        assert values["kl"] == pytest.approx(sum(values[f"kl_z{i}"] for i in (1, 2)))
        assert values["objective"] == pytest.approx(values["log_likelihood"] - values["kl"])
        # With the analytic KL the loss holds the same terms.
        assert -values["loss"] == pytest.approx(values["log_likelihood"] - values["kl_weight"] * values["kl"], rel=1e-4)


@pytest.mark.parametrize("elbo", [IWAE(4), IWAE(4, vectorize_particles=False)])
@pytest.mark.parametrize("output", [POINTWISE, CAUSAL])
def test_the_log_is_per_sequence_whatever_the_particles(tmp_path, output, elbo):
    config = dataclasses.replace(QUICK, steps=1)
    run(tmp_path, small_stcn(output), config=config, elbo=elbo, valid=None)
    batch = TRAIN.subset(ShuffledBatches(TRAIN, 8, 0).order(0)[:8])
    result = evaluate(small_stcn(output), batch, particles=200, progress=False)
    (row,) = rows(tmp_path / "train.csv")
    assert float(row["kl"]) == pytest.approx(sum(v.mean() for v in result.kl.values()), rel=0.2)
    assert float(row["log_likelihood"]) == pytest.approx(result.log_likelihood.mean(), rel=0.1)


@pytest.mark.parametrize("clip", [0.5, 1e6])
def test_gradient_is_clipped(tmp_path, clip):
    run(tmp_path, config=dataclasses.replace(QUICK, steps=1, clip_norm=clip), valid=None)
    (row,) = rows(tmp_path / "train.csv")
    norm = float(row["gradient_norm"])
    assert norm > 1, "nothing to clip"
    tensors, _ = load_tensors(tmp_path / "last.safetensors")
    moments = torch.cat([value.flatten() for name, value in tensors.items() if name.startswith("adam.exp_avg.")])
    assert 10 * moments.norm().item() == pytest.approx(min(norm, clip), rel=1e-3)


@pytest.mark.parametrize("tensorflow", [True, False])
def test_tensorflows_epsilon_is_used_where_it_is_asked_for(tmp_path, monkeypatch, tensorflow):
    monkeypatch.setattr(training, "adam_epsilon_hat", lambda update, epsilon: 1e6)  # so large that nothing moves
    net, _ = run(tmp_path, config=dataclasses.replace(QUICK, tensorflow_epsilon=tensorflow))
    assert ((weights(net) - weights(small_stcn())).abs().max() < 1e-6) == tensorflow


def test_blocks_run_in_bfloat16_while_training_and_only_then(tmp_path):
    config = dataclasses.replace(QUICK, bfloat16_blocks=True)
    net, result = run(tmp_path / "mixed", config=config)
    single, _ = run(tmp_path / "single")
    assert 0 < (weights(net) - weights(single)).abs().max() < 0.05
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert all(tcn.autocast_dtype is None for tcn in net.modules() if isinstance(tcn, DilatedTCN))
    best, _ = load_model(result.best)
    assert evaluate(best, VALID, particles=1, progress=False).objective.mean() == result.best_objective, (
        "validated in single precision"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, 0) for name in ("steps", "batch_size", "evaluate_every", "patience", "log_every", "decay_steps")]
    + [
        (name, value)
        for name in ("learning_rate", "decay_rate", "kl_increment", "clip_norm")
        for value in (0, math.nan)
    ],
)
def test_bad_configurations_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be .*not {value}"):
        TrainingConfig(**{name: value})


# ------------------------------------------------------------------------------------------------------------- resuming

# An epoch has 6 batches, the checkpoints are 4 steps apart: 7 is the end of neither.
VARIANTS = {
    "elbo": (POINTWISE, Trace_ELBO, {}),
    "analytic, causal": (CAUSAL, TraceMeanField_ELBO, {"mean_over_steps": True}),
    "graph": (CAUSAL, TraceGraph_ELBO, {"bfloat16_blocks": True}),
    "iwae": (POINTWISE, lambda: IWAE(3, keep=("sequences", "time")), {"tensorflow_epsilon": True}),
    "iwae looped": (CAUSAL, lambda: IWAE(3, vectorize_particles=False), {}),
    "renyi": (CAUSAL, lambda: RenyiELBO(alpha=0, num_particles=3, vectorize_particles=True), {}),
    "renyi looped": (POINTWISE, lambda: RenyiELBO(alpha=0, num_particles=3), {}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_is_the_undisturbed_run(tmp_path, variant):
    output, elbo, options = VARIANTS[variant]
    config = dataclasses.replace(QUICK, **options)
    whole, _ = run(tmp_path / "whole", small_stcn(output), elbo=elbo(), config=config)
    folder = tmp_path / "parts"
    run(folder, small_stcn(output), elbo=elbo(), config=dataclasses.replace(config, steps=7))
    torch.randn(7)
    again = small_stcn(output, seed=5)  # other weights, other random state
    run(folder, again, elbo=elbo(), config=config, resume=True)
    assert torch.equal(weights(again), weights(whole))
    for name in ("last", "best"):
        assert_same(state(folder, name), state(tmp_path / "whole", name))


def test_resuming_with_other_noise_would_be_seen(tmp_path):
    """What the tests of resuming rest on: every draw of noise leaves its mark on the weights."""
    nets = [run(tmp_path / str(seed), config=dataclasses.replace(QUICK, seed=seed))[0] for seed in (0, 1)]
    assert not torch.equal(*map(weights, nets))


def test_validation_does_not_disturb_training(tmp_path):
    with_valid, _ = run(tmp_path / "with", config=dataclasses.replace(QUICK, evaluate_every=3))
    without, result = run(tmp_path / "without", valid=None)
    assert torch.equal(weights(with_valid), weights(without))
    assert (result.best_step, result.best_objective) == (None, None)
    assert result.best == tmp_path / "without" / "last.safetensors"
    assert not (tmp_path / "without" / "valid.csv").exists()


def test_steps_and_patience_may_be_extended_and_nothing_else(tmp_path):
    run(tmp_path)
    _, result = run(tmp_path, config=dataclasses.replace(QUICK, steps=9, patience=3), resume=True)
    assert result.step == 9
    config = dataclasses.replace(QUICK, learning_rate=2e-3, seed=4)
    with pytest.raises(CheckpointError, match="another training; different: learning_rate, seed"):
        run(tmp_path, config=config, resume=True)
    other = small_stcn(ladder=LadderConfig((3, 2), 8), dense=False)
    with pytest.raises(CheckpointError, match="another model; different: ladder, dense"):
        run(tmp_path, other, resume=True)


def test_a_run_is_not_overwritten(tmp_path):
    run(tmp_path)
    before = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="holds a training run already: resume it, or name another folder"):
        run(tmp_path)
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_what_cannot_be_resumed(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        run(tmp_path, resume=True)
    save_model(tmp_path / "last.safetensors", small_stcn())
    with pytest.raises(CheckpointError, match="holds a model but no training run"):
        run(tmp_path, resume=True)
    (tmp_path / "last.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="is not a whole safetensors file"):
        run(tmp_path, resume=True)


def test_facts_stay_with_the_checkpoints(tmp_path):
    facts = {"standardised": {"mean": 0.5, "scale": [1.0, 2.0]}}
    run(tmp_path, facts=facts)
    run(tmp_path, config=dataclasses.replace(QUICK, steps=12), resume=True)
    for name in ("last", "best"):
        assert load_tensors(tmp_path / f"{name}.safetensors")[1]["facts"] == facts


def test_a_log_that_was_cut_short_is_mended(tmp_path):
    """A machine that lost its power may leave the logs behind the checkpoint."""
    config = dataclasses.replace(QUICK, steps=10)
    run(tmp_path / "whole", config=config)
    run(tmp_path / "cut")
    log = tmp_path / "cut" / "train.csv"
    log.write_bytes(log.read_bytes() + b"7,1.5")
    run(tmp_path / "cut", config=config, resume=True)
    assert state(tmp_path / "cut")[2] == state(tmp_path / "whole")[2]


@pytest.mark.parametrize("resume", [True, False])
def test_what_a_killed_run_left_is_cleared(tmp_path, resume):
    if resume:
        run(tmp_path)
    for name in (".last.safetensors.0123abcd", ".train.csv.0123abcd"):
        (tmp_path / name).write_bytes(b"half a file")
    run(tmp_path, config=dataclasses.replace(QUICK, steps=9), resume=resume)
    names = {"train.csv", "valid.csv", "last.safetensors", "best.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == names


# ----------------------------------------------------------------------------------------- a backbone of the user's own


class OwnTCN(DilatedTCN):
    """With a weight that is never used, and one that is not to be learned."""

    def __init__(self, data_dim):
        super().__init__(data_dim, BACKBONE)
        self.unused = torch.nn.Parameter(torch.zeros(3))
        self.frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)


class PlainConfig:
    def build(self, data_dim):
        return OwnTCN(data_dim)


@dataclasses.dataclass(frozen=True)
class FrozenConfig:
    width: int = 8

    def build(self, data_dim):
        return OwnTCN(data_dim)


@pytest.mark.filterwarnings(
    "ignore:backbone.frozen was not registered"
)  # Pyro's remark on weights that are not learned
@pytest.mark.parametrize("config", [PlainConfig, FrozenConfig])
def test_a_backbone_of_ones_own_trains_and_resumes(tmp_path, config):
    whole, _ = run(tmp_path / "whole", small_stcn(backbone=config()))
    run(tmp_path / "parts", small_stcn(backbone=config()), config=dataclasses.replace(QUICK, steps=7))
    again, result = run(tmp_path / "parts", small_stcn(backbone=config(), seed=5), resume=True)
    assert torch.equal(weights(again), weights(whole))
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))
    with pytest.raises(CheckpointError, match="do not make a model"):
        load_model(result.best)


@pytest.mark.filterwarnings("ignore:backbone.frozen was not registered")
def test_a_backbone_of_ones_own_is_not_taken_for_another(tmp_path):
    run(tmp_path, small_stcn(backbone=FrozenConfig()))
    for other in (small_stcn(), small_stcn(backbone=FrozenConfig(width=9))):
        with pytest.raises(CheckpointError, match="another model"):
            run(tmp_path, other, resume=True)


# ------------------------------------------------------------------------------------------------ stopping and the best


def script(monkeypatch, bounds):
    """Replace validation by these bounds; returns the list of (weights at that time, arguments) it was called with."""
    calls = []

    def scripted(net, dataset, **options):
        calls.append((weights(net), options))
        value = np.array([bounds[len(calls) - 1]])
        one = np.array([1])
        return Evaluation(
            names=("v",),
            lengths=one,
            scored=one,
            data_dim=1,
            particles=1,
            evidence=Evidence.LOWER_BOUND,
            log_likelihood=value,
            kl={"z1": np.zeros(1)},
            iwae=value,
            iwae_per_step=None,
            effective=one,
            khat=one,
        )

    monkeypatch.setattr(training, "evaluate", scripted)
    return calls


@pytest.mark.parametrize(
    ("increment", "bounds", "stop"),
    [
        (1.0, [5, 4, 3, 9, 9], 6),  # two misses
        (1.0, [5, 4, 6, 5, 4, 9], 10),  # a new best starts the count afresh
        (1.0, [5, 5, 5, 9], 6),  # as good is not better
        (0.125, [5, 4, 3, 2, 1, 9, 9], 10),  # annealed at step 8: misses before do not count
        (0.1, [5, 4, 3, 2, 1, 0, 9], 12),  # annealed at step 10
        (0.01, [5, 4, 3, 2, 1, 0, -1], 14),  # never
    ],
)
def test_early_stopping_counts_misses_once_annealing_has_ended(tmp_path, monkeypatch, increment, bounds, stop):
    calls = script(monkeypatch, bounds)
    config = dataclasses.replace(QUICK, steps=14, evaluate_every=2, patience=2, kl_increment=increment)
    _, result = run(tmp_path, config=config)
    assert result.step == stop
    assert result.stopped == ("all steps made" if stop == 14 else "no better validation for 2 validations")
    assert len(calls) == stop // 2
    assert len({options["seed"] for _, options in calls}) == 1, "the same noise every time"


def test_stopped_by_patience_stays_stopped(tmp_path, monkeypatch):
    script(monkeypatch, [5, 4, 3, 2])
    config = dataclasses.replace(QUICK, steps=14, evaluate_every=2, patience=2, kl_increment=1.0)
    run(tmp_path, config=config)
    assert run(tmp_path, config=config, resume=True)[1].step == 6
    assert run(tmp_path, config=dataclasses.replace(config, patience=3), resume=True)[1].step == 8


def test_the_best_checkpoint_holds_the_best_weights(tmp_path, monkeypatch):
    calls = script(monkeypatch, [1, 7, 3, 4])
    net, result = run(tmp_path, config=dataclasses.replace(QUICK, steps=16))
    assert (result.best_step, result.best_objective) == (8, 7)
    best, meta = load_model(result.best)
    assert torch.equal(weights(best), calls[1][0])
    assert not torch.equal(weights(best), weights(net))
    assert (meta["step"], meta["best_step"], meta["best_objective"], meta["misses"]) == (8, 8, 7, 0)
    assert torch.equal(weights(load_model(tmp_path / "last.safetensors")[0]), weights(net))
    log = [(row["step"], float(row["objective"])) for row in rows(tmp_path / "valid.csv")]
    assert log == [("4", 1), ("8", 7), ("12", 3), ("16", 4)]


def test_validation_is_the_bound_at_full_kl_weight(tmp_path):
    net, _ = run(tmp_path, config=dataclasses.replace(QUICK, kl_increment=1e-4))
    result = evaluate(net, VALID, particles=1, seed=QUICK.seed, progress=False)
    row = rows(tmp_path / "valid.csv")[-1]
    assert float(row["objective"]) == result.objective.mean()
    assert float(row["standard_error"]) == pytest.approx(result.objective.std(ddof=1) / math.sqrt(len(VALID)))
    assert float(row["kl_z1"]) == result.kl["z1"].mean()


# ---------------------------------------------------------------------------------------------------- signals and kills


class Signalling(Trace_ELBO):
    """Sends signals to this process in the middle of the update with that number."""

    def __init__(self, update, *signals):
        super().__init__()
        self.left, self.signals = update, signals

    def loss_and_grads(self, *args, **kwargs):
        self.left -= 1
        if self.left == 0:
            for number in self.signals:
                signal.raise_signal(number)
        return super().loss_and_grads(*args, **kwargs)


Signalling.__name__ = "Trace_ELBO"  # to a checkpoint it is the same objective


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_update_and_writes_a_checkpoint(tmp_path, number):
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    whole, _ = run(tmp_path / "whole")
    _, result = run(tmp_path / "parts", elbo=Signalling(7, number))
    assert (result.step, result.stopped) == (7, f"stopped by {number.name}")
    assert load_tensors(tmp_path / "parts" / "last.safetensors")[1]["step"] == 7
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    again, _ = run(tmp_path / "parts", resume=True)
    assert torch.equal(weights(again), weights(whole))
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))


def test_a_second_signal_kills(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in a job in the background it may be off
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, elbo=Signalling(7, signal.SIGINT, signal.SIGINT))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_before_the_first_update(tmp_path, monkeypatch):
    whole, _ = run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(training, "tqdm", lambda **options: signal.raise_signal(signal.SIGTERM) or bar(**options))
        assert run(tmp_path / "parts")[1].step == 0
    again, _ = run(tmp_path / "parts", resume=True)
    assert torch.equal(weights(again), weights(whole))


bar = training.tqdm


def test_outside_the_main_thread_it_trains_without_handlers(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(run(tmp_path)[1]))
    thread.start()
    thread.join()
    assert results[0].step == QUICK.steps


CRASHING = dataclasses.replace(QUICK, steps=25, evaluate_every=2)


def train_or_resume(folder):
    """Run in another process, to be killed."""
    torch.set_num_threads(1)
    run(folder, config=CRASHING, resume=(folder / "last.safetensors").exists())


def digest(folder):
    """SHA-256 of everything that a run leaves, but the times."""
    sha = hashlib.sha256()
    for name in ("last", "best"):
        tensors, meta, logs = state(folder, name)
        for key in sorted(tensors):
            sha.update(key.encode() + tensors[key].flatten().view(torch.uint8).numpy().tobytes())
        sha.update(repr((meta, logs)).encode())
    return sha.hexdigest()


def survives_kills(tmp_path, kills, seed):
    """Kill a run again and again at random instants, each time resuming it, and compare it with an undisturbed run."""
    context = multiprocessing.get_context("forkserver")  # imports once, and forks a clean process for every start
    context.set_forkserver_preload([__name__, "torch._dynamo"])  # the latter is what the first optimiser imports
    whole, folder, rng = tmp_path / "whole", tmp_path / "killed", random.Random(seed)

    def start(folder):
        folder.mkdir(exist_ok=True)
        process = context.Process(target=train_or_resume, args=(folder,))
        process.start()
        return process

    process = start(whole)
    process.join()
    assert process.exitcode == 0
    # All waits together are shorter than the run, so that every kill finds it alive.
    longest = 0.8 / kills * sum(float(row["seconds"]) for row in rows(whole / "train.csv"))
    for _ in range(kills):
        before = written(folder)
        process = start(folder)
        while process.is_alive() and written(folder) == before:  # until then there is nothing to destroy
            time.sleep(0.002)
        time.sleep(rng.uniform(0, longest))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        for path in folder.glob("*.safetensors"):
            load_tensors(path)  # whatever is there is whole
    process = start(folder)
    process.join()
    assert process.exitcode == 0
    assert digest(folder) == digest(whole)
    assert not list(folder.glob(".*")), "left-overs"


def written(folder):
    return {path: path.stat().st_mtime_ns for path in folder.glob("*.csv")}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX")
def test_kill_9_and_resume(tmp_path):
    survives_kills(tmp_path, kills=3, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_kill_9_and_resume_again_and_again(tmp_path, seed):
    survives_kills(tmp_path, kills=5, seed=seed)


# -------------------------------------------------------------------------------------------------- numbers gone astray


def message_and_notes(error):
    return "\n".join([str(error.value), *getattr(error.value, "__notes__", [])])


def batch_names(step, config=QUICK):
    stream = ShuffledBatches(TRAIN, config.batch_size, config.seed)
    return [next(stream).names for _ in range(step)][-1]


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("validate", [True, False])
def test_a_huge_learning_rate_is_stopped_where_it_breaks(tmp_path, validate):
    config = dataclasses.replace(QUICK, learning_rate=1e30)
    net = small_stcn()
    with pyro.validation_enabled(validate), pytest.raises(NonFiniteError) as error:
        run(tmp_path / "a", net, config=config)
    assert "at step 2, in the batch of" in message_and_notes(error)
    assert ", ".join(batch_names(2)) in message_and_notes(error)
    one_step, _ = run(tmp_path / "b", config=dataclasses.replace(config, steps=1), valid=None)
    assert torch.equal(weights(net), weights(one_step)), "the weights are those before the step"


class Poisoned(Trace_ELBO):
    """Returns this loss, or leaves this gradient, at the third update."""

    def __init__(self, loss=None, gradient=None):
        super().__init__()
        self.calls, self.planted, self.gradient = 0, loss, gradient

    def loss_and_grads(self, model, guide, *args, **kwargs):
        loss = super().loss_and_grads(model, guide, *args, **kwargs)
        self.calls += 1
        if self.calls == 3 and self.gradient is not None:
            next(guide.net.parameters()).grad.view(-1)[0] = self.gradient
        return self.planted if self.calls == 3 and self.planted is not None else loss


@pytest.mark.parametrize(
    "planted", [{"loss": math.nan}, {"loss": math.inf}, {"gradient": math.nan}, {"gradient": -math.inf}]
)
def test_a_planted_non_finite_number_is_named_and_changes_no_weight(tmp_path, planted):
    net = small_stcn()
    with pytest.raises(NonFiniteError, match="at step 3, in the batch of") as error:
        run(tmp_path / "a", net, elbo=Poisoned(**planted))
    assert ", ".join(batch_names(3)) in str(error.value)
    two_steps, _ = run(tmp_path / "b", config=dataclasses.replace(QUICK, steps=2), valid=None)
    assert torch.equal(weights(net), weights(two_steps))
    assert not (tmp_path / "a" / "last.safetensors").exists(), "no checkpoint of a run that went wrong"


def test_weights_that_are_not_finite_are_named(tmp_path):
    net = small_stcn()
    net.observation.loc.bias.data[0] = math.nan
    with pytest.raises(NonFiniteError, match="invalid") as error:
        run(tmp_path, net)
    assert "at step 1" in message_and_notes(error)


def test_the_folder_may_be_a_string_in_a_folder_to_be_made(tmp_path):
    _, result = run(str(tmp_path / "new" / "run"), config=dataclasses.replace(QUICK, steps=1), valid=None)
    assert result.folder == Path(tmp_path / "new" / "run")
    assert result.best.exists()


# ------------------------------------------------------------------------ the training-only term, Adam's epsilon, times


def small_zforcing():
    pyro.set_rng_seed(1)
    return ZForcingConfig(4, 2, 6, 5, 8).build()


def test_the_weights_of_a_step():
    config = TrainingConfig(
        kl_start=0.2, kl_increment=0.1, auxiliary_start=1.0, auxiliary_end=0.4, auxiliary_increment=0.25
    )
    assert [config.kl_weight(step) for step in (1, 5, 8, 100)] == pytest.approx([0.3, 0.7, 1.0, 1.0])
    assert [config.auxiliary_weight(step) for step in (1, 2, 3, 100)] == pytest.approx([0.75, 0.5, 0.4, 0.4])
    rising = TrainingConfig(auxiliary_start=0.0, auxiliary_end=0.5, auxiliary_increment=0.2)
    assert [rising.auxiliary_weight(step) for step in (1, 2, 3)] == pytest.approx([0.2, 0.4, 0.5])
    default = TrainingConfig()
    assert [default.auxiliary_weight(step) for step in (1, 10**6)] == [1.0, 1.0]
    assert [default.kl_weight(step) for step in (1, 10**6)] == [1e-4, 1.0]


@pytest.mark.parametrize(
    "name", ["auxiliary_increment", "adam_epsilon", "auxiliary_start", "auxiliary_end", "kl_start"]
)
@pytest.mark.parametrize("value", [-0.1, math.nan])
def test_bad_weights_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must .*{value}"):
        TrainingConfig(**{name: value})


def test_training_has_the_weighted_term_and_the_log_the_term_itself(tmp_path):
    """As the loss and the log say, from the model alone; the weight is that of the update."""
    weight = {"auxiliary_start": 1.0, "auxiliary_end": 0.5, "auxiliary_increment": 0.3}
    config = dataclasses.replace(QUICK, steps=1, **weight)
    net = small_zforcing().train()
    torch.manual_seed(config.seed)
    batch = next(ShuffledBatches(TRAIN, config.batch_size, config.seed))
    loss = TraceMeanField_ELBO().loss(net.model, net.guide, batch.x, batch.mask, 0.1, 0.7) / len(batch)
    term = net.guide.get_traces()[0].nodes["auxiliary"]["fn"].log_factor.sum().item() / len(batch)
    run(tmp_path, small_zforcing(), elbo=TraceMeanField_ELBO(), config=config, valid=None)
    (row,) = rows(tmp_path / "train.csv")
    assert float(row["loss"]) == pytest.approx(loss, rel=1e-5)
    assert float(row["auxiliary"]) == pytest.approx(term, rel=1e-5)
    assert float(row["loss"]) == pytest.approx(0.1 * float(row["kl"]) - float(row["log_likelihood"]) - term, rel=1e-5)
    assert float(row["objective"]) == pytest.approx(float(row["log_likelihood"]) - float(row["kl"]), rel=1e-5)


@pytest.mark.parametrize("given", [True, False])
def test_the_auxiliary_network_is_trained_while_the_term_has_a_weight(tmp_path, given):
    weight = {"auxiliary_start": float(given), "auxiliary_end": float(given)}
    net, _ = run(tmp_path, small_zforcing(), config=dataclasses.replace(QUICK, **weight))
    same = [torch.equal(p, q) for p, q in zip(net.parameters(), small_zforcing().parameters(), strict=True)]
    named = dict(zip((name for name, _ in net.named_parameters()), same, strict=True))
    auxiliary = {name for name in named if name.startswith("auxiliary_net.")}
    assert auxiliary
    assert {name for name, unmoved in named.items() if unmoved} == (set() if given else auxiliary)


@pytest.mark.parametrize("elbo", [Trace_ELBO(), IWAE(3, max_plate_nesting=1), IWAE(3, vectorize_particles=False)])
def test_the_term_is_logged_also_when_its_weight_has_come_down(tmp_path, elbo):
    weight = {"auxiliary_start": 1.0, "auxiliary_end": 0.0, "auxiliary_increment": 0.25}
    pyro.set_rng_seed(1)
    net = BiLSTMConfig(4, 2, 6, 8).build()
    batch, terms = next(ShuffledBatches(TRAIN, QUICK.batch_size, QUICK.seed)), []
    for _ in range(20):
        net.guide(batch.x, batch.mask, 1.0, 0.75)
        terms.append(net.guide.get_traces()[0].nodes["auxiliary"]["fn"].log_factor.detach())
    expected = torch.stack(terms).mean().item()
    run(tmp_path, net, elbo=elbo, config=dataclasses.replace(QUICK, steps=6, log_every=1, **weight))
    log = [float(row["auxiliary"]) for row in rows(tmp_path / "train.csv")]
    assert [value != 0 for value in log] == [True] * 3 + [False] * 3
    assert log[0] == pytest.approx(expected, rel=0.1), "per sequence and particle"


def test_a_model_without_such_a_term_has_no_such_column(tmp_path):
    run(tmp_path, config=dataclasses.replace(QUICK, steps=1), valid=None)
    assert "auxiliary" not in rows(tmp_path / "train.csv")[0]


def test_adams_epsilon_is_the_configurations(tmp_path):
    """So large that it decides: a first step of lr * g / (|g| + epsilon)."""
    config = dataclasses.replace(QUICK, steps=1, adam_epsilon=1e6, clip_norm=math.inf, learning_rate=1e3)
    net, _ = run(tmp_path, config=config, valid=None)
    tensors, _ = load_tensors(tmp_path / "last.safetensors")
    lr = exponential_decay(1, 1e3, config.decay_rate, config.decay_steps)
    for (name, after), before in zip(net.named_parameters(), small_stcn().parameters(), strict=True):
        gradient = 10 * tensors[f"adam.exp_avg.{name}"]
        torch.testing.assert_close(after - before, -lr * gradient / (gradient.abs() + 1e6), rtol=1e-3, atol=1e-6)
    assert (weights(net) - weights(small_stcn())).abs().max() > 1e-3


def write_log(folder, *lines):
    (folder / "train.csv").write_text("\n".join(["step,loss,seconds", *lines]) + "\n")
    return FitResult(40, None, None, "all steps made", False, folder)


def test_seconds_per_step_are_the_median_of_the_log(tmp_path):
    """Without the first row, which has the start of the run in it."""
    log = ["1,0.5,900.0", "10,0.5,22.5", "20,0.5,30.0", "30,0.5,10.0", "35,0.5,10.0", "45,0.5,700.0"]
    assert write_log(tmp_path, *log).seconds_per_step() == 2.5
    log[1] = "10,0.5,18.0"
    assert write_log(tmp_path, *log[:4]).seconds_per_step() == 2.0


@pytest.mark.parametrize("log", [[], ["1,0.5,900.0"]])
def test_without_rows_the_time_of_a_step_is_not_a_number(tmp_path, log):
    assert math.isnan(write_log(tmp_path, *log).seconds_per_step())


def test_raw_data_are_trained_on_with_a_warning(tmp_path):
    raw = SequenceDataset(tuple(500 * array for array in TRAIN.sequences), TRAIN.names)
    with pytest.warns(UserWarning, match="scale the data to about 1 first"):
        run(tmp_path / "raw", train=raw, config=dataclasses.replace(QUICK, steps=1))
