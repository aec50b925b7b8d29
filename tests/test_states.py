"""Where a model stands in a sequence: reached in one pass or step by step, branched, saved, taken up again."""

import copy

import pyro
import pytest
import torch
from torch.utils._pytree import tree_flatten

from pyro_stcn.checkpoint import CheckpointError, save_tensors
from pyro_stcn.generation import generate, sample
from pyro_stcn.lstm import StackedLSTMConfig
from pyro_stcn.models import MODELS, SequenceModel, WaveNetConfig
from pyro_stcn.observation import NormalConfig, PointwiseOutputConfig
from pyro_stcn.states import Continuation, Selector, begin, load_continuation, prime, save_continuation

from .small import CAUSAL, POINTWISE, small_stcn

pytestmark = pytest.mark.usefixtures("double")
HEAD = {"observation": NormalConfig()}
VRNN = {"data_dim": 4, "latent_dim": 3, "width": 6, "layers": 1, "data_width": 5, "latent_width": 5}
WAVENET = {"data_dim": 4, "dilations": (1, 2, 4), "filters": 6, "output": PointwiseOutputConfig(1, 5)}
NETS = {
    "stcn": lambda: small_stcn(POINTWISE),
    "stcn, causal output": lambda: small_stcn(CAUSAL),
    "stcn, independent draws": lambda: small_stcn(CAUSAL, independent_draws=True),
    "ladderrnn": lambda: small_stcn(CAUSAL, backbone=StackedLSTMConfig((1, 2), 5)),
    "vrnn": lambda: MODELS["vrnn"](**VRNN, **HEAD).build(),
    "srnn": lambda: MODELS["srnn"](4, 3, 6, 5, **HEAD).build(),
    "zforcing": lambda: MODELS["zforcing"](4, 3, 6, 5, 5, **HEAD).build(),
    "bilstm": lambda: MODELS["bilstm"](4, 3, 6, 5, **HEAD).build(),
    "swavenet": lambda: MODELS["swavenet"](4, 1, 2, latent_dim=3, filters=5, hidden=5, **HEAD).build(),
    "wavenet": lambda: WaveNetConfig(**WAVENET, **HEAD).build(),
    "wavenet, x_1 given": lambda: WaveNetConfig(**WAVENET, predicts_first=False, **HEAD).build(),
    "rnn": lambda: MODELS["rnn"](4, 6, 1, 5, **HEAD).build(),
}
quiet = {"progress": False}
every_net = pytest.mark.parametrize("name", NETS)


def net_of(name):
    pyro.set_rng_seed(1)
    return NETS[name]().eval()


def same(a, b, atol=1e-12):
    (left, spec), (right, other) = tree_flatten(a), tree_flatten(b)
    assert spec == other
    for one, two in zip(left, right, strict=True):
        if isinstance(one, torch.Tensor):
            torch.testing.assert_close(one, two, rtol=0, atol=atol)
        else:
            assert one == two


@every_net
@pytest.mark.parametrize("steps", [1, 2, 11])
@pytest.mark.parametrize("from_guide", [True, False])
@torch.no_grad()
def test_one_pass_over_a_beginning_is_as_good_as_single_steps(name, steps, from_guide):
    net, x = net_of(name), torch.randn(3, steps, 4)
    if not from_guide and not net.pointwise:
        # Drawn in another order, so not the same draws; the networks over x must agree all the same.
        a, b = net.state_after(x, from_guide=False), SequenceModel.state_after(net, x, from_guide=False)
        if name.startswith(("stcn", "ladderrnn")):
            same(a.backbone, b.backbone)
        return
    if name == "stcn, independent draws":
        pytest.skip("the draws of the guide are more than the steps take")
    states = []
    for way in (type(net).state_after, SequenceModel.state_after):
        pyro.set_rng_seed(7)
        states.append(way(net, x, from_guide=from_guide))
    same(*states)


@every_net
@pytest.mark.parametrize("from_guide", [True, False])
def test_priming_takes_no_single_steps(name, from_guide, monkeypatch):
    net = net_of(name)
    monkeypatch.setattr(type(net), "step", None)
    assert prime(net, torch.randn(2, 9, 4), from_guide=from_guide).steps == 9


@every_net
def test_going_on_in_pieces_is_going_on(name):
    net = net_of(name)
    pyro.set_rng_seed(3)
    whole, end = sample(net, begin(net, 2), 9, **quiet)
    pyro.set_rng_seed(3)
    first, middle = sample(net, begin(net, 2), 4, **quiet)
    second, other = sample(net, middle, 5, **quiet)
    assert torch.equal(whole, torch.cat([first, second], 1))
    same(end.state, other.state, atol=0)
    assert (end.steps, other.steps, middle.steps) == (9, 9, 4)
    assert not torch.equal(sample(net, middle, 5, **quiet)[0], second), "other noise, and the middle is still there"


