"""From a Pyro model and the guide fitted to it by SVI to an ArviZ object.

:func:`from_pyro_svi` runs the guide and names every axis by the plate it belongs to. It works with
any Pyro model and guide, on ArviZ 0.23 (``InferenceData``) and on 1.x (``xarray.DataTree``).
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.infer import SVI
from pyro.infer.elbo import ELBOModule
from pyro.infer.enum import get_importance_trace
from torch import Tensor
from torch.distributions import Independent, kl_divergence
from tqdm import tqdm

if TYPE_CHECKING:
    from arviz import InferenceData
    from xarray import Dataset, DataTree

Names = Mapping[str, Sequence[str]]  # of a variable: the names of its axes
Trace = poutine.Trace
Site = Any  # a Pyro message: its type declares every field optional, in a trace they are filled in

_DRAWS = "_from_pyro_svi_draws"  # the outer plate of parallel=True
_SAMPLE_DIMS = ("chain", "draw")


def from_pyro_svi(
    model: Callable | SVI | ELBOModule,
    guide: Callable | None = None,
    *,
    model_args: Sequence = (),
    model_kwargs: Mapping[str, Any] | None = None,
    prior: Mapping[str, Any] | None = None,
    posterior_predictive: Mapping[str, Any] | None = None,
    predictions: Mapping[str, Any] | None = None,
    constant_data: Mapping[str, Any] | None = None,
    predictions_constant_data: Mapping[str, Any] | None = None,
    log_likelihood: bool = True,
    sample_stats: bool = True,
    index_origin: int | None = None,
    coords: Mapping[str, Any] | None = None,
    dims: Names | None = None,
    pred_dims: Names | None = None,
    extra_event_dims: Names | None = None,
    num_samples: int = 1000,
    parallel: bool = False,
    var_names: Sequence[str] | None = None,
) -> InferenceData | DataTree:
    """Draw from a fitted guide and return what was drawn as an ArviZ object.

    The keywords are those of ArviZ's converter for NumPyro's SVI, ``from_numpyro_svi``, with the
    same meaning; ``sample_stats``, ``parallel`` and ``var_names`` are added. The draws of a guide
    are independent, so there is one chain of ``num_samples`` draws: use ``az.summary(...,
    kind="stats")``, r-hat has nothing to say here. Put networks in evaluation mode first.

    Groups of the result (S draws; a *cell* is one index of the plates all sample sites share):

    * ``posterior``: every latent of the model and every ``pyro.deterministic``, of shape
      ``(1, S, *shape)``. The auxiliary variables of an automatic guide are left out.
    * ``observed_data``: every observed site. ``pyro.factor`` is not one.
    * ``log_likelihood``: log p(x | z) in nats per observed site and element of its batch shape (an
      event over time gives one value per sequence); masked elements are 0. ``az.loo`` accepts it,
      but where a latent belongs to the datum itself, z_i ~ q(z_i | x_i), the result is *not* a
      held-out score: z_i was drawn knowing x_i, no weight undoes that, and k-hat will say so.
      There, use an importance-weighted bound on test data.
    * ``sample_stats``, in nats, per draw and cell (per draw, if no plate is shared):
      ``lp`` = log p(x, z); ``log_weight`` = log p(x, z) - log q(z), whose mean is the ELBO, and
      which counts all that the guide draws, auxiliary variables and Jacobians included;
      ``kl_<site>`` = KL(q || p) at that latent given the draws above it, analytic where torch
      knows the pair of distributions, else log q - log p of the draw. Latents drawn together
      through one auxiliary variable (``AutoMultivariateNormal``) have one ``kl_joint``. A point
      estimate (``AutoDelta``) has no KL, and its log q counts as 0. Masks are respected; factors
      of ``poutine.scale`` are left out, so an annealed model gives its true densities.
    * ``prior``, ``posterior_predictive``, ``predictions``: the dictionaries given, with a leading
      draw axis, as ``pyro.infer.Predictive`` returns them. What is in ``prior`` and not in the
      posterior goes to ``prior_predictive``.
    * ``constant_data``, ``predictions_constant_data``: the dictionaries given, without draw axis.

    :param model: the model, or the ``pyro.infer.SVI`` or ELBO module that holds model and guide.
    :param guide: the fitted guide: a function, an ``AutoGuide``, a ``GuideMessenger``.
    :param model_args: positional arguments of model and guide: all the data, no subsampling.
    :param model_kwargs: keyword arguments of model and guide.
    :param log_likelihood: False to leave that group out.
    :param sample_stats: False to leave that group out.
    :param index_origin: first index of an unlabelled axis; default is ArviZ's own setting.
    :param coords: axis name -> labels. A plate has 0 .. size-1 unless labelled here.
    :param dims: variable -> names of all its axes (chain and draw not counted), or of its event
        axes only. Without it, an axis is named by its plate, then by ``infer={"event_dims":
        [...]}`` of the site, else ``<variable>_dim_<i>``.
    :param pred_dims: the same for ``predictions`` and their constant data; ``dims`` if None.
    :param extra_event_dims: variable -> further event axes, after those named by the site.
    :param num_samples: S, the number of draws.
    :param parallel: one vectorised pass under an outer plate instead of a loop: faster, but model
        and guide must broadcast over a leading dimension, and all draws are in memory at once.
    :param var_names: latents and deterministic sites to keep in ``posterior``; all if None.
    :returns: ``arviz.InferenceData`` (ArviZ < 1) or ``xarray.DataTree``. float16 and bfloat16
        become float32; ``sample_stats`` are float64.
    :raises ValueError: if a latent is missing in the guide (as one that was enumerated out), a
        plate is subsampled, shapes change between draws, or names or coordinates do not fit.
    :raises TypeError: if model and guide are not a pair of callables.
    """
    import arviz as az  # here: it is slow to import, and 0.23 announces its successor when imported

    model, guide = _pair(model, guide)
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    kwargs = dict(model_kwargs or {})
    with torch.no_grad():
        layout = _Layout.of(*_traces(model, guide, model_args, kwargs, math.inf))
        if var_names is not None:
            layout.keep(var_names)
        # Names first: a wrong one should not cost the draws.
        dims, extra_event_dims = dims or {}, extra_event_dims or {}
        pred_dims = dims if pred_dims is None else pred_dims
        axes = {**dims, **layout.axis_names(dims, extra_event_dims)}
        pred_axes = {**pred_dims, **layout.axis_names(pred_dims, extra_event_dims)}
        batch_axes = {name: [axes[name][i] for i in layout.filled(name)] for name in layout.observed}
        groups = ["posterior"]
        groups += ["log_likelihood"] * log_likelihood + ["sample_stats"] * sample_stats
        drawn = _draw(model, guide, model_args, kwargs, layout, num_samples, parallel, groups)

    cells = {name: [f.name for f in layout.cells] for name in drawn["sample_stats"]}
    known = {*layout.latents, *layout.deterministic}
    prior_groups: dict[str, dict] = {"prior": {}, "prior_predictive": {}}
    for name, value in (prior or {}).items():
        prior_groups["prior" if name in known else "prior_predictive"][name] = value

    table: list[tuple[str, Mapping[str, Any], Names, bool]] = [
        ("posterior", drawn["posterior"], axes, True),
        ("sample_stats", drawn["sample_stats"], cells, True),
        ("log_likelihood", drawn["log_likelihood"], batch_axes, True),
        ("prior", prior_groups["prior"], axes, True),
        ("prior_predictive", prior_groups["prior_predictive"], axes, True),
        ("posterior_predictive", posterior_predictive or {}, axes, True),
        ("predictions", predictions or {}, pred_axes, True),
        ("observed_data", layout.observations, axes, False),
        ("constant_data", constant_data or {}, axes, False),
        ("predictions_constant_data", predictions_constant_data or {}, pred_axes, False),
    ]
    origin = az.rcParams["data.index_origin"] if index_origin is None else index_origin
    attrs = {
        "created_at": datetime.now(UTC).isoformat(),
        "arviz_version": az.__version__,
        "inference_library": "pyro",
        "inference_library_version": pyro.__version__,
    }
    return _bundle(
        az,
        {
            group: _dataset(group, values, names, coords or {}, origin, sampled, attrs)
            for group, values, names, sampled in table
            if values
        },
    )


def _bundle(az: Any, groups: Mapping[str, Dataset]) -> InferenceData | DataTree:
    """Put the groups into one object: the only place where the versions of ArviZ differ."""
    if int(az.__version__.split(".")[0]) < 1:
        return az.InferenceData(**groups)
    from xarray import DataTree

    return DataTree.from_dict(dict(groups))


def _pair(model: Any, guide: Any) -> tuple[Callable, Callable]:
    """Return model and guide, taken out of the object that holds both if need be."""
    if isinstance(model, SVI | ELBOModule):
        if guide is not None:
            raise TypeError(f"{type(model).__name__} holds a guide already: give no second one")
        model, guide = model.model, model.guide
    if not callable(model) or not callable(guide):
        raise TypeError(
            "expected a model and a guide, or a pyro.infer.SVI that holds both; "
            f"got {type(model).__name__} and {type(guide).__name__}"
        )
    own = getattr(poutine.unwrap(guide), "model", None)
    if isinstance(poutine.unwrap(guide), poutine.guide.GuideMessenger) and own != model:
        warnings.warn(
            "the guide is a GuideMessenger, which runs the model it was built with; "
            "the other model given here is ignored",
            stacklevel=3,
        )
    return model, guide


def _traces(model: Callable, guide: Callable, args: Sequence, kwargs: dict, nesting: float) -> tuple[Trace, Trace]:
    """Run the guide and the model on its draw; log-probabilities are filled in."""
    with warnings.catch_warnings():
        # A latent without a guide is an error of ours, with a fuller message.
        warnings.filterwarnings("ignore", message="Found vars in model but not guide")
        return get_importance_trace("flat", nesting, model, guide, args, kwargs)


def _is(site: Site, flag: str) -> bool:
    return bool(site["infer"].get(flag))


def _samples(trace: Trace) -> dict[str, Site]:
    """Sample sites that carry a density: all but ``pyro.deterministic``."""
    return {
        name: site for name, site in trace.nodes.items() if site["type"] == "sample" and not _is(site, "_deterministic")
    }


def _plates(site: Site) -> list:
    """Vectorised plates around a site, outermost dimension first."""
    frames = [f for f in site["cond_indep_stack"] if f.vectorized and f.name != _DRAWS]
    return sorted(frames, key=lambda f: f.dim)


def _log_prob(site: Site) -> Tensor:
    """Masked but unscaled log-probability of a site, of its batch shape."""
    return scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])


def _shape(site: Site) -> torch.Size:
    """Shape of a site's value, broadcast against its plates."""
    value, fn = site["value"], site["fn"]
    if _is(site, "_deterministic"):
        return value.shape
    return torch.broadcast_shapes(value.shape, fn.batch_shape + fn.event_shape)


