"""The networks of the recurrent systems, each against its formula, and recurrences against one sequence alone."""

import math

import pytest
import torch
from torch import nn

from pyro_stcn.nets import (
    MLP,
    ClampedGaussian,
    ClippedLeakyReLU,
    Gaussian,
    LSTMCell,
    ResidualGaussian,
    SoftplusGaussian,
    lengths,
    orthogonal_recurrence_,
    prior_where_masked,
    run_backwards,
)

pytestmark = pytest.mark.usefixtures("double")
EXTREME = torch.tensor([-1e300, -1e30, -1e3, 0.0, 1e3, 1e30, 1e300], dtype=torch.float64)


def random_(net):
    """Make all parameters random, biases too."""
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return net


def test_clipped_leaky_relu():
    x = torch.tensor([-math.inf, -12.0, -9.0, -6.0, -0.3, 0.0, 0.5, 2.9, 3.0, 7.0, math.inf])
    expected = torch.tensor([-3, -3, -3, -2, -0.1, 0, 0.5, 2.9, 3, 3, 3])
    torch.testing.assert_close(ClippedLeakyReLU()(x), expected)


# ---------------------------------------------------------------------------------------------------------- perceptrons


@pytest.mark.parametrize("layers", [1, 3])
def test_several_inputs_are_their_concatenation(layers):
    net = random_(MLP((3, 1, 4), 6, layers, nn.Tanh))
    inputs = [torch.randn(2, 5, dim) for dim in (3, 1, 4)]
    weight = torch.cat([layer.weight for layer in net.first], 1)
    assert [layer.bias is None for layer in net.first] == [False, True, True], "one bias"
    expected = torch.tanh(torch.cat(inputs, -1) @ weight.T + net.first[0].bias)
    for layer in [module for module in net.rest if isinstance(module, nn.Linear)]:
        expected = torch.tanh(expected @ layer.weight.T + layer.bias)
    assert sum(isinstance(module, nn.Linear) for module in net.rest) == layers - 1
    torch.testing.assert_close(net(*inputs), expected)
    assert net.out_dim == expected.shape[-1] == 6


def test_without_layers_the_inputs_are_concatenated():
    net = MLP((2, 3), 6, 0)
    x, z = torch.randn(5, 2), torch.randn(4, 1, 3)
    assert net.out_dim == 5
    assert torch.equal(net(x, z), torch.cat([x.expand(4, 5, 2), z.expand(4, 5, 3)], -1))
    assert not list(net.parameters())


def test_what_reads_the_data_alone_is_computed_once():
    net = random_(MLP((3, 2), 6, 2))
    rows = {}
    for i, layer in enumerate(net.first):
        layer.register_forward_hook(lambda _, __, out, i=i: rows.update({i: out.shape[:-1].numel()}))
    data, z = torch.randn(7, 5, 3), torch.randn(4, 7, 5, 2)
    ours = net(data, z)
    assert rows == {0: 35, 1: 140}
    torch.testing.assert_close(ours, torch.stack([net(data, z_k) for z_k in z]))
    torch.testing.assert_close(net(data.expand(4, 7, 5, 3), z), ours)


def test_the_first_layer_starts_as_large_as_over_the_concatenation():
    net = MLP((400, 100), 300, 1)
    bound = math.sqrt(6 / (500 + 300))
    for layer in net.first:
        assert 0.99 * bound < layer.weight.abs().max() <= bound


# ------------------------------------------------------------------------------------------------------------ Gaussians


def hidden_of(mlp, x, z, activation):
    return activation(x @ mlp.first[0].weight.T + z @ mlp.first[1].weight.T + mlp.first[0].bias)


def clipped(a):
    return torch.where(a > 0, a, a / 3).clamp(-3, 3)


def inputs():
    return torch.randn(50, 3), torch.randn(50, 2)


