"""What a trained ladder does with its layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.ops.stats import fit_generalized_pareto
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import kl_divergence

__all__ = ["analytic_kl", "effective_sample_size", "kl_by_layer", "pareto_khat"]


def analytic_kl(q: Mapping[str, Any], p: Mapping[str, Any]) -> Tensor | None:
    """KL(q || p) of two sites of traces, of their batch shape, masks applied; None where no closed form is known."""
    try:
        kl = kl_divergence(q["fn"], p["fn"])
    except NotImplementedError:
        return None
    # Pyro returns the number 0 for a distribution that is masked out altogether.
    kl = torch.as_tensor(kl, device=q["value"].device).expand(q["fn"].batch_shape)
    return scale_and_mask(kl, mask=q["mask"])


def kl_by_layer(model_trace: Trace, guide_trace: Trace, names: Iterable[str]) -> dict[str, Tensor]:
    """Analytic KL(q || p) of every latent, given the draws above it, in nats (equation 15 and Table 2 of the paper).

    Masks are respected; scales (annealing) are not applied.

    :param model_trace: trace of the model at the guide's draws.
    :param guide_trace: trace of the guide.
    :param names: the latent sites, for instance ``net.latent_names``.
    :returns: per site a tensor of the site's batch shape: one value per sequence, or per sequence and step where time
        is a plate.
    :raises NotImplementedError: where torch knows no closed form.
    """
    result = {}
    for name in names:
        kl = analytic_kl(guide_trace.nodes[name], model_trace.nodes[name])
        if kl is None:
            raise NotImplementedError(f"there is no closed form for the KL of {name!r}")
        result[name] = kl
    return result


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """``(sum w)^2 / sum w^2`` of K importance weights, between 1 and K: how many of them carry the estimate.

    :param log_weights: ``(K, ...)``.
    :returns: ``(...)``.
    """
    return (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()


def pareto_khat(log_weights: Tensor) -> Tensor:
    """Shape of the generalised Pareto distribution that fits the largest of K weights (Vehtari et al. 2015).

    Above 0.7 the guide misses so much of the posterior that an estimate from these weights converges too slowly to be
    of use, whatever the K that can be paid for. A bound stays a bound: it is loose.

    :param log_weights: ``(K, batch)``; at least 25, for there to be a tail of 5.
    :returns: ``(batch,)``; nan where K is smaller.
    """
    count = log_weights.shape[0]
    tail = int(min(0.2 * count, 3 * count**0.5))
    if tail < 5:
        return log_weights.new_full(log_weights.shape[1:], float("nan"))
    largest = (log_weights - log_weights.amax(0)).exp().sort(0).values[-tail - 1 :]
    excess = (largest[1:] - largest[0]).T
    return torch.as_tensor([_shape_of_tail(row) for row in excess], dtype=log_weights.dtype)


def _shape_of_tail(excess: Tensor) -> float:
    if excess[-1] <= 0:
        return -float("inf")  # equal weights have no tail at all
    # A few weights can be so large that the others are as nothing beside them. The fit divides by the quartile.
    if excess[int(len(excess) / 4 - 0.5)].double() < 1e-300 * excess[-1].double():
        return float("inf")
    return float(fit_generalized_pareto(excess)[0])
