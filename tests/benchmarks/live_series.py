"""Memory and time of a live series that goes on and on: both have to stay as they are.

    python tests/benchmarks/live_series.py --steps 1000000 --preset iamondb/wavenet-gmm-small

A line each time the number of steps has doubled: microseconds per step since the line before (the median over blocks of
100 steps, so that a busy machine shows less), and the memory of the process.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from pyro_stcn import Stream, preset

BLOCK = 100


@dataclass
class Args:
    """Watch a made-up series."""

    preset: str = "iamondb/stcn-dense-gmm-small"
    """A small preset; its weights are untrained, which costs the same."""
    steps: int = 200_000
    """Steps to observe."""
    particles: int = 5
    """Particles, for a model with latents."""


def resident() -> float:
    """Return the memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main(args: Args) -> None:
    """Observe, and print a table."""
    torch.manual_seed(0)
    stream = Stream(preset(args.preset).model.build().eval(), args.particles)
    state, blocks = stream.start(), []
    noise = torch.randn(BLOCK, 1, stream.net.data_dim)
    if stream.net.data_dim == 3:
        noise[..., 2] = (noise[..., 2] > 1.5).to(noise.dtype)
    print(
        f"{args.preset}, {stream.particles} particles\n\n| steps | microseconds per step | memory, MiB |\n|---|---|---|"
    )
    report = 1000
    while state.steps < args.steps:
        start = time.perf_counter()
        for x in noise:
            state, nats = stream.observe(state, x)
        blocks.append((time.perf_counter() - start) / BLOCK * 1e6)
        if not torch.isfinite(nats).all():
            raise SystemExit(f"step {state.steps} has {nats} nats")
        if state.steps >= min(report, args.steps):
            print(f"| {state.steps:,} | {statistics.median(blocks):.0f} | {resident():.1f} |", flush=True)
            report, blocks = 2 * report, []


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