def test_softplus_gaussian():
    net, (x, z) = random_(SoftplusGaussian((3, 2), 4, 6, 1)), inputs()
    h = hidden_of(net.hidden, x, z, lambda a: a.clamp(min=0))
    ours, raw = net(x, z), h @ net.scale.weight.T + net.scale.bias
    torch.testing.assert_close(ours.loc, h @ net.loc.weight.T + net.loc.bias)
    torch.testing.assert_close(ours.scale, (1 + raw.exp()).log().clamp(min=1e-4))
    assert (ours.scale > 2e-4).any()
    net.scale.bias.data.fill_(-1e3)
    assert (net(x, z).scale == 1e-4).all()
    fresh = SoftplusGaussian((3, 2), 4, 6, 1)
    torch.testing.assert_close(fresh(x * 0, z * 0).scale, torch.full((50, 4), math.log(1 + math.exp(0.6))))


def test_clamped_gaussian():
    net, (x, z) = random_(ClampedGaussian((3, 2), 4, 6, 1)), inputs()
    h = hidden_of(net.hidden, x, z, clipped)
    ours, loc = net(x, z), h @ net.loc.weight.T + net.loc.bias
    variance = (h @ net.log_variance.weight.T + net.log_variance.bias).clamp(-8, 8).exp()
    torch.testing.assert_close(ours.loc, loc.clamp(-8, 8))
    torch.testing.assert_close(ours.scale, variance.sqrt())
    net.log_variance.weight.data.mul_(100)
    net.loc.weight.data.mul_(100)
    loc, scale = net(x, z)
    assert (loc.min(), loc.max()) == (-8, 8)
    assert (scale.min().item(), scale.max().item()) == pytest.approx((math.exp(-4), math.exp(4)))


@pytest.mark.parametrize("based", [False, True])
def test_residual_gaussian(based):
    net, (x, z) = random_(ResidualGaussian((3, 2), 4, 6, 1)), inputs()
    base = torch.randn(50, 4) if based else None
    ours = net(x, z, base=base)
    top = {part: hidden_of(net.get_submodule(f"{part}.0"), x, z, clipped) for part in ("loc", "log_variance")}
    last = {part: net.get_submodule(f"{part}.1") for part in top}
    out = {part: h @ last[part].weight.T + last[part].bias for part, h in top.items()}
    torch.testing.assert_close(ours.loc, out["loc"] + (base if based else 0))
    torch.testing.assert_close(ours.scale, (out["log_variance"].exp() + 1e-6).sqrt())
    net.log_variance[1].bias.data.fill_(-1e3)
    torch.testing.assert_close(net(x, z).scale, torch.full((50, 4), 1e-3))
    net.log_variance[1].bias.data.fill_(1e3)
    torch.testing.assert_close(net(x, z).scale, torch.full((50, 4), math.exp(10)))


def test_a_residual_gaussian_starts_at_its_base():
    loc, scale = ResidualGaussian((3,), 4, 6, 1)(torch.randn(50, 3), base=torch.full((50, 4), 2.0))
    assert 0 < (loc - 2).abs().max() < 0.02
    assert 0 < (scale - 1).abs().max() < 0.01


@pytest.mark.parametrize("kind", [SoftplusGaussian, ClampedGaussian, ResidualGaussian])
def test_scales_are_finite_and_positive_whatever_comes_in(kind):
    net = random_(kind((1,), 3, 6, 1))
    x = EXTREME.unsqueeze(-1).requires_grad_()
    loc, scale = net(x)
    assert loc.isfinite().all()
    assert scale.isfinite().all()
    assert (scale > 0).all()
    (gradient,) = torch.autograd.grad(loc.sum() + scale.log().sum(), x)
    assert gradient.isfinite().all()