def _is_point(site: Site) -> bool:
    fn = site["fn"]
    while isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
        fn = fn.base_dist
    return isinstance(fn, pyro.distributions.Delta)


@dataclass
class _Layout:
    """What one run of model and guide says about all of them: sites, shapes, plates."""

    latents: list[str]
    deterministic: list[str]
    observed: list[str]
    sites: dict[str, Site]  # by name, of the model
    cells: list  # plates shared by all sample sites
    nesting: int  # number of batch dimensions that model and guide use
    kl: dict[str, tuple[list[str], list[str]]]  # statistic -> sites of the guide, sites of the model
    kept: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.kept = self.latents + self.deterministic

    @classmethod
    def of(cls, model: Trace, guide: Trace) -> _Layout:
        """Read it off a pair of traces, and refuse what has no faithful conversion."""
        p, q = _samples(model), _samples(guide)
        latents = [name for name, s in p.items() if not (s["is_observed"] or _is(s, "is_auxiliary"))]
        missing = [name for name in latents if name not in q]
        if missing:
            raise ValueError(
                f"the guide does not draw the latent(s) {missing} of the model. A latent that was "
                "enumerated out has no draws: use pyro.infer.infer_discrete, or put it in the guide"
            )
        if not latents:
            raise ValueError("the model has no latent that the guide draws: no posterior to convert")
        everything = [*p.values(), *q.values()]
        for frame in itertools.chain.from_iterable(s["cond_indep_stack"] for s in everything):
            if frame.full_size not in (None, frame.size):
                raise ValueError(
                    f"plate {frame.name!r} is subsampled ({frame.size} of {frame.full_size}): "
                    "each draw would be about other data. Run model and guide on all of it"
                )
            if frame.name in _SAMPLE_DIMS:
                raise ValueError(f"plate {frame.name!r} has the name of an axis of ArviZ: rename it")
        shared = set.intersection(*({f.name for f in _plates(s)} for s in everything))
        depths = [len(s["fn"].batch_shape) for s in everything]
        return cls(
            latents=latents,
            deterministic=[n for n, s in model.nodes.items() if n not in p and s["type"] == "sample"],
            observed=[n for n, s in p.items() if s["is_observed"] and not _is(s, "is_auxiliary")],
            sites={n: s for n, s in model.nodes.items() if s["type"] == "sample"},
            cells=[f for f in _plates(p[latents[0]]) if f.name in shared],
            nesting=max(depths + [-f.dim for s in everything for f in _plates(s)]),
            kl=_kl_terms(latents, q),
        )

    @property
    def observations(self) -> dict[str, Tensor]:
        """Observed values; one that Pyro broadcast against the plates is written out."""
        return {n: self.sites[n]["value"].expand(_shape(self.sites[n])) for n in self.observed}

    def keep(self, var_names: Sequence[str]) -> None:
        """Keep only these sites in the posterior."""
        unknown = [name for name in var_names if name not in self.kept]
        if unknown:
            raise ValueError(f"var_names {unknown} are not among the sites {self.kept}")
        self.kept = [name for name in self.kept if name in var_names]

    def axis_names(self, dims: Names, extra: Names) -> dict[str, list[str]]:
        """Names of all axes of every site, those the user gave included."""
        return {
            name: _site_axes(name, self.sites[name], dims.get(name), extra.get(name, ()))
            for name in [*self.latents, *self.deterministic, *self.observed]
        }

    def filled(self, name: str) -> list[int]:
        """Batch axes of an observed site that hold more than one value or belong to a plate."""
        shape, plates = _log_prob(self.sites[name]).shape, _plates(self.sites[name])
        return [i for i, size in enumerate(shape) if size > 1 or any(f.dim + len(shape) == i for f in plates)]


