"""The importance-weighted bound with doubly reparameterised gradients (Tucker et al. 2019)."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..models.base import SequenceModel
from ..models.unroll import StepwiseNormal
from .iwae import IWAE
from .objective import refuse_estimates, scale_of_observations

__all__ = ["DReG"]


class DReG(IWAE):
    """The bound of :class:`IWAE`, and for the guide an unbiased gradient whose signal does not drown as K grows.

    IWAE's gradient for the guide has a signal-to-noise ratio that falls like 1/sqrt(K) (Rainforth et al. 2018). With
    normalised weights w_k, this one is ``sum_k w_k^2 d log(weight_k)/dz_k dz_k/dphi`` for the guide and IWAE's own,
    ``sum_k w_k d log p/dtheta``, for the model. A parameter that both use (the backbone and the priors of a ladder,
    which its guide merges) gets the sum of the two.

    Detaching the guide's *distributions* would be biased for a ladder: log q(z1 | z2) would lose its path through z2.
    Here model and guide are run again on the same draws, once with the draws alive and all parameters constant, and
    once with the draws constant: three runs a step where IWAE makes one (and one where no gradient is wanted).

    Annealed latents get the factor that belongs to them, and so do latents that are masked out but read by others (a
    hole in a sequence, the further draws of ``independent_draws``), which have no density in the weights. Padding
    behind the last step adds nothing, neither to the mean nor to the noise.

    Where the guide merges the model's prior, as in a ladder, it can be the noisier one by far: a layer that says
    nothing (q = p) gives IWAE a gradient of exactly 0, and this estimator the score of the prior, whose mean alone
    is 0. docs/results.md has a training that fails for it.

    All parameters must be registered with Pyro inside model or guide (``pyro.module``, ``pyro.param``), and the pair
    must compute the same numbers when it is run again: no dropout. Latents that are masked must be Normal in the guide.

    The parameters of the constructor are those of :class:`IWAE`.
    """

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the bound in nats, summed over the kept cells, whose gradient is the estimator's."""
        if not torch.is_grad_enabled():
            return super().differentiable_loss(model, guide, *args, **kwargs)
        refuse_estimates(guide)
        log_weights, log_joints = [], []
        looked_at = _draws_looked_at(guide, *args, **kwargs)
        for (path_model, path_guide), (live_model, live_guide) in self._get_traces(model, guide, args, kwargs):
            log_weights.append(self._log_joint(path_model) - self._log_guide(path_guide, path_model))
            log_joints.append(self._log_joint(live_model) + self._uncharged(live_guide, live_model, looked_at))
        log_weight, log_joint = self._together(log_weights), self._together(log_joints)
        weight = log_weight.detach().softmax(0)
        # Where log p(z) - log q(z) is annealed, only that share of a path's weight cancels against the score of q.
        share = _annealing(live_guide, live_model)
        gradients = (weight * (1 - share + share * weight) * log_weight + weight * log_joint).sum(0)
        bound = log_weight.detach().logsumexp(0) - math.log(self.num_particles)
        return -(self._scale(live_model) * (bound + gradients - gradients.detach())).sum()

    def _uncharged(self, guide: Trace, model: Trace, looked_at: Tensor | None) -> Tensor | float:
        """Return log q of the draws that are masked out, by cell: no weight holds it, but others look at the draws.

        :param looked_at: at which steps they do, if that is known: elsewhere it would be noise of mean 0.
        """
        total: Any = 0.0
        scale = scale_of_observations(model)
        for name, site in guide.nodes.items():
            if site["type"] != "sample":
                continue
            fn: Any = site["fn"]
            z: Any = site["value"]
            normal, masked = _inside_masks(fn)
            if not masked and site["mask"] is None:
                continue
            if isinstance(normal, StepwiseNormal):
                normal = normal.steps(z)
            if not isinstance(normal, dist.Normal):
                raise NotImplementedError(f"DReG needs a Normal for {name!r}, which is masked, not {type(normal)}")
            log_q = normal.log_prob(z)
            if looked_at is not None:
                log_q = torch.where(looked_at.unsqueeze(-1), log_q, log_q.new_zeros(()))
            log_q = log_q.flatten(len(fn.batch_shape)).sum(-1) if fn.event_dim else log_q
            total = total + self._by_cell(name, site, (site["scale"] * log_q - site["log_prob"]) / scale).sum(-1)
        return total

    def _get_trace(self, model, guide, args, kwargs) -> Any:
        """Return the traces (model, guide) with live draws and constant parameters, and with constant draws.

        Where no gradient is wanted there is only one run, and its traces are returned.
        """
        if not torch.is_grad_enabled():
            return super()._get_trace(model, guide, args, kwargs)
        with poutine.trace(param_only=True) as parameters, _Subsamples() as subsamples:
            _, drawn = super()._get_trace(model, guide, args, kwargs)
        draws = {
            name: site["value"]
            for name, site in drawn.nodes.items()
            if site["type"] == "sample" and not site["is_observed"]
        }
        draws |= subsamples.seen
        with _Given(draws), _constant(parameters.trace):
            path = super()._get_trace(model, guide, args, kwargs)
        with _Given({name: value.detach() for name, value in draws.items()}):
            live = super()._get_trace(model, guide, args, kwargs)
        return path, live


def _draws_looked_at(guide: Any, *args: Any, **kwargs: Any) -> Tensor | None:
    """Return which steps' draws anything scored looks at, of the models of this library; None where it is not known."""
    net = getattr(guide, "net", None)
    if not isinstance(net, SequenceModel):
        return None
    mask = inspect.signature(net.model).bind(*args, **kwargs).arguments.get("mask")
    return None if mask is None else net.draws_looked_at(mask)


def _inside_masks(fn: Any) -> tuple[Any, bool]:
    """Return the distribution inside masks and reinterpreted dimensions, and whether there is a mask."""
    if isinstance(fn, StepwiseNormal):
        return fn, fn.unroll.mask is not None
    masked = False
    while isinstance(fn, (dist.MaskedDistribution, torch.distributions.Independent)):
        masked |= isinstance(fn, dist.MaskedDistribution)
        fn = fn.base_dist
    return fn, masked


class _Subsamples(Messenger):
    """Notes which data a subsampling plate has chosen: traces of an ELBO do not hold it."""

    def __init__(self):
        super().__init__()
        self.seen: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg) -> None:
        if site_is_subsample(msg):
            self.seen[msg["name"]] = msg["value"]


def _annealing(guide: Trace, model: Trace) -> Any:
    """Return the scale of the latents beside that of the observations, one for all."""
    scales = [site["scale"] for site in guide.nodes.values() if site["type"] == "sample"]
    shares = torch.cat([torch.as_tensor(s / scale_of_observations(model)).flatten() for s in scales or [1.0]])
    if not torch.allclose(shares, shares[:1]):
        raise ValueError("DReG needs one annealing factor for all latents")
    return shares[0]


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
    if not leaves:
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
