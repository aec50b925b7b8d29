"""Sequential latent models whose evidence is known: given x_<t everything is linear in the latents, and Gaussian.

The models are the library's, built from their configs and made linear in place: activations left out and scales made
constant wherever a latent comes in, the LSTM that reads latents replaced by a linear cell. What reads the data alone
stays as it is, so x_t depends on its past non-linearly. All four are then a linear dynamical system with offsets that
the past of x gives (:class:`System`), and log p(x) is a Kalman filter's.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_stcn.models import SRNN, VRNN, BiLSTM, BiLSTMConfig, SRNNConfig, VRNNConfig, ZForcing, ZForcingConfig
from pyro_stcn.nets import MLP, ClampedGaussian, Gaussian
from pyro_stcn.observation import NormalConfig

DIM, WIDTH, HIDDEN = 2, 3, 5

CONFIGS = {
    "srnn": lambda dim: SRNNConfig(DIM, dim, WIDTH, HIDDEN, observation=NormalConfig()),
    "srnn-plain": lambda dim: SRNNConfig(DIM, dim, WIDTH, HIDDEN, residual=False, observation=NormalConfig()),
    "vrnn": lambda dim: VRNNConfig(DIM, dim, WIDTH, 1, HIDDEN, 4, observation=NormalConfig()),
    "vrnn-i": lambda dim: VRNNConfig(DIM, dim, WIDTH, 1, HIDDEN, 4, conditional_prior=False),
    "zforcing": lambda dim: ZForcingConfig(DIM, dim, WIDTH, 4, HIDDEN),
    "bilstm": lambda dim: BiLSTMConfig(DIM, dim, WIDTH, HIDDEN, skip_gradient=0.0),
}


# --------------------------------------------------------------------------------------------------------- the models


class Echo(nn.Module):
    """Features [x, h] with h a fixed function of x: a guide that reads them can see x itself."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.randn(DIM, HIDDEN - DIM))

    def forward(self, x):
        return torch.cat([x, torch.tanh(x @ self.weight + 0.5)], -1)


class Constant(nn.Module):
    """A value, whatever the input."""

    def __init__(self, dim):
        super().__init__()
        self.value = nn.Parameter(0.3 * torch.randn(dim))

    def forward(self, h):
        return self.value.expand(*h.shape[:-1], -1)


class LinearCell(nn.Module):
    """h_t = h_(t-1) F + inputs W + b, called like an LSTM cell; c is carried along, unused."""

    def __init__(self, cell):
        super().__init__()
        self.weight_ih = nn.Parameter(0.4 * torch.randn(cell.input_size, cell.hidden_size))
        self.weight_hh = nn.Parameter(0.3 * torch.randn(cell.hidden_size, cell.hidden_size))
        self.bias_hh = nn.Parameter(0.3 * torch.randn(cell.hidden_size))

    def forward(self, inputs, state):
        rows = self.weight_ih.split([x.shape[-1] for x in inputs])
        told = sum(x @ w for x, w in zip(inputs, rows, strict=True))
        return state[0] @ self.weight_hh + told + self.bias_hh, state[1]

    def initial(self, lead):
        zeros = torch.zeros(*lead, WIDTH)
        return zeros, zeros


class VaguePosterior(nn.Module):
    """A wrong guide: the prior, moved by what x tells and half as wide again, so that all weights have a variance."""

    def __init__(self, net):
        super().__init__()
        self.net, self.state_last = [net], isinstance(net, VRNN)  # in a list: not a submodule
        told = HIDDEN if self.state_last else WIDTH
        self.weight = nn.Parameter(0.2 * torch.randn(told, net.latent_dim))

    def forward(self, *inputs, base=None):
        net = self.net[0]
        if isinstance(net, SRNN):
            loc, scale, told = base, prior_scale(net), inputs[0]
        else:
            state, told = reversed(inputs) if self.state_last else inputs
            loc, scale = net.prior_net(state) if net.prior_net else (0.0, torch.ones(net.latent_dim))
        loc = loc + told @ self.weight
        return Gaussian(loc, 1.5 * scale.expand(loc.shape))


