"""Heads give Pyro distributions; output networks look where they say."""

import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin

from pyro_stcn.observation import (
    BernoulliConfig,
    CategoricalConfig,
    CausalOutputConfig,
    GaussianMixtureConfig,
    NormalConfig,
    PenStrokeConfig,
    PointwiseOutputConfig,
)

pytestmark = pytest.mark.usefixtures("double")

HEADS = {
    "normal": (NormalConfig(), 4),
    "mixture": (GaussianMixtureConfig(3), 4),
    "mixture of one channel": (GaussianMixtureConfig(3), 1),
    "bernoulli": (BernoulliConfig(), 4),
    "categorical": (CategoricalConfig(), 4),
    "pen, normal": (PenStrokeConfig(NormalConfig()), 3),
    "pen, mixture": (PenStrokeConfig(GaussianMixtureConfig(3)), 3),
    "pen, one channel": (PenStrokeConfig(GaussianMixtureConfig(3)), 2),
}
OUTPUTS = [
    PointwiseOutputConfig(0, 6),
    PointwiseOutputConfig(3, 6),
    CausalOutputConfig(1, 6, 3),
    CausalOutputConfig(3, 6, 2),
    CausalOutputConfig(2, 6, 1),
]


@pytest.mark.parametrize("name", HEADS)
def test_head_gives_a_distribution(name):
    config, dim = HEADS[name]
    head = config.build(6, dim)
    d = head(torch.randn(2, 5, 6))
    assert isinstance(d, TorchDistributionMixin)
    assert (d.batch_shape, d.event_shape) == ((2, 5), (dim,))
    x = d.sample((7,))
    assert x.shape == (7, 2, 5, dim)
    log_prob = d.log_prob(x)
    assert log_prob.shape == (7, 2, 5)
    torch.testing.assert_close(d.expand((7, 2, 5)).log_prob(x), log_prob)
    mask = torch.rand(2, 5) < 0.5
    torch.testing.assert_close(d.mask(mask).to_event(1).log_prob(x), torch.where(mask, log_prob, 0.0).sum(-1))
    assert d.mean.shape == (2, 5, dim)
    log_prob.sum().backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in head.parameters())


@torch.no_grad()
def test_normal_head_by_hand():
    head, h, x = NormalConfig().build(6, 4), torch.randn(5, 6), torch.randn(5, 4)
    loc, raw = (h @ layer.weight.T + layer.bias for layer in (head.loc, head.scale))
    expected = scipy.stats.norm(loc, torch.log1p(raw.exp())).logpdf(x).sum(-1)
    torch.testing.assert_close(head(h).log_prob(x), torch.from_numpy(expected))


@torch.no_grad()
def test_mixture_head_by_hand():
    """Channels of the layers are component by component."""
    head, h, x = GaussianMixtureConfig(3).build(6, 2), torch.randn(6), torch.randn(2)
    loc, scale, weight = head.loc(h), F.softplus(head.scale(h)), head.logits(h).softmax(-1)
    density = sum(
        weight[m] * scipy.stats.norm(loc[2 * m : 2 * m + 2], scale[2 * m : 2 * m + 2]).pdf(x).prod() for m in range(3)
    )
    torch.testing.assert_close(head(h).log_prob(x), density.log())


@pytest.mark.parametrize(
    "config", [NormalConfig(), GaussianMixtureConfig(3), PenStrokeConfig(GaussianMixtureConfig(3))]
)
@torch.no_grad()
def test_scales_are_clamped(config):
    head = config.build(6, 3)
    d = head(1e6 * torch.randn(200, 6))
    d = d.stroke if isinstance(config, PenStrokeConfig) else d
    scale = d.base_dist.scale if isinstance(config, NormalConfig) else d.scale
    assert (scale.min().item(), scale.max().item()) == (1e-3, 50.0)


def test_only_a_floor_costs_the_head_its_normalisation():
    mixture, floored = GaussianMixtureConfig(3), GaussianMixtureConfig(3, 1e-6)
    normalised = [NormalConfig(), BernoulliConfig(), mixture, PenStrokeConfig(NormalConfig()), PenStrokeConfig(mixture)]
    assert all(config.normalised for config in normalised)
    for config in (
        floored,
        PenStrokeConfig(floored),
        PenStrokeConfig(NormalConfig(), 1e-5),
        PenStrokeConfig(mixture, 1e-5),
    ):
        assert not config.normalised
    h = torch.zeros(6)
    assert floored.build(6, 4)(h).floor == 1e-6
    d = PenStrokeConfig(floored, 1e-5).build(6, 4)(h)
    assert (d.floor, d.stroke.floor) == (1e-5, 1e-6)


@pytest.mark.parametrize("data_dim", [0, 1])
def test_a_pen_stroke_needs_a_movement_and_a_bit(data_dim):
    with pytest.raises(ValueError, match=f"data_dim is {data_dim}"):
        PenStrokeConfig().build(6, data_dim)


# ------------------------------------------------------------------------------------------------------ output networks


@pytest.mark.parametrize("config", OUTPUTS)
def test_output_network_in_steps_is_the_whole_and_trains(config):
    net = config.build(4)
    z = torch.randn(3, 4 * net.receptive_field + 3, 4)
    whole = net(z)
    assert whole.shape == (*z.shape[:-1], net.out_dim)
    state, rows = net.initial_state(3), []
    for z_t in z.unbind(1):
        state, h = net.step(state, z_t)
        rows.append(h)
    assert (torch.stack(rows, 1) - whole).abs().max() < 1e-12
    parameters = list(net.parameters())
    if parameters:
        whole.square().sum().backward()
    assert all((p.grad != 0).any() for p in parameters)


@torch.no_grad()
def test_pointwise_output_by_hand():
    net, z = PointwiseOutputConfig(2, 6).build(4), torch.randn(5, 4)
    first, second = net.layers
    hidden = (z @ first.weight.T + first.bias).clamp(min=0)
    torch.testing.assert_close(net(z), (hidden @ second.weight.T + second.bias).clamp(min=0))


@pytest.mark.parametrize("config", OUTPUTS)
def test_output_network_looks_at_its_receptive_field_and_nothing_else(config):
    net = config.build(4)
    field = 1 + config.layers * (config.kernel_size - 1) if isinstance(config, CausalOutputConfig) else 1
    assert net.receptive_field == field
    steps = field + 3
    jacobian = (
        torch.autograd.functional.jacobian(lambda z: net(z).sum((0, 2)), torch.randn(1, steps, 4))[:, 0].abs().sum(-1)
    )
    lag = torch.arange(steps)[:, None] - torch.arange(steps)
    assert torch.equal(jacobian != 0, (lag >= 0) & (lag < field))


def test_the_papers_speech_output_looks_at_six_steps():
    assert CausalOutputConfig().build(4).receptive_field == 6
