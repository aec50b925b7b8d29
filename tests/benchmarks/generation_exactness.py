"""Generation one step at a time against the whole-sequence program on the same noise, and against itself when resumed.

    python tests/benchmarks/generation_exactness.py [--steps 2000] [--only iamondb/] [--weights runs/*/best.safetensors]

Every small preset (untrained) and every checkpoint that is given generates ``steps`` steps with ``pyro_stcn.sample``.
The uncached model is ``net.model``, the parallel Pyro program over all steps, conditioned on the latents that were
drawn and given the x that was generated; compared are the parameters of every p(z_t | .) and p(x_t | .), and the x_t
that the same noise then gives. (In an STCN x_t sees the past through the latents alone: what its backbone remembers
shows in p(z_t | .).) That is done in float64 and in float32, with the same weights. What rounding alone does in
float32 is shown beside it: the whole-sequence program in float32 against float64, on the same z and x.

"Free": both run freely from the same noise for ``free`` steps, x and latents fed back, where the uncached model runs
anew over the whole prefix at every step. "Resumed": after half the steps the state is saved, and another process loads
model and state and goes on; its x has to be the same bit for bit.
"""

from __future__ import annotations

import sys
import tempfile
import time
import zlib
from collections import defaultdict
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import torch
import tyro
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_stcn.checkpoint import load_model, save_model
from pyro_stcn.distributions import DiagonalGaussianMixture, PenStroke
from pyro_stcn.generation import sample
from pyro_stcn.ladder import base_normal
from pyro_stcn.models import SequenceModel
from pyro_stcn.models.unroll import StepwiseNormal
from pyro_stcn.presets import PRESETS
from pyro_stcn.states import Continuation, begin, load_continuation, save_continuation

Parameters = dict[str, Tensor]


@dataclass
class Args:
    """Compare cached and uncached generation."""

    steps: int = 2000
    """Steps to generate."""
    free: int = 120
    """Steps of the comparison in which both run freely; its cost is quadratic. 0 for none."""
    batch: int = 2
    """Sequences at a time."""
    only: str = ""
    """Only presets with this in their name."""
    weights: tuple[Path, ...] = ()
    """Checkpoints of trained models, to be compared too."""
    threads: int = 1
    """Threads of torch."""


# ----------------------------------------------------------------------------------------------- noise by name and step


def seed(step: int, site: str) -> None:
    """Let the next draw be that of this site at this step, whatever was drawn before."""
    torch.manual_seed(zlib.crc32(f"{site} {step}".encode()))


@dataclass
class Record:
    """What a run said and drew, step by step."""

    latents: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    parameters: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))

    def whole(self) -> tuple[Parameters, Parameters]:
        """Return latents and parameters, each ``(batch, time, ...)``."""
        return tuple({k: torch.stack(v, 1) for k, v in kind.items()} for kind in (self.latents, self.parameters))


class Watched(Messenger):
    """Stands in for ``net.step`` while ``sample`` runs: records it, and gives every draw a seed of its own."""

    def __init__(self, net: SequenceModel, first: int = 0):
        super().__init__()
        self.net, self.step, self.t, self.record = net, net.step, first - 1, Record()

    def _pyro_sample(self, msg: Any) -> None:
        seed(self.t, msg["name"])

    def _pyro_post_sample(self, msg: Any) -> None:
        self.record.latents[msg["name"]].append(msg["value"])
        for name, value in parameters(msg["fn"], msg["name"]).items():
            self.record.parameters[name].append(value)

    def __call__(self, state: Any, x: Tensor) -> tuple[Any, Any]:
        self.t += 1
        with self:
            state, emission = self.step(state, x)
        for name, value in parameters(emission, "x").items():
            self.record.parameters[name].append(value)
        seed(self.t, "x")
        return state, emission


def cached(net: SequenceModel, start: Continuation, steps: int, first: int = 0) -> tuple[Tensor, Continuation, Record]:
    """Generate with :func:`pyro_stcn.sample` from the noise of these steps."""
    watched = Watched(net, first)
    net.step = watched  # type: ignore[assignment]
    try:
        x, end = sample(net, start, steps, progress=False)
    finally:
        del net.step
    return x, end, watched.record


# ------------------------------------------------------------------------------------------------------------- uncached


