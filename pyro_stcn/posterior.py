"""From a Pyro model and the guide fitted to it by SVI to an ArviZ object.

:func:`from_pyro_svi` runs the guide and names every axis by the plate it belongs to. It works with any Pyro model and
guide, on ArviZ 0.23 (``InferenceData``) and on 1.x (``xarray.DataTree``). :func:`posterior_of` is the same for a model
of this library and a batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.infer.elbo import ELBOModule
from torch import Tensor

from .draws import SAMPLE_DIMS, Layout, Names, draw, run

if TYPE_CHECKING:
    from arviz import InferenceData
    from xarray import Dataset, DataTree

    from .data.batch import SequenceBatch
    from .models import SequenceModel

__all__ = ["from_pyro_svi", "posterior_of"]


def posterior_of(net: SequenceModel, batch: SequenceBatch, num_samples: int = 50) -> InferenceData | DataTree:
    """Draw from the guide of a model of this library and return what was drawn as an ArviZ object.

    :func:`from_pyro_svi` with the names filled in: draws of every latent in ``posterior``, log-weights and the KL of
    every layer in ``sample_stats``, the sequences by their names, the axes ``sequences``, ``time``, ``z1_unit`` and so
    on, and ``channel`` of the data. ``lengths`` are in ``constant_data``; steps behind them are padding.

        idata = posterior_of(net, collate(corpus.test, range(3)))
        az.summary(idata, group="sample_stats", kind="stats")

    :param net: a model with latents; it is in evaluation mode while this runs.
    :param batch: its sequences; moved to the model's device.
    :param num_samples: S, the number of draws.
    :raises ValueError: if the model has no latents.
    """
    if not net.latent_names:
        raise ValueError(f"{type(net).__name__} has no latents, so it has no posterior")
    weight = next(net.parameters())
    batch = batch.to(weight.device, weight.dtype)
    time = [] if net.pointwise else ["time"]  # where steps are independent, time is a plate and has its name
    with net.evaluating():
        idata = from_pyro_svi(
            net.model,
            net.guide,
            model_args=(batch.x, batch.mask),
            constant_data={"lengths": batch.lengths},
            var_names=list(net.latent_names),
            coords={"sequences": list(batch.names)},
            dims={name: [*time, f"{name}_unit"] for name in net.latent_names} | {"x": [*time, "channel"]},
            num_samples=num_samples,
        )
    idata["sample_stats"].attrs["evidence"] = str(net.evidence)
    return idata


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

    The keywords are those of ArviZ's converter for NumPyro's SVI, ``from_numpyro_svi``, with the same meaning;
    ``sample_stats``, ``parallel`` and ``var_names`` are added. The draws of a guide are independent, so there is one
    chain of ``num_samples`` draws: use ``az.summary(..., kind="stats")``, r-hat has nothing to say here. Put networks
    in evaluation mode first.

    Groups of the result (S draws; a *cell* is one index of the plates all sample sites share):

    * ``posterior``: every latent of the model and every ``pyro.deterministic``, of shape ``(1, S, *shape)``. The
      auxiliary variables of an automatic guide are left out.
    * ``observed_data``: every observed site. ``pyro.factor`` is not one.
    * ``log_likelihood``: log p(x | z) in nats per observed site and element of its batch shape (an event over time
      gives one value per sequence); masked elements are 0. ``az.loo`` accepts it, but where a latent belongs to the
      datum itself, z_i ~ q(z_i | x_i), the result is *not* a held-out score: z_i was drawn knowing x_i, no weight
      undoes that, and k-hat will say so. There, use an importance-weighted bound on test data.
    * ``sample_stats``, in nats, per draw and cell (per draw, if no plate is shared): ``lp`` = log p(x, z);
      ``log_weight`` = log p(x, z) - log q(z), whose mean is the ELBO, and which counts all that the guide draws,
      auxiliary variables and Jacobians included; ``kl_<site>`` = KL(q || p) at that latent given the draws above it,
      analytic where torch knows the pair of distributions, else log q - log p of the draw. Latents drawn together
      through one auxiliary variable (``AutoMultivariateNormal``) have one ``kl_joint``. A point estimate
      (``AutoDelta``) has no KL, and its log q counts as 0. Masks are respected; factors of ``poutine.scale`` are left
      out, so an annealed model gives its true densities.
    * ``prior``, ``posterior_predictive``, ``predictions``: the dictionaries given, with a leading draw axis, as
      ``pyro.infer.Predictive`` returns them. What is in ``prior`` and not in the posterior goes to
      ``prior_predictive``.
    * ``constant_data``, ``predictions_constant_data``: the dictionaries given, without draw axis.

    :param model: the model, or the ``pyro.infer.SVI`` or ELBO module that holds model and guide.
    :param guide: the fitted guide: a function, an ``AutoGuide``, a ``GuideMessenger``. The latter runs the model that
        it was built with.
    :param model_args: positional arguments of model and guide: all the data, no subsampling.
    :param model_kwargs: keyword arguments of model and guide.
    :param prior: draws from the prior, variable -> values; see above, as for the other dictionaries.
    :param posterior_predictive: draws of the observed sites given the posterior.
    :param predictions: draws for other data than the guide was fitted to.
    :param constant_data: inputs of the model that are no site.
    :param predictions_constant_data: the same for ``predictions``.
    :param log_likelihood: False to leave that group out.
    :param sample_stats: False to leave that group out.
    :param index_origin: first index of an unlabelled axis; default is ArviZ's own setting.
    :param coords: axis name -> labels. A plate has 0 .. size-1 unless labelled here.
    :param dims: variable -> names of all its axes (chain and draw not counted), or of its event axes only. Without it,
        an axis is named by its plate, then by ``infer={"event_dims": [...]}`` of the site, else ``<variable>_dim_<i>``.
    :param pred_dims: the same for ``predictions`` and their constant data; ``dims`` if None.
    :param extra_event_dims: variable -> further event axes, after those named by the site.
    :param num_samples: S, the number of draws.
    :param parallel: one vectorised pass under an outer plate instead of a loop: faster, but model and guide must
        broadcast over a leading dimension, and all draws are in memory at once.
    :param var_names: latents and deterministic sites to keep in ``posterior``; all if None.
    :returns: ``arviz.InferenceData`` (ArviZ < 1) or ``xarray.DataTree``. float16 and bfloat16 become float32;
        ``sample_stats`` are float64.
    :raises ValueError: if a latent is missing in the guide (as one that was enumerated out), a plate is subsampled,
        shapes change between draws, or names or coordinates do not fit.
    :raises TypeError: if model and guide are not a pair of callables.
    """
    import arviz as az  # here: it is slow to import, and 0.23 announces its successor when imported

    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    once = partial(run, *_pair(model, guide), model_args, model_kwargs or {})
    layout = Layout.of(*once(), var_names)
    # Names first: a wrong one should not cost the draws.
    dims, extra_event_dims = dims or {}, extra_event_dims or {}
    pred_dims = dims if pred_dims is None else pred_dims
    axes = {**dims, **layout.axis_names(dims, extra_event_dims)}
    pred_axes = {**pred_dims, **layout.axis_names(pred_dims, extra_event_dims)}
    batch_axes = {name: [axes[name][i] for i in layout.likelihood_axes(name)] for name in layout.observed}
    groups = ["posterior"] + ["log_likelihood"] * log_likelihood + ["sample_stats"] * sample_stats
    drawn = draw(once, layout, num_samples, parallel, groups)

    cells = {name: [frame.name for frame in layout.cells] for name in drawn["sample_stats"]}
    prior = prior or {}
    latent = {name: value for name, value in prior.items() if name in layout.unobserved}
    predictive = {name: value for name, value in prior.items() if name not in layout.unobserved}
    table: list[tuple[str, Mapping[str, Any] | None, Names, bool]] = [
        ("posterior", drawn["posterior"], axes, True),
        ("sample_stats", drawn["sample_stats"], cells, True),
        ("log_likelihood", drawn["log_likelihood"], batch_axes, True),
        ("prior", latent, axes, True),
        ("prior_predictive", predictive, axes, True),
        ("posterior_predictive", posterior_predictive, axes, True),
        ("predictions", predictions, pred_axes, True),
        ("observed_data", layout.observed, axes, False),
        ("constant_data", constant_data, axes, False),
        ("predictions_constant_data", predictions_constant_data, pred_axes, False),
    ]
    origin = az.rcParams["data.index_origin"] if index_origin is None else index_origin
    attrs = {
        "created_at": datetime.now(UTC).isoformat(),
        "arviz_version": az.__version__,
        "inference_library": "pyro",
        "inference_library_version": pyro.__version__,
    }
    datasets = {
        group: _dataset(group, values, names, coords or {}, origin, sampled).assign_attrs(attrs)
        for group, values, names, sampled in table
        if values
    }
    return _bundle(az, datasets)


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
    own = poutine.unwrap(guide)
    # The same model: as it is, or as the module that it is a method of (``net.model`` and ``net``).
    if isinstance(own, poutine.guide.GuideMessenger) and _owner(own.model) is not _owner(model):
        warnings.warn(
            "the guide is a GuideMessenger, which runs the model it was built with; the other model given here is "
            "ignored",
            stacklevel=3,
        )
    return model, guide


def _owner(model: Any) -> Any:
    """The object that a bound method belongs to; anything else as it is."""
    return getattr(model, "__self__", model)


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
) -> Dataset:
    """Label arrays; each has a leading draw axis if ``sampled``."""
    from xarray import Dataset

    lead = SAMPLE_DIMS if sampled else ()
    variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    sizes: dict[str, int] = {}
    for name, value in values.items():
        array = _numpy(value)
        if sampled:
            if array.ndim == 0:
                raise ValueError(f"{group}[{name!r}] has no leading draw axis")
            array = array[None]
        axes = tuple(names.get(name, [f"{name}_dim_{i}" for i in range(array.ndim - len(lead))]))
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
    return Dataset(variables, coords={a: (a, v) for a, v in labels.items()})
