"""What a training step costs: this library, the same mathematics without Pyro, and a model and guide that share
nothing.

    python tests/benchmarks/svi_step.py [--rounds 12] [--size paper]

All versions use the same modules, weights, data and optimiser (but for the row that says otherwise) and take turns
within each round, so that a noisy machine disturbs all alike. Ratios are medians over rounds of (version / plain
torch in the same round).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pyro
import torch
import torch.nn.functional as F
import tyro
from pyro.infer import SVI, TraceMeanField_ELBO

from pyro_stcn.models import STCN
from pyro_stcn.presets import preset

PRESETS = {"paper": "timit/stcn-dense-gmm", "small": "timit/stcn-dense-gmm-small"}


def plain_torch(net: STCN) -> Callable:
    """Return the loss written by hand: features, ladder, KL and mixture, no Pyro at all."""

    def gaussian(module, d, above):
        return module.loc(d, above), F.softplus(module.scale(d, above)).clamp(1e-3, 5.0)

    def loss(x, mask, weight):
        features = net.features(torch.where(mask.unsqueeze(-1), x, 0.0))
        above, draws, kl = None, [], 0.0
        for layer, d in zip(reversed(net.ladder), reversed(features), strict=True):
            p_loc, p_scale = gaussian(layer.prior_net, d[:, :-1], above)
            l_loc, l_scale = gaussian(layer.likelihood_net, d[:, 1:], above)
            a, b = l_scale**-2, p_scale**-2
            variance = 1 / (a + b)
            q_loc = (l_loc * a + p_loc * b) * variance
            q_scale = variance if net.config.ladder.merge == "eq11" else variance.sqrt()
            above = q_loc + q_scale * torch.randn_like(q_loc)
            draws.append(above)
            ratio = (q_scale / p_scale).square()
            kl = kl + 0.5 * (ratio + ((q_loc - p_loc) / p_scale).square() - 1 - ratio.log()).sum(-1)
        head = net.observation
        h = net.output(torch.cat(draws, -1))
        loc = head.loc(h).unflatten(-1, head.shape)
        scale = F.softplus(head.scale(h)).clamp(1e-3, 50.0).unflatten(-1, head.shape)
        standard = (x.unsqueeze(-2) - loc) / scale
        component = -(0.5 * standard.square() + scale.log()).sum(-1) - 0.5 * math.log(2 * math.pi) * x.shape[-1]
        log_lik = (head.logits(h).log_softmax(-1) + component).logsumexp(-1)
        return torch.where(mask, weight * kl - log_lik, 0.0).sum()

    return loss


def naive_pair(net: STCN) -> tuple[Callable, Callable]:
    """Return a model and a guide in the usual style: each computes the features and the priors for itself."""

    def guide(x, mask, weight):
        pyro.module("naive", net)
        features = net.features(net.clean(x, mask))
        above = None
        with net.plates(x), pyro.poutine.scale(scale=weight):
            for layer, d in zip(reversed(net.ladder), reversed(features), strict=True):
                prior = layer.prior(d[:, :-1], above)
                posterior = layer.posterior(prior, d[:, 1:], above).to_event(1)
                above = pyro.sample(layer.name, net.over_time(posterior, mask))

    return net.model, guide


@dataclass
class Args:
    """Print seconds per training step and ratios to plain torch."""

    rounds: int = 12
    size: tuple[Literal["paper", "small"], ...] = ("small", "paper")
    batch: int = 20
    steps: int = 40


def measure(size: str, args: Args) -> None:
    """Print the table of one size."""
    pyro.set_rng_seed(0)
    net = preset(PRESETS[size]).model.build()
    x = torch.randn(args.batch, args.steps, net.data_dim)
    mask = torch.ones(args.batch, args.steps, dtype=torch.bool)
    elbo, plain = TraceMeanField_ELBO(), plain_torch(net)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-5, fused=True)
    svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 1e-5}), TraceMeanField_ELBO())
    naive_model, naive_guide = naive_pair(net)

    def with_torch(loss_and_grads: Callable) -> Callable:
        def step():
            optimiser.zero_grad()
            loss_and_grads()
            optimiser.step()

        return step

    def bfloat16() -> None:
        for module in (net.backbone, net.output.tcn):
            module.autocast_dtype = torch.bfloat16
        elbo.loss_and_grads(net.model, net.guide, x, mask, 0.5)
        for module in (net.backbone, net.output.tcn):
            module.autocast_dtype = None

    def unvalidated() -> None:
        with pyro.validation_enabled(False):
            elbo.loss_and_grads(net.model, net.guide, x, mask, 0.5)

    versions = {
        "plain torch": with_torch(lambda: plain(x, mask, 0.5).backward()),
        "pyro_stcn, its ELBO and torch's Adam": with_torch(
            lambda: elbo.loss_and_grads(net.model, net.guide, x, mask, 0.5)
        ),
        "the same without Pyro's validation": with_torch(unvalidated),
        "pyro_stcn, pyro.infer.SVI and pyro.optim": lambda: svi.step(x, mask, 0.5),
        "model and guide that share nothing": with_torch(
            lambda: elbo.loss_and_grads(naive_model, naive_guide, x, mask, 0.5)
        ),
        "pyro_stcn, blocks in bfloat16": with_torch(bfloat16),
    }
    seconds: dict[str, list[float]] = {name: [] for name in versions}
    for step in versions.values():
        step()
    order = list(versions)
    for _ in range(args.rounds):
        order = order[1:] + order[:1]  # nobody always runs after the same one
        for name in order:
            start = time.perf_counter()
            versions[name]()
            seconds[name].append(time.perf_counter() - start)
    base = seconds["plain torch"]
    parameters = sum(p.numel() for p in net.parameters())
    print(f"{PRESETS[size]}: {parameters:,} parameters, batch {args.batch} x {args.steps} steps,")
    print(f"{torch.get_num_threads()} threads, {args.rounds} rounds")
    for name, times in seconds.items():
        ratio = statistics.median(t / b for t, b in zip(times, base, strict=True))
        print(f"  {name:<42} {statistics.median(times):.3f} s/step   x {ratio:.2f}")


if __name__ == "__main__":
    arguments = tyro.cli(Args)
    for each in arguments.size:
        measure(each, arguments)
