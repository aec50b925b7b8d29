"""VRNN: the authors' numbers, other configurations against NumPy, VRNN-I, and what the importer refuses.

The recorded case has no noise in the latents (every draw is the posterior's mean) and handwriting's heads. The other
configurations are computed here from the equations, with noise, under the names and in the layout of that code.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from scipy.special import expit, log_expit, log_softmax, logsumexp
from scipy.stats import norm
from torch.distributions import kl_divergence

from pyro_stcn.generation import generate
from pyro_stcn.models import MODELS, VRNNConfig
from pyro_stcn.nets import SoftplusGaussian
from pyro_stcn.observation import GaussianMixtureConfig, NormalConfig, PenStrokeConfig
from pyro_stcn.published import load_published, published_config, published_weights
from pyro_stcn.schedules import adam_epsilon_hat, exponential_decay

from ..small import FixedNoise

RECORDING = Path(__file__).parents[1] / "fixtures" / "vrnn" / "vrnn_gmm_zero_noise"
CELL = "rnn_layer/rnn/VRNNCell"
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
EXACT = {"rtol": 1e-9, "atol": 1e-9}
KL_WEIGHT = {"training": 0.5, "evaluation": 1.0}  # no released configuration sets it, and 0.5 is that code's default


class Recorded:
    """The recorded case and the model with its weights, in float64."""

    def __init__(self):
        self.config = json.loads(RECORDING.with_suffix(".json").read_text())
        with np.load(RECORDING.with_suffix(".npz")) as file:
            self.arrays = {key: file[key].astype(np.float64) for key in file.files}
        self.net = load_published(self.config, self.group("w/"))
        # That code's LSTM has one bias; our second one holds its constant, the 1 of the forget gate.
        self.trained = {name: p for name, p in self.net.named_parameters() if name != "recurrence.bias_hh"}
        self.x, self.lengths = (torch.from_numpy(self.arrays[name]) for name in ("x", "lengths"))
        self.mask = torch.arange(self.x.shape[1]) < self.lengths[:, None]
        self.noise = FixedNoise({"z1": torch.zeros(*self.mask.shape, self.config["latent_size"])})

    def group(self, prefix):
        return {k[len(prefix) :]: v for k, v in self.arrays.items() if k.startswith(prefix)}

    def per_step(self, value):
        """The authors' loss for handwriting: a mean over steps, then over sequences."""
        return (torch.where(self.mask, value, 0.0).sum(1) / self.lengths).mean()

    def loss(self, mode):
        """That loss as Pyro computes it."""
        with self.noise, poutine.scale(scale=1 / (len(self.x) * self.lengths)):
            return TraceMeanField_ELBO()(self.net, self.net.guide)(self.x, self.mask, KL_WEIGHT[mode])


@pytest.fixture
def recorded(double):
    return Recorded()


def step_by_step(joint):
    """The distribution of each step, from that of whole sequences."""
    return joint.base_dist.to_event(joint.reinterpreted_batch_ndims - 1)


def by_feature(value):
    """(..., components, dim) -> channels in the authors' order."""
    return value.transpose(-1, -2).flatten(-2)


