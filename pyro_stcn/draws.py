"""Draws from a fitted guide as named arrays, for any Pyro model and guide.

A first :func:`run` of model and guide gives the :class:`Layout`: the sites, and the plates that name their axes.
:func:`draw` repeats the run and stacks what it finds. :mod:`pyro_stcn.posterior` makes an ArviZ object of the two.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from pyro.infer.enum import get_importance_trace
from pyro.poutine import Trace
from torch import Tensor
from tqdm import tqdm

from .diagnostics import analytic_kl

__all__ = ["SAMPLE_DIMS", "Layout", "Names", "draw", "run"]

Names = Mapping[str, Sequence[str]]  # of a variable: the names of its axes
Site = Any  # a Pyro message: its type declares every field optional, in a trace they are filled in
Value = tuple[str, Tensor, Sequence[int]]  # variable, its value in one run, its shape in one draw

SAMPLE_DIMS = ("chain", "draw")  # ArviZ's own axes, in front of those of a site


@torch.no_grad()
def run(
    model: Callable, guide: Callable, args: Sequence, kwargs: Mapping, draws: int | None = None, nesting: int = 0
) -> tuple[Trace, Trace]:
    """Run the guide and the model on its draw.

    :param draws: draws of a vectorised run; None for a run that is a single draw.
    :param nesting: number of batch dimensions that model and guide use; the draws are put outside.
    :returns: the traces of model and guide, log-probabilities filled in.
    :raises ValueError: if model and guide cannot be vectorised.
    """
    with warnings.catch_warnings():
        # A latent without a guide is an error of ours, with a fuller message.
        warnings.filterwarnings("ignore", message="Found vars in model but not guide")
        if draws is None:
            return get_importance_trace("flat", math.inf, model, guide, args, kwargs)
        # The plate stands inside the trace and the replay, as everywhere in Pyro: a replayed site is not broadcast any
        # more by what stands outside.
        outer = pyro.plate("_from_pyro_svi_draws", draws, dim=-nesting - 1)
        try:
            return get_importance_trace("flat", nesting + 1, outer(model), outer(guide), args, kwargs)
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(f"model and guide do not run under an outer plate, use parallel=False: {error}") from error


@dataclass(frozen=True)
class Layout:
    """What one run of model and guide says about all of them."""

    unobserved: list[str]  # latents, then deterministic sites
    kept: list[str]  # those of them that go to the posterior
    observed: dict[str, Tensor]  # values; one that Pyro broadcast against the plates is written out
    sites: dict[str, Site]  # of the model, by name
    cells: list  # plates that all sample sites share, outermost first
    nesting: int  # number of batch dimensions that model and guide use
    kl: dict[str, tuple[list[str], list[str]]]  # statistic: sites of the guide, sites of the model

    @classmethod
    def of(cls, model: Trace, guide: Trace, var_names: Sequence[str] | None = None) -> Layout:
        """Read it off the traces of a single draw.

        :param var_names: latents and deterministic sites to keep; all if None.
        :raises ValueError: for what has no faithful conversion, and for names of no such site.
        """
        p, q = _samples(model), _samples(guide)
        proper = {name: s for name, s in p.items() if not s["infer"].get("is_auxiliary")}
        latents = [name for name, s in proper.items() if not s["is_observed"]]
        if missing := [name for name in latents if name not in q]:
            raise ValueError(
                f"the guide does not draw the latent(s) {missing}; those enumerated out need pyro.infer.infer_discrete"
            )
        if not latents:
            raise ValueError("the model has no latent that the guide draws: no posterior to convert")
        everything = [*p.values(), *q.values()]
        for frame in (frame for s in everything for frame in s["cond_indep_stack"]):
            if frame.full_size not in (None, frame.size):
                raise ValueError(
                    f"plate {frame.name!r} is subsampled ({frame.size} of {frame.full_size}): run on all the data"
                )
            if frame.name in SAMPLE_DIMS:
                raise ValueError(f"plate {frame.name!r} has the name of an axis of ArviZ: rename it")
        sites = {name: s for name, s in model.nodes.items() if s["type"] == "sample"}
        unobserved = latents + [name for name in sites if name not in p]
        if unknown := [name for name in var_names or () if name not in unobserved]:
            raise ValueError(f"var_names {unknown} are not among the sites {unobserved}")
        shared = set.intersection(*(set(_plates(s)) for s in everything))
        return cls(
            unobserved=unobserved,
            kept=[name for name in unobserved if var_names is None or name in var_names],
            observed={name: s["value"].expand(_shape(s)) for name, s in proper.items() if s["is_observed"]},
            sites=sites,
            cells=[frame for frame in _plates(p[latents[0]]) if frame in shared],
            nesting=max(len(s["fn"].batch_shape) for s in everything),
            kl=_kl_terms(latents, q),
        )

    def axis_names(self, dims: Names, extra_event_dims: Names) -> dict[str, list[str]]:
        """Names of all axes of every site; the parameters are those of ``from_pyro_svi``."""
        return {
            name: _site_axes(name, self.sites[name], dims.get(name), extra_event_dims.get(name, ()))
            for name in [*self.unobserved, *self.observed]
        }

    def likelihood_axes(self, name: str) -> list[int]:
        """Batch axes of an observed site that hold more than one value or belong to a plate."""
        shape = _log_prob(self.sites[name]).shape
        plates = {len(shape) + frame.dim for frame in _plates(self.sites[name])}
        return [i for i, size in enumerate(shape) if size > 1 or i in plates]


@torch.no_grad()
def draw(
    once: Callable[..., tuple[Trace, Trace]], layout: Layout, num_samples: int, parallel: bool, groups: Iterable[str]
) -> dict[str, dict[str, Tensor]]:
    """Draw from the guide and evaluate the model at the draws.

    :param once: :func:`run` with its model, guide and their arguments.
    :param parallel: one vectorised run under an outer plate instead of ``num_samples`` runs.
    :param groups: which of "posterior", "log_likelihood" and "sample_stats" to return.
    :returns: group -> variable -> values ``(num_samples, *shape)`` on the CPU.
    :raises ValueError: if shapes change between draws, or model and guide cannot be vectorised.
    """
    drawn: dict[str, dict[str, Tensor]] = defaultdict(dict)
    draws, size = (num_samples, num_samples) if parallel else (None, 1)
    # disable=None: no bar where stderr is not a terminal.
    for start in tqdm(range(0, num_samples, size), "draws", disable=True if parallel else None):
        traces = once(draws, layout.nesting)
        if not layout.sites.keys() <= traces[0].nodes.keys():
            raise ValueError("the sites of the model change from draw to draw: no common array for them")
        for group in groups:
            for name, value, shape in _GROUPS[group](layout, *traces):
                rows = _rows(name, value, shape, draws)
                if not start:
                    drawn[group][name] = rows.new_empty((num_samples, *shape), device="cpu")
                drawn[group][name][start : start + size] = rows
    return drawn


def _rows(name: str, value: Tensor, shape: Sequence[int], draws: int | None) -> Tensor:
    """Bring what one run gives to ``(draws, *shape)``; ``draws`` is None for a run that is a single draw.

    A vectorised run gives ``(draws, 1 .. 1, *shape)``. Anything else is refused: a value of shape ``shape`` could be a
    constant, but also a sum over the draws, written for a single one.
    """
    rows = value[None] if draws is None else value
    if rows.shape[:1] != (draws or 1,) or [n for n in rows.shape[1:] if n != 1] != [n for n in shape if n != 1]:
        expected = f"{draws} parallel draws, not {tuple(shape)} in each: use parallel=False"
        if draws is None:
            expected = f"one draw and {tuple(shape)} in another"
        raise ValueError(f"{name!r} has shape {tuple(value.shape)} in {expected}")
    return rows.reshape(-1, *shape)


def _posterior(layout: Layout, model: Trace, guide: Trace) -> Iterator[Value]:
    for name in layout.kept:
        value: Any = model.nodes[name]["value"]
        yield name, value, layout.sites[name]["value"].shape


def _log_likelihood(layout: Layout, model: Trace, guide: Trace) -> Iterator[Value]:
    for name in layout.observed:
        shape = _log_prob(layout.sites[name]).shape
        yield name, _log_prob(model.nodes[name]), [shape[i] for i in layout.likelihood_axes(name)]


def _sample_stats(layout: Layout, model: Trace, guide: Trace) -> Iterator[Value]:
    kept = {frame.dim for frame in layout.cells} | {-layout.nesting - 1}  # the latter: the draws, if vectorised

    def per_cell(value: Tensor) -> Tensor:
        summed = [i for i in range(-value.dim(), 0) if i not in kept]
        return value.double().sum(summed) if summed else value.double()  # no dimension would mean all of them

    p, q = _samples(model), _samples(guide)
    log_p = {name: per_cell(_log_prob(site)) for name, site in p.items()}
    log_q = {name: per_cell(_log_prob(site)) for name, site in q.items()}
    lp: Any = sum(log_p.values())
    shape = [frame.size for frame in layout.cells]
    yield "lp", lp, shape
    yield "log_weight", lp - sum(log_q.values()), shape
    for name, (of_guide, of_model) in layout.kl.items():
        kl = analytic_kl(q[of_guide[0]], p[of_model[0]]) if len(of_guide) == 1 else None
        sampled: Any = sum(log_q[n] for n in of_guide) - sum(log_p[n] for n in of_model)
        yield name, sampled if kl is None else per_cell(kl), shape


_GROUPS = {"posterior": _posterior, "log_likelihood": _log_likelihood, "sample_stats": _sample_stats}


def _kl_terms(latents: list[str], q: Mapping[str, Site]) -> dict[str, tuple[list[str], list[str]]]:
    """Say which densities of the guide and of the model make up each KL term.

    An automatic guide draws an auxiliary variable and transforms it; the latent itself is then a Delta whose
    log-density is the Jacobian. Pyro names the auxiliary after its latent; what is left was drawn jointly for several.
    """
    others = [name for name in q if name not in latents]
    own = {name: [a for a in (f"{name}_unconstrained", f"{name}_aux") if a in others] for name in latents}
    terms = {f"kl_{name}": ([*own[name], name], [name]) for name in latents if own[name] or not _is_point(q[name])}
    joint = [name for name in latents if f"kl_{name}" not in terms]
    auxiliary = [a for a in others if a not in itertools.chain(*own.values())]
    if joint and auxiliary:
        terms["kl_joint"] = (auxiliary + joint, joint)
    return terms


def _is_deterministic(site: Site) -> bool:
    return bool(site["infer"].get("_deterministic"))


def _is_point(site: Site) -> bool:
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, Delta)


def _samples(trace: Trace) -> dict[str, Site]:
    """Sample sites that carry a density: all but ``pyro.deterministic``."""
    return {n: s for n, s in trace.nodes.items() if s["type"] == "sample" and not _is_deterministic(s)}


def _plates(site: Site) -> list:
    """Vectorised plates around a site, outermost dimension first."""
    return sorted((f for f in site["cond_indep_stack"] if f.vectorized), key=lambda f: f.dim)


def _log_prob(site: Site) -> Tensor:
    """Masked but unscaled log-probability of a site, of its batch shape."""
    return scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])


def _shape(site: Site) -> torch.Size:
    """Shape of a site's value, broadcast against its plates."""
    return torch.broadcast_shapes(site["value"].shape, () if _is_deterministic(site) else site["fn"].shape())


