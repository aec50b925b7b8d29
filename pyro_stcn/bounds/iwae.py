"""The importance-weighted bound, with the plates named that keep weights of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.infer.enum import get_importance_trace
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from .objective import Objective, check_particles, refuse_estimates, refuse_one_sided_scale, scale_of_observations

__all__ = ["IWAE"]

PARTICLES = "num_particles_vectorized"  # Pyro's name for the plate of vectorised particles


class IWAE(Objective):
    """The importance-weighted bound ``E log (1/K) sum_k w_k``, one weight per named plate cell (Burda et al. 2016).

    Where guide and model share their draws and the likelihood is a density (``net.evidence`` says so), it is a lower
    bound on log p(x) for every K, grows with K, and is the ELBO at K = 1. ``RenyiELBO(alpha=0)``
    computes the same when every site lies in the same plates, and one weight for the whole batch, silently, when one
    does not; here the plates are named and anything else is refused.

    Weights per sequence are always right. Weights per step are much tighter, and a bound only where steps are
    independent given the past of x; a model says so by a plate called "time", so ``keep=("sequences", "time")`` is
    refused where there is none.

    Under ``poutine.mask`` a masked cell contributes 0. The scale of the observed sites (subsampling, a weight per
    sequence) multiplies the bound; a further scale on the latents (annealing) tempers the weights, and what comes out
    is then an objective and not a bound.

    All latents must be reparameterised. What cannot be a bound is refused: a model of this library whose
    ``net.evidence`` says that it has none, and a latent that only the model or only the guide scales.

    :param num_particles: K.
    :param keep: names of the plates that keep weights of their own; ``()`` is one weight for all the data.
    :param vectorize_particles: compute the particles as one batch (faster, more memory) or one after the other.
    :param max_plate_nesting: how many plates the model nests; where it is not given, Pyro runs the pair once more to
        see.
    """

    def __init__(
        self,
        num_particles: int = 10,
        keep: tuple[str, ...] = ("sequences",),
        vectorize_particles: bool = True,
        max_plate_nesting: float = math.inf,
    ):
        check_particles(num_particles)
        super().__init__(
            num_particles=num_particles,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles and num_particles > 1,
        )
        self.keep = tuple(keep)

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the bound in nats, summed over the kept cells, with gradients."""
        refuse_estimates(guide)
        log_weights, scale = self._log_weights(model, guide, args, kwargs)
        bound = log_weights.logsumexp(0) - math.log(self.num_particles)
        return -(scale * bound).sum()

    @torch.no_grad()
    def log_weights(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return log p(x, z) - log q(z | x) of every particle and kept cell: ``(num_particles, *cells)``."""
        return self._log_weights(model, guide, args, kwargs)[0]

    def _get_trace(self, model, guide, args, kwargs):
        return get_importance_trace("flat", self.max_plate_nesting, model, guide, args, kwargs)

    def _log_weights(self, model, guide, args, kwargs) -> tuple[Tensor, Tensor | float]:
        """Return the log-weights ``(num_particles, *cells)`` and the scale that stays outside the logarithm."""
        particles: list[Tensor] = []
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            particles.append(self._log_joint(model_trace) - self._log_guide(guide_trace, model_trace))
        return self._together(particles), self._scale(model_trace)

    def _refuse_other_data(self, model_trace: Trace) -> None:
        """Refuse a mean of weights over different minibatches: it can exceed the evidence of any of them."""
        if self.vectorize_particles or self.num_particles == 1:
            return
        for name, site in model_trace.nodes.items():
            for frame in site.get("cond_indep_stack") or ():
                if frame.full_size not in (None, frame.size):
                    raise ValueError(
                        f"plate {frame.name!r} around {name!r} is subsampled anew for every particle: give "
                        "vectorize_particles=True, so that all particles see the same data"
                    )

    def _log_joint(self, model_trace: Trace) -> Tensor:
        """Return log p(x, z), without the scale of the observations, by cell."""
        self._refuse_other_data(model_trace)
        return self._sum_by_cell(model_trace, scale_of_observations(model_trace))

    def _log_guide(self, guide_trace: Trace, model_trace: Trace) -> Tensor | float:
        """Return log q(z | x), without the scale of the observations, by cell."""
        refuse_one_sided_scale(model_trace, guide_trace)
        for name, site in guide_trace.nodes.items():
            distribution: Any = site.get("fn")
            if site["type"] == "sample" and not distribution.has_rsample:
                raise NotImplementedError(f"{type(self).__name__} needs reparameterised latents, and {name!r} is not")
        return self._sum_by_cell(guide_trace, scale_of_observations(model_trace))

    def _sum_by_cell(self, trace: Trace, scale: Tensor | float) -> Any:
        sites = [(name, site) for name, site in trace.nodes.items() if site["type"] == "sample"]
        return sum(self._by_cell(name, site, site["log_prob"] / scale).sum(-1) for name, site in sites)

    def _together(self, particles: list[Tensor]) -> Tensor:
        """Return ``(num_particles, *cells)``, from one vectorised run or from one run a particle."""
        return particles[0] if self.vectorize_particles else torch.stack(particles)

    def _scale(self, model_trace: Trace) -> Tensor | float:
        """Return the scale of the observations, a number or by cell."""
        scale = scale_of_observations(model_trace)
        if isinstance(scale, Tensor) and scale.dim():
            scale = self._scale_by_cell(model_trace, scale)
            scale = scale[0] if self.vectorize_particles else scale
        return scale

    def _by_cell(self, name: str, site: Mapping, value: Tensor) -> Tensor:
        """Arrange a value of a site's batch shape as ``(particles if vectorised, *keep, all the rest)``."""
        frames = {frame.name: frame.dim for frame in site["cond_indep_stack"] if frame.vectorized}
        for plate in self.keep:
            if plate not in frames:
                around = ", ".join(frames) or "none"
                raise ValueError(
                    f"a weight per {' and '.join(self.keep)} needs every sample site inside these plates, but {name!r} "
                    f"is not in {plate!r} (plates around it: {around}); its cells are not independent, and a weight "
                    'for each would not give a bound. Give keep=("sequences",), or use FIVO, which is nearly as tight'
                )
        wanted = [frames[plate] for plate in (PARTICLES, *self.keep) if plate in frames]
        value = value.expand(site["fn"].batch_shape).unsqueeze(-1)  # now the plates lie one further to the left
        return value.movedim([dim - 1 for dim in wanted], list(range(len(wanted)))).flatten(len(wanted))

    def _scale_by_cell(self, model_trace: Trace, scale: Tensor) -> Tensor:
        name, site = next((n, s) for n, s in model_trace.nodes.items() if s["type"] == "sample" and s["is_observed"])
        cells = self._by_cell(name, site, scale)
        if (cells != cells[..., :1]).any():
            raise ValueError(
                f"the scale of {name!r} differs within a cell of {self.keep}: it cannot be outside the logarithm"
            )
        return cells[..., 0]
