"""The ELBO with a part of every layer's KL free of charge (Kingma et al. 2016): an objective for training, no bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer.enum import get_importance_trace
from torch import Tensor

from ..diagnostics import kl_by_layer
from ..models import SequenceModel
from .objective import Objective

__all__ = ["FreeBits"]


class FreeBits(Objective):
    """Minus ``E_q log p(x | z) - sum_l max(KL_l, floor)``, with ``floor`` nats per step in every layer of latents.

    A layer whose KL, averaged over the batch, is below the floor feels no pressure to be smaller, so it is not given up
    early in training. **It is below the ELBO and says nothing about the evidence where a layer is below the floor**:
    validation and :func:`~pyro_stcn.evaluation.evaluate` report the ELBO itself.

    KLs are analytic given the draws above, as in ``TraceMeanField_ELBO``, and with ``floor=0`` it is that ELBO.
    Where several processes have a share of the batch each, the floor is of each share by itself.

    Annealing multiplies the KL after the floor was applied. Weights per sequence (``mean_over_steps``) count in the
    average.

    :param floor: nats per step and layer.
    """

    def __init__(self, floor: float):
        if not floor >= 0:
            raise ValueError(f"floor must not be negative, it is {floor}")
        super().__init__(num_particles=1, max_plate_nesting=2)
        self.floor = floor

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss in nats, summed over sequences, with gradients.

        :raises TypeError: for a guide that belongs to no :class:`~pyro_stcn.models.SequenceModel`.
        """
        net = getattr(guide, "net", None)
        if not isinstance(net, SequenceModel):
            raise TypeError("FreeBits counts steps as this library's models do, and this guide belongs to none of them")
        model_trace, guide_trace = self._get_trace(model, guide, args, kwargs)
        observed = [site for site in model_trace.nodes.values() if site["type"] == "sample" and site["is_observed"]]
        loss = -sum(site["log_prob"].sum() for site in observed)
        x = model_trace.nodes["x"]
        mask = args[1] if len(args) > 1 else kwargs.get("mask")
        steps = scale_and_mask(_steps_by_cell(net, x["value"], mask), x["scale"], x["mask"]).sum()
        drawn = [name for name in net.latent_names if name in guide_trace.nodes]  # the others were conditioned on
        for name, kl in kl_by_layer(model_trace, guide_trace, drawn).items():
            annealing = guide_trace.nodes[name]["scale"] / torch.as_tensor(x["scale"])
            if not torch.allclose(annealing, annealing.flatten()[:1]):
                raise ValueError(f"FreeBits needs one annealing factor for all of {name!r}")
            loss = loss + annealing.flatten()[0] * (x["scale"] * kl).sum().clamp(min=self.floor * steps)
        return loss

    def _get_trace(self, model, guide, args, kwargs):
        return get_importance_trace("flat", self.max_plate_nesting, model, guide, args, kwargs)


def _steps_by_cell(net: SequenceModel, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return how many steps each cell of the plates holds: 0 or 1 where time is a plate, else those of the sequence."""
    present = x.new_ones(x.shape[:-1]) if mask is None else mask.to(x.dtype)
    return present if net.pointwise else present.sum(-1)