def linear_model(name, latent_dim=1, *, features=True, exact=False, detach=False, noise=None):
    """Return a model of ``CONFIGS``, linear in its latents, with the exact posterior as guide or a wrong one.

    :param features: without, no offset depends on x. (SRNN only.)
    :param detach: cut the exact guide's gradient to the model's parameters.
    :param noise: what Variational Bi-LSTM's exact guide takes "z2" to be; by default the model imagines without noise.
    """
    net = CONFIGS[name](latent_dim).build()
    if isinstance(net, SRNN):
        net.data_features = Echo()
        if not features:
            for parameter in net.deterministic.parameters():
                nn.init.zeros_(parameter)  # a GRU of zeros stays at zero
    else:
        net.recurrence = LinearCell(net.recurrence)
    for part in ("prior_net", "latent_features", "imagined", "output", "observation"):
        if getattr(net, part, None) is not None:
            make_linear_(getattr(net, part))
    if latent_dim > 1 and exact:
        make_isotropic_(net)
    if not exact:
        net.posterior_net = VaguePosterior(net)
    elif isinstance(net, SRNN):
        net.backward_net, net.posterior_net = BackwardInformation(net, detach), ExactPosterior(net)
    else:
        make_exact_(net, detach, noise)
    return net


@torch.no_grad()
def make_linear_(module):
    """Leave out the activations and limits, draw the weights and biases, and make every scale a constant."""
    for part in module.modules():
        if isinstance(part, ClampedGaussian):
            part.LIMIT = math.inf
        if isinstance(part, MLP):
            for i, layer in enumerate(part.rest):
                if not isinstance(layer, nn.Linear):
                    part.rest[i] = nn.Identity()
        if isinstance(part, nn.Linear):
            part.weight.normal_(0, 0.7 * part.in_features**-0.5)
            if part.bias is not None:
                part.bias.normal_(0, 0.3)
    for name in ("scale", "log_variance"):
        scale = getattr(module, name, None)
        if isinstance(scale, nn.Linear):
            setattr(module, name, Constant(scale.out_features))
        elif scale is not None:  # hidden layers and a last one
            scale[1] = Constant(scale[1].out_features)


@torch.no_grad()
def make_isotropic_(net):
    """Make SRNN's latents rotate and be seen rotated, with noise the same in all directions.

    Its exact posterior has then no correlation between the latents of a step, which a diagonal guide could not have.
    """
    hidden, last = net.prior_net.loc
    turn = torch.linalg.qr(torch.randn(net.latent_dim, net.latent_dim))[0]
    hidden.first[1].weight.copy_(torch.linalg.pinv(last.weight) @ (0.8 * turn))
    turn = torch.linalg.qr(torch.randn(DIM, DIM))[0]
    chain = net.observation.loc.weight @ net.output.rest[1].weight
    net.output.first[1].weight.copy_(torch.linalg.pinv(chain) @ (1.3 * turn))
    for scale in (net.prior_net.log_variance[1], net.observation.scale):
        scale.value.zero_()


# ---------------------------------------------------------------------------------------- as a linear dynamical system


@dataclass
class System:
    """s_t = s_(t-1) F + f_t + N(0, Q) from s_0 = 0, and x_t = s_t H + g_t + N(0, R). Offsets are (batch, time, dim)."""

    transition: Tensor
    offset: Tensor
    noise: Tensor
    loading: Tensor
    shift: Tensor
    observation_noise: Tensor


def affine(function, *dims):
    """Matrices and constant of an affine function of several inputs, read off at the unit vectors and at 0."""
    zeros = [torch.zeros(1, dim) for dim in dims]
    constant = function(*zeros)
    columns = [function(*zeros[:i], torch.eye(dim), *zeros[i + 1 :]) - constant for i, dim in enumerate(dims)]
    return *columns, constant[0]


def prior_scale(net):
    """Scale of z_t, a constant: (latent_dim,)."""
    if net.prior_net is None:
        return torch.ones(net.latent_dim)
    dims = (WIDTH, net.latent_dim) if isinstance(net, SRNN) else (WIDTH,)
    return net.prior_net(*(torch.zeros(dim) for dim in dims)).scale


def deterministic_states(net, x):
    """SRNN's d_t, each from a network that was shown x_<t and nothing else."""
    past = F.pad(x, (0, 0, 1, 0))
    prefixes = [net.data_features(past[:, : t + 1]) for t in range(x.shape[1])]
    return torch.stack([net.deterministic(prefix)[0][:, -1] for prefix in prefixes], 1)


def system(net, x, noise=None):
    """Return the system that a model is, given the past of ``x`` at every step, and "z2" if that is known."""
    if isinstance(net, SRNN):
        return srnn_system(net, x)
    return vrnn_system(net, x) if isinstance(net, VRNN) else lstm_system(net, x, noise)


def srnn_system(net, x=None, d=None):
    """s_t = z_t."""
    d = deterministic_states(net, x) if d is None else d
    from_d, from_z, bias = affine(lambda *inputs: net.prior_net(*inputs).loc, WIDTH, net.latent_dim)
    d_to_x, loading, shift, r = emission(net, WIDTH, net.latent_dim)
    return System(from_z, d @ from_d + bias, prior_scale(net).square().diag(), loading, d @ d_to_x + shift, r)


