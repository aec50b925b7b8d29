"""What every bound here has in common: a differentiable loss, from which Pyro's other verbs follow."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import ELBO
from pyro.infer.util import torch_item
from pyro.poutine.trace_struct import Trace
from pyro.util import warn_if_nan
from torch import Tensor

from ..models.base import Evidence, SequenceModel

__all__ = ["Objective", "check_particles", "refuse_estimates", "refuse_one_sided_scale", "scale_of_observations"]


class Objective(ELBO):
    """An ELBO that states :meth:`differentiable_loss`: it then runs in ``SVI``, in ``fit`` and as a torch module."""

    @abstractmethod
    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the bound in nats, summed over its cells, with gradients."""

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Return minus the bound in nats, summed over its cells."""
        with torch.no_grad():
            loss = torch_item(self.differentiable_loss(model, guide, *args, **kwargs))
        warn_if_nan(loss, "loss")
        return loss

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Return minus the bound, and add its gradients to the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        warn_if_nan(loss, "loss")
        return torch_item(loss)


def refuse_estimates(guide: Any) -> None:
    """Refuse a model of this library whose weights give no bound.

    :raises ValueError: with the reason.
    """
    net = getattr(guide, "net", None)
    if isinstance(net, SequenceModel) and net.evidence is Evidence.ESTIMATE:
        why = (
            "its latents are drawn once for the guide and again for the model (independent_draws)"
            if net.config.observation.normalised
            else "its observation model has a floor, so it is no density"
        )
        raise ValueError(
            f"importance weights of this {type(net).__name__} give no bound: {why}. Train it with Trace_ELBO or "
            "TraceMeanField_ELBO; evaluate() scores it, and says what its figures are"
        )


def refuse_one_sided_scale(model_trace: Trace, guide_trace: Trace) -> None:
    """Refuse a latent that model and guide scale by different factors: log p(z) - log q(z) is then no log-weight.

    :raises ValueError: naming the site and both factors.
    """
    for name, site in guide_trace.nodes.items():
        if site["type"] != "sample" or name not in model_trace:
            continue
        ours, theirs = model_trace.nodes[name]["scale"], site["scale"]
        differ = ours != theirs
        if differ.any() if isinstance(differ, Tensor) else differ:
            raise ValueError(
                f"latent {name!r} is scaled by {ours} in the model and by {theirs} in the guide, and the difference of "
                "their log-densities is then no weight: scale both, with poutine.scale around the call or in each"
            )


def check_particles(count: int) -> None:
    """Refuse a number of particles that is none.

    :raises ValueError: for anything but an integer of at least 1.
    """
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"num_particles must be an integer of at least 1, not {count}")


def scale_of_observations(trace: Trace) -> Tensor | float:
    """Return the scale that all observed sites share: subsampling, or a weight per sequence.

    :raises ValueError: where they do not share it.
    """
    scales = [site["scale"] for site in trace.nodes.values() if site["type"] == "sample" and site["is_observed"]]
    for other in scales[1:]:
        if not torch.equal(torch.as_tensor(other), torch.as_tensor(scales[0])):
            raise ValueError("observed sites with different scales have no common importance weight")
    return scales[0] if scales else 1.0
