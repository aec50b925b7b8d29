"""Which number to report: every bound beside a log p(x) that is known, and an estimate that is no bound.

    python examples/which_bound.py    # about a minute on one core; draws runs/which_bound/which_bound.png
    python examples/which_bound.py --help

Part 1 makes an STCN linear, so that log p(x) is that of a Gaussian, gives it a guide that is wrong, and lets the number
of particles K grow: with a weight per sequence, with a weight per step (a bound only where steps are independent given
the past of x), and in a particle filter. Part 2 takes a perfect model of white noise with a perfect guide, and shows
what it seems to be worth once the uses of a latent no longer share one draw.
For a model of your own, ``evaluate(net, data, particles=K, filter=FIVO(K))`` computes every bound that applies at once.
Which of them to report is the subject of docs/which_number.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
import tyro
from matplotlib.axes import Axes
from torch import Tensor, nn
from torch.distributions import MultivariateNormal
from tqdm import tqdm

from pyro_stcn import LadderConfig, NormalConfig, PointwiseOutputConfig, SequenceDataset, evaluate
from pyro_stcn.bounds import FIVO, IWAE
from pyro_stcn.cli.errors import friendly
from pyro_stcn.evaluation import Statistic
from pyro_stcn.models import STCN, Evidence, STCNConfig

LOADING, SPREAD = 0.45, 0.3  # x = 0.45 (z1 + z2) + noise, and z1 is z2 give or take 0.3
NOISE = math.sqrt(1 - (2 * LOADING) ** 2 - (LOADING * SPREAD) ** 2)  # with it, x_t has variance 1 given its past
STYLES = {"IWAE per sequence": "C0o-", "IWAE per step": "C2s-", "FIVO": "C1^-"}


@dataclass
class Args:
    """Every bound beside a log p(x) that is known, and an estimate that is no bound."""

    steps: int = 100
    """Length T of the sequences."""
    max_particles: int = 1024
    """Largest K; the others are 1, 2, 4 and so on."""
    repeats: int = 20
    """Estimates of every bound, at least; there are more where K is small."""
    sequences: int = 200
    """Number of sequences in part 2; part 1 has 4."""
    seed: int = 0
    """Of the data and all draws."""
    output: Path = Path("runs/which_bound/which_bound.png")
    """The figure."""


# ------------------------------------------------------------------------------------------- an STCN that is all linear


class Raw(nn.Module):
    """In the place of the TCN: the feature d_t of both layers is x_t itself."""

    feature_dims = (1, 1)

    def build(self, data_dim: int) -> Raw:
        """Return itself: it has no weights."""
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(batch, time, 1)`` once for each layer."""
        return x, x

    def initial_state(self, batch_size: int) -> tuple[()]:
        """Return nothing: the feature of a step is the step."""
        return ()

    def step(self, state: tuple[()], x: Tensor) -> tuple[tuple[()], tuple[Tensor, Tensor]]:
        """Return the features of one step."""
        return state, (x, x)


class Linear(nn.Module):
    """In the place of the ladder's networks: ``N(slope * d + above_slope * z_above, scale)``."""

    def __init__(self, slope: float, above_slope: float, scale: float):
        super().__init__()
        self.slope, self.above_slope, self.scale = slope, above_slope, scale

    def forward(self, d: Tensor, above: Tensor | None) -> dist.Normal:
        """Return the Normal of one layer, ``(..., 1)``."""
        mean = self.slope * d if above is None else self.slope * d + self.above_slope * above
        return dist.Normal(mean, torch.full_like(mean, self.scale))