def vrnn_system(net, x):
    """s_t = [h_(t-1), z_t]. At the first step h is 0: no step has been taken."""
    dim, cell = net.latent_dim, net.recurrence
    from_x, from_features = cell.weight_ih.split([HIDDEN, net.latent_features.out_dim])
    z_to_features, features = affine(net.latent_features, dim)
    taken = net.data_features(x[:, :-1]) @ from_x + features @ from_features + cell.bias_hh
    taken = F.pad(taken, (0, 0, 1, 0))
    h_to_z, bias = torch.zeros(WIDTH, dim), torch.zeros(dim)
    if net.prior_net is not None:
        h_to_z, bias = affine(lambda h: net.prior_net(h).loc, WIDTH)
    to_h = torch.cat([cell.weight_hh, z_to_features @ from_features])
    features_to_x, h_to_x, shift, r = emission(net, net.latent_features.out_dim, WIDTH)
    return System(
        torch.cat([to_h, to_h @ h_to_z], 1),
        torch.cat([taken, taken @ h_to_z + bias], -1),
        torch.block_diag(torch.zeros(WIDTH, WIDTH), prior_scale(net).square().diag()),
        torch.cat([h_to_x, z_to_features @ features_to_x]),
        (features @ features_to_x + shift).expand(*x.shape[:2], DIM),
        r,
    )


def lstm_system(net, x, noise=None):
    """s_t = h_t, with z_t and what is drawn from it as noise: Z-forcing and Variational Bi-LSTM."""
    past, variance = F.pad(x, (0, 0, 1, 0))[:, :-1], prior_scale(net).square().diag()
    h_to_z, bias = affine(lambda h: net.prior_net(h).loc, WIDTH)
    z_to_h, taken, spread = lstm_step(net, net.data_features(past) if isinstance(net, ZForcing) else past)
    if noise is not None:
        taken, spread = taken + noise @ spread, torch.zeros_like(spread)
    loading, shift, r = emission(net, WIDTH)
    return System(
        net.recurrence.weight_hh + h_to_z @ z_to_h,
        taken + bias @ z_to_h,
        z_to_h.T @ variance @ z_to_h + spread.T @ spread,
        loading,
        shift.expand(*x.shape[:2], DIM),
        r,
    )


def lstm_step(net, past):
    """h_t = h_(t-1) F + z_t G + taken + noise_t S, the noise standard normal: returns G, taken and S."""
    rows, dim = net.recurrence.weight_ih, net.latent_dim
    if isinstance(net, ZForcing):
        from_z, from_x = rows.split([4, 4])
        z_to_embedding, embedding = affine(net.latent_features, dim)
        taken = past @ from_x + embedding @ from_z
        return z_to_embedding @ from_z, taken + net.recurrence.bias_hh, torch.zeros(WIDTH, WIDTH)
    from_x, from_z, from_imagined = rows.split([DIM, dim, WIDTH])
    z_to_imagined, imagined = affine(lambda z: net.imagined(z).loc, dim)
    scale = net.imagined(torch.zeros(dim)).scale
    taken = past @ from_x + imagined @ from_imagined + net.recurrence.bias_hh
    return from_z + z_to_imagined @ from_imagined, taken, scale.unsqueeze(-1) * from_imagined


def emission(net, *dims):
    """Matrices, constant and noise covariance of p(x_t | inputs)."""
    output = getattr(net, "output", nn.Identity())

    def head(*inputs):
        return net.observation(output(*inputs)).base_dist

    return *affine(lambda *inputs: head(*inputs).loc, *dims), head(*map(torch.zeros, dims)).scale.square().diag()


# ---------------------------------------------------------------------------------------------------- exact posteriors


def messages(linear, x, mask=None):
    """p(x_t ... x_T | s_t) as a function of s_t: precision ``(batch, time, n, n)`` and precision times mean."""
    (batch, steps, _), n = x.shape, len(linear.noise)
    precision, weighted = torch.zeros(batch, n, n), torch.zeros(batch, n)
    solved = torch.linalg.solve(linear.observation_noise, linear.loading.T)  # R^-1 H'
    rows = []
    for t in reversed(range(steps)):
        seen = torch.ones(batch) if mask is None else mask[:, t].to(x)
        precision = precision + seen[:, None, None] * (linear.loading @ solved)
        weighted = weighted + seen[:, None] * ((x[:, t] - linear.shift[:, t]) @ solved)
        rows.append((precision, weighted))
        # Back through the transition; Q may be singular.
        shrink = torch.linalg.inv(torch.eye(n) + precision @ linear.noise)
        precision = shrink @ precision
        weighted = (shrink @ weighted.unsqueeze(-1) - precision @ linear.offset[:, t].unsqueeze(-1)).squeeze(-1)
        precision = linear.transition @ precision @ linear.transition.T
        weighted = weighted @ linear.transition.T
    return [torch.stack(parts, 1) for parts in zip(*reversed(rows), strict=True)]


