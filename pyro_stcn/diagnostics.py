"""What a trained ladder does with its layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import kl_divergence

__all__ = ["analytic_kl", "kl_by_layer"]


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
