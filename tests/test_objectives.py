import math

import pytest
import torch

from pyro_stcn.bounds import FIVO, IWAE, DReG, FreeBits
from pyro_stcn.objectives import OBJECTIVES, objective

from .small import POINTWISE, small_data, small_stcn


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_a_pointwise_model(name):
    net, x = small_stcn(POINTWISE), torch.from_numpy(small_data(1)[0])[None]
    loss = objective(name).loss_and_grads(net.model, net.guide, x)
    assert math.isfinite(loss)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_names_particles_and_floor_reach_the_objective():
    assert isinstance(objective("iwae", 7), IWAE)
    assert objective("iwae", 7).num_particles == 7
    assert objective("iwae").num_particles == 5
    assert objective("iwae-per-step").keep == ("sequences", "time")
    assert objective("iwae").keep == ("sequences",)
    assert isinstance(objective("dreg", 2), DReG)
    assert isinstance(objective("fivo", 2), FIVO)
    assert isinstance(objective("freebits", floor=0.3), FreeBits)
    assert objective("freebits", floor=0.3).floor == 0.3
    assert objective("renyi", 3).alpha == 0
    assert objective("meanfield").num_particles == 1


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="no objective 'elbo'; there are: meanfield, trace"):
        objective("elbo")
    with pytest.raises(ValueError, match="at least 1 particle, not 0"):
        objective("iwae", 0)
    with pytest.raises(ValueError, match="freebits has one particle, not 2"):
        objective("freebits", 2)
