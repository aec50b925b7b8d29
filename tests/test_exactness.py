"""Bounds against evidence that is known in closed form, in float64."""

import itertools
import math

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch.distributions import MultivariateNormal

from pyro_stcn.bounds import IWAE
from pyro_stcn.data import SequenceDataset
from pyro_stcn.evaluation import evaluate
from pyro_stcn.ladder import LadderConfig
from pyro_stcn.models import Evidence, STCNConfig
from pyro_stcn.observation import NormalConfig, PointwiseOutputConfig
from pyro_stcn.tcn import DilatedTCNConfig

from .linear_gaussian import DIM, evidence, linear_gaussian_stcn, log_evidence

pytestmark = pytest.mark.usefixtures("double")


def data(batch=3, steps=5):
    return torch.randn(batch, steps, DIM)


@pytest.mark.parametrize(("layers", "dense"), [(1, False), (2, False), (3, False), (1, True), (2, True)])
def test_with_the_exact_guide_every_weight_is_the_evidence(layers, dense):
    net = linear_gaussian_stcn((1,) * layers, dense=dense, exact=True)
    x = data()
    log_weights = IWAE(50).log_weights(net.model, net.guide, x)
    torch.testing.assert_close(log_weights, log_evidence(net, x).expand(50, -1), rtol=0, atol=1e-10)
    per_step = IWAE(50, keep=("sequences", "time")).log_weights(net.model, net.guide, x)
    assert per_step.std(0).max() < 1e-10
    for elbo in (Trace_ELBO(), IWAE(7)):
        assert elbo.loss(net.model, net.guide, x) == pytest.approx(-log_evidence(net, x).sum().item(), abs=1e-9)


@pytest.mark.parametrize("lag", [False, True])
@pytest.mark.parametrize(
    ("dims", "dense"), [((2,), True), ((2, 1), True), ((2, 1), False), ((2, 2, 1), True), ((2, 1, 1), False)]
)
def test_a_wrong_guide_gives_bounds_that_grow_with_k_and_stay_below(dims, dense, lag):
    net = linear_gaussian_stcn(dims, dense=dense, lag=lag)
    x = data(batch=4, steps=4)
    exact = log_evidence(net, x).sum().item()
    means, errors = [], []
    for k in (1, 4, 16, 64, 256, 1024):
        log_weights = IWAE(2**15).log_weights(net.model, net.guide, x)  # new for every K, or growth would be arithmetic
        groups = (log_weights.reshape(-1, k, len(x)).logsumexp(1) - math.log(k)).sum(-1)
        mean, error = groups.mean().item(), groups.std().item() / math.sqrt(len(groups))
        assert mean <= exact + 4 * error, f"IWAE-{k} {mean:.3f} ± {error:.3f} is above log p(x) = {exact:.3f}"
        means.append(mean)
        errors.append(error)
    assert all(b - a > -4 * math.hypot(e, f) for (a, e), (b, f) in itertools.pairwise(zip(means, errors, strict=True)))
    assert means[2] - means[0] > 4 * math.hypot(errors[0], errors[2]), f"not growing with K: {means}"
    assert exact - means[-1] < 0.2 * (exact - means[0]), "256 draws should close most of the gap"


@pytest.mark.parametrize("lag", [False, True])
@torch.no_grad()
def test_a_hole_in_the_mask_gives_no_free_information(lag):
    """Where x looks back over z, a draw of a masked step is read later: it has to come from the prior."""
    net = linear_gaussian_stcn((2, 1), dense=True, lag=lag)
    net.backbone.now.zero_()
    net.backbone.before.zero_()  # no features: the exact answer is the Gaussian's marginal
    net.observation.scale.fill_(0.2)
    x, mask = data(batch=2, steps=3), torch.tensor([[True, False, True], [True, True, False]])
    joint = evidence(net, x)
    covariance = joint.covariance_matrix[0]  # without features the same for all
    for i in range(2):
        keep = mask[i].repeat_interleave(DIM)
        marginal = MultivariateNormal(joint.mean[i][keep], covariance[keep][:, keep])
        exact = marginal.log_prob(x[i].flatten()[keep]).item()
        log_weights = IWAE(200_000).log_weights(net.model, net.guide, x[i : i + 1], mask[i : i + 1])[:, 0]
        ratio = (log_weights - exact).exp()
        error = ratio.std() / math.sqrt(len(ratio))
        assert abs(ratio.mean() - 1) < 5 * error, f"mean weight / p(x) = {ratio.mean():.3f} ± {error:.3f}"
        assert error < 0.2


@pytest.mark.parametrize("lag", [False, True])
@pytest.mark.parametrize(("dims", "dense"), [((1,), True), ((1, 1), True), ((1, 1), False), ((1, 1, 1), True)])
def test_the_average_weight_is_the_evidence(dims, dense, lag):
    net = linear_gaussian_stcn(dims, dense=dense, lag=lag)
    x = data(batch=2, steps=2)
    ratio = (IWAE(100_000).log_weights(net.model, net.guide, x) - log_evidence(net, x)).exp()
    z = (ratio.mean(0) - 1) / (ratio.std(0) / math.sqrt(len(ratio)))
    assert z.abs().max() < 4.5


