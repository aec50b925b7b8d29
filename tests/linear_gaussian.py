"""An STCN whose evidence is known: every conditional is a Gaussian with a linear mean, whatever the features are.

The features are fixed non-linear functions of the past, so log p(x) = sum_t log N(x_t; ...) in closed form although
x_t depends on its past non-linearly. With latents of one dimension the exact posterior is a precision-weighted merge,
so the guide can be made exact.
"""

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import MultivariateNormal

from pyro_stcn.ladder import LadderConfig
from pyro_stcn.models import STCN, STCNConfig
from pyro_stcn.observation import NormalConfig, PointwiseOutputConfig

DIM, SUMMARY = 2, 3


class Echo(nn.Module):
    """Features d_t = [x_t, h_t, h_(t-1)] with h_t a fixed function of x_t and x_(t-1); the same for every layer."""

    def __init__(self, layers):
        super().__init__()
        self.feature_dims = (DIM + 2 * SUMMARY,) * layers
        self.register_buffer("now", torch.randn(DIM, SUMMARY))
        self.register_buffer("before", torch.randn(DIM, SUMMARY))

    def build(self, data_dim):
        return self

    def forward(self, x):
        def delay(a):
            return F.pad(a, (0, 0, 1, 0))[..., :-1, :]

        h = torch.tanh(x @ self.now + delay(x) @ self.before)
        return (torch.cat([x, h, delay(h)], -1),) * len(self.feature_dims)


class LinearPrior(nn.Module):
    """N(A h_(t-1) + B z_above, scale)."""

    def __init__(self, dim, above):
        super().__init__()
        self.from_past = nn.Parameter(torch.randn(SUMMARY, dim))
        self.from_above = nn.Parameter(torch.randn(above, dim))
        self.scale = nn.Parameter(torch.rand(dim) + 0.5)

    def past_mean(self, d_past):
        return d_past[..., DIM : DIM + SUMMARY] @ self.from_past

    def forward(self, d, above):
        mean = self.past_mean(d)
        if above is not None:
            mean = mean + above @ self.from_above
        return dist.Normal(mean, self.scale.expand(mean.shape))


class LinearHead(nn.Module):
    """N(z W, scale)."""

    def __init__(self, in_dim):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(in_dim, DIM))
        self.scale = nn.Parameter(torch.rand(DIM) + 0.7)

    def forward(self, h):
        mean = h @ self.weight
        return dist.Normal(mean, self.scale.expand(mean.shape)).to_event(1)


class LinearLag(nn.Module):
    """A causal output network: h_t = z_t + C z_(t-1), so that x_t looks at two steps of z."""

    receptive_field = 2

    def __init__(self, dim):
        super().__init__()
        self.lag = nn.Parameter(torch.randn(dim, dim))

    def forward(self, z):
        return z + F.pad(z, (0, 0, 1, 0))[..., :-1, :] @ self.lag


class VagueLikelihood(nn.Module):
    """A likelihood that knows little: the guide is wrong, but wide enough for its weights to have a variance."""

    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(DIM, dim))

    def forward(self, d, above):
        mean = d[..., :DIM] @ self.weight
        return dist.Normal(mean, torch.full_like(mean, 2.5))


class ExactLikelihood(nn.Module):
    """p(x_t | z^l, z^(l+1)) as a Gaussian in z^l: with it, and the product merge, the guide is the posterior.

    For one-dimensional latents, and dense connections only where no layer lies above the one above.
    """

    def __init__(self, net, level):
        super().__init__()
        self.net, self.level = [net], level  # in a list: not a submodule, the parameters are the model's own

    def forward(self, d, above):
        net, level = self.net[0], self.level
        x, h_past = d[..., :DIM], d[..., DIM + SUMMARY :]
        past = F.pad(h_past, (DIM, SUMMARY))  # where LinearPrior looks for it
        loading = loadings(net)[level]
        covariance = net.observation.scale.diag() ** 2
        rest = torch.zeros_like(x)
        for below in range(level):
            w = loadings(net)[below]
            covariance = covariance + net.ladder[below].prior_net.scale ** 2 * torch.outer(w, w)
            rest = rest + net.ladder[below].prior_net.past_mean(past) * w
        if net.config.dense and above is not None:
            rest = rest + above * own_weight(net, level + 1)
        solved = torch.linalg.solve(covariance, loading)
        precision = loading @ solved
        mean = ((x - rest) @ solved / precision).unsqueeze(-1)
        return dist.Normal(mean, precision.rsqrt().expand(mean.shape))