def _kl_terms(latents: list[str], q: dict[str, Site]) -> dict[str, tuple[list[str], list[str]]]:
    """Say which densities of the guide and of the model make up each KL term.

    An automatic guide draws an auxiliary variable and transforms it; the latent itself is then a
    Delta whose log-density is the Jacobian. Pyro names the auxiliary after the latent where there
    is one for each; what is left was drawn jointly and cannot be split over the latents.
    """
    terms: dict[str, tuple[list[str], list[str]]] = {}
    joint = []
    auxiliary = [name for name in q if name not in latents]
    for name in latents:
        own = [a for a in (f"{name}_unconstrained", f"{name}_aux") if a in auxiliary]
        if own or not _is_point(q[name]):
            terms[f"kl_{name}"] = ([*own, name], [name])
            auxiliary = [a for a in auxiliary if a not in own]
        else:
            joint.append(name)
    if joint and auxiliary:
        terms["kl_joint"] = (auxiliary + joint, joint)
    return terms


def _by_plate(name: str, shape: Sequence[int], batch: int, plates: list) -> list[str]:
    """Name the axes: the first ``batch`` by the plate at that dimension, if it has that size."""
    at = {f.dim + batch: f for f in plates}
    return [
        at[i].name if i < batch and i in at and at[i].size == size else f"{name}_dim_{i}"
        for i, size in enumerate(shape)
    ]


