"""The dilated TCN against loops over time in numpy, its own steps, and what it may look at."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from pyro_stcn.initialise import glorot_uniform_
from pyro_stcn.tcn import CausalConv1d, DilatedTCN, DilatedTCNConfig, WaveNetBlock

SPEECH, INK = ((1, 2, 4, 8, 16),) * 5, ((1, 2, 4, 8, 16, 32),) * 5
SMALL = ((1, 2, 4), (1, 3))


def network(kernel_size=2, dilations=SMALL, data_dim=3, filters=5):
    net = DilatedTCNConfig(dilations, filters, kernel_size).build(data_dim)
    for p in net.parameters():
        p.data.add_(0.1 * torch.randn_like(p))  # biases start at zero, and would not be seen
    return net


def in_steps(net, x):
    """Return the features of ``(batch, time, dim)`` one step at a time."""
    state, rows = net.initial_state(len(x)), []
    for x_t in x.unbind(1):
        state, features = net.step(state, x_t)
        rows.append(features)
    return [torch.stack(d, 1) for d in zip(*rows, strict=True)]


# ----------------------------------------------------------------------------------------------- against loops in numpy


def loop_conv(conv, x):
    """Dilated causal convolution of ``(time, channels)``, one tap at a time; the last tap is the present."""
    weight, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
    taps, dilation = weight.shape[-1], conv.dilation[0]
    y = np.tile(bias, (len(x), 1))
    for t in range(len(x)):
        for tap in range(taps):
            past = t - (taps - 1 - tap) * dilation
            if past >= 0:
                y[t] += weight[:, :, tap] @ x[past]
    return y


def loop_block(block, x):
    signal, gate = np.split(loop_conv(block.filter_gate, x), 2, axis=1)
    skip = loop_conv(block.out, np.tanh(signal) / (1 + np.exp(-gate)))
    residual = x if isinstance(block.residual, nn.Identity) else loop_conv(block.residual, x)
    return skip + residual, skip


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kernel_size", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2, 5])
@torch.no_grad()
def test_causal_convolution_is_the_loop(kernel_size, dilation):
    conv = CausalConv1d(3, 4, kernel_size, dilation)
    x = torch.randn(2, 12, 3)
    y = conv(x.transpose(1, 2)).transpose(1, 2)
    expected = np.stack([loop_conv(conv, row) for row in x.numpy()])
    assert np.abs(y.numpy() - expected).max() < 1e-12


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kernel_size", [1, 2, 3])
@torch.no_grad()
def test_network_is_the_loop(kernel_size):
    net = network(kernel_size)
    x = torch.randn(2, 25, 3)
    for row, *features in zip(x.numpy(), *net(x), strict=True):
        h, blocks = row, iter(net.blocks)
        for group, d in zip(SMALL, features, strict=True):
            for _ in group:
                h, _ = loop_block(next(blocks), h)
            assert np.abs(d.numpy() - h).max() < 1e-12


@pytest.mark.usefixtures("double")
@torch.no_grad()
def test_block_with_equal_widths_has_an_identity_residual():
    block = WaveNetBlock(4, 4, 2, 1)
    x = torch.randn(1, 4, 6)
    out, skip = block(x)
    torch.testing.assert_close(out - skip, x)
    assert np.abs(skip[0].T.numpy() - loop_block(block, x[0].T.numpy())[1]).max() < 1e-12
    assert isinstance(WaveNetBlock(3, 4, 2, 1).residual, nn.Conv1d)


# --------------------------------------------------------------------------------------------------- one step at a time


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("kernel_size", [1, 2, 3])
@torch.no_grad()
def test_steps_are_the_whole_sequence(kernel_size, dtype, limit):
    net = network(kernel_size).to(dtype)
    x = torch.randn(3, 4 * net.receptive_field + 5, 3, dtype=dtype)
    for stepped, whole in zip(in_steps(net, x), net(x), strict=True):
        assert (stepped - whole).abs().max() < limit


@pytest.mark.usefixtures("double")
@torch.no_grad()
def test_steps_are_the_whole_sequence_at_the_papers_receptive_field():
    net = network(dilations=SPEECH, filters=3)
    x = torch.randn(1, 2 * net.receptive_field, 3)
    for stepped, whole in zip(in_steps(net, x), net(x), strict=True):
        assert (stepped - whole).abs().max() < 1e-12


@torch.no_grad()
def test_a_state_is_a_value():
    """Every state of a run can be stepped again, whatever was done since, also in another order."""
    net = network()
    x = torch.randn(2, 20, 3)
    states, results = [net.initial_state(2)], []
    for x_t in x.unbind(1):
        state, features = net.step(states[-1], x_t)
        states.append(state)
        results.append(features)
    for t in torch.randperm(20).tolist():
        net.step(states[t], torch.randn(2, 3))
        _, again = net.step(states[t], x[:, t])
        assert all(torch.equal(a, b) for a, b in zip(again, results[t], strict=True))
    assert [s.position for s in states] == list(range(21))


# ---------------------------------------------------------------------------------------------- what an output looks at


def reach(dilations, kernel_size):
    """Receptive field of every group by the paper's formula."""
    return [1 + (kernel_size - 1) * sum(sum(group) for group in dilations[: i + 1]) for i in range(len(dilations))]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kernel_size", [1, 2, 3])
