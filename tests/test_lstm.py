"""The stacked LSTM: its steps, and its place under the ladder."""

import pytest
import torch
from pyro.infer import TraceMeanField_ELBO

from pyro_stcn.checkpoint import load_model, save_model
from pyro_stcn.ladder import LadderConfig
from pyro_stcn.lstm import StackedLSTMConfig
from pyro_stcn.models import STCNConfig
from pyro_stcn.observation import NormalConfig, PointwiseOutputConfig


@pytest.mark.usefixtures("double")
@torch.no_grad()
def test_forward_is_step_by_step():
    net = StackedLSTMConfig((2, 1, 3), 5).build(4)
    x = torch.randn(3, 12, 4)
    state, rows = net.initial_state(3), []
    for x_t in x.unbind(1):
        old = state
        state, features = net.step(state, x_t)
        rows.append(features)
        again = net.step(old, x_t)[1]
        assert all(torch.equal(a, b) for a, b in zip(features, again, strict=True)), "a state is a value"
    for whole, steps in zip(net(x), zip(*rows, strict=True), strict=True):
        torch.testing.assert_close(whole, torch.stack(steps, 1), rtol=0, atol=1e-12)
        assert whole.shape == (3, 12, 5)


def test_under_the_ladder_it_is_ladder_rnn(tmp_path):
    config = STCNConfig(
        4, StackedLSTMConfig((1, 1), 6), LadderConfig((3, 2), 6), True, PointwiseOutputConfig(1, 6), NormalConfig()
    )
    net = config.build()
    x, mask = torch.randn(3, 9, 4), torch.arange(9) < torch.tensor([9, 6, 4])[:, None]
    TraceMeanField_ELBO()(net, net.guide)(x, mask).backward()
    assert all(p.grad is not None for p in net.parameters())
    save_model(tmp_path / "net.safetensors", net)
    again, _ = load_model(tmp_path / "net.safetensors")
    assert again.config == config


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="cells must be positive"):
        StackedLSTMConfig(())