def own_weight(net, level):
    """Weight of z^(level+1) in the head: the head reads [zL ... z1], or z1 alone."""
    if not net.config.dense:
        return net.observation.weight[0] if level == 0 else torch.zeros(DIM)
    return net.observation.weight[len(net.ladder) - 1 - level]


def loadings(net):
    """How the mean of x_t moves with each (one-dimensional) latent, the ones above held fixed."""
    result = []
    for level in range(len(net.ladder)):
        own = own_weight(net, level)
        result.append(own + net.ladder[level - 1].prior_net.from_above[0, 0] * result[-1] if level else own)
    return result


def linear_gaussian_stcn(dims, *, dense, lag=False, exact=False, **config):
    """Return the STCN; guide either exact or wrong, with :class:`VagueLikelihood`."""
    echo = Echo(len(dims))
    ladder = LadderConfig(dims, hidden=8, layers=1)
    net = STCN(STCNConfig(DIM, echo, ladder, dense, PointwiseOutputConfig(0), NormalConfig(), **config))
    for level, layer in enumerate(net.ladder):
        above = dims[level + 1] if level + 1 < len(dims) else 0
        layer.prior_net = LinearPrior(dims[level], above)
        layer.likelihood_net = ExactLikelihood(net, level) if exact else VagueLikelihood(dims[level])
    width = sum(dims) if dense else dims[0]
    net.observation = LinearHead(width)
    if lag:
        net.output = LinearLag(width)
    return net


@torch.no_grad()
def evidence(net, x):
    """Exact p(x) given the features, of sequences laid out flat: all z are jointly Gaussian, x is linear in them."""
    batch, steps, _ = x.shape
    d = net.features(x)[0][:, :-1]
    dims = [layer.prior_net.scale.numel() for layer in net.ladder]
    # One step: means (batch, time, dim) and covariances between the layers, from the top down.
    mean, covariance = {}, {}
    for level in reversed(range(len(dims))):
        prior = net.ladder[level].prior_net
        mean[level] = prior.past_mean(d)
        covariance[level, level] = prior.scale.diag() ** 2
        if level + 1 < len(dims):
            b = prior.from_above
            mean[level] = mean[level] + mean[level + 1] @ b
            covariance[level, level] = covariance[level, level] + b.T @ covariance[level + 1, level + 1] @ b
            for other in range(level + 1, len(dims)):
                covariance[level, other] = b.T @ covariance[level + 1, other]
                covariance[other, level] = covariance[level, other].T
    order = list(reversed(range(len(dims)))) if net.config.dense else [0]
    z_mean = torch.cat([mean[i] for i in order], -1)
    z_covariance = torch.cat([torch.cat([covariance[i, j] for j in order], 1) for i in order], 0)
    # All steps: x = M z + noise, with M block-diagonal, or block-bidiagonal where the output looks back.
    now = net.observation.weight.T
    m = torch.block_diag(*[now] * steps)
    if not net.pointwise:
        before = torch.block_diag(*[now @ net.output.lag.T] * (steps - 1))
        m = m + F.pad(before, (0, now.shape[1], DIM, 0))
    big = torch.block_diag(*[z_covariance] * steps)
    noise = torch.block_diag(*[net.observation.scale.diag() ** 2] * steps)
    return MultivariateNormal(z_mean.reshape(batch, -1) @ m.T, m @ big @ m.T + noise)


def log_evidence(net, x):
    """Exact log p(x) of every sequence."""
    return evidence(net, x).log_prob(x.flatten(1))