def _site_axes(name: str, site: Site, given: Sequence[str] | None, extra: Sequence[str]) -> list[str]:
    """Names of the axes of a site's value."""
    shape, plates = _shape(site), _plates(site)
    event_dim = site["fn"].event_dim
    if _is(site, "_deterministic") and event_dim == len(shape):
        # Pyro takes all axes for event axes unless told: those that fit the plates are not.
        pairs = zip(plates, shape, strict=False)
        batch = len(list(itertools.takewhile(lambda pair: pair[0].size == pair[1], pairs)))
        plates = [f._replace(dim=i - batch) for i, f in enumerate(plates[:batch])]
    else:
        batch = max(len(shape) - event_dim, 0)
    names = _by_plate(name, shape, batch, plates)
    event = [*site["infer"].get("event_dims", ()), *extra]
    if given is not None:
        if len(given) not in (len(shape), len(shape) - batch):
            raise ValueError(
                f"dims[{name!r}] names {len(given)} axes; the variable has {len(shape)}, "
                f"of which {len(shape) - batch} are event axes"
            )
        if len(given) == len(shape):
            return list(given)
        event = list(given)
    if len(event) > len(shape) - batch:
        raise ValueError(f"{name!r} has {len(shape) - batch} event axes, but names {event}")
    names[batch : batch + len(event)] = event
    return names


