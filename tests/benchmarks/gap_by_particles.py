"""How far every bound lies below a log p(x) that is known, by the number of particles.

    python -m tests.benchmarks.gap_by_particles

Linear-Gaussian models with wrong guides, in float64: STCNs of one to three layers (evidence: a joint Gaussian), and
VRNN and SRNN (a Kalman filter). The gap is log p(x) minus the bound, in nats per sequence, mean over the sequences ±
standard error over repeats. Three columns hold every bound against theory:

* "slope" is that of log(gap) against log(K) over K >= 16, points weighted by their precision. With r the estimate of
  p(x) over p(x), E r = 1 and gap = -E log r, which is var(r) / 2 where the variance is small; and var(r) is a constant
  over K. So the slope tends to -1, once K is large beside the variance of a single weight and not before.
* "largest z" is the largest excess of a bound over log p(x), in standard errors, over all K and sequences: it must not
  exceed 4.
* "E exp(bound) / p(x)", at one K: IWAE and FIVO estimate p(x) without bias, so it is 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyro
import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from pyro_stcn.bounds import FIVO, IWAE
from pyro_stcn.models import SequenceModel

from .. import linear_gaussian
from ..linear_gaussian import DIM, LinearLag, linear_gaussian_stcn
from ..linear_sequential import linear_model, system
from ..test_exactness_sequential import log_evidence as filtered_evidence

SHOWN = (1, 4, 16, 64, 256, 1024)
AT_ONCE = 2**14  # particles times repeats that are computed together


@dataclass
class Args:
    """Print a Markdown table of the gaps of every bound on models whose log p(x) is known."""

    steps: int = 5
    """Length of the sequences."""
    sequences: int = 3
    """Number of sequences, all from N(0, 0.7)."""
    max_particles: int = 1024
    """Largest K; the others are 1, 2, 4 and so on."""
    pool: int = 2**18
    """Draws for each sequence and K: there are pool / K repeats."""
    unbiased_at: int = 64
    """K of the last column."""
    seed: int = 0
    """Of weights, data and draws."""


class SteppedLag(LinearLag):
    """The linear output network that looks one step back, one step at a time, too."""

    def initial_state(self, batch_size: int) -> Tensor:
        """Return z_0 = 0, ``(batch, dim)``."""
        return self.lag.new_zeros(batch_size, len(self.lag))

    def step(self, state: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return (z_t, h_t)."""
        return z, z + state @ self.lag


@torch.no_grad()
def stcn(dims: tuple[int, ...], dense: bool, lag: bool) -> SequenceModel:
    """Return a linear STCN, z1 first, with weights smaller than in the tests: a thousand draws then have a mean."""
    net = linear_gaussian_stcn(dims, dense=dense, lag=lag)
    net.observation.weight.mul_(0.5)
    net.observation.scale.add_(0.3)
    for layer in net.ladder:
        layer.prior_net.from_above.mul_(0.5)
    if lag:
        net.output = SteppedLag(len(net.output.lag))
        net.output.lag.mul_(0.5)
    return net


def systems(args: Args) -> Iterator[tuple[str, SequenceModel, Tensor, Tensor]]:
    """Yield name, model, data ``(batch, time, dim)`` and exact log p(x) ``(batch,)``."""
    for lag in (False, True):
        for dims, dense in (((2,), True), ((2, 1), False), ((2, 1), True), ((2, 2, 1), False), ((2, 2, 1), True)):
            pyro.set_rng_seed(args.seed)
            net, x = stcn(dims, dense, lag), 0.7 * torch.randn(args.sequences, args.steps, DIM)
            kind = "STCN" if len(dims) == 1 else "STCN-dense" if dense else "STCN"
            name = f"{kind}, {len(dims)} layer{'s' if len(dims) > 1 else ''}, {'causal' if lag else 'pointwise'}"
            yield name, net, x, linear_gaussian.log_evidence(net, x)
    for name in ("vrnn", "srnn"):
        pyro.set_rng_seed(args.seed)
        net, x = linear_model(name, 2), 0.7 * torch.randn(args.sequences, args.steps, DIM)
        yield name.upper(), net, x, filtered_evidence(system(net, x), x)


