"""Temperatures and bias: what they do to every head, to the layers of a ladder, and what is held or drawn anew."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_stcn.generation import generate, reconstruct, resample, sample
from pyro_stcn.observation import NormalConfig
from pyro_stcn.sharpening import TemperedLatents, sharpened
from pyro_stcn.states import begin

from .small import CAUSAL, POINTWISE, small_stcn
from .test_imputation import heads

pytestmark = pytest.mark.usefixtures("double")
quiet = {"progress": False}


@pytest.mark.parametrize("name", ["normal", "bernoulli", "categorical", "mixture", "discretised", "pen"])
def test_sharper_and_flatter(name):
    distribution, _ = heads()[name]
    assert sharpened(distribution) is distribution
    variances = [sharpened(distribution, t).variance.sum() for t in (0.3, 1.0, 3.0)]
    assert variances[0] < variances[1] < variances[2]
    assert sharpened(distribution, 0.5).sample().shape == (4,)


def test_by_hand():
    normal, mixture, pen = (heads()[name][0] for name in ("normal", "mixture", "pen"))
    torch.testing.assert_close(sharpened(normal, 0.5).base_dist.scale, 0.5 * normal.base_dist.scale)
    biased = sharpened(mixture, bias=2.0)
    torch.testing.assert_close(biased.scale, mixture.scale * math.exp(-2))
    torch.testing.assert_close(biased.logits, (3 * mixture.logits).log_softmax(-1))
    assert torch.equal(sharpened(pen, bias=2.0).pen_logits, pen.pen_logits), "the pen is left alone"
    torch.testing.assert_close(sharpened(pen, 0.5).pen_logits, 2 * pen.pen_logits)


@pytest.mark.parametrize(
    ("options", "error"),
    [({"temperature": t}, ValueError) for t in (0.0, 1e-39, 1e9, math.inf, math.nan)]
    + [({"bias": b}, ValueError) for b in (-1.0, 1000.0, math.inf, math.nan)],
)
def test_what_is_refused(options, error):
    with pytest.raises(error, match="temperature must be from 1e-30 to 1e\\+06, and bias from 0 to 13.8"):
        sharpened(dist.Normal(torch.zeros(2), 1.0), **options)


def test_an_unknown_distribution_is_named():
    with pytest.raises(TypeError, match="Gamma"):
        sharpened(dist.Gamma(torch.ones(2), 1.0), 0.5)


def test_every_layer_has_a_temperature_of_its_own():
    net = small_stcn(CAUSAL)
    state = begin(net, 3)
    plain = poutine.trace(net.step).get_trace(state.state, state.x)
    z2 = plain.nodes["z2"]["value"]
    with TemperedLatents({"z1": 0.25}), poutine.condition(data={"z2": z2}), poutine.trace() as tempered:
        net.step(state.state, state.x)
    a, b = (trace.nodes["z1"]["fn"].base_dist for trace in (plain, tempered.trace))
    torch.testing.assert_close(b.scale, 0.25 * a.scale)
    torch.testing.assert_close(b.loc, a.loc)
    assert torch.equal(tempered.trace.nodes["z2"]["value"], z2)


def test_generation_takes_them():
    net = small_stcn(POINTWISE, observation=NormalConfig())
    pyro.set_rng_seed(0)
    wild = generate(net, 1, 3000, temperature=2.0, latent_temperature=2.0, **quiet)
    calm = generate(net, 1, 3000, temperature=0.1, latent_temperature={"z1": 0.1, "z2": 0.1}, **quiet)
    assert calm.std() < 0.3 * wild.std()
    with pytest.raises(ValueError, match="there is no latent 'z9'; there are: z1, z2"):
        generate(net, 1, latent_temperature={"z9": 1.0}, **quiet)


def test_latents_can_be_held():
    net = small_stcn(CAUSAL, observation=NormalConfig())
    held = {"z2": torch.randn(2, 5, 2), "z1": torch.randn(2, 5, 3)}
    pyro.set_rng_seed(0)
    a, _ = sample(net, begin(net, 2), 5, hold=held, temperature=1e-9, **quiet)
    b, _ = sample(net, begin(net, 2), 5, hold=held, temperature=1e-9, **quiet)
    torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    c, _ = sample(net, begin(net, 2), 5, hold={"z2": held["z2"]}, temperature=1e-9, **quiet)
    assert (a - c).abs().max() > 1e-3, "z1 is drawn"
    for wrong, message in (
        ({"z3": held["z1"]}, "there is no latent 'z3'"),
        ({"z1": held["z1"][:, :4]}, "z1 is held at"),
    ):
        with pytest.raises(ValueError, match=message):
            sample(net, begin(net, 2), 5, hold=wrong, **quiet)


@pytest.mark.parametrize("output", [POINTWISE, CAUSAL])
def test_layers_drawn_anew_while_others_are_held(output):
    net = small_stcn(output, observation=NormalConfig())
    x, mask = torch.randn(2, 6, 4), torch.arange(6) < torch.tensor([[6], [4]])
    pyro.set_rng_seed(0)
    kept = resample(net, x, (), mask)
    pyro.set_rng_seed(0)
    assert torch.equal(kept, reconstruct(net, x, mask))
    pyro.set_rng_seed(0)
    anew = resample(net, x, ["z1"], mask)
    assert (kept - anew)[mask].abs().max() > 1e-3
    assert anew.shape == x.shape
    with pytest.raises(ValueError, match="there is no latent 'z7'"):
        resample(net, x, ["z7"])


def test_a_layer_that_carries_nothing_is_no_loss():
    """Here no layer carries anything: whatever is drawn anew, nothing changes."""
    net = small_stcn(POINTWISE, observation=NormalConfig())
    with torch.no_grad():
        for parameter in [*net.output.parameters(), *net.observation.parameters()]:
            parameter.zero_()
        net.observation.loc.bias.fill_(1.0)
    x = torch.randn(2, 6, 4)
    assert torch.equal(resample(net, x, ["z1", "z2"]), reconstruct(net, x)), "an output that reads no latent"


def test_independent_draws_have_no_single_value_to_hold_or_temper():
    net = small_stcn(CAUSAL, independent_draws=True)
    for options in ({"hold": {"z1": torch.zeros(1, 2, 3)}}, {"latent_temperature": 0.5}):
        with pytest.raises(ValueError, match="a latent has several values"):
            sample(net, begin(net), 2, **options, **quiet)
    with pytest.raises(ValueError, match="a latent has several values"):
        resample(net, torch.randn(1, 3, 4), ["z1"])
    assert sample(net, begin(net), 2, **quiet)[0].shape == (1, 2, 4)
