"""from_pyro_svi: exact where a closed form exists, alike in all its modes, accepted by ArviZ."""

import math
import os
import subprocess
import sys

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiscreteParallel,
    AutoGuideList,
    AutoMultivariateNormal,
    AutoNormal,
    AutoStructured,
)
from pyro.infer.autoguide.effect import AutoNormalMessenger
from pyro.poutine.guide import GuideMessenger

from pyro_stcn.ladder import LadderConfig
from pyro_stcn.models.stcn import STCNConfig
from pyro_stcn.observation import CausalOutputConfig, NormalConfig, PointwiseOutputConfig
from pyro_stcn.posterior import from_pyro_svi
from pyro_stcn.tcn import DilatedTCNConfig

B, T = 3, 4
X = torch.tensor([0.3, -1.2, 2.0])
SD_Z, SD_X = 1.5, 0.7
# z ~ N(0, SD_Z²), x | z ~ N(z, SD_X²): the posterior and the evidence are Normal.
VAR = 1 / (1 / SD_Z**2 + 1 / SD_X**2)


def mean_z(x):
    return x * VAR / SD_X**2


def log_normal(x, mean, sd):
    return -0.5 * ((x - mean) / sd) ** 2 - math.log(sd) - 0.5 * math.log(2 * math.pi)


def model(x, scale=1.0):
    with pyro.plate("seq", len(x)):
        with poutine.scale(scale=scale):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), SD_Z))
        pyro.deterministic("twice", 2 * z)
        pyro.sample("x", dist.Normal(z, SD_X), obs=x)


def exact_guide(x, scale=1.0):
    with pyro.plate("seq", len(x)), poutine.scale(scale=scale):
        pyro.sample("z", dist.Normal(mean_z(x), math.sqrt(VAR)))


class ExactMessenger(GuideMessenger):
    def get_posterior(self, name, prior):
        return dist.Normal(mean_z(self.args_kwargs[0][0]), math.sqrt(VAR))


MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
DATA = torch.arange(B * T * 2.0).reshape(B, T, 2) / 10


def ladder(x, mask):
    """Two latents over (seq, time), the upper one conditioning the lower one."""
    with pyro.plate("seq", B, dim=-2), pyro.plate("time", T, dim=-1), poutine.mask(mask=mask):
        z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        z1 = pyro.sample("z1", dist.Normal(0.5 * z2, 0.8).to_event(1))
        pyro.sample("x", dist.Normal(z1, 1.0).to_event(1), obs=x, infer={"event_dims": ["pixel"]})


def ladder_guide(x, mask):
    with pyro.plate("seq", B, dim=-2), pyro.plate("time", T, dim=-1), poutine.mask(mask=mask):
        z2 = pyro.sample("z2", dist.Normal(0.3 * x, 0.9).to_event(1))
        pyro.sample("z1", dist.Normal(0.4 * x + 0.2 * z2, 0.6).to_event(1))


class LadderMessenger(GuideMessenger):
    def get_posterior(self, name, prior):
        x = self.args_kwargs[0][0]
        if name == "z2":
            return dist.Normal(0.3 * x, 0.9).to_event(1)
        return dist.Normal(0.4 * x + 0.2 * self.upstream_value("z2"), 0.6).to_event(1)


def positive(x):
    """A global latent with a constraint and a local one."""
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with pyro.plate("seq", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, scale), obs=x)


def convert(*args, **kwargs):
    return from_pyro_svi(*args, **{"model_args": (X,), "num_samples": 20, **kwargs})


def get(result, group, name):
    """One chain as (draw, ...)."""
    values = result[group][name]
    assert values.dims[:2] == ("chain", "draw")
    assert values.sizes["chain"] == 1
    return values.values[0]


@pytest.fixture(params=[False, True], ids=["loop", "parallel"])
def parallel(request):
    return request.param


GUIDES = {"function": exact_guide, "messenger": ExactMessenger(model)}


