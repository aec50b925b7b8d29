"""Schedules at their corners, and TensorFlow's Adam by hand."""

import math

import pytest
import torch

from pyro_stcn.schedules import adam_epsilon_hat, exponential_decay, kl_weight, linear


def test_kl_weight_starts_at_its_increment_and_ends_at_one():
    assert kl_weight(1) == 1e-4
    assert kl_weight(5000) == pytest.approx(0.5)
    assert kl_weight(9999) < 1
    assert kl_weight(10_000) == kl_weight(10_001) == kl_weight(10**9) == 1
    assert kl_weight(1, 1.0) == 1


@pytest.mark.parametrize("increment", [0.0, -1e-4, math.nan])
def test_kl_weight_needs_a_positive_increment(increment):
    with pytest.raises(ValueError, match=r"must be positive.*1\.0 means no annealing"):
        kl_weight(1, increment)


def test_learning_rate_decays_continuously():
    assert exponential_decay(0, 1e-3, 0.98) == 1e-3
    assert exponential_decay(1000, 1e-3, 0.98) == pytest.approx(0.98e-3)
    assert exponential_decay(500, 1e-3, 0.98) == pytest.approx(1e-3 * math.sqrt(0.98))
    assert exponential_decay(50, 1e-3, 0.5, steps=25) == pytest.approx(0.25e-3)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("corrected", [True, False])
def test_adam_takes_tensorflows_steps(corrected):
    """Kingma & Ba's second form, as TensorFlow has it, with gradients so small that epsilon decides."""
    lr, b1, b2, epsilon = 0.1, 0.9, 0.999, 1e-8
    theirs, m, v = torch.zeros(4), torch.zeros(4), torch.zeros(4)
    ours = torch.zeros(4, requires_grad=True)
    optimiser = torch.optim.Adam([ours], lr)
    deviation = 0.0
    for update in range(1, 6):
        gradient = torch.randn(4) * torch.tensor([1e-9, 1e-8, 1e-7, 1.0])
        m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
        theirs = theirs - lr * math.sqrt(1 - b2**update) / (1 - b1**update) * m / (v.sqrt() + epsilon)
        optimiser.param_groups[0]["eps"] = adam_epsilon_hat(update) if corrected else epsilon
        ours.grad = gradient
        optimiser.step()
        deviation = max(deviation, (ours.detach() - theirs).abs().max().item())
    assert deviation < 1e-14 if corrected else deviation > 1e-3


def test_epsilon_hat_fades():
    assert adam_epsilon_hat(1) == pytest.approx(1e-8 / math.sqrt(1e-3))
    assert adam_epsilon_hat(100_000) == pytest.approx(1e-8)


def test_linear_goes_up_down_or_stays():
    up = [linear(step, 0.2, 1.0, 0.3) for step in range(5)]
    assert up == pytest.approx([0.2, 0.5, 0.8, 1.0, 1.0])
    down = [linear(step, 1.0, 0.0, 0.4) for step in range(5)]
    assert down == pytest.approx([1.0, 0.6, 0.2, 0.0, 0.0])
    assert [linear(step, 0.7, 0.7, 0.1) for step in (0, 1, 10**9)] == [0.7] * 3
    assert linear(10**9, 1.0, 0.0, 5e-5) == 0, "and not a little beside it: a weight of 0 is no term at all"
    assert linear(10**9, 0.0, 1.0, 5e-5) == 1


def test_kl_weight_may_start_higher():
    assert kl_weight(1, 5e-5, 0.2) == pytest.approx(0.20005)
    assert kl_weight(8000, 5e-5, 0.2) == pytest.approx(0.6)
    assert kl_weight(15_999, 5e-5, 0.2) < 1
    assert kl_weight(16_001, 5e-5, 0.2) == kl_weight(10**9, 5e-5, 0.2) == 1
    assert kl_weight(1, 1.0, 0.2) == kl_weight(7, 0.1, 1.0) == 1
