"""Prior nets, likelihood nets and their merge against Bayes' rule and the printed formula."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_stcn.ladder import MERGES, GaussianNet, LadderConfig, LadderLayer, StandardNormal, base_normal, build_ladder

pytestmark = pytest.mark.usefixtures("double")


def layer(above=3, merge="product", **options):
    """Return the bottom layer of a small ladder, with biases that show; d has 5 channels, z1 has 2."""
    dims = (2, above) if above else (2,)
    rung = build_ladder(LadderConfig(dims, 7, 2, merge, **options), (5,) * len(dims))[0]
    for p in rung.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    return rung


def pair(shape=(20,)):
    return [dist.Normal(torch.randn(shape), torch.rand(shape) * 3 + 0.05) for _ in range(2)]


# --------------------------------------------------------------------------------------------------------------- merges


def test_product_merge_is_bayes_rule():
    """Prior times likelihood, normalised on a grid, with nothing known of Gaussians."""
    likelihood, prior = pair()
    posterior = MERGES["product"](likelihood, prior)
    z = torch.linspace(-20, 20, 100_001)[:, None]
    joint = (likelihood.log_prob(z) + prior.log_prob(z)).exp()
    weight = joint / joint.sum(0)
    mean = (weight * z).sum(0)
    torch.testing.assert_close(posterior.loc, mean, rtol=0, atol=1e-9)
    torch.testing.assert_close(posterior.scale, (weight * (z - mean).square()).sum(0).sqrt(), rtol=0, atol=1e-9)


def test_eq11_uses_the_variance_as_a_standard_deviation():
    likelihood, prior = pair()
    product, printed = (MERGES[name](likelihood, prior) for name in ("product", "eq11"))
    torch.testing.assert_close(printed.loc, product.loc)
    torch.testing.assert_close(printed.scale, 1 / (1 / likelihood.scale.square() + 1 / prior.scale.square()))
    assert ((printed.scale - product.scale).abs() > 1e-3).any()


def test_likelihood_merge_ignores_the_prior():
    likelihood, prior = pair()
    assert MERGES["likelihood"](likelihood, prior) is likelihood


@pytest.mark.parametrize("merge", MERGES)
def test_layer_merges_its_two_networks(merge):
    rung = layer(merge=merge)
    d_past, d, above = torch.randn(4, 5), torch.randn(4, 5), torch.randn(4, 3)
    prior = rung.prior(d_past, above)
    posterior = rung.posterior(prior, d, above)
    expected = MERGES[merge](rung.likelihood_net(d, above), rung.prior_net(d_past, above))
    torch.testing.assert_close(posterior.loc, expected.loc)
    torch.testing.assert_close(posterior.scale, expected.scale)


# ------------------------------------------------------------------------------------------------------------- networks


def test_split_first_layer_is_a_linear_layer_on_the_concatenation():
    net = layer().prior_net.loc
    d, above = torch.randn(4, 6, 5), torch.randn(4, 6, 3)
    whole = nn.Linear(8, 7)
    whole.weight.data = torch.cat([net.from_features.weight, net.from_above.weight], 1)
    whole.bias.data = net.from_features.bias.data
    torch.testing.assert_close(net(d, above), net.rest(whole(torch.cat([d, above], -1))), rtol=1e-12, atol=1e-12)
    activations = [type(m) for m in net.rest]
    assert activations == [nn.ReLU, nn.Linear, nn.ReLU, nn.Linear], "two hidden layers"


def test_first_layer_starts_as_one_layer():
    trunk = GaussianNet(60, 30, 4, 80, 2).loc
    bound = math.sqrt(6 / (60 + 30 + 80))
    for part in (trunk.from_features, trunk.from_above):
        assert 0.99 * bound < part.weight.abs().max() <= bound
    assert (trunk.from_features.bias == 0).all()


def test_scales_are_clamped():
    net = GaussianNet(5, 0, 4, 7, 2)
    scale = net(1e6 * torch.randn(500, 5), None).scale
    assert (scale.min().item(), scale.max().item()) == (1e-3, 5.0)


def test_scale_is_a_softplus():
    net = GaussianNet(5, 0, 4, 7, 2)
    d = torch.randn(500, 5)
    torch.testing.assert_close(net(d, None).scale, torch.log1p(net.scale(d, None).exp()))


def test_standard_normal_takes_the_top():
    rungs = build_ladder(LadderConfig((4, 3, 2), 7, fixed_top_prior=True), (5, 5, 5))
    assert [isinstance(rung.prior_net, StandardNormal) for rung in rungs] == [False, False, True]
    top = rungs[-1].prior(torch.randn(3, 6, 5), None)
    assert torch.equal(top.loc, torch.zeros(3, 6, 2))
    assert torch.equal(top.scale, torch.ones(3, 6, 2))


def test_whole_sequences_and_single_steps():
    rung = layer()
    d_past, d, above = torch.randn(4, 6, 5), torch.randn(4, 6, 5), torch.randn(4, 6, 3)
    prior = rung.prior(d_past, above)
    posterior = rung.posterior(prior, d, above)
    assert prior.batch_shape == posterior.batch_shape == (4, 6, 2)
    for t in range(6):
        step_prior = rung.prior(d_past[:, t], above[:, t])
        step_posterior = rung.posterior(step_prior, d[:, t], above[:, t])
        for step, whole in ((step_prior, prior), (step_posterior, posterior)):
            torch.testing.assert_close(step.loc, whole.loc[:, t], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(step.scale, whole.scale[:, t], rtol=1e-12, atol=1e-12)


def test_draws_in_front_share_the_features():
    """K draws of the layer above broadcast against features without them."""
    rung = layer()
    d, above = torch.randn(4, 5), torch.randn(9, 4, 3)
    expected = rung.prior(d.expand(9, 4, 5), above)
    torch.testing.assert_close(rung.prior(d, above).loc, expected.loc)


@pytest.mark.parametrize("recursive", [True, False])
def test_recursive_likelihood_sees_the_layer_above(recursive):
    rung = layer(merge="likelihood", recursive_likelihood=recursive)
    above = torch.randn(4, 3, requires_grad=True)
    posterior = rung.posterior(rung.prior(torch.randn(4, 5), above), torch.randn(4, 5), above)
    assert (torch.autograd.grad(posterior.loc.sum(), above, allow_unused=True)[0] is not None) == recursive


# --------------------------------------------------------------------------------------------------------------- config


def test_layers_are_numbered_from_the_data():
    rungs = build_ladder(LadderConfig((4, 3, 2), 7), (5, 6, 8))
    assert rungs.names == tuple(rung.name for rung in rungs) == ("z1", "z2", "z3")
    assert [rung.name for rung in reversed(rungs)] == ["z3", "z2", "z1"]
    assert [rung.prior_net.loc.from_features.in_features for rung in rungs] == [5, 6, 8]
    assert [rung.prior_net.loc.rest[-1].out_features for rung in rungs] == [4, 3, 2]
    assert [rung.prior_net.loc.from_above.in_features for rung in rungs[:-1]] == [3, 2]
    assert rungs[-1].prior_net.loc.from_above is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latent_dims": ()}, "latent_dims must be positive"),
        ({"latent_dims": (4, 0)}, "latent_dims must be positive"),
        ({"merge": "sum"}, "merge must be one of"),
        ({"layers": 0}, "at least one hidden layer"),
    ],
)
def test_bad_configurations_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LadderConfig(**fields)


def test_a_backbone_with_the_wrong_number_of_features_is_refused():
    with pytest.raises(ValueError, match="ladder of 2 layers needs as many features, but the backbone gives 3"):
        build_ladder(LadderConfig((4, 3), 7), (5, 5, 5))


def test_an_unknown_merge_is_refused():
    net = GaussianNet(5, 0, 2, 7, 1)
    with pytest.raises(ValueError, match="not 'sum'"):
        LadderLayer("z1", net, net, "sum")


def test_base_normal_is_found_inside():
    normal = dist.Normal(torch.randn(3, 4, 2), torch.ones(3, 4, 2))
    wrapped = normal.to_event(1).mask(torch.ones(3, 4, dtype=torch.bool)).to_event(1)
    assert base_normal(wrapped) is normal