@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_recorded_forward_and_losses(recorded, mode):
    net, x, mask = recorded.net, recorded.x, recorded.mask
    with recorded.noise:
        net.guide(x, mask)
    model_trace, guide_trace = net.guide.get_traces()
    z = guide_trace.nodes["z1"]["value"]
    prior, posterior = (trace.nodes["z1"]["fn"].steps(z) for trace in (model_trace, guide_trace))
    head = step_by_step(model_trace.nodes["x"]["fn"]).base_dist
    head_log_prob, stroke_log_prob = head.log_prob(x), head.stroke.log_prob(x[..., :-1])
    ours = {
        "head/p_mu": prior.loc,
        "head/p_sigma": prior.scale,
        "head/q_mu": posterior.loc,
        "head/q_sigma": posterior.scale,
        "head/out_mu": by_feature(head.stroke.loc),
        "head/out_sigma": by_feature(head.stroke.scale),
        "head/out_coefficient": head.stroke.logits.exp(),
        "head/out_binary": head.pen_logits.sigmoid().unsqueeze(-1),
        "loglik_per_step_unmasked": head_log_prob.unsqueeze(-1),
        "loglik_pen_unmasked": (head_log_prob - stroke_log_prob).unsqueeze(-1),
        "loglik_per_step": torch.where(mask, head_log_prob, 0.0).unsqueeze(-1),
    }
    theirs = recorded.group(f"{mode}/")
    losses = {name: theirs.pop(f"loss/{name}").item() for name in ("loss_stroke", "loss_pen", "loss_kld", "total_loss")}
    assert ours.keys() == theirs.keys(), "everything recorded is compared"
    for name, value in ours.items():
        # Beyond a sequence's length that code's loop returns zeros instead of what the networks give, and the
        # log-likelihoods that are called unmasked are of these zeros.
        rows = slice(None) if name == "loglik_per_step" else mask
        theirs_there = torch.from_numpy(theirs[name])[rows]
        torch.testing.assert_close(value[rows], theirs_there, **CLOSE, msg=lambda m, name=name: f"{name}: {m}")
    torch.testing.assert_close(z[mask], posterior.loc[mask])
    assert min(d.scale[mask].min() for d in (prior, posterior)) > 10 * SoftplusGaussian.FLOOR, "theirs has no floor"

    pen_log_prob = head_log_prob - stroke_log_prob
    assert -recorded.per_step(stroke_log_prob).item() == pytest.approx(losses["loss_stroke"], rel=1e-5)
    assert -recorded.per_step(pen_log_prob).item() == pytest.approx(losses["loss_pen"], rel=1e-5)
    kl = KL_WEIGHT[mode] * recorded.per_step(kl_divergence(posterior, prior).sum(-1))
    assert kl.item() == pytest.approx(losses["loss_kld"], rel=1e-5)
    assert recorded.loss(mode).item() == pytest.approx(losses["total_loss"], rel=1e-5)


def test_recorded_gradients(recorded):
    net = recorded.net
    recorded.loss("training").backward()
    theirs = published_weights(net, recorded.group("g/"))
    assert recorded.trained.keys() == theirs.keys()
    for name, parameter in recorded.trained.items():
        size = max(1.0, theirs[name].abs().max().item())  # float32 rounding is relative to the largest entry
        torch.testing.assert_close(
            parameter.grad / size, theirs[name] / size, **CLOSE, msg=lambda m, name=name: f"{name}: {m}"
        )
    torch.testing.assert_close(net.recurrence.bias_hh.grad, net.recurrence.bias_ih.grad)
    total = torch.stack([p.grad.square().sum() for p in recorded.trained.values()]).sum().sqrt()
    assert total.item() == pytest.approx(recorded.arrays["grad_global_norm"].item(), rel=1e-5)
    assert sum(p.numel() for p in recorded.trained.values()) == recorded.arrays["num_trainable"].item()


def test_recorded_updates_of_the_authors_optimiser(recorded):
    """Global-norm clip 1, their learning rates, and Adam with their epsilon."""
    net, trained = recorded.net, list(recorded.trained.values())
    optimiser = torch.optim.Adam(trained, lr=1.0)
    compared = []
    for update, (loss_before, lr) in enumerate(recorded.arrays["adam/loss_and_lr_before_each_step"], start=1):
        assert lr == pytest.approx(exponential_decay(2500 + update - 1, 1e-3, 0.98), rel=1e-6)
        optimiser.param_groups[0].update(lr=lr, eps=adam_epsilon_hat(update))
        optimiser.zero_grad()
        loss = recorded.loss("training")
        assert loss.item() == pytest.approx(loss_before, rel=1e-5)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        if after := recorded.group(f"w_after{update}/"):
            for name, value in published_weights(net, after).items():
                torch.testing.assert_close(net.get_parameter(name).detach(), value, **CLOSE)
            compared.append(update)
    assert compared == [1, 3]
    assert net.recurrence.bias_hh.tolist() == [0.0] * 6 + [1.0] * 6 + [0.0] * 12


# --------------------------------------------------------------------------------------------------- the same in NumPy


