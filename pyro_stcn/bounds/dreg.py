"""The importance-weighted bound with doubly reparameterised gradients (Tucker et al. 2019)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from .iwae import IWAE

__all__ = ["DReG"]


class DReG(IWAE):
    """The bound of :class:`IWAE`, and for the guide an unbiased gradient whose signal does not drown as K grows.

    IWAE's gradient for the guide has a signal-to-noise ratio that falls like 1/sqrt(K) (Rainforth et al. 2018). With
    normalised weights w_k, this one is ``sum_k w_k^2 d log(weight_k)/dz_k dz_k/dphi`` for the guide and IWAE's own,
    ``sum_k w_k d log p/dtheta``, for the model. A parameter that both use (the backbone and the priors of a ladder,
    which its guide merges) gets the sum of the two.

    Detaching the guide's *distributions* would be biased for a ladder: log q(z1 | z2) would lose its path through z2.
    Here model and guide are run again on the same draws, once with the draws alive and all parameters constant, and
    once with the draws constant: three runs a step where IWAE makes one.

    All parameters must be registered with Pyro inside model or guide (``pyro.module``, ``pyro.param``), and the pair
    must compute the same numbers when it is run again: no dropout, no subsampling plate. A latent that is masked out
    and still read by others (a hole in a sequence, the further draws of ``independent_draws``) has no density in the
    weights; the value is right there, but its gradient is not IWAE's: use IWAE. So it is while latents are annealed.

    The parameters of the constructor are those of :class:`IWAE`.
    """

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the bound in nats, summed over the kept cells, whose gradient is the estimator's."""
        log_weights, log_joints = [], []
        for (path_model, path_guide), (live_model, _) in self._get_traces(model, guide, args, kwargs):
            log_weights.append(self._log_joint(path_model) - self._log_guide(path_guide, path_model))
            log_joints.append(self._log_joint(live_model))
        log_weight, log_joint = self._together(log_weights), self._together(log_joints)
        weight = log_weight.detach().softmax(0)
        gradients = (weight.square() * log_weight + weight * log_joint).sum(0)
        bound = log_weight.detach().logsumexp(0) - math.log(self.num_particles)
        return -(self._scale(live_model) * (bound + gradients - gradients.detach())).sum()

    @torch.no_grad()
    def log_weights(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return log p(x, z) - log q(z | x) of every particle and kept cell: ``(num_particles, *cells)``."""
        weights = [
            self._log_joint(path_model) - self._log_guide(path_guide, path_model)
            for (path_model, path_guide), _ in self._get_traces(model, guide, args, kwargs)
        ]
        return self._together(weights)

    def _get_trace(self, model, guide, args, kwargs) -> tuple[tuple[Trace, Trace], tuple[Trace, Trace]]:
        """Return the traces (model, guide) with live draws and constant parameters, and with constant draws."""
        with poutine.trace(param_only=True) as parameters:
            _, drawn = super()._get_trace(model, guide, args, kwargs)
        draws = {
            name: site["value"]
            for name, site in drawn.nodes.items()
            if site["type"] == "sample" and not site["is_observed"]
        }
        with _Given(draws), _constant(parameters.trace):
            path = super()._get_trace(model, guide, args, kwargs)
        with _Given({name: value.detach() for name, value in draws.items()}):
            live = super()._get_trace(model, guide, args, kwargs)
        return path, live


class _Given(Messenger):
    """Gives latents the values that were drawn before. Unlike a replay it leaves what a guide noted at the site."""

    def __init__(self, values: Mapping[str, Tensor]):
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True


@contextmanager
def _constant(parameters: Trace) -> Iterator[None]:
    """Let the registered parameters be constants for a while."""
    leaves = [site["value"].unconstrained() for site in parameters.nodes.values() if site["type"] == "param"]
    if torch.is_grad_enabled() and not leaves:
        raise ValueError("no parameters are registered with Pyro: call pyro.module or pyro.param inside the model")
    leaves = [leaf for leaf in leaves if leaf.requires_grad]
    for leaf in leaves:
        leaf.requires_grad_(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*was not registered in the param store")
            yield
    finally:
        for leaf in leaves:
            leaf.requires_grad_(True)