@pytest.mark.parametrize("kind", GUIDES)
def test_conjugate_model_against_closed_form(double, parallel, kind):
    x, S = X.double(), 800
    result = convert(model, GUIDES[kind], model_args=(x,), num_samples=S, parallel=parallel)
    z = get(result, "posterior", "z")
    np.testing.assert_allclose(z.mean(0), mean_z(x), atol=5 * math.sqrt(VAR / S))
    np.testing.assert_allclose(z.std(0), math.sqrt(VAR), rtol=5 / math.sqrt(2 * S))
    assert z.dtype == np.float64
    np.testing.assert_array_equal(get(result, "posterior", "twice"), 2 * z)
    np.testing.assert_array_equal(result["observed_data"]["x"], x)

    x = x.numpy()
    likelihood = log_normal(x, z, SD_X)
    np.testing.assert_allclose(get(result, "log_likelihood", "x"), likelihood, atol=1e-12)
    lp = get(result, "sample_stats", "lp")
    np.testing.assert_allclose(lp, likelihood + log_normal(z, 0, SD_Z), atol=1e-12)
    # With the exact posterior every weight is the evidence.
    evidence = np.broadcast_to(log_normal(x, 0, math.hypot(SD_Z, SD_X)), (S, B))
    np.testing.assert_allclose(get(result, "sample_stats", "log_weight"), evidence, atol=1e-10)
    kl = get(result, "sample_stats", "kl_z")
    np.testing.assert_allclose(kl, np.broadcast_to(kl[0], (S, B)))
    sampled = log_normal(z, mean_z(x), math.sqrt(VAR)) - log_normal(z, 0, SD_Z)
    error = sampled.std(0) / math.sqrt(S)
    assert (np.abs(sampled.mean(0) - kl[0]) < 5 * error).all()


def test_scale_does_not_enter_the_densities(double):
    plain, scaled = (convert(model, exact_guide, model_kwargs={"scale": scale}) for scale in (1.0, 0.1))
    for name in ("log_weight", "kl_z"):
        np.testing.assert_allclose(get(scaled, "sample_stats", name), get(plain, "sample_stats", name), atol=1e-6)


LADDERS = {"function": ladder_guide, "messenger": LadderMessenger(ladder)}


@pytest.mark.parametrize("kind", LADDERS)
def test_nested_plates_and_masks(parallel, kind):
    result = convert(
        ladder,
        LADDERS[kind],
        model_args=(DATA, MASK),
        parallel=parallel,
        num_samples=400,
        coords={"seq": ["a", "b", "c"]},
        dims={"z1": ["unit"], "z2": ["row", "step", "unit"]},
    )
    dims = {
        ("posterior", "z1"): ("seq", "time", "unit"),
        ("posterior", "z2"): ("row", "step", "unit"),
        ("log_likelihood", "x"): ("seq", "time"),
        **{("sample_stats", s): ("seq", "time") for s in ("lp", "log_weight", "kl_z1", "kl_z2")},
    }
    for (group, name), names in dims.items():
        assert result[group][name].dims == ("chain", "draw", *names)
    assert result["observed_data"]["x"].dims == ("seq", "time", "pixel")
    assert result["posterior"]["z1"].shape == (1, 400, B, T, 2)
    assert list(result["posterior"]["seq"].values) == ["a", "b", "c"]
    assert list(result["posterior"]["time"].values) == [0, 1, 2, 3]

    for group, name in list(dims)[2:]:
        values = get(result, group, name)
        assert (values[:, ~MASK.numpy()] == 0).all()
        assert (values[:, MASK.numpy()] != 0).all()
    z1, z2 = (torch.tensor(get(result, "posterior", name)) for name in ("z1", "z2"))
    above = dist.Normal(0.4 * DATA + 0.2 * z2, 0.6).to_event(1)
    below = dist.Normal(0.5 * z2, 0.8).to_event(1)
    expected = torch.distributions.kl_divergence(above, below) * MASK
    np.testing.assert_allclose(get(result, "sample_stats", "kl_z1"), expected, rtol=1e-5)
    sampled = (above.log_prob(z1) - below.log_prob(z1)) * MASK
    gap, error = (sampled - expected).mean(0), sampled.std(0) / math.sqrt(len(z1))
    assert (gap.abs() <= 5 * error).all()
    likelihood = dist.Normal(z1, 1.0).to_event(1).log_prob(DATA) * MASK
    np.testing.assert_allclose(get(result, "log_likelihood", "x"), likelihood, rtol=1e-5)


