"""The training loop: any sequence model, any Pyro ELBO, a torch optimiser."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.infer import ELBO, RenyiELBO
from tqdm import tqdm

from .checkpoint import CheckpointError, load_tensors, load_weights, model_tensors, save_tensors
from .configs import config_to_dict
from .data.batch import SequenceBatch, Sequences, ShuffledBatches, check_is_dataset
from .data.checks import remark_on_scale
from .data.prefetch import PrefetchedBatches
from .diagnostics import kl_by_layer
from .discrete import check_values
from .evaluation import Evaluation, Statistic, evaluate
from .interrupts import deferred_interrupts
from .logs import append_row, keep_rows_up_to
from .models import SequenceModel
from .schedules import adam_epsilon_hat, exponential_decay
from .tcn import DilatedTCN
from .training_config import TrainingConfig

__all__ = ["FitResult", "NonFiniteError", "TrainingConfig", "describe_elbo", "fit"]


class NonFiniteError(ArithmeticError):
    """The loss or its gradient is not finite; the message says at which step and for which sequences."""


@dataclass(frozen=True)
class FitResult:
    """What came of training.

    :param step: updates made.
    :param best_step: the one after which the validation was best.
    :param best_objective: its objective (the ELBO, where the model gives one), nats per sequence; None without one.
    :param stopped: why it ended.
    :param interrupted: whether a signal asked for it; resuming goes on.
    :param folder: where the log and the checkpoints are.
    """

    step: int
    best_step: int | None
    best_objective: float | None
    stopped: str
    interrupted: bool
    folder: Path

    @property
    def best(self) -> Path:
        """The checkpoint of the best validation, or the last one without validation data."""
        return self.folder / ("last.safetensors" if self.best_step is None else "best.safetensors")

    def seconds_per_step(self) -> float:
        """Return the median time of an update, from the log; nan where fewer than ``log_every`` were made."""
        with open(self.folder / "train.csv", newline="") as file:
            rows = [(int(row["step"]), float(row["seconds"])) for row in csv.DictReader(file)]
        # A row holds the time since the one before; the first has the start of the run in it.
        times = [seconds / (step - before) for (before, _), (step, seconds) in pairwise(rows)]
        return float(np.median(times)) if times else math.nan

    def __str__(self) -> str:
        best = "no validation was made (there is one every ``evaluate_every`` steps)"
        if self.best_objective is not None:
            best = f"best validation objective {self.best_objective:.1f} nats per sequence, after step {self.best_step}"
        return f"{self.step} steps, {self.stopped}; {best}"


def fit(
    net: SequenceModel,
    train: Sequences,
    valid: Sequences | None = None,
    *,
    elbo: ELBO,
    config: TrainingConfig,
    folder: str | Path,
    resume: bool = False,
    facts: dict[str, Any] | None = None,
    workers: int = 0,
    progress: bool = True,
) -> FitResult:
    """Train ``net`` by minimising ``elbo``.

    Writes into ``folder``: ``train.csv`` and ``valid.csv`` (one row per logged update and per validation, nats per
    sequence), ``last.safetensors`` (everything needed to go on) and ``best.safetensors`` (the same, of the best
    validation). With ``resume`` it goes on from ``last.safetensors`` and does exactly what the uninterrupted run
    would have done: bit for bit on the CPU, on a GPU as far as its kernels are deterministic. Ctrl-C and SIGTERM
    finish the current update, write the checkpoint and return.

    :param valid: data for validation and early stopping: one draw at KL weight 1, with the same noise every
        time.
    :param elbo: ``Trace_ELBO``, ``TraceMeanField_ELBO``, ``TraceGraph_ELBO``, ``RenyiELBO``, ``IWAE``, ``DReG``,
        ``FreeBits`` or, for models that have a particle filter, ``FIVO``.
    :param facts: JSON-able facts to keep with the checkpoints, for instance how the data were standardised.
    :param workers: processes that read batches ahead, for streamed data; with any number of them the run is the same.
    :raises ValueError: for ``RenyiELBO`` with ``mean_over_steps``: it has no place for a weight per sequence.
    :warns UserWarning: where the data are far from unit scale.
    :raises DataError: for data that the head has no probability for, such as 0.3 for a bit.
    :raises NonFiniteError: when the loss or gradient is not finite; the weights are those before that update.
    :raises FileExistsError: when the folder holds another run and ``resume`` is False.
    :raises CheckpointError: when the checkpoint is damaged, or was written with another model, configuration,
        objective, data or device.
    """
    run = _Run(net, train, valid, elbo, config, Path(folder), facts or {}, workers)
    run.resume() if resume else run.begin()
    with deferred_interrupts() as stopping, run.blocks_in_bfloat16(), closing(run.batches):
        bar = tqdm(
            total=config.steps,
            initial=run.step,
            desc="training",
            unit="step",
            disable=None if progress else True,
            smoothing=0.1,
        )
        with bar:
            while run.step < config.steps and run.misses < config.patience and not stopping:
                row = run.update()
                bar.update()
                if row:
                    bar.set_postfix_str(
                        f"objective {row['objective']:.1f}, KL {row['kl']:.1f} (weight {row['kl_weight']:.3g})"
                    )
                if valid is not None and run.step % config.evaluate_every == 0:
                    run.validate(evaluate(net, valid, particles=1, seed=config.seed, progress=False))
                if run.step % config.evaluate_every == 0:
                    run.save("last")
                    run.clock = time.perf_counter()  # "seconds" in the log is for updates alone
            run.save("last")
    net.guide.release()
    if stopping:
        reason = f"stopped by {stopping[0]}"
    elif run.step < config.steps:
        reason = f"no better validation for {config.patience} validations"
    else:
        reason = "all steps made"
    return FitResult(run.step, run.best_step, run.best_objective, reason, bool(stopping), run.folder)


def check_blocks(net: SequenceModel, config: TrainingConfig) -> None:
    """Refuse bfloat16 for a model that has nothing to run in it.

    :raises ValueError: naming the option.
    """
    if config.bfloat16_blocks and not _convolution_blocks(net):
        raise ValueError("bfloat16_blocks (--bfloat16) is for convolution blocks, and this model has none")


def _convolution_blocks(net: SequenceModel) -> list[DilatedTCN]:
    return [module for module in net.modules() if isinstance(module, DilatedTCN)]


class _Run:
    """The state of a training run, and the verbs that change it."""

    def __init__(
        self,
        net: SequenceModel,
        train: Sequences,
        valid: Sequences | None,
        elbo: ELBO,
        config: TrainingConfig,
        folder: Path,
        facts: dict[str, Any],
        workers: int,
    ):
        if config.mean_over_steps and isinstance(elbo, RenyiELBO):
            raise ValueError("RenyiELBO would take 1 / steps into its logarithm: use IWAE with mean_over_steps")
        check_blocks(net, config)
        for part, data in (("train", train), ("valid", valid)):
            check_is_dataset(part, data)
        for data in (train, valid):
            if data is not None:
                check_values(net.config.observation, data)
        self.net, self.config, self.folder, self.facts = net, config, folder, facts
        self.elbo: Any = elbo  # the base class of all ELBOs does not declare their methods
        first = next(net.parameters())
        self.device, self.dtype = first.device, first.dtype
        # What has to be the same for a resumed run to be the undisturbed one.
        self.identity = {
            "model": _config_of(net),
            "training": dataclasses.asdict(config),
            "elbo": describe_elbo(elbo),
            "data": {"train": train.digest(), "valid": None if valid is None else valid.digest()},
            "machine": {"device": self.device.type, "dtype": str(self.dtype)},
        }
        self.batches = (
            PrefetchedBatches(train, config.batch_size, config.seed, workers=workers)
            if workers
            else ShuffledBatches(train, config.batch_size, config.seed)
        )
        self.optimiser = torch.optim.Adam(net.parameters(), lr=config.learning_rate, fused=True)
        self.step = 0
        self.misses = 0
        self.best_objective: float | None = None
        self.best_step: int | None = None
        self.clock = time.perf_counter()

    # ----------------------------------------------------------------------------------------------------- one update

    def update(self) -> dict[str, float] | None:
        """Make one update; returns the row that was logged, if any."""
        step, c = self.step + 1, self.config
        batch = next(self.batches).to(self.device, self.dtype)
        weight = c.kl_weight(step)
        lr = exponential_decay(step, c.learning_rate, c.decay_rate, c.decay_steps)
        self.optimiser.param_groups[0].update(
            lr=lr, eps=adam_epsilon_hat(step, c.adam_epsilon) if c.tensorflow_epsilon else c.adam_epsilon
        )
        self.optimiser.zero_grad()
        self.net.train()
        self.net.guide.release()  # the last update's tensors, and a trace that this one may not write anew
        extra = {"auxiliary_weight": c.auxiliary_weight(step)} if self.net.has_training_term else {}
        try:
            # The ELBO itself runs the pair and goes backward: not every ELBO of Pyro has a differentiable_loss.
            with self._weight_of_sequences(batch):
                loss = self.elbo.loss_and_grads(self.net.model, self.net.guide, batch.x, batch.mask, weight, **extra)
        except ValueError as error:
            if "invalid values" in str(error):  # Pyro's validation met a NaN before the loss did
                raise NonFiniteError(f"{self._where(step, batch)} {error}") from error
            error.add_note(self._where(step, batch))
            raise
        # The mean over the batch is taken here: as a scale of the sites it would get into the logarithm of RenyiELBO.
        loss /= len(batch)
        for parameter in self.optimiser.param_groups[0]["params"]:
            if parameter.grad is not None:
                parameter.grad /= len(batch)
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), c.clip_norm).item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NonFiniteError(f"loss {loss}, norm of its gradient {norm}: {self._where(step, batch)}")
        self.optimiser.step()
        self.step = step
        if step % c.log_every == 0 or step == 1:
            return self._log(loss, norm, lr, weight, batch)
        return None

    def _weight_of_sequences(self, batch: SequenceBatch) -> AbstractContextManager:
        """Let a sequence count with the sum over its scored steps, or with their mean."""
        if not self.config.mean_over_steps:
            return nullcontext()
        scored = batch.mask if self.net.scores_first_step else batch.mask[:, 1:]
        weights = 1 / scored.sum(1).clamp(min=1).to(batch.x.dtype)
        return poutine.scale(scale=weights.reshape(-1, *[1] * (-self.net.sequence_dim - 1)))

    def _where(self, step: int, batch: SequenceBatch) -> str:
        return (
            f"at step {step}, in the batch of {', '.join(batch.names)}. The weights are those before this step. "
            "Look at these sequences (silence, outliers, scaling), or lower the learning rate."
        )

    @torch.no_grad()
    def _log(self, loss: float, norm: float, lr: float, weight: float, batch: SequenceBatch) -> dict[str, float]:
        if not self.net.guide.trace.nodes:  # a particle filter runs the model step by step and leaves no trace
            with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                self.net.guide(batch.x, batch.mask)
        model_trace, guide_trace = self.net.guide.get_traces()
        per_sequence = 1 / len(batch)
        kl = {
            f"kl_{k}": v.sum().item() for k, v in kl_by_layer(model_trace, guide_trace, self.net.latent_names).items()
        }
        observed = model_trace.nodes["x"]
        draws = observed["fn"].batch_shape.numel() / batch.mask.shape[: -self.net.sequence_dim].numel()
        log_lik = observed["fn"].log_prob(observed["value"]).sum().item() * per_sequence / draws
        kl = {name: value * per_sequence / draws for name, value in kl.items()}
        seconds, self.clock = time.perf_counter() - self.clock, time.perf_counter()
        row = {"step": self.step, "loss": loss, "objective": log_lik - sum(kl.values()), "log_likelihood": log_lik}
        if self.net.has_training_term:  # its weight can have come down to 0: then there is no such site
            site = model_trace.nodes.get("auxiliary")
            row["auxiliary"] = site["fn"].log_factor.sum().item() * per_sequence / draws if site else 0.0
        row |= {
            "kl": sum(kl.values()),
            **kl,
            "kl_weight": weight,
            "learning_rate": lr,
            "gradient_norm": norm,
            "seconds": seconds,
        }
        append_row(self.folder / "train.csv", row)
        return row

    def validate(self, result: Evaluation) -> None:
        """Log a validation, keep the best, and count the misses once annealing has ended."""
        bound = Statistic.of(result.objective)
        row = {
            "step": self.step,
            "objective": bound.mean,
            "standard_error": bound.standard_error,
            "sequences": bound.count,
        }
        row |= {f"kl_{name}": float(value.mean()) for name, value in result.kl.items()}
        append_row(self.folder / "valid.csv", row)
        annealed = self.config.kl_weight(self.step) == 1
        if self.best_objective is None or bound.mean > self.best_objective:
            self.best_objective, self.best_step, self.misses = bound.mean, self.step, 0
            self.save("best")
        elif annealed:
            self.misses += 1

    @contextmanager
    def blocks_in_bfloat16(self) -> Iterator[None]:
        """Set the type of the convolution blocks for the time of training."""
        tcns = _convolution_blocks(self.net)
        for tcn in tcns:
            tcn.autocast_dtype = torch.bfloat16 if self.config.bfloat16_blocks else None
        try:
            yield
        finally:
            for tcn in tcns:
                tcn.autocast_dtype = None

    # ------------------------------------------------------------------------------------------- beginning and resuming

    def begin(self) -> None:
        """Start a new run in an empty folder."""
        if (self.folder / "last.safetensors").exists():
            raise FileExistsError(f"{self.folder} holds a training run already: resume it, or name another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("train.csv", "valid.csv"):
            (self.folder / name).unlink(missing_ok=True)
        self._clear_left_overs()
        train = self.batches.dataset
        some = range(0, len(train), -(-len(train) // 50))  # of streamed data each has to be read
        if remark := remark_on_scale(train.seen(i) for i in some):
            warnings.warn(remark, stacklevel=3)
        torch.manual_seed(self.config.seed)
        self._settle_elbo()

    def resume(self) -> None:
        """Put everything back as it was when ``last.safetensors`` was written."""
        path = self.folder / "last.safetensors"
        tensors, meta = load_tensors(path)
        self._check_same(path, meta)
        self._settle_elbo()
        load_weights(self.net, tensors)
        for name, parameter in self.net.named_parameters():
            if f"adam.step.{name}" in tensors:  # a parameter that never had a gradient has no moments
                moments = {key: tensors[f"adam.{key}.{name}"] for key in ("exp_avg", "exp_avg_sq", "step")}
                self.optimiser.state[parameter] = {key: value.to(self.device) for key, value in moments.items()}
        self.batches.load_state_dict(meta["batches"])
        self.step, self.misses = meta["step"], meta["misses"]
        self.best_objective, self.best_step = meta["best_objective"], meta["best_step"]
        self.facts = self.facts or meta["facts"]
        torch.set_rng_state(tensors["rng.cpu"])
        if "rng.cuda" in tensors and self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.device)
        for name in ("train.csv", "valid.csv"):
            keep_rows_up_to(self.folder / name, self.step)
        self._clear_left_overs()

    def save(self, name: str) -> None:
        """Write ``name``.safetensors: weights, moments of Adam, place in the data, random state."""
        tensors = model_tensors(self.net)
        for parameter_name, parameter in self.net.named_parameters():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"adam.{key}.{parameter_name}"] = value
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        meta = {
            **self.identity,
            "step": self.step,
            "misses": self.misses,
            "best_objective": self.best_objective,
            "best_step": self.best_step,
            "batches": self.batches.state_dict(),
            "facts": self.facts,
        }
        save_tensors(self.folder / f"{name}.safetensors", tensors, meta)

    def _clear_left_overs(self) -> None:
        """Remove the half-written files of a run that was killed."""
        for pattern in (".*.safetensors.*", ".*.csv.*"):  # of whole_files
            for path in self.folder.glob(pattern):
                path.unlink()

    def _check_same(self, path: Path, meta: dict[str, Any]) -> None:
        if "training" not in meta:
            raise CheckpointError(f"{path} holds a model but no training run, and cannot be resumed")
        ours, theirs = dict(self.identity), {part: meta.get(part) for part in self.identity}
        if self.facts:
            ours["facts"], theirs["facts"] = self.facts, meta["facts"]
        may_change = {name: meta["training"][name] for name in ("steps", "patience")}
        ours["training"] = ours["training"] | may_change
        for part, value in json.loads(json.dumps(ours)).items():
            if value != theirs[part]:
                comparable = isinstance(value, dict) and isinstance(theirs[part], dict)
                names = [k for k in value if value[k] != theirs[part].get(k)] if comparable else [part]
                raise CheckpointError(
                    f"{path} was written with another {part}; different: {', '.join(names)}. To start from its weights "
                    "instead of resuming, use load_model and a new folder"
                )

    def _settle_elbo(self) -> None:
        """Let an ELBO that counts the model's plates by running it do so now, outside the random stream of training."""
        if self.elbo.vectorize_particles and self.elbo.max_plate_nesting == math.inf:
            batch = next(ShuffledBatches(self.batches.dataset, 1, 0)).to(self.device, self.dtype)
            with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                self.elbo.loss(self.net.model, self.net.guide, batch.x, batch.mask)


def _config_of(net: SequenceModel) -> Any:
    try:
        return config_to_dict(net.config)
    except TypeError:
        # A backbone of the user's own: the run can be resumed, the file alone cannot rebuild the model. The address of
        # an object is another in the next process.
        return re.sub(r" at 0x[0-9a-f]+", "", repr(net.config))


def describe_elbo(elbo: ELBO) -> dict[str, Any]:
    """Return the class of an objective and the settings that decide what it computes, JSON-able."""
    known = ("num_particles", "floor", "vectorize_particles", "alpha", "keep", "threshold", "resample")
    settings = {name: getattr(elbo, name) for name in known if hasattr(elbo, name)}
    settings = {name: getattr(value, "__name__", value) for name, value in settings.items()}
    return {"class": type(elbo).__name__} | settings