def _draw(
    model: Callable,
    guide: Callable,
    args: Sequence,
    kwargs: dict,
    layout: _Layout,
    num_samples: int,
    parallel: bool,
    groups: Sequence[str],
) -> dict[str, dict[str, np.ndarray]]:
    """Draw S times and return group -> variable -> array (S, *shape)."""
    arrays: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    size = num_samples if parallel else 1
    # disable=None: no bar where stderr is not a terminal.
    steps = tqdm(range(0, num_samples, size), "draws", disable=True if parallel else None)
    for step in steps:
        try:
            if parallel:
                # Inside the trace and the replay, as everywhere in Pyro: a replayed site is not
                # broadcast any more by what stands outside.
                outer = pyro.plate(_DRAWS, size, dim=-layout.nesting - 1)
                traces = _traces(outer(model), outer(guide), args, kwargs, layout.nesting + 1)
            else:
                traces = _traces(model, guide, args, kwargs, math.inf)
        except (RuntimeError, ValueError, IndexError) as error:
            if not parallel:
                raise
            raise ValueError("model and guide do not run under an outer plate: use parallel=False") from error
        for group, name, value in _record(layout, *traces, size if parallel else None, groups):
            array = _numpy(value)
            if step == 0:
                arrays[group][name] = np.empty((num_samples, *array.shape[1:]), array.dtype)
            arrays[group][name][step : step + size] = array
    return arrays


def _record(
    layout: _Layout, model: Trace, guide: Trace, draws: int | None, groups: Sequence[str]
) -> Iterator[tuple[str, str, Tensor]]:
    """Yield group, variable and value (draws, *shape) of one pass; draws is None in the loop."""
    if not set(layout.sites) <= set(model.nodes):
        raise ValueError("the sites of the model change from draw to draw: no common array for them")
    for name in layout.kept:
        shape = layout.sites[name]["value"].shape
        value: Any = model.nodes[name]["value"]
        yield "posterior", name, _stacked(name, value, shape, draws)
    if "log_likelihood" in groups:
        for name in layout.observed:
            shape = _log_prob(layout.sites[name]).shape
            likelihood = _stacked(name, _log_prob(model.nodes[name]), shape, draws)
            filled = [shape[i] for i in layout.filled(name)]
            yield "log_likelihood", name, likelihood.reshape(len(likelihood), *filled)
    if "sample_stats" not in groups:
        return

    kept = {f.dim for f in layout.cells} | ({-layout.nesting - 1} if draws else set())

    def per_cell(value: Tensor) -> Tensor:
        summed = [i for i in range(-value.dim(), 0) if i not in kept]
        value = value.double().sum(summed) if summed else value.double()
        return value if draws else value[None]

    def total(terms: Mapping[str, Tensor], names: Iterable[str]) -> Tensor:
        return sum((terms[name] for name in names), start=torch.zeros(()))

    p, q = _samples(model), _samples(guide)
    log_p = {name: per_cell(_log_prob(site)) for name, site in p.items()}
    log_q = {name: per_cell(_log_prob(site)) for name, site in q.items()}
    yield "sample_stats", "lp", total(log_p, p)
    yield "sample_stats", "log_weight", total(log_p, p) - total(log_q, q)
    for statistic, (of_guide, of_model) in layout.kl.items():
        analytic = _analytic_kl(q[of_guide[0]], p[of_model[0]]) if len(of_guide) == 1 else None
        if analytic is not None:
            yield "sample_stats", statistic, per_cell(analytic)
        else:
            yield "sample_stats", statistic, total(log_q, of_guide) - total(log_p, of_model)


