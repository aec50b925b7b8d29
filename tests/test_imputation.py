"""Gaps filled by a particle filter, against conditionals that are known: a Gaussian's, a mixture's."""

import importlib.util
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro.infer import Trace_ELBO

from pyro_stcn.bounds import FIVO
from pyro_stcn.discretised import DiscretisedMixture, IntegerGrid
from pyro_stcn.distributions import DiagonalGaussianMixture, PenStroke
from pyro_stcn.imputation import impute
from pyro_stcn.models import MODELS, WaveNetConfig
from pyro_stcn.observation import GaussianMixtureConfig, NormalConfig, PenStrokeConfig, PointwiseOutputConfig
from pyro_stcn.partial import complete

from .small import CAUSAL, POINTWISE, small_stcn

pytestmark = pytest.mark.usefixtures("double")
HEAD = {"observation": NormalConfig()}
quiet = {"progress": False}


def example():
    path = Path(__file__).parents[1] / "examples" / "which_bound.py"
    spec = importlib.util.spec_from_file_location("which_bound", path)
    module = sys.modules["which_bound"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def joint(bounds, steps, slope, lag):
    """Covariance of all steps of the example's linear STCN, whose mean is 0: (1 - M) x is noise."""
    over_time = torch.eye(steps) + lag * torch.ones(steps - 1).diag(-1)
    past = 2 * bounds.LOADING * slope * over_time @ torch.ones(steps - 1).diag(-1)
    noise = (1 - bounds.NOISE**2) * over_time @ over_time.T + bounds.NOISE**2 * torch.eye(steps)
    inverse = torch.linalg.inv(torch.eye(steps) - past)
    return inverse @ noise @ inverse.T


@pytest.mark.parametrize("lag", [0.0, 0.6])
def test_on_a_linear_gaussian_model_it_is_the_exact_conditional(lag):
    """Mean and covariance of a gap of two steps, with observations before and after it."""
    bounds, slope, count = example(), 0.9, 40_000
    net = bounds.linear_stcn(slope, lag, exact_guide=not lag)
    x = torch.tensor([1.5, 0.7, torch.nan, torch.nan, -2.0, -0.3]).reshape(1, 6, 1)
    gap = torch.isnan(x[0, :, 0])
    covariance = joint(bounds, 6, slope, lag)
    cross, known = covariance[gap][:, ~gap], covariance[~gap][:, ~gap]
    gain = cross @ torch.linalg.inv(known)
    mean = gain @ x[0, ~gap, 0]
    exact = covariance[gap][:, gap] - gain @ cross.T
    prior = covariance[2, 1] / covariance[1, 1] * x[0, 1, 0]
    assert (mean[0] - prior).abs() > 0.3, "what comes after the gap matters"

    pyro.set_rng_seed(0)
    result = impute(net, x, ~torch.isnan(x), particles=count, **quiet)
    fill, weights = result.samples[:, 0, gap, 0], result.weights[:, 0]
    effective = 1 / weights.square().sum()
    assert (result.mean()[0, gap, 0] - mean).abs().max() < 5 * (exact.diagonal().max() / effective).sqrt()
    centred = fill - weights @ fill
    assert ((centred * weights[:, None]).T @ centred - exact).abs().max() < 0.05 * exact.max()
    log_evidence = torch.distributions.MultivariateNormal(torch.zeros(4), known).log_prob(x[0, ~gap, 0])
    assert result.log_evidence.item() == pytest.approx(log_evidence.item(), abs=0.05)
    assert torch.equal(result.samples[:, 0, ~gap, 0], x[0, ~gap, 0].expand(count, -1)), "observed values stay"
    assert 1 < result.survivors.item() <= count


def heads():
    torch.manual_seed(0)
    logits, loc, scale = torch.randn(3), 2 * torch.randn(3, 4), torch.rand(3, 4) + 0.3
    grid = IntegerGrid(0.0, 2.0, -8, 8)
    return {
        "normal": (dist.Normal(loc[0], scale[0]).to_event(1), torch.randn(4)),
        "bernoulli": (dist.Bernoulli(logits=torch.randn(4)).to_event(1), torch.tensor([1.0, 0.0, 1.0, 1.0])),
        "categorical": (
            dist.OneHotCategorical(logits=torch.randn(4), validate_args=False),
            torch.tensor([0.0, 0.0, 1.0, 0.0]),
        ),
        "mixture": (DiagonalGaussianMixture(logits, loc, scale), torch.randn(4)),
        "discretised": (DiscretisedMixture(logits, loc, scale, grid), torch.tensor([0.5, -1.0, 1.5, 0.0])),
        "pen": (
            PenStroke(DiagonalGaussianMixture(logits, loc[:, :3], scale[:, :3]), torch.tensor(0.4)),
            torch.tensor([0.3, -0.2, 0.9, 1.0]),
        ),
    }


@pytest.mark.parametrize("name", ["normal", "bernoulli", "categorical", "mixture", "discretised", "pen"])
@pytest.mark.parametrize("observed", [(True, False, True, False), (False, True, False, True), (True,) * 4])
def test_what_is_known_of_a_step_and_a_draw_of_the_rest(name, observed):
    """Against the integral of the density over the rest, and against draws of whole steps that come near."""
    distribution, value = heads()[name]
    mask = torch.tensor(observed)
    torch.manual_seed(1)
    known, drawn = complete(distribution.expand((60_000,)), torch.where(mask, value, torch.nan), mask)
    assert torch.equal(drawn[:, mask], value[mask].expand(60_000, -1))
    if mask.all():
        torch.testing.assert_close(known, distribution.log_prob(value).expand(60_000))
        return
    assert known.std() < 1e-9
    if name in ("normal", "mixture", "pen"):
        _against_the_density(distribution, drawn, known[0], mask)
    _marginals(distribution, drawn, mask, value)


def _against_the_density(distribution, drawn, known, mask):
    """p(all) integrates over the rest to p(observed): by importance sampling."""
    wide = dist.Normal(drawn[:, ~mask].mean(0), 2 * drawn[:, ~mask].std(0) + 0.1)
    free = torch.arange(4)[~mask]
    continuous = [i for i in free.tolist() if not (isinstance(distribution, PenStroke) and i == 3)]
    if len(continuous) < len(free):
        return  # a bit has no density; its marginal is compared below
    rest = drawn.clone()
    proposal = wide.sample((len(drawn),))
    rest[:, ~mask] = proposal
    ratio = (distribution.log_prob(rest) - wide.log_prob(proposal).sum(-1) - known).exp()
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / len(ratio) ** 0.5, "p(all) integrates to p(observed)"


def _marginals(distribution, drawn, mask, value):
    whole = distribution.sample((200_000,))
    component = value[mask]
    # Keep draws of the whole step that are near the observed values: exact for discrete, approximate for continuous.
    near = (whole[:, mask] - component).abs()
    kept = whole[(near < 0.25).all(-1)][:, ~mask]
    if len(kept) > 500:
        for i in range(kept.shape[1]):
            assert scipy.stats.ks_2samp(kept[:, i], drawn[: len(kept), ~mask][:, i]).statistic < 0.12


NETS = {
    "stcn": lambda: small_stcn(POINTWISE, observation=NormalConfig()),
    "stcn, causal output": lambda: small_stcn(CAUSAL, observation=NormalConfig()),
    "vrnn": lambda: MODELS["vrnn"](4, 3, 6, 1, 5, 5, **HEAD).build(),
    "srnn": lambda: MODELS["srnn"](4, 3, 6, 5, **HEAD).build(),
    "zforcing": lambda: MODELS["zforcing"](4, 3, 6, 5, 5, **HEAD).build(),
    "bilstm": lambda: MODELS["bilstm"](4, 3, 6, 5, **HEAD).build(),
    "swavenet": lambda: MODELS["swavenet"](4, 1, 2, latent_dim=3, filters=5, hidden=5, **HEAD).build(),
    "rnn": lambda: MODELS["rnn"](4, 6, 1, 5, **HEAD).build(),
}


@pytest.mark.parametrize("name", NETS)
def test_every_model_fills_gaps(name):
    pyro.set_rng_seed(0)
    net, x = NETS[name]().train(), torch.randn(2, 7, 4)
    observed = torch.rand(2, 7, 4) < 0.6
    observed[:, 4] = True
    result = impute(net, torch.where(observed, x, torch.nan), observed, 20, **quiet)
    assert result.samples.shape == (20, 2, 7, 4)
    assert torch.isfinite(result.samples).all()
    assert torch.equal(result.samples[:, observed], x[observed].expand(20, -1))
    torch.testing.assert_close(result.weights.sum(0), torch.ones(2))
    assert result.draw(3).shape == (3, 2, 7, 4)
    assert net.training, "left in the mode it was in"


@pytest.mark.parametrize("name", ["stcn", "stcn, causal output", "vrnn"])
def test_with_nothing_missing_it_is_the_particle_filter_of_fivo(name):
    """The same estimate of p(x), from single steps and from the filter that sees the whole sequence."""
    pyro.set_rng_seed(0)
    net, x = NETS[name]().eval(), torch.randn(1, 4, 4)
    all_there = torch.ones(1, 4, dtype=torch.bool)
    ours = torch.cat([impute(net, x, all_there, 50, **quiet).log_evidence for _ in range(60)])
    with torch.no_grad():
        theirs = FIVO(50).log_evidence(net.model, net.guide, x.expand(300, -1, -1))
    error = (ours.var() / len(ours) + theirs.var() / len(theirs)).sqrt()
    assert abs(ours.mean() - theirs.mean()) < 4 * error


def test_with_nothing_missing_a_model_without_latents_is_exact():
    net, x = NETS["rnn"]().eval(), torch.randn(2, 4, 4)
    result = impute(net, x, torch.ones(2, 4, dtype=torch.bool), 3, **quiet)
    exact = [-Trace_ELBO().loss(net.model, net.guide, row[None]) for row in x]
    torch.testing.assert_close(result.log_evidence, torch.tensor(exact))


def test_a_pen_bit_can_be_missing_alone():
    net = small_stcn(POINTWISE, data_dim=3, observation=PenStrokeConfig(NormalConfig()))
    x = torch.randn(1, 5, 3)
    x[..., 2] = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0])
    observed = torch.ones(1, 5, 3, dtype=torch.bool)
    observed[0, 2, 2] = False
    bits = impute(net, x, observed, 50, **quiet).samples[:, 0, 2, 2]
    assert set(bits.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("x", "observed", "message"),
    [
        (torch.zeros(1, 3, 4), torch.ones(1, 3), "observed must be bool"),
        (torch.zeros(1, 3, 4), torch.ones(1, 2, dtype=torch.bool), "observed must be bool of shape"),
        (torch.zeros(1, 3, 5), torch.ones(1, 3, dtype=torch.bool), r"x must be \(batch, time, 4\)"),
        (torch.full((1, 3, 4), torch.nan), torch.ones(1, 3, dtype=torch.bool), "x is nan at sequence 0, step 0"),
    ],
)
def test_what_is_refused(x, observed, message):
    with pytest.raises(ValueError, match=message):
        impute(NETS["rnn"](), x, observed, **quiet)


