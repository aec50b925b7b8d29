"""What a trained ladder does with its layers."""

from __future__ import annotations

from collections.abc import Iterable

from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import kl_divergence

__all__ = ["kl_by_layer"]


def kl_by_layer(model_trace: Trace, guide_trace: Trace, names: Iterable[str]) -> dict[str, Tensor]:
    """Analytic KL(q || p) of every latent, given the draws above it, in nats (equation 15 and Table 2 of the paper).

    Masks are respected; scales (annealing) are not applied.

    :param model_trace: trace of the model at the guide's draws.
    :param guide_trace: trace of the guide.
    :param names: the latent sites, for instance ``net.latent_names``.
    :returns: per site a tensor of the site's batch shape: one value per sequence, or per sequence and step where time
        is a plate.
    """
    return {name: kl_divergence(guide_trace.nodes[name]["fn"], model_trace.nodes[name]["fn"]) for name in names}