def inside(fn: Any) -> Any:
    """Return the distribution inside masks and dimensions made part of the event: a Normal for all but mixtures."""
    while not isinstance(fn, (dist.Normal, dist.Bernoulli, DiagonalGaussianMixture, PenStroke)):
        fn = fn.base_dist
    return fn


def parameters(fn: Any, site: str) -> Parameters:
    """Return the parameters of a distribution, of a step or of all of them, by name."""
    fn = inside(fn)
    if isinstance(fn, PenStroke):
        return {f"{site} pen": fn.pen_logits, **parameters(fn.stroke, site)}
    names = {
        dist.Normal: ("loc", "scale"),
        dist.Bernoulli: ("logits",),
        DiagonalGaussianMixture: ("logits", "loc", "scale"),
    }
    return {f"{site} {name}": getattr(fn, name) for name in names[type(fn)]}


def at_step(fn: Any, t: int) -> Any:
    """Return the distribution of one step, event shape ``(data_dim,)``."""
    fn = inside(fn)
    if isinstance(fn, PenStroke):
        return PenStroke(at_step(fn.stroke, t), fn.pen_logits[:, t])
    if isinstance(fn, DiagonalGaussianMixture):
        return DiagonalGaussianMixture(fn.logits[:, t], fn.loc[:, t], fn.scale[:, t])
    if isinstance(fn, dist.Normal):
        return dist.Normal(fn.loc[:, t], fn.scale[:, t]).to_event(1)
    return dist.Bernoulli(logits=fn.logits[:, t]).to_event(1)


def each_step(fn: Any, z: Tensor) -> dist.Normal:
    """Return p(z_t | .) of all steps given the latents ``(batch, time, dim)``."""
    return fn.steps(z) if isinstance(fn, StepwiseNormal) else base_normal(fn)


@torch.no_grad()
def uncached(net: SequenceModel, x: Tensor, latents: Parameters) -> tuple[Parameters, Tensor]:
    """Run the parallel program once, on given x and latents.

    :returns: the parameters of all steps, and the x that the noise of :func:`cached` gives under them.
    """
    nodes = poutine.trace(poutine.condition(net.model, latents)).get_trace(x).nodes
    found = parameters(nodes["x"]["fn"], "x")
    for name, z in latents.items():
        found |= parameters(each_step(nodes[name]["fn"], z), name)
    drawn = []
    for t in range(x.shape[1]):
        seed(t, "x")
        drawn.append(at_step(nodes["x"]["fn"], t).sample())
    return found, torch.stack(drawn, 1)


class LastStep(Messenger):
    """Gives the latents of all steps but the last, and draws those of the last from the noise of that step."""

    def __init__(self, past: dict[str, list[Tensor]], t: int):
        super().__init__()
        self.past, self.t = past, t

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self.past:
            return
        past, fn = self.past[msg["name"]], msg["fn"]
        if isinstance(fn, StepwiseNormal):  # the placeholder of the last step is not looked at by its own prior
            shape = (*fn.batch_shape, fn.event_shape[-1])
            normal = fn.steps(torch.stack([*past, fn.unroll.contexts[0].new_zeros(shape)], 1))
        else:
            normal = base_normal(fn)
        seed(self.t, msg["name"])
        past.append(dist.Normal(normal.loc[:, -1], normal.scale[:, -1]).rsample())
        msg["value"], msg["done"] = torch.stack(past, 1), True


@torch.no_grad()
def freely(net: SequenceModel, batch: int, steps: int, sites: list[str]) -> Tensor:
    """Generate without any state: the whole prefix anew at every step."""
    latents: dict[str, list[Tensor]] = {name: [] for name in sites}
    x = begin(net, batch).x.unsqueeze(1)  # its last row is the step to come, which nothing looks at
    for t in range(steps):
        with LastStep(latents, t):
            fn = poutine.trace(net.model).get_trace(x).nodes["x"]["fn"]
        seed(t, "x")
        x = torch.cat([x[:, :-1], at_step(fn, -1).sample().unsqueeze(1), torch.zeros_like(x[:, :1])], 1)
    return x[:, :-1]


# ----------------------------------------------------------------------------------------------------------- comparison


