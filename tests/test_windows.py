"""Long sequences scored window by window, against the same sequences scored whole, with the noise taken out."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro.poutine.messenger import Messenger
from torch.utils._pytree import tree_flatten

from pyro_stcn.bounds import FIVO
from pyro_stcn.data import SequenceDataset
from pyro_stcn.evaluation import evaluate
from pyro_stcn.generation import generate
from pyro_stcn.ladder import base_normal
from pyro_stcn.lstm import StackedLSTMConfig
from pyro_stcn.models import MODELS, Carry, WaveNetConfig
from pyro_stcn.models.stcn import STCNFilter
from pyro_stcn.models.unroll import StepwiseNormal
from pyro_stcn.observation import NormalConfig, PointwiseOutputConfig

from .small import CAUSAL, POINTWISE, small_data, small_stcn

HEAD = {"observation": NormalConfig()}
SMALL = {"data_dim": 4, "latent_dim": 3, "width": 6, "layers": 1, "data_width": 5, "latent_width": 5}
WAVENET = {"data_dim": 4, "dilations": (1, 2, 4), "filters": 6, "output": PointwiseOutputConfig(1, 5)}
CASES = {
    "stcn": lambda: small_stcn(POINTWISE),
    "stcn, causal output": lambda: small_stcn(CAUSAL),
    "stcn, output sees the past": lambda: small_stcn(CAUSAL, output_sees_past=True),
    "ladderrnn": lambda: small_stcn(CAUSAL, backbone=StackedLSTMConfig((1, 2), 5)),
    "vrnn": lambda: MODELS["vrnn"](**SMALL, **HEAD).build(),
    "srnn, filtering": lambda: MODELS["srnn"](4, 3, 6, 5, smoothing=False, **HEAD).build(),
    "wavenet": lambda: WaveNetConfig(**WAVENET, **HEAD).build(),
    "wavenet, x_1 given": lambda: WaveNetConfig(**WAVENET, predicts_first=False, **HEAD).build(),
    "wavenet-dense": lambda: WaveNetConfig(**WAVENET, taps=(1, 3), **HEAD).build(),
    "rnn": lambda: MODELS["rnn"](4, 6, 1, 5, **HEAD).build(),
}


class NoNoise(Messenger):
    """Every latent is the mean of the distribution it would be drawn from, moved by a fixed number of scales."""

    def _pyro_sample(self, msg):
        if not msg["name"].startswith("z") or msg["is_observed"]:
            return
        if isinstance(msg["fn"], StepwiseNormal):
            shape = msg["fn"].shape()
            msg["value"] = msg["fn"].rsample_from(torch.full(shape, 0.7))
        else:
            normal = base_normal(msg["fn"])
            msg["value"] = normal.loc + 0.7 * normal.scale
        msg["done"] = True


def values(net, data, **options):
    with NoNoise():
        result = evaluate(net, data, particles=3, chunk=2, progress=False, **options)
    rows = [result.log_likelihood, result.iwae, *result.kl.values(), result.effective]
    return np.stack(rows + ([] if result.iwae_per_step is None else [result.iwae_per_step]))


@pytest.mark.parametrize("window", [1, 2, 5, 100])
@pytest.mark.parametrize("case", CASES)
def test_windows_give_the_figures_of_the_whole_sequence(case, window):
    net, data = CASES[case]().eval(), small_data(5)
    assert max(map(len, data.sequences)) > 5
    whole = values(net, data, batch_size=3)
    np.testing.assert_allclose(values(net, data, batch_size=3, window=window), whole, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("case", ["stcn, causal output", "vrnn"])
def test_what_was_carried_matters(case):
    """Scored from nothing, a window has other figures: the test above could fail."""
    net = CASES[case]()
    (long,) = [np.tile(small_data(1).sequences[0], (3, 1))[:8]]
    both = values(net, SequenceDataset((long,)))
    parts = sum(values(net, SequenceDataset((part,))) for part in np.split(long, 2))
    assert np.abs(both[0] - parts[0]).max() > 1e-3


@torch.no_grad()
def test_a_filter_draws_some_steps_at_a_time_and_the_bound_is_the_same(monkeypatch):
    monkeypatch.setattr(
        dist.Normal,
        "rsample",
        lambda normal, shape=(): (normal.loc + 0.7 * normal.scale).expand(normal._extended_shape(shape)),
    )
    net, x = small_stcn(CAUSAL), torch.randn(2, 9, 4)
    mask = torch.arange(9) < torch.tensor([[9], [6]])
    bounds = []
    for stretch in (256, 4, 1):
        monkeypatch.setattr(STCNFilter, "rows", stretch * 3 * 2)
        bounds.append(FIVO(3).log_evidence(net.model, net.guide, x, mask))
    torch.testing.assert_close(bounds[1:], [bounds[0]] * 2)


@torch.no_grad()
def test_a_masked_end_of_a_window_is_a_hole_and_gives_no_free_information():
    """The next window looks back at the draws there, so they have to come from the prior."""
    net = CASES["vrnn"]()
    x, mask = torch.randn(2, 4, 4), torch.tensor([[True, True, False, False], [True] * 4])
    prepared, _ = net.guide.read(x, mask)
    net.guide(x, mask, prepared=prepared, carry=Carry())
    model_trace, guide_trace = net.guide.get_traces()
    z = model_trace.nodes["z1"]["value"]
    q, p = (trace.nodes["z1"]["fn"].steps(z) for trace in (guide_trace, model_trace))
    torch.testing.assert_close(q.loc[0, 2:], p.loc[0, 2:])
    assert not torch.allclose(q.loc[0, :2], p.loc[0, :2])


@pytest.mark.parametrize("name", ["srnn", "zforcing", "bilstm", "swavenet"])
def test_guides_that_look_ahead_are_refused(name):
    configs = {
        "srnn": lambda: MODELS["srnn"](4, 3, 6, 5, **HEAD),
        "zforcing": lambda: MODELS["zforcing"](4, 3, 6, 5, 5, **HEAD),
        "bilstm": lambda: MODELS["bilstm"](4, 3, 6, 5, **HEAD),
        "swavenet": lambda: MODELS["swavenet"](4, 0, 2, latent_dim=3, filters=5, hidden=5, **HEAD),
    }
    with pytest.raises(NotImplementedError, match="window by window: its guide looks ahead"):
        evaluate(configs[name]().build(), small_data(2), window=3, progress=False)


def test_a_filter_goes_beside_windows():
    net, data = small_stcn(CAUSAL), small_data(2)
    result = evaluate(net, data, window=3, filter=FIVO(20), repeats=20, progress=False)
    whole = evaluate(net, data, filter=FIVO(20), repeats=20, seed=1, progress=False)
    noise = np.hypot(result.noise["FIVO-20"], whole.noise["FIVO-20"])
    assert abs(result.filtered[0].mean() - whole.filtered[0].mean()) < 4 * noise
    with pytest.raises(ValueError, match="window must be at least 1, not 0"):
        evaluate(net, data, window=0, progress=False)


@pytest.mark.parametrize("case", ["vrnn", "srnn, filtering", "stcn, causal output"])
@torch.no_grad()
def test_what_is_carried_holds_on_to_nothing_else(case):
    net, carry = CASES[case](), Carry()
    prepared, reading = net.guide.read(torch.randn(2, 200, 4))
    net.guide(torch.randn(2, 200, 4), prepared=prepared, carry=carry)
    leaves = [leaf for leaf in tree_flatten((carry.value, reading))[0] if isinstance(leaf, torch.Tensor)]
    assert len(leaves) > 1
    for leaf in leaves:
        assert leaf.untyped_storage().nbytes() == leaf.numel() * leaf.element_size()


class NoExtend(torch.nn.Module):
    """A backbone of a user's, with the two verbs that are asked for."""

    def __init__(self):
        super().__init__()
        self.feature_dims = (4, 4)

    def build(self, data_dim):
        return self

    def forward(self, x):
        return x, x

    def initial_state(self, batch_size):
        return ()

    def step(self, state, x):
        return state, (x, x)


def test_a_backbone_without_extend_generates_and_says_why_it_has_no_windows():
    net = small_stcn(CAUSAL, backbone=NoExtend())
    assert generate(net, 2, prefix=torch.randn(1, 5, 4), progress=False).shape == (1, 2, 4)
    with pytest.raises(NotImplementedError, match="NoExtend cannot be run window by window"):
        evaluate(net, small_data(2), window=3, progress=False)