def _site_axes(name: str, site: Site, given: Sequence[str] | None, extra: Sequence[str]) -> list[str]:
    """Names of the axes of a site's value: given, else of its plates, its ``event_dims`` and ``extra``."""
    shape, plates = _shape(site), _plates(site)
    batch = max(len(shape) - site["fn"].event_dim, 0)
    if _is_deterministic(site) and batch == 0:
        # Pyro takes all axes for event axes unless told: those that fit the plates are not.
        fitting = itertools.takewhile(lambda pair: pair[0].size == pair[1], zip(plates, shape, strict=False))
        batch = len(list(fitting))
        plates = [frame._replace(dim=i - batch) for i, frame in enumerate(plates[:batch])]
    event = [*site["infer"].get("event_dims", ()), *extra] if given is None else list(given)
    if given is not None and len(given) == len(shape):
        return event
    free = len(shape) - batch
    if len(event) > free or (given is not None and len(event) < free):
        raise ValueError(f"{name!r} has {len(shape)} axes, {free} of them event axes, but names {event}")
    # An axis of another size than the plate's was not expanded to it.
    by_plate = {(batch + frame.dim, frame.size): frame.name for frame in plates}
    names = [by_plate.get((i, size), f"{name}_dim_{i}") for i, size in enumerate(shape)]
    names[batch : batch + len(event)] = event
    return names