@pytest.mark.parametrize(("dims", "dense"), [((1,), True), ((1, 1), True), ((1, 1), False), ((1, 1, 1), True)])
def test_the_product_over_steps_of_average_weights_is_the_evidence(dims, dense):
    """E exp(bound) = p(x) for a weight per step, too: the average over K draws of every step, then the product."""
    net = linear_gaussian_stcn(dims, dense=dense)
    x, k = data(batch=2, steps=3), 5
    log_weights = IWAE(100_000, keep=("sequences", "time")).log_weights(net.model, net.guide, x)
    bound = (log_weights.reshape(-1, k, *x.shape[:2]).logsumexp(1) - math.log(k)).sum(-1)
    ratio = (bound - log_evidence(net, x)).exp()
    z = (ratio.mean(0) - 1) / (ratio.std(0) / math.sqrt(len(ratio)))
    assert z.abs().max() < 4.5


def test_weights_per_step_are_tighter_where_steps_are_independent():
    net = linear_gaussian_stcn((2, 1), dense=True)
    x = data(batch=4, steps=6)
    exact = log_evidence(net, x).sum().item()
    sequence, step = (
        np.array([-IWAE(5, keep=keep).loss(net.model, net.guide, x) for _ in range(300)])
        for keep in (("sequences",), ("sequences", "time"))
    )
    assert sequence.mean() + 4 * sequence.std() / 17 < step.mean() < exact + 4 * step.std() / 17


def test_evaluation_lies_on_the_right_side_of_the_evidence():
    net = linear_gaussian_stcn((2, 1), dense=True)
    x = data(batch=3, steps=4)
    dataset = SequenceDataset(tuple(x.numpy()), tuple("abc"))
    net.float()
    x = torch.from_numpy(np.stack(dataset.sequences))
    torch.set_default_dtype(torch.float32)
    exact = log_evidence(net, x).double().sum().item()
    result = evaluate(net, dataset, particles=40_000, chunk=4000, progress=False)
    assert result.objective.sum() < exact - 0.25
    assert result.iwae.sum() == pytest.approx(exact, abs=0.25)
    assert result.iwae_per_step.sum() == pytest.approx(exact, abs=0.25)


@torch.no_grad()
def test_independent_draws_exceed_the_evidence_where_shared_draws_meet_it():
    """Two noisy copies of one latent average to a better one, and only one of them is paid for."""
    x = data(batch=50, steps=4)
    gaps = {}
    for independent in (False, True):
        torch.manual_seed(3)
        net = linear_gaussian_stcn((1, 1), dense=True, exact=True, independent_draws=independent)
        net.observation.weight.fill_(0.5)  # x = (z1 + z2) / 2 + noise, and z1 = z2 + a little noise
        net.observation.scale.fill_(0.3)
        net.ladder[0].prior_net.from_above.fill_(1.0)
        net.ladder[0].prior_net.scale.fill_(0.05)
        draws = np.array([-TraceMeanField_ELBO().loss(net.model, net.guide, x) for _ in range(100)])
        exact = log_evidence(net, x).sum().item()
        gaps[independent] = (draws.mean() - exact) / x[..., 0].numel(), draws.std() / 10 / x[..., 0].numel()
    (shared, shared_error), (loose, loose_error) = gaps[False], gaps[True]
    assert abs(shared) < 4 * shared_error, (
        f"shared draws: {shared:.4f} ± {shared_error:.4f} nats per step from log p(x)"
    )
    assert loose > 0.1 > 10 * loose_error, f"independent draws: only {loose:.4f} ± {loose_error:.4f} above log p(x)"


def noise_experiment(independent_draws, steps=3000):
    """Train on white noise, which no model can beat; return (estimate - log N(x; 0, 1)) per fresh sequence."""
    pyro.set_rng_seed(1)
    config = STCNConfig(
        data_dim=1,
        backbone=DilatedTCNConfig(((1,), (1,), (1,)), 8),
        ladder=LadderConfig((2, 2, 2), hidden=16, merge="eq11"),
        dense=True,
        output=PointwiseOutputConfig(1, 16),
        observation=NormalConfig(),
        independent_draws=independent_draws,
    )
    net = config.build()
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    elbo = TraceMeanField_ELBO()
    for _ in range(steps):
        optimiser.zero_grad()
        elbo.loss_and_grads(net.model, net.guide, torch.randn(16, 16, 1))
        torch.nn.utils.clip_grad_norm_(net.parameters(), 50.0)
        optimiser.step()
    fresh = torch.randn(400, 16, 1)
    dataset = SequenceDataset(tuple(fresh.numpy()), tuple(str(i) for i in range(len(fresh))))
    torch.set_default_dtype(torch.float32)
    result = evaluate(net.float(), dataset, particles=20, batch_size=100, progress=False)
    best = torch.distributions.Normal(0.0, 1.0).log_prob(fresh.float()).sum((1, 2)).numpy()
    difference = result.objective - best
    return net, difference.mean(), difference.std() / math.sqrt(len(difference))


@pytest.mark.slow
def test_draws_that_are_not_shared_exceed_what_any_model_can_reach_and_shared_ones_do_not():
    net, gain, error = noise_experiment(independent_draws=True)
    assert gain > 6 * error, (
        f"the estimate with independent draws should exceed the best log-likelihood: {gain} ± {error}"
    )
    assert net.evidence is Evidence.ESTIMATE
    torch.set_default_dtype(torch.float64)
    net, gain, error = noise_experiment(independent_draws=False)
    assert gain <= 4 * error, f"a bound exceeds the best log-likelihood by {gain} ± {error}"
    assert net.evidence is Evidence.LOWER_BOUND