class Reference:
    """A random configuration of that code with random weights and data, and what it computes on them."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.mixture, self.pen = bool(seed & 1), bool(seed & 2)
        dim, latent, hidden, latent_hidden, units, components = (int(n) for n in rng.integers(2, 8, 6))
        strokes = dim - self.pen
        self.components = components if self.mixture else 1
        self.log_floors = np.log([1e-6, 1e-5])  # of a component's weight, of the pen's probability
        stroke = {"type": "nll_gmm", "num_components": components} if self.mixture else {"type": "nll_normal"}
        self.config = {
            "model_cls": "VRNN",
            "num_fc_layers": 1,
            "hidden_size": hidden,
            "latent_hidden_size": latent_hidden,
            "latent_size": latent,
            "latent_rnn": {"cell_type": "lstm", "num_layers": 1, "size": units},
            "loss": {"stroke": stroke} | ({"pen": {"type": "nll_bernoulli"}} if self.pen else {}),
        }
        layers = {
            "phi_x_input": (dim, hidden),
            "phi_z": (latent, hidden),
            "phi_x_output": (hidden + units, hidden),
            "latent_z_p": (units, latent_hidden),
            "latent_z_q": (hidden + units, latent_hidden),
            **{f"latent_z_{which}/{m}": (latent_hidden, latent) for which in "pq" for m in ("mu", "sigma")},
            "out_mu": (hidden, strokes * self.components),
            "out_sigma": (hidden, strokes * self.components),
        }
        if self.mixture:
            layers["out_coefficient"] = (hidden, components)
        if self.pen:
            layers["out_binary"] = (hidden, 1)
        shapes = {f"{CELL}/{name}/dense": shape for name, shape in layers.items()}
        shapes[f"{CELL}/lstm_cell"] = (2 * hidden + units, 4 * units)
        self.arrays = {}
        for name, (rows, columns) in shapes.items():
            # Certain enough of components and pen that the floors under their probabilities count, too.
            certainty = 8.0 if name.split("/")[-2] in ("out_coefficient", "out_binary") else 0.5
            self.arrays[f"{name}/kernel"] = certainty * rng.normal(size=(rows, columns))
            self.arrays[f"{name}/bias"] = 0.5 * rng.normal(size=columns)
        steps = int(rng.integers(5, 9))
        self.x = rng.normal(size=(3, steps, dim))
        if self.pen:
            self.x[..., -1] = self.x[..., -1] > 0
        self.mask = np.arange(steps) < np.array([steps, 2, steps - 1])[:, None]
        self.noise = rng.normal(size=(3, steps, latent))

    def dense(self, name, *inputs):
        return np.concatenate(inputs, -1) @ self.arrays[f"{CELL}/{name}/kernel"] + self.arrays[f"{CELL}/{name}/bias"]

    def hidden(self, name, *inputs):
        return np.maximum(self.dense(f"{name}/dense", *inputs), 0)

    def gaussian(self, name, *inputs):
        top = self.hidden(name, *inputs)
        return self.dense(f"{name}/mu/dense", top), np.logaddexp(0, self.dense(f"{name}/sigma/dense", top))

    def log_likelihood(self, features, x):
        shape = (len(x), -1, self.components)  # feature by feature
        scale = np.logaddexp(0, self.dense("out_sigma/dense", features)).clip(1e-3, 50).reshape(shape)
        loc = self.dense("out_mu/dense", features).reshape(shape)
        stroke, pen = (x[:, :-1], x[:, -1]) if self.pen else (x, None)
        total = norm.logpdf(stroke[..., None], loc, scale).sum(1)
        if self.mixture:
            weights = log_softmax(self.dense("out_coefficient/dense", features), -1)
            total = total + np.maximum(weights, self.log_floors[0])
        total = logsumexp(total, -1)
        if pen is None:
            return total
        log_odds = self.dense("out_binary/dense", features)[:, 0]
        return total + np.maximum(log_expit(np.where(pen == 1, log_odds, -log_odds)), self.log_floors[1])

    def run(self, draw_from):
        """Moments, draws and log-likelihood at every step, ``(batch, time, ...)``."""
        h = c = np.zeros((len(self.x), self.config["latent_rnn"]["size"]))
        steps = []
        for t in range(self.x.shape[1]):
            phi_x = self.hidden("phi_x_input", self.x[:, t])
            moments = {"p": self.gaussian("latent_z_p", h), "q": self.gaussian("latent_z_q", phi_x, h)}
            loc, scale = moments[draw_from]
            z = loc + scale * self.noise[:, t]
            phi_z = self.hidden("phi_z", z)
            log_lik = self.log_likelihood(self.hidden("phi_x_output", phi_z, h), self.x[:, t])
            steps.append((*moments["p"], *moments["q"], z, log_lik))
            i, j, f, o = np.split(self.dense("lstm_cell", phi_x, phi_z, h), 4, -1)
            c = expit(f + 1) * c + expit(i) * np.tanh(j)
            h = expit(o) * np.tanh(c)
        names = ("p_loc", "p_scale", "q_loc", "q_scale", "z", "log_lik")
        return dict(zip(names, (np.stack(part, 1) for part in zip(*steps, strict=True)), strict=True))


@pytest.fixture(params=range(8))
def reference(request, double):
    return Reference(request.param)


def loaded(reference):
    net = load_published(reference.config, reference.arrays)
    return net, *(torch.from_numpy(a) for a in (reference.x, reference.mask, reference.noise))


def close(ours, theirs, what):
    torch.testing.assert_close(ours, torch.from_numpy(theirs), **EXACT, msg=lambda m: f"{what}: {m}")


@torch.no_grad()
def test_posterior_and_bounds_of_other_configurations(reference):
    net, x, mask, noise = loaded(reference)
    theirs = reference.run("q")
    scales = np.stack([theirs["p_scale"], theirs["q_scale"]])[:, reference.mask]
    assert scales.min() > 1e-3, "floors under the latents' scales, here and there, must make no difference"
    x[~mask] = float("nan")  # what lies there is never read
    with FixedNoise({"z1": noise}):
        net.guide(x, mask)
    model_trace, guide_trace = net.guide.get_traces()
    z = guide_trace.nodes["z1"]["value"]
    prior, posterior = (trace.nodes["z1"]["fn"].steps(z) for trace in (model_trace, guide_trace))
    log_lik = step_by_step(model_trace.nodes["x"]["fn"]).log_prob(net.clean(x, mask))
    ours = {"p_loc": prior.loc, "p_scale": prior.scale, "q_loc": posterior.loc, "q_scale": posterior.scale}
    for name, value in (ours | {"z": z, "log_lik": log_lik}).items():
        close(value[mask], theirs[name][reference.mask], name)
    p_loc, p_scale, q_loc, q_scale, z, log_lik = (part[reference.mask] for part in theirs.values())
    ratio = (norm.logpdf(z, p_loc, p_scale) - norm.logpdf(z, q_loc, q_scale)).sum()
    variances = (q_scale / p_scale) ** 2
    kl = 0.5 * (variances + ((q_loc - p_loc) / p_scale) ** 2 - 1 - np.log(variances)).sum()
    for elbo, expected in ((Trace_ELBO(), log_lik.sum() + ratio), (TraceMeanField_ELBO(), log_lik.sum() - kl)):
        with FixedNoise({"z1": noise}):
            assert -elbo.loss(net.model, net.guide, x, mask) == pytest.approx(expected, rel=1e-9)


@torch.no_grad()
def test_draws_from_the_prior_of_other_configurations(reference):
    net, x, _, noise = loaded(reference)
    theirs = reference.run("p")
    with FixedNoise({"z1": noise}):
        trace = poutine.trace(net.model).get_trace(x)
    close(trace.nodes["z1"]["value"], theirs["z"], "z")
    close(step_by_step(trace.nodes["x"]["fn"]).log_prob(x), theirs["log_lik"], "log-likelihood")

    state, previous = net.initial_state(len(x)), torch.zeros_like(x[:, 0])
    for t, x_t in enumerate(x.unbind(1)):
        with FixedNoise({"z1": noise[:, t]}):
            state, emission = net.step(state, previous)
        close(emission.log_prob(x_t), theirs["log_lik"][:, t], f"log-likelihood of step {t}")
        previous = x_t


@pytest.mark.parametrize("floored", [0, 1], ids=["weights", "pen"])
def test_the_other_configurations_reach_the_floors(floored):
    """Else the comparison above would not see them."""
    references = [Reference(seed) for seed in range(8)]
    with_floors = [reference.run("q")["log_lik"] for reference in references]
    for reference in references:
        reference.log_floors[floored] = -np.inf
    without = [reference.run("q")["log_lik"] for reference in references]
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(with_floors, without, strict=True))


# ---------------------------------------------------------------------------------------------------- what is refused


def test_the_released_sizes():
    """The released files, "vrnn_gmm" and "vrnn_normal" for Deepwriting, differ from the recorded one in their sizes."""
    config = json.loads(RECORDING.with_suffix(".json").read_text())
    config |= {"hidden_size": 256, "latent_hidden_size": 256, "latent_size": 128, "kld_loss": {"weight": 1}}
    config["latent_rnn"]["size"], config["loss"]["stroke"]["num_components"] = 1200, 20
    del config["additive_q_mu"]
    stroke = GaussianMixtureConfig(20, floor=1e-6)
    sizes = {"latent_dim": 128, "width": 1200, "layers": 1, "data_width": 256, "latent_width": 256}
    expected = VRNNConfig(3, **sizes, feature_width=256, observation=PenStrokeConfig(stroke, floor=1e-5))
    assert published_config(config, 3) == expected


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("vrnn_cell_cls", "VRNNCellGMM"),
        ("additive_q_mu", True),
        ("use_latent_h_in_outputs", False),
        ("latent_rnn.cell_type", "gru"),
        ("latent_rnn.num_layers", 2),
        ("num_fc_layers", 2),
        ("fc_layer_activation_func", "elu"),
        ("use_batch_norm_fc", True),
        ("input_keep_prop", 0.8),
        ("input_layer", {"dropout_rate": 0.3}),
        ("decoder_use_enc_last", True),
        ("loss.pen.weight", 2),
        ("loss.stroke.sigma_threshold", 5.0),
    ],
)
def test_options_that_would_change_the_model_are_refused_by_name(option, value):
    config = json.loads(RECORDING.with_suffix(".json").read_text())
    *parts, last = option.split(".")
    section = config
    for part in parts:
        section = section[part]
    section[last] = value
    with pytest.raises(ValueError, match=re.escape(f"{option}={value!r} is not supported")):
        published_config(config, 3)


def test_weights_that_do_not_fit_are_refused_by_name():
    reference = Reference(3)
    config, weights = reference.config, reference.arrays
    kernel, lstm = f"{CELL}/latent_z_q/dense/kernel", f"{CELL}/lstm_cell/kernel"
    with pytest.raises(ValueError, match=f"missing variables: {kernel}"):
        load_published(config, {k: v for k, v in weights.items() if k != kernel})
    with pytest.raises(ValueError, match="no variable .*phi_x_input.* do the weights belong to the config"):
        load_published(config, {k: v for k, v in weights.items() if "phi_x_input" not in k})
    with pytest.raises(ValueError, match="'extra/kernel'"):
        load_published(config, {**weights, "extra/kernel": weights[kernel]})
    for rows in (-1, 1):  # one input too few, one too many
        for name, ours in ((kernel, "posterior_net.hidden.first.1.weight"), (lstm, "recurrence.weight_hh")):
            shape = weights[name].shape
            with pytest.raises(ValueError, match=f"{ours} is .* in the file and .* in the config"):
                load_published(config, {**weights, name: np.zeros((shape[0] + rows, shape[1]))})
    with pytest.raises(ValueError, match="lstm_cell/kernel. has shape"):
        load_published(config, {**weights, lstm: weights[lstm][:, :-1]})


# -------------------------------------------------------------------------------------------------------------- VRNN-I


def vrnn(**options):
    sizes = {"latent_dim": 3, "width": 6, "layers": 2, "data_width": 8, "latent_width": 7}
    return VRNNConfig(4, **sizes, **options).build()


@pytest.mark.usefixtures("double")
def test_without_a_conditional_prior_it_is_standard_normal():
    net, full = vrnn(conditional_prior=False), vrnn()
    removed = {name for name, _ in full.named_parameters()} - {name for name, _ in net.named_parameters()}
    assert removed == {name for name, _ in full.named_parameters() if name.startswith("prior_net.")}
    assert removed
    x, noise = torch.randn(2, 5, 4), torch.randn(2, 5, 3)
    with FixedNoise({"z1": noise}):
        torch.testing.assert_close(poutine.trace(net.model).get_trace(x).nodes["z1"]["value"], noise)
        net.guide(x)
    model_trace, guide_trace = net.guide.get_traces()
    z = guide_trace.nodes["z1"]["value"]
    prior, posterior = (trace.nodes["z1"]["fn"].steps(z) for trace in (model_trace, guide_trace))
    assert (prior.loc == 0).all()
    assert (prior.scale == 1).all()
    model_trace.compute_log_prob()
    kl = 0.5 * (posterior.loc**2 + posterior.scale**2 - 1 - 2 * posterior.scale.log()).sum()
    with FixedNoise({"z1": noise}):
        loss = TraceMeanField_ELBO().loss(net.model, net.guide, x)
    assert loss == pytest.approx((kl - model_trace.nodes["x"]["log_prob_sum"]).item(), rel=1e-9)
    assert generate(net, 6, 2, progress=False).shape == (2, 6, 4)


def test_configuration():
    assert MODELS["vrnn"] is VRNNConfig
    assert vrnn().latent_features.out_dim == 7
    assert vrnn(feature_width=5).latent_features.out_dim == 5
    assert vrnn(observation=NormalConfig()).evidence == vrnn(conditional_prior=False).evidence
    with pytest.raises(ValueError, match="data_dim is 1"):
        VRNNConfig(1, observation=PenStrokeConfig(NormalConfig()), width=2, data_width=2, latent_width=2).build()