@pytest.mark.parametrize("output", [PointwiseOutputConfig, CausalOutputConfig])
def test_stcn(double, parallel, output):
    config = STCNConfig(
        data_dim=2,
        backbone=DilatedTCNConfig(dilations=((1,), (2,)), filters=4),
        ladder=LadderConfig(latent_dims=(3, 2), hidden=4),
        output=output(layers=2, width=4),
        observation=NormalConfig(),
    )
    net, x = config.build().eval(), DATA.double() * MASK[..., None]
    cells, event = (("sequences", "time"), ["unit"]) if net.pointwise else (("sequences",), ["time", "unit"])

    def per_cell(values):
        values = values * MASK
        return (values if net.pointwise else values.sum(-1)).detach().numpy()

    past, present = zip(*((d[:, :-1], d[:, 1:]) for d in net.features(x)), strict=True)
    prior = net.ladder[1].prior(past[1], None)
    posterior = net.ladder[1].posterior(prior, present[1], None)
    top_kl = per_cell(torch.distributions.kl_divergence(posterior, prior).sum(-1))

    for model in (net.model, net):  # both are what the guide runs: neither may warn
        result = convert(model, net.guide, model_args=(x, MASK), parallel=parallel, dims={"z1": event})
        assert result["posterior"]["z1"].dims == ("chain", "draw", "sequences", "time", "unit")
        assert result["posterior"]["z1"].shape == (1, 20, B, T, 3)
        assert set(result["posterior"].data_vars) == {"z1", "z2"}
        assert set(result["sample_stats"].data_vars) == {"lp", "log_weight", "kl_z1", "kl_z2"}
        for values in [*result["sample_stats"].data_vars.values(), result["log_likelihood"]["x"]]:
            assert values.dims == ("chain", "draw", *cells)
        np.testing.assert_array_equal(result["observed_data"]["x"], x)
        kl = get(result, "sample_stats", "kl_z2")  # no latent is above: the same in all draws
        np.testing.assert_allclose(kl, np.broadcast_to(top_kl, kl.shape))
        z = torch.tensor(np.concatenate([get(result, "posterior", name) for name in ("z2", "z1")], -1))
        likelihood = per_cell(net.observation(net.output(z)).log_prob(x))
        np.testing.assert_allclose(get(result, "log_likelihood", "x"), likelihood)


def test_messenger_and_function_and_both_modes_give_the_same_distribution():
    stats = []
    for guide in (ladder_guide, LadderMessenger(ladder)):
        for parallel in (False, True):
            result = convert(ladder, guide, model_args=(DATA, MASK), num_samples=400, parallel=parallel)
            per_draw = get(result, "sample_stats", "log_weight").sum((1, 2))
            stats.append((per_draw.mean(), per_draw.std() / 20, get(result, "posterior", "z1")))
    for mean, error, z in stats[1:]:
        assert abs(mean - stats[0][0]) < 4 * math.hypot(error, stats[0][1])
        assert z.shape == stats[0][2].shape
        np.testing.assert_allclose(z.mean(0), stats[0][2].mean(0), atol=0.25)


