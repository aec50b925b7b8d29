"""FIVO on STCN: unbiased for ladders of every depth, and a filter written out by hand with the real causal output."""

import math

import pyro
import pytest
import torch

from pyro_stcn.bounds import FIVO, systematic
from pyro_stcn.ladder import LadderConfig
from pyro_stcn.models import STCNConfig
from pyro_stcn.observation import CausalOutputConfig, GaussianMixtureConfig
from pyro_stcn.tcn import DilatedTCNConfig

from ..linear_gaussian import linear_gaussian_stcn
from .test_fivo import SteppedLag, assert_unbiased, bounds, data, exact_evidence, middle

pytestmark = pytest.mark.usefixtures("double")


@pytest.mark.parametrize("lag", [False, True])
@pytest.mark.parametrize(("dims", "dense"), [((1,), True), ((2, 1), False), ((2, 1), True), ((1, 1, 1), False)])
def test_the_average_estimate_is_the_evidence(dims, dense, lag):
    net = linear_gaussian_stcn(dims, dense=dense, lag=lag)
    if lag:
        net.output = SteppedLag(sum(dims) if dense else dims[0])
    with torch.no_grad():  # data that tell less: weights of which a thousand have a mean
        net.observation.weight.mul_(0.5)
        net.observation.scale.add_(0.3)
        if lag:
            net.output.lag.mul_(0.5)
    x = data(batch=2)
    assert_unbiased(bounds(FIVO(8, 1.0, systematic), net, x, copies=3000), exact_evidence(net, x))


@pytest.mark.parametrize("sees_past", [False, True])
@pytest.mark.parametrize("dense", [False, True])
@torch.no_grad()
def test_with_the_causal_output_it_is_the_filter_that_keeps_whole_trajectories(dense, sees_past):
    """Every particle keeps all its draws, and the output network reads them from the first at every step."""
    particles, steps, batch = 8, 9, 3
    net = STCNConfig(
        3,
        DilatedTCNConfig(((1,), (2,)), 6),
        LadderConfig((3, 2), 6, 1),
        dense=dense,
        output=CausalOutputConfig(3, 6),
        observation=GaussianMixtureConfig(3),
        output_sees_past=sees_past,
    ).build()
    x = torch.randn(batch, steps, 3)
    mask = torch.tensor([[1] * 9, [1] * 6 + [0] * 3, [1, 1, 0, 1, 1, 0, 1, 1, 0]]).bool()
    pyro.set_rng_seed(3)
    found = FIVO(particles, 0.7, middle).log_evidence(net.model, net.guide, x, mask)

    pyro.set_rng_seed(3)
    x = net.clean(x, mask)
    before, now = ([d[:, part] for d in net.features(x)] for part in (slice(0, -1), slice(1, None)))
    draws, log_prior, log_posterior = net.draw_from_guide(before, now, mask, particles)
    inputs = net.output_input(draws, before)
    trajectories = inputs[:, :, :0]
    log_weight, banked, resampled = torch.zeros(particles, batch), torch.zeros(batch), 0
    for t in range(steps):
        trajectories = torch.cat([trajectories, inputs[:, :, t : t + 1]], 2)
        hidden = net.output(trajectories.flatten(0, 1))[:, -1].unflatten(0, (particles, batch))
        term = net.observation(hidden).log_prob(x[:, t]) + log_prior[..., t] - log_posterior[..., t]
        log_weight = log_weight + torch.where(mask[:, t], term, 0.0)
        for i in range(batch):
            weights = log_weight[:, i : i + 1].softmax(0)
            if mask[i, t + 1 :].any() and 1 / weights.square().sum() <= 0.7 * particles + 1e-9:
                banked[i] += log_weight[:, i].logsumexp(0) - math.log(particles)
                log_weight[:, i] = 0
                trajectories[:, i] = trajectories[:, i].clone()[middle(weights)[:, 0]]
                resampled += 1
    assert resampled > 3
    torch.testing.assert_close(found, banked + log_weight.logsumexp(0) - math.log(particles), rtol=0, atol=1e-10)