def diagonal_posterior(prior, precision, weighted):
    """Prior times message as a Gaussian, if it has no correlations."""
    covariance = torch.linalg.inv(precision + prior.scale.square().reciprocal().diag_embed())
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    assert torch.allclose(covariance, variance.diag_embed(), atol=1e-12), "the posterior is not diagonal"
    loc = (weighted + prior.loc / prior.scale**2).unsqueeze(-2) @ covariance
    return Gaussian(loc.squeeze(-2), variance.sqrt().expand(loc.squeeze(-2).shape))


class BackwardInformation(nn.Module):
    """In the place of SRNN's backward GRU: reads [d_t, x_t] from the last step down, a_t is the message to z_t."""

    def __init__(self, net, detach):
        super().__init__()
        self.net, self.detach = [net], detach

    def forward(self, seen):
        net, seen = self.net[0], seen.flip(1)
        linear = srnn_system(net, d=seen[..., :WIDTH])
        precision, weighted = messages(linear, seen[..., WIDTH : WIDTH + DIM])
        a = torch.cat([precision.flatten(-2), weighted, linear.offset], -1).flip(1)
        return a.detach() if self.detach else a, None


class ExactPosterior(nn.Module):
    """q(z_t | a_t, z_(t-1)) for :class:`BackwardInformation`."""

    def __init__(self, net):
        super().__init__()
        self.net = [net]

    def forward(self, a, z, base=None):
        net, dim = self.net[0], self.net[0].latent_dim
        precision, weighted, offset = a.split([dim * dim, dim, dim], -1)
        loc = torch.zeros(()) if base is None else base
        if not net.config.residual:  # it has to know the prior's mean by itself
            loc = loc + offset + z @ srnn_system(net, d=torch.zeros(1, 1, WIDTH)).transition
        return diagonal_posterior(Gaussian(loc, prior_scale(net)), precision.unflatten(-1, (dim, dim)), weighted)


def make_exact_(net, detach, noise):
    """Give a model with a recurrence of latents a guide that sees all of the future, in the place of its own.

    s_t is linear in z_t, given the state: s_t = known + z_t G.
    """
    n = WIDTH + net.latent_dim if isinstance(net, VRNN) else WIDTH
    if isinstance(net, BiLSTM) and noise is None:
        nn.init.constant_(net.imagined.log_variance.value, -90.0)

    def begin(x, mask, **options):
        unroll = type(net).begin(net, x, mask, **options)
        precision, weighted = messages(system(net, x, noise), x, mask)
        unroll.recognition = precision.flatten(-2), weighted
        if detach:
            unroll.recognition = tuple(row.detach() for row in unroll.recognition)
        return unroll

    def posterior(state, contexts, recognition, prior):
        if isinstance(net, VRNN):
            known = F.pad(state.h, (0, net.latent_dim))
            direction = torch.eye(n)[WIDTH:]
        else:
            direction, taken, spread = lstm_step(net, contexts[0])
            known = state.h @ net.recurrence.weight_hh + taken
            if noise is not None:
                known = known + contexts[1] @ spread
        precision, weighted = recognition[0].unflatten(-1, (n, n)), recognition[1]
        weighted = weighted - (known.unsqueeze(-2) @ precision).squeeze(-2)
        return diagonal_posterior(prior(), direction @ precision @ direction.T, weighted @ direction.T)

    net.begin, net.posterior = begin, posterior


class ExactFromOneStep(nn.Module):
    """q(z_t | phi_x(x_t), h_(t-1)) of a VRNN whose h does not see z: exact, and in the place of its own network."""

    def __init__(self, net):
        super().__init__()
        self.net = [net]
        nn.init.zeros_(net.recurrence.weight_ih[HIDDEN:])
        net.data_features = Echo()

    def forward(self, told, h):
        net = self.net[0]
        z_to_features, features = affine(net.latent_features, net.latent_dim)
        features_to_x, h_to_x, shift, r = emission(net, net.latent_features.out_dim, WIDTH)
        loading = z_to_features @ features_to_x
        solved = torch.linalg.solve(r, loading.T)
        rest = told[..., :DIM] - h @ h_to_x - features @ features_to_x - shift
        return diagonal_posterior(net.prior_net(h), loading @ solved, rest @ solved)
