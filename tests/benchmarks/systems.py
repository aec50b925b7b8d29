"""Parameters and time of a training step of presets, on real batches, as ratios taken side by side in one run.

python tests/benchmarks/systems.py --data /path/to/corpora --size small --rounds 7
python tests/benchmarks/systems.py --data /path/to/corpora --size paper

The corpora are those of PYRO_STCN_DATA: speech from timit_sample, pen strokes from gw_online. A step is forward,
backward, clipping and Adam with TraceMeanField_ELBO on one batch of the preset's size. In each round every preset takes
one step, in turn; reported are medians over rounds, after one step that is not counted (with one round, the first is).
Batches that a preset's corpus would have and this machine has not (Blizzard, IAM-OnDB, Deepwriting) are cut from these
two: the same channels, for speech the same 40 steps, for handwriting words instead of lines.
"""

from __future__ import annotations

import gc
import itertools
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyro
import torch
import tyro
from pyro.infer import TraceMeanField_ELBO

from pyro_stcn.data import SequenceBatch, SequenceDataset, ShuffledBatches, load_strokes, load_timit
from pyro_stcn.presets import PRESETS, Preset


@dataclass
class Args:
    """Time a training step of presets."""

    data: Path | None = None
    """Folder of the corpora; default: the environment variable PYRO_STCN_DATA."""
    size: Literal["small", "paper"] = "small"
    """The presets for two cores, or all rows of the paper's tables."""
    rounds: int = 1
    """Steps of every preset that are counted."""
    only: str = ""
    """Only the presets with this in their name."""
    threads: int = 2
    """Threads of torch."""


def main(args: Args) -> None:
    """Print one table a corpus."""
    torch.set_num_threads(args.threads)
    root = args.data or Path(os.environ["PYRO_STCN_DATA"])
    speech = load_timit(root / "timit_sample" / "nltk_layout").train
    ink = load_strokes(root / "gw_online" / "gw_online.stroke3.npz").train
    names = [
        name
        for name in PRESETS
        if not name.endswith("-published") and name.endswith("-small") == (args.size == "small")
    ]
    names = [name for name in names if args.only in name]
    for corpus, group in itertools.groupby(names, lambda name: name.split("/")[0]):
        data = speech if PRESETS[next(n for n in names if n.startswith(corpus))].model.data_dim == 200 else ink
        measure(list(group), data, args.rounds)


def measure(names: list[str], data: SequenceDataset, rounds: int) -> None:
    """Time the presets of one corpus in turn. With one round each is gone before the next is built: they are large."""
    keep = rounds > 1
    runners = {name: steps(PRESETS[name], data) for name in names} if keep else {}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    facts: dict[str, tuple[int, int, int]] = {}
    for _ in range(rounds):
        for name in names:
            runner = runners.get(name) or steps(PRESETS[name], data)
            if keep and not seconds[name]:
                next(runner)  # the first step allocates and is not counted
            took, facts[name] = next(runner)
            seconds[name].append(took)
            del runner
            if not keep:
                gc.collect()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    fastest = min(medians.values())
    print(f"\n{names[0].split('/')[0]}: {rounds} steps each, ratios to the fastest, {fastest:.3f} s\n")
    print("| preset | parameters | batch x longest | seconds per step | ratio |\n|---|---|---|---|---|")
    for name in names:
        parameters, batch, longest = facts[name]
        print(
            f"| {name} | {parameters:,} | {batch} x {longest} | {medians[name]:.2f} | {medians[name] / fastest:.1f} |",
            flush=True,
        )


def steps(preset: Preset, data: SequenceDataset) -> Iterator[tuple[float, tuple[int, int, int]]]:
    """Take training steps on one real batch; yields seconds and (parameters, sequences, steps of the longest)."""
    pyro.set_rng_seed(0)
    net, elbo = preset.model.build(), TraceMeanField_ELBO()
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)
    batch: SequenceBatch = next(ShuffledBatches(data, preset.training.batch_size, 0))
    extra = {"auxiliary_weight": 1.0} if net.has_training_term else {}
    facts = (sum(p.numel() for p in net.parameters()), len(batch), batch.mask.shape[1])
    while True:
        start = time.perf_counter()
        optimiser.zero_grad()
        elbo.loss_and_grads(net.model, net.guide, batch.x, batch.mask, 0.5, **extra)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        yield time.perf_counter() - start, facts


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