def test_every_feature_sees_its_receptive_field_and_nothing_else(kernel_size):
    net = network(kernel_size)
    fields = reach(SMALL, kernel_size)
    steps = fields[-1] + 4
    x = torch.randn(1, steps, 3)
    lag = torch.arange(steps)[:, None] - torch.arange(steps)
    for i, field in enumerate(fields):
        jacobian = torch.autograd.functional.jacobian(lambda x, i=i: net(x)[i].sum((0, 2)), x)[:, 0].abs().sum(-1)
        assert torch.equal(jacobian != 0, (lag >= 0) & (lag < field))
    assert net.receptive_field == fields[-1]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("dilations", "field"), [(SPEECH, 156), (INK, 316)])
def test_receptive_fields_of_the_paper(dilations, field):
    net = network(dilations=dilations, data_dim=1, filters=2)
    assert net.receptive_field == field
    x = torch.randn(1, field + 5, 1, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(x)[-1][:, -1].sum(), x)
    assert torch.equal(gradient.flatten() != 0, torch.arange(field + 5) >= 5), "the edge, and exactly nothing beyond"


@pytest.mark.usefixtures("double")
@torch.no_grad()
def test_leading_dimensions_are_batches():
    net = network()
    x = torch.randn(2, 4, 11, 3)
    for d, *rows in zip(net(x), *(net(x[i, j]) for i in range(2) for j in range(4)), strict=True):
        assert d.shape == (2, 4, 11, 5)
        torch.testing.assert_close(d.flatten(0, 1), torch.stack(rows), rtol=1e-12, atol=1e-12)
    assert net.feature_dims == (5, 5)


# ------------------------------------------------------------------------------------------------------ the small print


def test_blocks_run_in_bfloat16_only_while_training():
    net = network()
    x = torch.randn(2, 9, 3)
    seen = []
    for block in net.blocks:
        block.filter_gate.register_forward_hook(lambda module, inputs, out: seen.append(out.dtype))
    plain = net(x)
    net.autocast_dtype = torch.bfloat16
    seen.clear()
    mixed = net(x)
    assert set(seen) == {torch.bfloat16}
    assert all(d.dtype == torch.float32 for d in mixed)
    assert 0 < (mixed[-1] - plain[-1]).abs().max() < 0.1
    mixed[-1].sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())
    net.eval()
    seen.clear()
    assert all(torch.equal(a, b) for a, b in zip(net(x), plain, strict=True))
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize("dilations", [(), ((),), ((1, 2), ()), ((1, 0),), ((-1,),)])
def test_bad_dilations_are_refused(dilations):
    with pytest.raises(ValueError, match="non-empty groups of positive integers"):
        DilatedTCNConfig(dilations)


@pytest.mark.parametrize(("in_channels", "filters", "kernel_size"), [(64, 64, 2), (30, 90, 3)])
def test_filter_and_gate_start_as_two_convolutions(in_channels, filters, kernel_size):
    """Glorot's bound is that of a convolution with ``filters`` outputs, though both lie in one with twice as many."""
    block = WaveNetBlock(in_channels, filters, kernel_size, 1)
    fused = math.sqrt(6 / (kernel_size * (in_channels + filters)))
    for weight, bound in [(half, fused) for half in block.filter_gate.weight.chunk(2)] + [
        (block.out.weight, math.sqrt(6 / (2 * filters)))
    ]:
        assert 0.99 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05), "uniform"
    assert all((p == 0).all() for name, p in block.named_parameters() if name.endswith("bias"))


def test_glorot_is_torchs_own():
    layer = nn.Conv1d(5, 7, 3)
    torch.manual_seed(1)
    glorot_uniform_(layer)
    torch.manual_seed(1)
    torch.testing.assert_close(layer.weight, nn.init.xavier_uniform_(torch.empty(7, 5, 3)))


def test_feature_dims_follow_the_groups():
    net = DilatedTCN(2, DilatedTCNConfig(((1,), (1, 2), (4,)), 6))
    assert net.feature_dims == (6, 6, 6)
    assert [d.shape for d in net(torch.zeros(2, 3, 2))] == [(2, 3, 6)] * 3
