"""What is generated step by step is what the whole-sequence program says on the same noise; and a run that is resumed
is the run that went on. The figures over 2,000 steps are in ``benchmarks/generation_exactness.py``.
"""

import pytest
import torch

from pyro_stcn.checkpoint import save_model
from pyro_stcn.states import begin, save_continuation
from pyro_stcn.tcn import CausalConv1d

from .benchmarks.generation_exactness import cached, differences, freely, resumed, uncached
from .models.test_contract import SYSTEMS, build
from .small import small_stcn

pytestmark = pytest.mark.usefixtures("double")
systems = pytest.mark.parametrize("system", SYSTEMS)
#: without a score for x_1 the program has nothing to say of a single step
free_systems = pytest.mark.parametrize("system", [name for name in SYSTEMS if build(name).scores_first_step])
STEPS, RESUMED = 200, 25


@systems
def test_cached_is_uncached_and_resumed_is_uninterrupted(system, tmp_path):
    net = build(system, "pen")
    x, _, record = cached(net, begin(net, 2), STEPS)
    assert x.isfinite().all()
    assert (x[:, 1:, :-1] != x[:, :-1, :-1]).all()
    latents, ours = record.whole()
    assert set(net.latent_names) <= set(latents)
    theirs, drawn = uncached(net, x, latents)
    assert set(theirs) == set(ours)
    for sites in "zx":
        assert differences(ours, theirs, sites)[0] < 1e-10
    assert (drawn - x).abs().max() < 1e-10

    first, here, _ = cached(net, begin(net, 2), RESUMED)
    save_model(tmp_path / "net.safetensors", net)
    save_continuation(tmp_path / "here.safetensors", net, here)
    rest = resumed(str(tmp_path), RESUMED, first=RESUMED, threads=1)
    assert torch.equal(torch.cat([first, rest], 1), x[:, : 2 * RESUMED])


@free_systems
def test_so_it_is_when_everything_is_fed_back(system):
    net = build(system, "pen")
    x, _, record = cached(net, begin(net, 2), 16)
    assert (freely(net, 2, 16, list(record.latents)) - x).abs().max() < 1e-10


def test_a_state_that_forgets_is_noticed(monkeypatch):
    """The comparison itself must fail where it should: x sees the past through the latents alone, so it is theirs."""
    step = CausalConv1d.step
    monkeypatch.setattr(CausalConv1d, "step", lambda conv, buffer, t, x: (buffer, step(conv, buffer, t, x)[1]))
    net = small_stcn()
    x, _, record = cached(net, begin(net, 2), 20)
    latents, ours = record.whole()
    assert differences(ours, uncached(net, x, latents)[0], "z")[0] > 1e-3
    assert (freely(net, 2, 20, list(latents)) - x).abs().max() > 1e-3
