"""Milliseconds of a generated step at the paper's sizes: cached, recomputed, and the floor of plain torch.

    python tests/benchmarks/generation.py [--rounds 7] [--only timit/stcn] [--batch 1 20]

* cached: ``pyro_stcn.sample`` behind T = 100, 1,000 and 10,000 steps, a block of steps at a time. The beginning is one
  random sequence, taken in by ``prime`` and repeated for the batch by ``Selector``.
* window: at every step the networks over x run anew on the last steps, as many as the receptive field has; the latents
  of the step are drawn, and the output network reads the latents kept of its own receptive field.
* prefix: the same on all steps so far. A recurrent model has no window, and its latents lead through all steps.
* read: a sum over every weight that a step uses. It is how fast one core gets through that much memory.
* products: every such weight times a batch of rows, without biases and without anything between them.

All take turns within each round, so that a noisy machine disturbs all alike; milliseconds are medians over rounds, and
ratios medians over the ratios within a round. Weights are untrained: they do not change the cost.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from pyro_stcn.generation import sample
from pyro_stcn.models import STCN, SequenceModel, WaveNet
from pyro_stcn.presets import preset
from pyro_stcn.states import Continuation, Selector, prime

MODELS = ("timit/stcn-dense-gmm", "iamondb/stcn-dense-gmm", "timit/wavenet-gmm", "timit/vrnn-gmm")
LENGTHS = (100, 1_000, 10_000)
Seconds = dict[str, list[float]]


@dataclass
class Args:
    """Print milliseconds per generated step."""

    rounds: int = 5
    """Blocks of steps of every variant."""
    block: int = 10
    """Steps in a block of the cached variants; the others take one."""
    batch: tuple[int, ...] = (1, 20)
    """Sequences at a time."""
    only: str = ""
    """Only models with this in their name."""
    threads: int = 1
    """Threads of torch."""
    long_prefix_rounds: int = 1
    """Rounds in which the prefix of 1,000 steps is recomputed: ten seconds a step for a batch of 20."""


class WeightsUsed(TorchFunctionMode):
    """Collects the matrices and kernels among the arguments of torch's functions."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, Tensor] = {}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at the arguments and go on."""
        for value in tree_flatten((args, kwargs))[0]:
            if isinstance(value, nn.Parameter) and value.dim() > 1:
                self.found[id(value)] = value.detach()
        return function(*args, **(kwargs or {}))


def weights_of_a_step(net: SequenceModel, start: Continuation) -> list[Tensor]:
    """Return the weights that a step reads, biases left out; the guide's are not among them."""
    with WeightsUsed() as used:
        sample(net, start, 1, progress=False)
    return list(used.found.values())


def recompute(net: SequenceModel, x: Tensor, inputs: Tensor | None, window: bool) -> Any:
    """Do one step with no state: return p(x_t | .) from the steps before it, all of them or the last ones.

    :param x: the steps before, ``(batch, time, data_dim)``.
    :param inputs: what the output network of an STCN has read at these steps.
    """
    if isinstance(net, STCN):
        seen = x[:, -net.backbone.receptive_field :] if window else x
        past = [d[:, -1] for d in net.backbone(seen)]
        now = net.output_input(net._draw_latents(past, lambda prior: prior), past)
        kept = torch.cat([inputs, now.unsqueeze(1)], 1)
        return net.observation(net.output(kept[:, -net.output.receptive_field :] if window else kept)[:, -1])
    if isinstance(net, WaveNet):
        seen = x[:, -net.receptive_field :] if window else x
        return net.observation(net.output(net._features(seen)[:, -1]))
    state = net.state_after(x[:, :-1], from_guide=False)
    return net.step(state, x[:, -1])[1]