def differences(a: Parameters, b: Parameters, sites: str, last: int | None = None) -> tuple[float, float]:
    """Return the largest difference among parameters, and relative to the largest of the same parameter.

    :param sites: "x" for those of the observation, "z" for those of the latents.
    :param last: only this many steps at the end.
    """
    absolute, relative = [0.0], [0.0]
    for name in (name for name in b if name.startswith(sites)):
        steps = slice(None) if last is None else slice(-last, None)
        worst = (a[name][:, steps].double() - b[name][:, steps].double()).abs().max().item()
        absolute.append(worst)
        relative.append(worst / max(b[name].abs().max().item(), 1e-300))  # a mean can be zero everywhere
    return max(absolute), max(relative)


def resumed(folder: str, steps: int, first: int, threads: int) -> Tensor:
    """Go on from what lies in the folder; runs in a process of its own."""
    torch.set_num_threads(threads)
    net, _ = load_model(Path(folder) / "net.safetensors")
    return cached(net.eval(), load_continuation(Path(folder) / "here.safetensors", net), steps, first)[0]


@dataclass
class Row:
    """One model in one precision."""

    size: float  # largest |x|
    priors: float
    emission: float
    relative: float
    late: float  # of the emission, in the last tenth of the steps
    x: float
    rounding: float
    free: float
    bitwise: bool


def compare(net: SequenceModel, args: Args, other_process: Executor) -> Row:
    """Compare one model, in the precision of its weights."""
    x, _, record = cached(net, begin(net, args.batch), args.steps)
    latents, ours = record.whole()
    theirs, drawn = uncached(net, x, latents)
    priors, _ = differences(ours, theirs, "z")
    emission, relative = differences(ours, theirs, "x")
    late, _ = differences(ours, theirs, "x", args.steps // 10)
    rounding = float("nan")
    if x.dtype == torch.float32:
        exact, _ = uncached(net.double(), x.double(), {name: z.double() for name, z in latents.items()})
        net.float()
        rounding, _ = differences(theirs, exact, "x")
    free = float("nan")
    if args.free:
        free = (freely(net, args.batch, args.free, list(latents)) - x[:, : args.free]).abs().max().item()
    half = args.steps // 2
    with tempfile.TemporaryDirectory() as folder:
        _, here, _ = cached(net, begin(net, args.batch), half)
        save_model(Path(folder) / "net.safetensors", net)
        save_continuation(Path(folder) / "here.safetensors", net, here)
        rest = other_process.submit(resumed, folder, args.steps - half, half, args.threads).result()
    size, error = x.abs().max().item(), (drawn - x).abs().max().item()
    return Row(size, priors, emission, relative, late, error, rounding, free, torch.equal(rest, x[:, half:]))


def main(args: Args) -> None:
    """Print one table a precision."""
    torch.set_num_threads(args.threads)
    names = [name for name in PRESETS if name.endswith("-gmm-small") and args.only in name]
    rows: dict[tuple[str, torch.dtype], Row] = {}
    start = time.perf_counter()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other_process:
        for name in [*names, *map(str, args.weights)]:
            torch.manual_seed(0)
            net = PRESETS[name].model.build() if name in PRESETS else load_model(name)[0]
            label = name if name in PRESETS else f"{Path(name).parent.name}, trained"
            for dtype in (torch.float32, torch.float64):  # the same weights: float32 first
                rows[label, dtype] = row = compare(net.eval().to(dtype), args, other_process)
                print(f"{time.perf_counter() - start:.0f} s: {label}, {dtype}: {row}", file=sys.stderr, flush=True)
    seconds = time.perf_counter() - start
    print(f"{args.steps} steps, batch {args.batch}, torch {torch.__version__}, {args.threads} threads, {seconds:.0f} s")
    for dtype in (torch.float64, torch.float32):
        of = {label: row for (label, kind), row in rows.items() if kind == dtype}
        last, single = args.steps // 10, dtype == torch.float32
        print(f"\n{dtype}: largest differences, cached - uncached\n")
        print(
            f"| model | largest x | p(z_t) | p(x_t) | relative | p(x_t), last {last} | x_t, same noise "
            f"|{' rounding alone, p(x_t) |' * single} x, free for {args.free} | resumed bitwise |"
        )
        print("|---" * (9 + single) + "|")
        for label, row in of.items():
            rounding = f" {row.rounding:.1e} |" if single else ""
            print(
                f"| {label} | {row.size:.3g} | {row.priors:.1e} | {row.emission:.1e} | {row.relative:.1e} "
                f"| {row.late:.1e} | {row.x:.1e} |{rounding} {row.free:.1e} | {'yes' if row.bitwise else 'NO'} |"
            )


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