class Lag(nn.Module):
    """An output network that looks back over z, as the paper's does: ``h_t = z_t + lag * z_(t-1)``."""

    receptive_field = 2

    def __init__(self, lag: float):
        super().__init__()
        self.lag = lag

    def forward(self, z: Tensor) -> Tensor:
        """``(..., time, dim)`` to the same."""
        return z + self.lag * F.pad(z, (0, 0, 1, 0))[..., :-1, :]

    def initial_state(self, batch_size: int) -> Tensor:
        """Return z_0 = 0."""
        return torch.zeros(batch_size, 2)

    def step(self, state: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return (z_t, h_t)."""
        return z, z + self.lag * state


def linear_stcn(slope: float, lag: float, *, exact_guide: bool, independent_draws: bool = False) -> STCN:
    """Return z2_t ~ N(slope x_(t-1), 1), z1_t ~ N(z2_t, SPREAD), x_t ~ N(LOADING (h1_t + h2_t), NOISE), with h of Lag.

    :param exact_guide: q(z | x_t) is the posterior (where nothing is lagged); else it trusts x_t only by 0.7.
    """
    ladder, output = LadderConfig((1, 1), hidden=8, layers=1), PointwiseOutputConfig(layers=0)
    config = STCNConfig(1, Raw(), ladder, True, output, NormalConfig(), independent_draws)
    net = config.build()  # an ordinary STCN-dense
    if lag:
        net.output = Lag(lag)
    # The mean of the head is linear already. Its scale, a softplus, is a constant where its weights are 0.
    with torch.no_grad():
        net.observation.loc.weight.fill_(LOADING)
        net.observation.loc.bias.zero_()
        net.observation.scale.weight.zero_()
        net.observation.scale.bias.fill_(math.log(math.expm1(NOISE)))
    z1, z2 = net.ladder
    z2.prior_net = Linear(slope, 0.0, 1.0)
    z1.prior_net = Linear(0.0, 1.0, SPREAD)
    # The guide multiplies the priors with these: what x_t says about z2, and what x_t and z2 say about z1.
    trust = 1.0 if exact_guide else 0.7
    z2.likelihood_net = Linear(trust / (2 * LOADING), 0.0, math.hypot(NOISE, LOADING * SPREAD) / (2 * LOADING) / trust)
    z1.likelihood_net = Linear(trust / LOADING, -trust, NOISE / LOADING / trust)
    return net


def log_evidence(x: Tensor, slope: float, lag: float) -> Tensor:
    """Return the exact log p(x) of :func:`linear_stcn` in nats: ``(batch, time, 1)`` to ``(batch,)``."""
    over_time = torch.eye(x.shape[1]) + lag * torch.ones(x.shape[1] - 1).diag(-1)  # from z to h
    past = F.pad(x, (0, 0, 1, 0))[:, :-1]
    mean = over_time @ (2 * LOADING * slope * past)
    covariance = (1 - NOISE**2) * over_time @ over_time.T + NOISE**2 * torch.eye(x.shape[1])
    return MultivariateNormal(mean.squeeze(-1), covariance).log_prob(x.squeeze(-1))


# -------------------------------------------------------------------------------------------- part 1: bounds as K grows


@torch.no_grad()
def estimates(kind: str, k: int, net: STCN, x: Tensor, repeats: int) -> Iterator[Tensor]:
    """Yield at least ``repeats`` independent estimates of a bound in nats per sequence, mean over those of x."""
    copies = max(1, 2048 // k)  # computed as one batch
    data = x.repeat(copies, 1, 1)
    for _ in range(-(-repeats // copies)):
        if kind == "FIVO":
            bound = FIVO(k).log_evidence(net.model, net.guide, data)
        else:  # one weight for each cell of the plates that are kept; the library refuses a plate that is not there
            keep = ("sequences", "time") if kind == "IWAE per step" else ("sequences",)
            log_weights = IWAE(k, keep, max_plate_nesting=2).log_weights(net.model, net.guide, data)
            bound = (log_weights.logsumexp(0) - math.log(k)).reshape(len(data), -1).sum(-1)
        yield from bound.reshape(copies, len(x)).mean(1)


def part_1(lag: float, ax: Axes, args: Args, bar: tqdm) -> list[str]:
    """Draw every bound that applies against K, and return the rows of the table."""
    system, slope = ("causal" if lag else "pointwise") + " output", 0.5
    x, net = torch.randn(4, args.steps, 1), linear_stcn(slope, lag, exact_guide=False)
    exact = log_evidence(x, slope, lag).mean().item()
    ax.axhline(exact, color="k", label="exact log p(x)")
    rows = [f"| {system} | exact log p(x) | | {exact:.2f} | 0.00 |"]
    for kind, style in STYLES.items():
        values: dict[int, Statistic] = {}
        for k in (2**i for i in range(args.max_particles.bit_length())):
            try:
                values[k] = Statistic.of(torch.stack([*estimates(kind, k, net, x, args.repeats)]).numpy())
            except ValueError as refusal:
                bar.write(f"{system}, {kind}, refused: {refusal}.\n")
                break
            bar.update()
            if k in (1, 4, 16, 64, 256, 1024) and (k > 1 or kind == "IWAE per sequence"):
                name, mean, error = kind if k > 1 else "ELBO", values[k].mean, values[k].standard_error
                rows.append(f"| {system} | {name} | {k} | {mean:.2f} ± {error:.2f} | {exact - mean:.2f} |")
        if values:
            means, errors = zip(*((s.mean, s.standard_error) for s in values.values()), strict=True)
            ax.errorbar(list(values), means, errors, fmt=style, ms=5, capsize=3, label=kind)
        if kind == "IWAE per sequence":  # with K = 1, every one of them is the ELBO
            ax.axhline(values[1].mean, color="0.5", ls=":", label="ELBO")
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.set(title=f"STCN-dense, {system}, T = {args.steps}", xlabel="particles K", ylabel="nats per sequence")
    ax.grid(alpha=0.3)
    return rows


# ------------------------------------------------------------------------------------- part 2: an estimate, not a bound


def part_2(ax: Axes, args: Args) -> list[str]:
    """Draw what is reported for white noise minus log N(x; 0, 1), the best of any model; return the table's rows."""
    x = torch.randn(args.sequences, 50, 1).float()
    best = dist.Normal(0.0, 1.0).log_prob(x.double()).sum((1, 2)).numpy()
    dataset = SequenceDataset(list(x.numpy()), [str(i) for i in range(len(x))])
    excess: dict[str, Statistic] = {}
    for draws in ("shared", "independent"):
        net = linear_stcn(slope=0.0, lag=0.0, exact_guide=True, independent_draws=draws == "independent")
        evaluation = evaluate(net, dataset, particles=16, batch_size=100, progress=False)
        print(f"White noise, {draws} draws: {evaluation}\n")
        bound = net.evidence is Evidence.LOWER_BOUND
        one, many = ("ELBO", "IWAE-16") if bound else ("1-draw estimate", "16-draw estimate")
        excess[f"{one}, {draws} draws"] = Statistic.of(evaluation.objective - best)
        excess[f"{many} per step, {draws} draws"] = Statistic.of(evaluation.iwae_per_step - best)
    ax.axvline(0, color="k")
    for y, (label, value) in enumerate(excess.items()):
        colour = "C3" if "independent" in label else "C0"
        ax.errorbar(value.mean, -y, xerr=value.standard_error, fmt="o", capsize=4, color=colour)
    ax.set_yticks(range(0, -len(excess), -1), [label.replace(", ", "\n") for label in excess])
    ax.set_ylim(0.5 - len(excess), 0.5)
    ax.set(title="A perfect model of white noise, T = 50", xlabel="reported minus exact log p(x), nats per sequence")
    ax.grid(axis="x", alpha=0.3)
    return [f"| {label} | {value.mean:+.2f} ± {value.standard_error:.2f} |" for label, value in excess.items()]


def main(args: Args) -> None:
    if min(args.steps, args.max_particles) < 1 or min(args.repeats, args.sequences) < 2:
        raise ValueError("--steps and --max-particles must be at least 1, --repeats and --sequences at least 2")
    torch.set_default_dtype(torch.float64)
    pyro.set_rng_seed(args.seed)
    figure, axes = plt.subplots(1, 3, figsize=(16, 4.8), layout="constrained")
    with tqdm(total=5 * args.max_particles.bit_length(), desc="bounds", disable=None) as bar:
        rows = part_1(0.0, axes[0], args, bar) + part_1(0.5, axes[1], args, bar)
    noise_rows = part_2(axes[2], args)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=110)
    print(f"Bounds in nats per sequence of {args.steps} steps, mean over 4 sequences ± standard error over repeats:\n")
    print("| system | figure | K | nats per sequence | gap to log p(x) |\n|---|---|---|---|---|", *rows, sep="\n")
    print("\nWhite noise, 50 steps, paired, ± standard error over sequences. Above 0 is above any model's worth:\n")
    print("| figure | minus log p(x), nats per sequence |\n|---|---|", *noise_rows, sep="\n")
    print(f"\nThe figure is {args.output.resolve()}")


if __name__ == "__main__":
    with friendly():  # a line for what the user can mend, a traceback for a bug
        main(tyro.cli(Args, description=__doc__))
