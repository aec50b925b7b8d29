"""A live series: sums of its scores are the bounds of whole sequences, its state is a value of fixed size."""

import math

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch.utils._pytree import tree_flatten

from pyro_stcn.bounds import FIVO, IWAE
from pyro_stcn.models import MODELS, WaveNetConfig
from pyro_stcn.observation import NormalConfig, PointwiseOutputConfig
from pyro_stcn.streaming import Stream

from .small import CAUSAL, POINTWISE, small_stcn
from .test_imputation import NETS

pytestmark = pytest.mark.usefixtures("double")
WAVENET = {"data_dim": 4, "dilations": (1, 2), "filters": 6, "output": PointwiseOutputConfig(1, 5)}


def scores(net, x, particles, **options):
    """Nats of every step, ``(batch, time)``."""
    stream = Stream(net, particles, **options)
    state, nats = stream.start(len(x)), []
    for step in x.unbind(1):
        state, now = stream.observe(state, step)
        nats.append(now)
    return torch.stack(nats, 1)


@pytest.mark.parametrize("predicts_first", [True, False])
def test_of_a_model_without_latents_the_sum_is_the_log_likelihood(predicts_first):
    x = torch.randn(2, 6, 4)
    for net in (
        MODELS["rnn"](4, 6, 1, 5, NormalConfig()).build(),
        WaveNetConfig(**WAVENET, observation=NormalConfig(), predicts_first=predicts_first).build(),
    ):
        total = scores(net, x, 5).sum()
        assert total.item() == pytest.approx(-Trace_ELBO().loss(net.model, net.guide, x))


def test_with_independent_steps_it_is_the_bound_per_step():
    pyro.set_rng_seed(0)
    net, x = small_stcn(POINTWISE, observation=NormalConfig()), torch.randn(1, 5, 4)
    many = scores(net, x.expand(400, -1, -1), 8).sum(1)
    keep = ("sequences", "time")
    log_weights = IWAE(8, keep=keep).log_weights(net.model, net.guide, x.expand(400, -1, -1))
    theirs = (log_weights.logsumexp(0) - math.log(8)).sum(-1)
    error = (many.var() / 400 + theirs.var() / 400).sqrt()
    assert abs(many.mean() - theirs.mean()) < 4 * error


@pytest.mark.parametrize("net", ["stcn, causal output", "vrnn"])
def test_elsewhere_it_is_the_particle_filters(net):
    pyro.set_rng_seed(0)
    net, x = NETS[net](), torch.randn(1, 5, 4)
    ours = scores(net, x.expand(400, -1, -1), 8).sum(1)
    with torch.no_grad():
        theirs = FIVO(8).log_evidence(net.model, net.guide, x.expand(400, -1, -1))
    error = (ours.var() / 400 + theirs.var() / 400).sqrt()
    assert abs(ours.mean() - theirs.mean()) < 4 * error


@pytest.mark.parametrize("name", NETS)
def test_every_model_and_series_do_not_see_each_other(name):
    net, x = NETS[name](), torch.randn(2, 8, 4)
    assert scores(net, x, 6).shape == (2, 8)
    stream = Stream(net, 6)
    state = stream.start(2)
    for step in x.unbind(1):
        before = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in tree_flatten(state.state)[0]]
        new, _ = stream.observe(state, step)
        for a, b in zip(before, tree_flatten(state.state)[0], strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, "never changed in place"
        state = new
    log_weights, expected = stream.predict(state, draws=3)
    torch.testing.assert_close(log_weights.logsumexp(0), torch.zeros(2))
    assert expected.batch_shape == (log_weights.numel(),)
    start = stream.predict(stream.start(2))
    assert start[1].batch_shape == (start[0].numel(),)


@pytest.mark.parametrize("name", NETS)
def test_what_is_remembered_does_not_grow(name):
    stream = Stream(NETS[name](), 3)
    state, sizes = stream.start(), []
    for _ in range(40):
        state, _ = stream.observe(state, torch.zeros(1, 4))
        leaves = [leaf for leaf in tree_flatten(state.state)[0] if isinstance(leaf, torch.Tensor)]
        sizes.append(sum(leaf.untyped_storage().nbytes() for leaf in leaves))
        assert not any(leaf.requires_grad for leaf in leaves)
    assert sizes[-1] == sizes[0]


def test_an_anomaly_has_few_nats():
    x = 0.1 * torch.randn(1, 20, 4)
    x[0, 12] = 40.0
    for name in ("stcn", "vrnn", "rnn"):
        assert scores(NETS[name](), x, 20)[0].argmin().item() == 12


@pytest.mark.parametrize(
    ("x", "message"),
    [(torch.zeros(1, 4), r"x must be \(2, 4\)"), (torch.full((2, 4), torch.nan), "step 0 of series 0 is not finite")],
)
def test_what_is_refused(x, message):
    stream = Stream(small_stcn(CAUSAL), 2)
    with pytest.raises(ValueError, match=message):
        stream.observe(stream.start(2), x)
    with pytest.raises(ValueError, match="particles must be at least 1"):
        Stream(small_stcn(), 0)


@pytest.mark.parametrize("value", [1e20, 1e30])
@pytest.mark.parametrize("name", sorted(NETS))
def test_one_value_beyond_all_bounds_does_not_end_the_stream(name, value):
    """As a sensor's fill value: the step has no density, and what comes after it is scored as ever."""
    net = NETS[name]().float()
    x = torch.randn(2, 40, 4, dtype=torch.float32)
    x[0, 2, 1] = value
    nats = scores(net, x, 6)
    assert nats[0, 2] == -math.inf
    assert torch.isfinite(nats[0, 25:]).all(), "behind the receptive field"
    assert torch.isfinite(nats[1]).all(), "the other series"


def test_a_state_of_another_stream_is_refused():
    net = NETS["vrnn"]()
    state = Stream(net, 4).start()
    with torch.no_grad():
        for other in (Stream(NETS["vrnn"](), 4), Stream(net, 5)):
            for use in (lambda stream: stream.observe(state, torch.zeros(1, 4)), lambda stream: stream.predict(state)):
                with pytest.raises(ValueError, match="belongs to a stream of another model, of other weights, or of"):
                    use(other)
    with pytest.raises(ValueError, match="draws must be at least 1, not 0"):
        Stream(net, 4).predict(state, draws=0)