@pytest.mark.parametrize("guide", [AutoNormal, AutoNormalMessenger, AutoStructured])
def test_guides_with_one_transformed_variable_per_latent(double, parallel, guide):
    x = X.double()
    result = convert(positive, guide(positive), model_args=(x,), num_samples=300, parallel=parallel)
    posterior, stats = result["posterior"], result["sample_stats"]
    assert set(posterior.data_vars) == {"scale", "z"}
    assert posterior["z"].dims == ("chain", "draw", "seq")
    assert set(stats.data_vars) == {"lp", "log_weight", "kl_scale", "kl_z"}
    assert stats["log_weight"].dims == ("chain", "draw")  # `scale` is outside the plate
    # All three guides are sampled, not integrated: the bound holds draw by draw.
    kl = sum(get(result, "sample_stats", f"kl_{name}") for name in ("scale", "z"))
    weight = get(result, "log_likelihood", "x").sum(1) - kl
    np.testing.assert_allclose(get(result, "sample_stats", "log_weight"), weight)


def test_log_weight_of_autonormal_is_that_of_the_transformed_density(double):
    x = X.double()
    guide = AutoNormal(positive, init_scale=0.3)
    result = convert(positive, guide, model_args=(x,))
    scale, z = (torch.tensor(get(result, "posterior", name)) for name in ("scale", "z"))
    loc = {name: getattr(guide.locs, name).detach() for name in ("scale", "z")}
    log_q = dist.LogNormal(loc["scale"], 0.3).log_prob(scale)
    log_q = log_q + dist.Normal(loc["z"], 0.3).log_prob(z).sum(1)
    log_p = dist.LogNormal(0.0, 0.5).log_prob(scale) + dist.Normal(0.0, 1.0).log_prob(z).sum(1)
    log_p = log_p + dist.Normal(z, scale[:, None]).log_prob(x).sum(1)
    np.testing.assert_allclose(get(result, "sample_stats", "lp"), log_p)
    np.testing.assert_allclose(get(result, "sample_stats", "log_weight"), log_p - log_q)


def test_joint_auxiliary_latent(double, parallel):
    x = X.double()
    guide = AutoMultivariateNormal(positive, init_scale=0.2)
    result = convert(positive, guide, model_args=(x,), parallel=parallel)
    assert set(result["posterior"].data_vars) == {"scale", "z"}
    assert set(result["sample_stats"].data_vars) == {"lp", "log_weight", "kl_joint"}
    scale, z = (torch.tensor(get(result, "posterior", name)) for name in ("scale", "z"))
    joint = torch.cat([scale.log()[:, None], z], 1)
    log_q = guide.get_posterior().log_prob(joint) - scale.log()
    lp, log_weight = (get(result, "sample_stats", n) for n in ("lp", "log_weight"))
    np.testing.assert_allclose(lp - log_weight, log_q.detach())
    likelihood = get(result, "log_likelihood", "x").sum(1)
    np.testing.assert_allclose(get(result, "sample_stats", "kl_joint"), likelihood - log_weight)


def test_point_estimate(parallel):
    result = convert(positive, AutoDelta(positive), parallel=parallel)
    stats = result["sample_stats"]
    assert set(stats.data_vars) == {"lp", "log_weight"}
    np.testing.assert_array_equal(stats["lp"], stats["log_weight"])
    z = get(result, "posterior", "z")
    np.testing.assert_array_equal(z, np.broadcast_to(z[0], z.shape))