def test_where_masked_the_posterior_is_the_prior():
    q, p = (Gaussian(torch.randn(2, 3, 4), torch.rand(2, 3, 4)) for _ in "qp")
    mask = torch.tensor([[True, False, True], [False, True, True]])
    for name, value in prior_where_masked(q, p, mask)._asdict().items():
        for i in range(2):
            for t in range(3):
                assert torch.equal(value[i, t], getattr(q if mask[i, t] else p, name)[i, t])
    nan = torch.full((2, 3, 4), math.nan)
    loc = torch.where(mask.unsqueeze(-1), q.loc, nan).requires_grad_()
    merged = prior_where_masked(Gaussian(loc, q.scale), p, mask)
    (gradient,) = torch.autograd.grad(merged.loc.sum(), loc)
    assert torch.equal(gradient, mask.unsqueeze(-1).expand(2, 3, 4).to(gradient.dtype))
    assert merged.loc.isfinite().all()


# ---------------------------------------------------------------------------------------------------------- recurrences


@pytest.mark.parametrize("lead", [(3,), (2, 3), (4, 2, 3)])
def test_lstm_cell_is_torchs(lead):
    ours, theirs = LSTMCell(5, 4), nn.LSTMCell(5, 4)
    theirs.load_state_dict(random_(ours).state_dict())
    x, z, h, c = torch.randn(3, 2), torch.randn(*lead, 3), torch.randn(*lead, 4), torch.randn(*lead, 4)
    both = torch.cat([x.expand(*lead, 2), z], -1)
    expected = theirs(both.reshape(-1, 5), (h.reshape(-1, 4), c.reshape(-1, 4)))
    for one, other in zip(ours((x, z), (h, c)), expected, strict=True):
        torch.testing.assert_close(one, other.reshape(*lead, 4))
    assert all(torch.equal(part, torch.zeros(*lead, 4)) for part in ours.initial(torch.Size(lead)))


def test_lengths_reach_to_the_last_real_step():
    rows = ["11111", "11000", "10010", "00001", "01000", "00000"]
    mask = torch.tensor([[step == "1" for step in row] for row in rows])
    assert lengths(mask).tolist() == [5, 2, 4, 5, 2, 0]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("hole", [False, True])
def test_backwards_each_sequence_as_if_alone(kind, hole):
    rnn = random_(kind(3, 4, batch_first=True))
    sizes, x = (6, 4, 1), torch.randn(3, 6, 3)
    mask = torch.arange(6) < torch.tensor(sizes)[:, None]
    if hole:
        mask[0, 2] = mask[1, 0] = mask[1, 1] = False
    ours = run_backwards(rnn, x, mask)
    assert ours.shape == (3, 6, 4)
    for i, size in enumerate(sizes):
        for t in range(size):  # row t has read x_T down to x_t
            last = rnn(x[i : i + 1, t:size].flip(1))[0][0, -1]
            torch.testing.assert_close(ours[i, t], last)
    torch.testing.assert_close(run_backwards(rnn, x[:1], None)[0], ours[0])
    noisy = torch.where((torch.arange(6) < torch.tensor(sizes)[:, None]).unsqueeze(-1), x, 1e3)
    again = run_backwards(rnn, noisy, mask)
    assert all(torch.equal(again[i, :size], ours[i, :size]) for i, size in enumerate(sizes))


@pytest.mark.parametrize(("kind", "gates"), [(LSTMCell, 4), (nn.LSTM, 4), (nn.GRU, 3)])
def test_every_gate_starts_with_an_orthogonal_matrix(kind, gates):
    rnn = kind(300, 5)
    orthogonal_recurrence_(random_(rnn))
    named = dict(rnn.named_parameters())
    assert len(named) == 4
    for name, parameter in named.items():
        if "weight_hh" in name:
            blocks = parameter.detach().reshape(gates, 5, 5)
            torch.testing.assert_close(blocks @ blocks.mT, torch.eye(5).expand(gates, 5, 5))
            assert not torch.allclose(blocks[0], blocks[1])
        elif "weight_ih" in name:
            bound = math.sqrt(6 / 305)
            assert 0.97 * bound < parameter.abs().max() <= bound
        else:
            assert not parameter.any()