def _analytic_kl(q: Site, p: Site) -> Tensor | None:
    """KL(q || p) of two sites, of their batch shape; None where no closed form is known."""
    try:
        kl = kl_divergence(q["fn"], p["fn"])
    except NotImplementedError:
        return None
    # Pyro returns the number 0 for a distribution that is masked out altogether.
    kl = torch.as_tensor(kl, device=q["value"].device).expand(q["fn"].batch_shape)
    return scale_and_mask(kl, mask=q["mask"])


def _stacked(name: str, value: Tensor, shape: Sequence[int], draws: int | None) -> Tensor:
    """Bring the value of one pass to (draws, *shape).

    In a vectorised pass a value is (draws, 1 .. 1, *shape). Anything else is refused: a value of
    shape ``shape`` could be a constant, but also a sum over the draws, written for a single one.
    """
    if draws is None:
        if value.shape != shape:
            raise ValueError(f"{name!r} has shape {tuple(value.shape)} in one draw and {tuple(shape)} in another")
        return value[None]

    def core(sizes: Sequence[int]) -> list[int]:
        return list(itertools.dropwhile(lambda size: size == 1, sizes))

    if value.shape[:1] != (draws,) or core(value.shape[1:]) != core(shape):
        raise ValueError(
            f"{name!r} has shape {tuple(value.shape)} for {draws} parallel draws, which is not one "
            f"{tuple(shape)} for each: use parallel=False"
        )
    return value.reshape(draws, *shape)


def _numpy(value: Any) -> np.ndarray:
    """Array on the CPU; half precision, which netCDF has no type for, becomes float32."""
    if isinstance(value, Tensor):
        value = value.detach()
        if value.dtype in (torch.float16, torch.bfloat16):
            value = value.float()
        value = value.cpu().numpy()
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _dataset(
    group: str,
    values: Mapping[str, Any],
    names: Names,
    coords: Mapping[str, Any],
    origin: int,
    sampled: bool,
    attrs: Mapping[str, str],
) -> Dataset:
    """Label arrays; each has a leading draw axis if ``sampled``."""
    from xarray import Dataset

    lead = _SAMPLE_DIMS if sampled else ()
    variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    sizes: dict[str, int] = {}
    for name, value in values.items():
        array = _numpy(value)
        if sampled:
            if array.ndim == 0:
                raise ValueError(f"{group}[{name!r}] has no leading draw axis")
            array = array[None]
        count = array.ndim - len(lead)
        axes = tuple(names.get(name, [f"{name}_dim_{i}" for i in range(count)]))
        # Predictive pads every site to the depth of the plates.
        while array.ndim > len(lead) + len(axes) and array.shape[len(lead)] == 1:
            array = array.squeeze(len(lead))
        if array.ndim != len(lead) + len(axes):
            raise ValueError(f"{group}[{name!r}] has shape {array.shape[len(lead) :]}, its axes are {axes}")
        variables[name] = (lead + axes, array)
        sizes.update(zip(lead + axes, array.shape, strict=True))
    labels = {}
    for axis, size in sizes.items():
        labels[axis] = np.asarray(coords.get(axis, np.arange(origin, origin + size)))
        if len(labels[axis]) != size:
            raise ValueError(f"coords[{axis!r}] has {len(labels[axis])} labels; in {group} that axis has {size}")
    return Dataset(variables, coords={a: (a, v) for a, v in labels.items()}, attrs=dict(attrs))