def test_a_first_step_that_is_always_given_cannot_be_missing():
    config = WaveNetConfig(4, (1, 2), 6, output=PointwiseOutputConfig(1, 5), predicts_first=False, **HEAD)
    observed = torch.tensor([[False, True, True]])
    with pytest.raises(ValueError, match="it cannot be missing"):
        impute(config.build(), torch.zeros(1, 3, 4), observed, **quiet)
    assert impute(config.build(), torch.zeros(1, 3, 4), ~observed, 5, **quiet).samples.shape == (5, 1, 3, 4)


def test_what_has_no_conditional_is_refused():
    x, observed = torch.zeros(1, 3, 4), torch.ones(1, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="this head is no density"):
        impute(small_stcn(observation=GaussianMixtureConfig(3, floor=1e-3)), x, observed, **quiet)
    with pytest.raises(NotImplementedError, match="no weights that would give a bound"):
        impute(small_stcn(independent_draws=True), x, observed, **quiet)


def test_what_is_known_of_a_category_is_its_probability():
    distribution, value = heads()["categorical"]
    p = distribution.probs
    for observed, expected in (
        ((0, 0, 1, 0), p[2]),
        ((1, 0, 1, 1), p[2]),
        ((1, 1, 0, 0), p[2] + p[3]),
        ((0,) * 4, 1.0),
    ):
        known, drawn = complete(distribution.expand((5,)), value, torch.tensor(observed, dtype=torch.bool))
        torch.testing.assert_close(known.exp(), torch.as_tensor(expected).expand(5))
        assert (drawn.sum(-1) == 1).all()
    with pytest.raises(ValueError, match="every category of a step is observed to be 0"):
        complete(distribution, torch.zeros(4), torch.ones(4, dtype=torch.bool))