def test_discrete_latent_in_a_list_of_guides():
    def mixture(x):
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("seq", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7])))
            pyro.sample("x", dist.Normal(loc[k], 1.0), obs=x)

    guide = AutoGuideList(mixture)
    guide.append(AutoNormal(poutine.block(mixture, expose=["loc"])))
    guide.append(AutoDiscreteParallel(poutine.block(mixture, expose=["k"])))
    kl = get(convert(mixture, guide), "sample_stats", "kl_k")
    np.testing.assert_allclose(kl, 0, atol=1e-6)  # Pyro starts it at the prior

    def even(x):
        pyro.sample("loc", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("seq", len(x)):
            pyro.sample("k", dist.Categorical(torch.tensor([0.5, 0.5])))

    result = convert(mixture, even)
    assert result["posterior"]["k"].dtype.kind == "i"
    assert result["posterior"]["loc"].dims == ("chain", "draw", "loc_dim_0")
    kl = get(result, "sample_stats", "kl_k")  # uniform against (0.3, 0.7)
    np.testing.assert_allclose(kl, -0.5 * B * math.log(4 * 0.3 * 0.7), rtol=1e-5)

    enumerated = pyro.infer.config_enumerate(mixture)
    with pytest.raises(ValueError, match=r"does not draw the latent\(s\) \['k'\].*infer_discrete"):
        convert(enumerated, AutoNormal(poutine.block(mixture, expose=["loc"])))


def test_axis_names_without_plates_and_of_deterministic_sites():
    def named(x):
        w = pyro.sample("w", dist.Normal(torch.zeros(2, 5), 1.0).to_event(2))
        pyro.factor("penalty", -w.square().sum((-1, -2)))
        with pyro.plate("seq", B, dim=-2):
            h = pyro.sample("h", dist.Normal(0.0, 1.0))
            pyro.deterministic("inside", h.expand((*h.shape[:-1], 4)) + 1)
            pyro.deterministic("told", h[..., None].expand((*h.shape, 7)), event_dim=1)
            pyro.sample("x", dist.Normal(h, 1.0), obs=x[:, None])
            pyro.sample("y", dist.Bernoulli(logits=h), obs=torch.tensor(1.0))

    def guide(x):
        pyro.sample("w", dist.Normal(torch.zeros(2, 5), 1.0).to_event(2))
        with pyro.plate("seq", B, dim=-2):
            pyro.sample("h", dist.Normal(0.0, 1.0))

    result = convert(named, guide, extra_event_dims={"w": ["row"], "inside": ["step"]})
    names = {n: v.dims[2:] for n, v in result["posterior"].data_vars.items()}
    assert names == {
        "w": ("row", "w_dim_1"),
        "h": ("seq", "h_dim_1"),
        "inside": ("seq", "step"),
        "told": ("seq", "told_dim_1", "told_dim_2"),
    }
    observed = result["observed_data"]
    assert set(observed.data_vars) == {"x", "y"}
    assert observed["x"].dims == ("seq", "x_dim_1")
    assert observed["y"].shape == (B, 1)  # one number, observed in every row
    likelihood = result["log_likelihood"]
    assert likelihood["x"].dims == likelihood["y"].dims == ("chain", "draw", "seq")
    assert result["sample_stats"]["lp"].dims == ("chain", "draw")
    # The factor is part of the density, though it is no observation.
    w, h = (get(result, "posterior", n) for n in ("w", "h"))
    expected = log_normal(w, 0, 1).sum((1, 2)) - (w**2).sum((1, 2))
    expected += log_normal(h, 0, 1).sum((1, 2))
    expected += sum(get(result, "log_likelihood", n).sum(1) for n in "xy")
    np.testing.assert_allclose(get(result, "sample_stats", "lp"), expected, rtol=1e-4)
    assert set(result["sample_stats"].data_vars) == {"lp", "log_weight", "kl_w", "kl_h"}


def test_an_event_over_time_has_one_likelihood_per_sequence():
    def sequences(x):
        with pyro.plate("seq", B):
            z = pyro.sample("z", dist.Normal(torch.zeros(T, 2), 1.0).to_event(2))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(2), obs=x)

    guide = AutoNormal(sequences)
    result = convert(sequences, guide, model_args=(DATA,), dims={"x": ["time", "pixel"]})
    assert result["observed_data"]["x"].dims == ("seq", "time", "pixel")
    assert result["log_likelihood"]["x"].dims == ("chain", "draw", "seq")
    assert result["sample_stats"]["kl_z"].dims == ("chain", "draw", "seq")