@every_net
@pytest.mark.parametrize("steps", [0, 6])
def test_saved_and_taken_up_again(name, steps, tmp_path):
    net = net_of(name)
    here = prime(net, torch.randn(2, steps, 4)) if steps else begin(net, 2)
    save_continuation(tmp_path / "here.safetensors", net, here)
    again = load_continuation(tmp_path / "here.safetensors", net)
    same(again.state, here.state, atol=0)
    assert (again.steps, len(again)) == (steps, 2)
    draws = []
    for start in (here, again):
        pyro.set_rng_seed(5)
        draws.append(sample(net, start, 5, **quiet)[0])
    assert torch.equal(*draws)


@every_net
def test_branches_are_the_sequences_that_were_chosen(name):
    net = net_of(name)
    x = torch.randn(3, 5, 4)
    pyro.set_rng_seed(5)
    here = prime(net, x)
    chosen = Selector(net)(here, [2, 0, 0, 2])
    assert torch.equal(chosen.x, x[[2, 0, 0, 2], -1])
    select = Selector(net)
    same(select(chosen, [1, 0]).state, select(here, [0, 2]).state, atol=0)
    with torch.no_grad():
        net.step(chosen.state, chosen.x)
    assert len(select(begin(net, 1), [0, 0])) == 2


def test_a_continuation_of_another_model_is_refused(tmp_path):
    net, path = net_of("vrnn"), tmp_path / "here"
    save_continuation(path, net, prime(net, torch.randn(1, 4, 4)))
    other = net_of("vrnn")
    with torch.no_grad():
        next(other.parameters()).add_(1)
    here = prime(net, torch.randn(1, 4, 4))
    for wrong in (other, net_of("stcn"), net_of("bilstm"), net_of("zforcing")):
        with pytest.raises(CheckpointError, match="belongs to another model, or to other weights"):
            load_continuation(path, wrong)
        for use in (
            lambda net: sample(net, here, 1, **quiet),
            lambda net: Selector(net)(here, [0]),
            lambda net: save_continuation(path, net, here),
        ):
            with pytest.raises(ValueError, match="belongs to another model, or to other weights of this one"):
                use(wrong)
    sample(copy.deepcopy(net), here, 1, **quiet)  # the same weights are as good
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.Adam(net.parameters(), fused=True).step()  # as fit makes it
    with pytest.raises(ValueError, match="belongs to another model, or to other weights of this one"):
        sample(net, here, 1, **quiet)
    save_tensors(path, {"a": torch.zeros(1)}, {})
    with pytest.raises(CheckpointError, match="holds no continuation"):
        load_continuation(path, net)
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError):
        load_continuation(path, net)
    wide = Continuation(None, torch.zeros(1, 5), 1)
    with pytest.raises(ValueError, match="data with 5 channels, the model's have 4"):
        sample(net, wide, 1, **quiet)


@pytest.mark.parametrize(
    ("x", "message"),
    [(torch.zeros(2, 0, 4), "at least one step"), (torch.full((1, 2, 4), torch.inf), "inf at sequence 0, step 0")],
)
def test_beginnings_that_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        prime(net_of("rnn"), x)


def test_what_is_not_finite_is_seen_without_pyros_validation():
    with pyro.validation_enabled(False), pytest.raises(ValueError, match="must be complete"):
        prime(net_of("rnn"), torch.full((1, 2, 4), torch.nan))


def test_latents_of_a_beginning_come_from_the_guide_where_the_observation_looks_back():
    """From the prior they would not know the beginning: the continuation then has another distribution."""
    net = net_of("stcn, causal output")
    x = 3 * torch.randn(1, 6, 4)
    means = {}
    for from_guide in (True, False):
        state = prime(net, x.expand(4000, -1, -1), from_guide=from_guide)
        with torch.no_grad():
            means[from_guide] = net.step(state.state, state.x)[1].mean.mean(0)
    assert (means[True] - means[False]).abs().max() > 0.05
    assert generate(net, 2, 3, prefix=x, **quiet).shape == (3, 2, 4)


@every_net
def test_a_continuation_does_not_hold_on_to_the_beginning(name):
    here = prime(net_of(name), torch.randn(1, 300, 4))
    leaves = [leaf for leaf in tree_flatten((here.state, here.x))[0] if isinstance(leaf, torch.Tensor)]
    assert all(leaf.untyped_storage().nbytes() == leaf.numel() * leaf.element_size() for leaf in leaves)


def test_equal_weights_in_another_model_are_another_model(tmp_path):
    configs = [WaveNetConfig(**{**WAVENET, "dilations": d}, **HEAD) for d in ((1, 2, 4), (4, 2, 1))]
    one, two = (config.build() for config in configs)
    two.load_state_dict(one.state_dict())
    save_continuation(tmp_path / "here", one, prime(one, torch.randn(1, 4, 4)))
    with pytest.raises(CheckpointError, match="belongs to another model"):
        load_continuation(tmp_path / "here", two)