def variants(net: SequenceModel, batch: int, args: Args) -> dict[str, Callable[[], Any]]:
    """Return what is timed, by name; the name says how many steps a call takes."""
    x = torch.randn(1, LENGTHS[-1], net.data_dim)
    if net.data_dim == 3:
        x[..., 2] = (x[..., 2] > 1.5).to(x.dtype)
    parallel = isinstance(net, (STCN, WaveNet))
    starts = {}
    for length in LENGTHS:
        starts[length] = Selector(net)(prime(net, x[:, :length]), [0] * batch)
    weights = weights_of_a_step(net, starts[LENGTHS[0]])
    rows = {w: torch.randn(batch, w.flatten(1).shape[1]) for w in weights}
    x = x.expand(batch, -1, -1).contiguous()
    reads = net.output.layers[0].in_features if isinstance(net, STCN) and net.pointwise else None
    if isinstance(net, STCN) and reads is None:
        reads = net.output.tcn.data_dim
    inputs = torch.randn(batch, LENGTHS[1], reads) if reads else None

    def again(length: int, window: bool) -> Callable[[], Any]:
        kept = inputs[:, : length - 1] if inputs is not None else None
        return lambda: recompute(net, x[:, :length], kept, window).sample()

    def cached(start: Continuation) -> Callable[[], Any]:
        return lambda: sample(net, start, args.block, progress=False)

    found = {f"cached, T = {length:,}": cached(start) for length, start in starts.items()}
    if parallel:
        found["window"] = again(LENGTHS[1], True)
    found[f"prefix of {LENGTHS[0]}"] = again(LENGTHS[0], False)
    if parallel:
        found[f"prefix of {LENGTHS[1]:,}"] = again(LENGTHS[1], False)
    found["read"] = lambda: [w.sum() for w in weights]
    found["products"] = lambda: [F.linear(rows[w], w.flatten(1)) for w in weights]
    return found


@torch.no_grad()
def measure(net: SequenceModel, batch: int, args: Args) -> Seconds:
    """Return seconds per step of every variant, one a round."""
    runs = variants(net, batch, args)
    long = f"prefix of {LENGTHS[1]:,}"
    seconds: Seconds = {name: [] for name in runs}
    for name, run in runs.items():
        if name != long:
            run()  # the first call allocates and is not counted
    for i in range(args.rounds):
        for name, run in runs.items():
            if name == long and i >= args.long_prefix_rounds:
                continue
            start = time.perf_counter()
            run()
            steps = args.block if name.startswith("cached") else 1
            seconds[name].append((time.perf_counter() - start) / steps)
    return seconds


def ratio(seconds: Seconds, a: str, b: str) -> str:
    """Return the median of a / b within a round."""
    if not (seconds.get(a) and seconds.get(b)):
        return "-"
    return f"{statistics.median(x / y for x, y in zip(seconds[a], seconds[b], strict=False)):.2f}"


def main(args: Args) -> None:
    """Print milliseconds and ratios."""
    torch.set_num_threads(args.threads)
    results: dict[tuple[str, int], Seconds] = {}
    began = time.perf_counter()
    for name in (name for name in MODELS if args.only in name):
        torch.manual_seed(0)
        net = preset(name).model.build().eval()
        used = weights_of_a_step(net, prime(net, torch.zeros(1, 2, net.data_dim)))
        field = getattr(net.backbone if isinstance(net, STCN) else net, "receptive_field", "all")
        print(
            f"- {name}: {sum(p.numel() for p in net.parameters()):,} parameters, a step reads "
            f"{sum(w.numel() for w in used):,} weights ({sum(w.nbytes for w in used) / 2**20:.0f} MiB); "
            f"receptive field: {field}",
            flush=True,
        )
        for batch in args.batch:
            results[name, batch] = measure(net, batch, args)
    cached = [f"cached, T = {length:,}" for length in LENGTHS]
    columns = [*cached, "window", f"prefix of {LENGTHS[0]}", f"prefix of {LENGTHS[1]:,}", "read", "products"]
    print(f"\ntorch {torch.__version__}, {args.threads} threads, {args.rounds} rounds of {args.block} steps\n")
    print(f"Milliseconds per step\n\n| model | batch | {' | '.join(columns)} |\n{'|---' * (len(columns) + 2)}|")
    for (name, batch), seconds in results.items():
        cells = [f"{statistics.median(seconds[c]) * 1e3:.2f}" if seconds.get(c) else "-" for c in columns]
        print(f"| {name} | {batch} | {' | '.join(cells)} |")
    base = cached[0]
    pairs = [(c, base) for c in cached[1:]] + [(c, base) for c in columns[3:6]] + [(base, "read"), (base, "products")]
    titles = [c if b == base else f"cached / {b}" for c, b in pairs]
    print(f"\nRatios, to {base} where nothing else is said\n\n| model | batch | {' | '.join(titles)} |")
    print(f"{'|---' * (len(titles) + 2)}|")
    for (name, batch), seconds in results.items():
        print(f"| {name} | {batch} | {' | '.join(ratio(seconds, *pair) for pair in pairs)} |")
    print(f"\n{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