def estimates(net: SequenceModel, x: Tensor, ks: list[int], pool: int) -> Iterator[tuple[str, dict[int, Tensor]]]:
    """Yield every bound that applies: its name, and by K the independent estimates, ``(pool / K, batch)`` in nats.

    The two of IWAE share one pool of weights, which every K groups in its own way; FIVO draws anew for each.
    """
    keep = ("sequences", "time") if net.pointwise else ("sequences",)
    elbo = IWAE(min(pool, AT_ONCE), keep, max_plate_nesting=2)
    draws = [elbo.log_weights(net.model, net.guide, x) for _ in range(pool // elbo.num_particles)]
    weights = torch.cat(draws).reshape(pool, len(x), -1)  # the last dimension: steps, or 1
    by_sequence = weights.sum(-1)
    yield "IWAE per sequence", {k: log_mean(by_sequence.reshape(-1, k, len(x))) for k in ks}
    if net.pointwise:
        groups = {k: weights.reshape(-1, k, *weights.shape[1:]) for k in ks}
        yield "IWAE per step", {k: log_mean(group).sum(-1) for k, group in groups.items()}
    yield "FIVO", {k: filtered(net, x, k, pool // k) for k in ks}


def log_mean(log_weights: Tensor) -> Tensor:
    """Return the log of the mean of the weights over the second dimension."""
    return log_weights.logsumexp(1) - math.log(log_weights.shape[1])


def filtered(net: SequenceModel, x: Tensor, k: int, repeats: int) -> Tensor:
    """Return FIVO's bound, each from a filter of its own: ``(repeats, batch)``."""
    copies = min(repeats, max(1, AT_ONCE // k))
    data, elbo = x.repeat(copies, 1, 1), FIVO(k)
    values = [elbo.log_evidence(net.model, net.guide, data).reshape(copies, -1) for _ in range(repeats // copies)]
    return torch.cat(values)


def row(name: str, bound: str, values: dict[int, Tensor], exact: Tensor, at: int) -> tuple[str, float, float]:
    """Return a row of the table, the largest excess over log p(x) and the bias of the estimate, in standard errors."""
    gaps = {k: mean_and_error((exact - v).mean(1)) for k, v in values.items()}
    excess = max((mean / error).max().item() for mean, error in (mean_and_error(v - exact) for v in values.values()))
    cells = [f"{gaps[k][0]:.3f} ± {gaps[k][1]:.3f}" for k in SHOWN if k in gaps]
    ratio, error = mean_and_error((values[at] - exact).exp().mean(1))
    cells += [slope(gaps), f"{excess:+.1f}", f"{ratio:.4f} ± {error:.4f}"]
    return f"| {name} | {bound} | {' | '.join(cells)} |", excess, ((ratio - 1) / error).item()


def slope(gaps: dict[int, tuple[Tensor, Tensor]]) -> str:
    """Fit log(gap) against log(K) over K >= 16, where a gap is at least three standard errors."""
    points = [(math.log(k), math.log(g), e / g) for k, (g, e) in gaps.items() if k >= 16 and g > 3 * e]
    if len(points) < 3:
        return ""
    log_k, log_gap, error = map(np.array, zip(*points, strict=True))
    (value, _), covariance = np.polyfit(log_k, log_gap, 1, w=1 / error, cov="unscaled")
    return f"{value:.2f} ± {math.sqrt(covariance[0, 0]):.2f}"


def mean_and_error(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over the first dimension and its standard error."""
    return draws.mean(0), draws.std(0) / math.sqrt(len(draws))


@torch.no_grad()
def main(args: Args) -> None:
    """Print the table."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    ks = [2**i for i in range(args.max_particles.bit_length())]
    if args.pool % ks[-1] or args.pool // ks[-1] < 2 or (args.pool > AT_ONCE and args.pool % AT_ONCE):
        raise SystemExit(f"--pool must be a power of two, at least twice {ks[-1]}")
    shown = [f"K = {k}" for k in SHOWN if k in ks]
    columns = ["system", "bound", *shown, "slope", "largest z", f"E exp(bound) / p(x), K = {args.unbiased_at}"]
    print(f"Gap in nats per sequence of {args.steps} steps, mean over {args.sequences} sequences ± standard error over")
    print(f"{args.pool:,} / K repeats.\n")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    excesses, biases = [], []
    for name, net, x, exact in tqdm(systems(args), total=12, disable=None):
        for bound, values in estimates(net, x, ks, args.pool):
            line, excess, bias = row(name, bound, values, exact, args.unbiased_at)
            tqdm.write(line)
            excesses.append(excess)
            biases.append(abs(bias))
    print(
        f"\nThe largest excess over log p(x), of all systems, K and sequences, is {max(excesses):+.1f} standard errors."
    )
    print(f"E exp(bound) / p(x) is at most {max(biases):.1f} standard errors from 1.")
    if max(excesses) > 4:
        raise SystemExit("A bound lies above log p(x).")


if __name__ == "__main__":
    main(tyro.cli(Args))