def test_given_groups():
    free = poutine.uncondition(positive)
    guide = AutoNormal(positive)
    result = convert(
        positive,
        guide,
        prior=Predictive(free, num_samples=7)(X),
        posterior_predictive=Predictive(free, guide=guide, num_samples=9, parallel=True)(X),
        predictions={"x": torch.zeros(4, 5), "new": np.zeros((4, 2))},
        pred_dims={"x": ["later"]},
        constant_data={"length": torch.tensor([1, 2, 3]), "rate": 0.5},
        predictions_constant_data={"length": np.arange(5)},
        dims={"length": ["seq"]},
        coords={"seq": ["a", "b", "c"], "later": range(5)},
        index_origin=1,
    )
    assert set(result["prior"].data_vars) == {"scale", "z"}
    assert result["prior"]["scale"].dims == ("chain", "draw")
    assert result["prior"].sizes["draw"] == 7
    assert result["prior_predictive"]["x"].dims == ("chain", "draw", "seq")
    assert result["posterior_predictive"]["x"].shape == (1, 9, B)
    assert result["predictions"]["x"].dims == ("chain", "draw", "later")
    assert list(result["predictions"]["new_dim_0"].values) == [1, 2]
    assert list(result["constant_data"]["seq"].values) == ["a", "b", "c"]
    assert float(result["constant_data"]["rate"]) == 0.5
    assert result["predictions_constant_data"]["length"].dims == ("length_dim_0",)


def test_svi_or_elbo_module_in_place_of_the_pair():
    optim = pyro.optim.Adam({"lr": 0.1})
    for both in (SVI(model, exact_guide, optim, Trace_ELBO()), Trace_ELBO()(model, exact_guide)):
        assert get(convert(both), "posterior", "z").shape == (20, B)
        with pytest.raises(TypeError, match="holds a guide already"):
            convert(both, exact_guide)


def test_leaving_things_out():
    result = convert(model, exact_guide, log_likelihood=False, sample_stats=False, var_names=["twice"])
    groups = result.groups() if callable(result.groups) else result.groups
    assert {g.strip("/") for g in groups} - {""} == {"posterior", "observed_data"}
    assert set(result["posterior"].data_vars) == {"twice"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(dtype):
    result = convert(model, exact_guide, model_args=(X.to(dtype),))
    assert result["posterior"]["z"].dtype == np.float32
    assert result["observed_data"]["x"].dtype == np.float32
    assert result["log_likelihood"]["x"].dtype == np.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu(parallel):
    result = convert(model, exact_guide, model_args=(X.cuda(),), parallel=parallel)
    assert get(result, "sample_stats", "log_weight").shape == (20, B)


def test_arviz_reads_it(tmp_path):
    data = torch.linspace(-2, 2, 20)
    result = convert(model, exact_guide, model_args=(data,), num_samples=200)
    table = az.summary(result, var_names=["z"], kind="stats", round_to=8)
    expected = get(result, "posterior", "z").mean(0)
    np.testing.assert_allclose(table["mean"].to_numpy(dtype=float), expected, atol=1e-6)
    table = az.summary(result, group="sample_stats", var_names=["kl_z"], kind="stats")
    assert len(table) == 20

    # Global latent: loo means what it says. Its k-hat is small.
    def location(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        with pyro.plate("seq", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    def location_guide(x):
        precision = 1 / 9 + len(x)
        pyro.sample("mu", dist.Normal(x.sum() / precision, precision**-0.5))

    result = convert(location, location_guide, model_args=(data,), num_samples=500)
    loo = az.loo(result, pointwise=True)
    assert loo.pareto_k.shape == (20,)
    assert float(loo.pareto_k.max()) < 0.7
    elpd = loo.elpd_loo if hasattr(loo, "elpd_loo") else loo.elpd
    rest = data.sum() - data
    precision = 1 / 9 + 19
    exact = dist.Normal(rest / precision, math.sqrt(1 + 1 / precision)).log_prob(data).sum()
    assert float(elpd) == pytest.approx(float(exact), abs=0.2)

    path = tmp_path / "posterior.nc"
    result.to_netcdf(str(path))
    loaded = az.from_netcdf(str(path))
    for group in ("posterior", "log_likelihood", "sample_stats", "observed_data"):
        for name, values in result[group].data_vars.items():
            assert loaded[group][name].dims == values.dims
            np.testing.assert_array_equal(loaded[group][name], values)


def test_refusals():
    with pytest.raises(TypeError, match="expected a model and a guide"):
        convert(model)
    with pytest.raises(ValueError, match="num_samples"):
        convert(model, exact_guide, num_samples=0)
    with pytest.raises(ValueError, match=r"does not draw the latent\(s\) \['z'\]"):
        convert(model, lambda x: None)
    with pytest.raises(ValueError, match="var_names"):
        convert(model, exact_guide, var_names=["w"])
    with pytest.raises(ValueError, match=r"coords\['seq'\] has 2 labels"):
        convert(model, exact_guide, coords={"seq": [0, 1]})
    with pytest.raises(ValueError, match=r"'z' has 1 axes, 0 of them event axes, but names \['a', 'b'\]"):
        convert(model, exact_guide, dims={"z": ["a", "b"]})
    with pytest.raises(ValueError, match="event axes, but names"):
        convert(model, exact_guide, extra_event_dims={"z": ["a"]})
    with pytest.raises(ValueError, match=r"constant_data\['c'\] has shape"):
        convert(model, exact_guide, constant_data={"c": np.zeros((2, 2))}, dims={"c": ["a"]})
    with pytest.warns(UserWarning, match="the other model given here is ignored"):
        convert(positive, ExactMessenger(model))

    def no_latent(x):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[0])

    with pytest.raises(ValueError, match="no latent"):
        convert(no_latent, lambda x: None)


def test_a_subsampled_plate_is_refused():
    def part(x):
        with pyro.plate("seq", B, subsample_size=2) as i:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[i])

    def part_guide(x):
        with pyro.plate("seq", B, subsample_size=2):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match=r"'seq' is subsampled \(2 of 3\)"):
        convert(part, part_guide)


def test_what_cannot_be_vectorised_is_refused_not_mixed_up():
    def summed(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.deterministic("total", z.sum())  # over the draws too, under an outer plate
        pyro.sample("x", dist.Normal(z[0], 1.0), obs=x[0])

    def guide(x):
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    assert get(convert(summed, guide), "posterior", "total").shape == (20,)
    with pytest.raises(ValueError, match="use parallel=False"):
        convert(summed, guide, parallel=True)


def test_changing_shapes_are_refused():
    sizes = iter([2, 2, 3, 3, 4, 4])

    def ragged(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(next(sizes)), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(), 1.0), obs=x[0])

    def guide(x):
        pyro.sample("z", dist.Normal(torch.zeros(next(sizes)), 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"'z' has shape \(3,\) in one draw and \(2,\)"):
        convert(ragged, guide)


def test_a_plate_named_as_an_axis_of_arviz_is_refused():
    def clash(x):
        with pyro.plate("draw", B):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="rename it"):
        convert(clash, clash)


def test_with_arviz_1():
    """All of the above with ArviZ 1.x: PYRO_STCN_ARVIZ1 names a folder that holds it."""
    if not az.__version__.startswith("0."):
        pytest.skip("this is ArviZ 1.x: the other tests have used it")
    folder = os.environ.get("PYRO_STCN_ARVIZ1")
    if not folder:
        pytest.skip("PYRO_STCN_ARVIZ1 is not set: it names a folder with ArviZ 1.x in it")
    paths = [folder, os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    script = (
        "import sys, arviz, pytest; assert int(arviz.__version__.split('.')[0]) >= 1; "
        "sys.exit(pytest.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, __file__, "-p", "no:cacheprovider"]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
