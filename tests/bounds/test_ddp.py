"""Data parallel training: every objective as a torch module under DistributedDataParallel, on two processes.

Each process has half of a batch and noise of its own. What they agree on is the average of their gradients, and so
half of what one process has for the whole batch.
"""

import datetime

import pyro
import pytest
import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger
from torch.nn.parallel import DistributedDataParallel

from pyro_stcn.bounds import FIVO, IWAE, DReG, FreeBits
from pyro_stcn.ladder import LadderConfig, base_normal
from pyro_stcn.models import STCNConfig, VRNNConfig
from pyro_stcn.models.unroll import StepwiseNormal
from pyro_stcn.observation import CausalOutputConfig, NormalConfig, PointwiseOutputConfig
from pyro_stcn.tcn import DilatedTCNConfig

D, T, LENGTHS, STEPS = 3, 5, (5, 4, 2, 5, 3, 1), 3
STCN = STCNConfig(
    D,
    DilatedTCNConfig(((1,), (2,)), 6),
    LadderConfig((3, 2), 6, 1),
    output=CausalOutputConfig(2, 6),
    observation=NormalConfig(),
)
SYSTEMS = {
    "stcn": STCN,
    "stcn pointwise": STCNConfig(**(vars(STCN) | {"output": PointwiseOutputConfig(1, 6)})),
    "vrnn": VRNNConfig(D, 2, 5, 2, 6, 4),
}
OBJECTIVES = {
    "trace": lambda: Trace_ELBO(),
    "analytic": lambda: TraceMeanField_ELBO(),
    "iwae": lambda: IWAE(4),
    "iwae looped": lambda: IWAE(4, vectorize_particles=False),
    "iwae per step": lambda: IWAE(4, keep=("sequences", "time")),
    "dreg": lambda: DReG(4),
    "fivo": lambda: FIVO(4, threshold=1.0),
    "free bits above": lambda: FreeBits(1e-6),
    "free bits below": lambda: FreeBits(1e3),
}
CASES = [("stcn", objective) for objective in OBJECTIVES if objective != "iwae per step"]
CASES += [("stcn pointwise", objective) for objective in ("iwae per step", "dreg", "fivo", "free bits above")]
CASES += [("vrnn", objective) for objective in ("trace", "iwae", "dreg", "fivo", "free bits above")]
RANKS = 2
HALVES = [slice(0, 3), slice(3, 6)]


class Noise(Messenger):
    """Draws ``loc + scale * noise`` at every latent that was not drawn before."""

    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg):
        if msg["name"] in self.noise and not msg["is_observed"] and not msg["done"]:
            fn, noise = msg["fn"], self.noise[msg["name"]]
            if isinstance(fn, StepwiseNormal):
                msg["value"] = fn.rsample_from(noise.expand(fn.shape()))
            else:
                normal = base_normal(fn)
                msg["value"] = normal.loc + normal.scale * noise.expand(fn.shape())
            msg["done"] = True


def build(system, seed):
    pyro.set_rng_seed(seed)
    return SYSTEMS[system].build()


def whole_batch():
    """Six sequences of unequal length, and noise for four particles of each."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(6, T, D, generator=generator)
    mask = torch.arange(T) < torch.tensor(LENGTHS)[:, None]
    noise = {"z1": torch.randn(4, 6, T, 3, generator=generator), "z2": torch.randn(4, 6, T, 2, generator=generator)}
    return x, mask, noise


def noise_for(net, objective, noise, rows):
    """Return the noise of these sequences, of one particle where particles are not a plate."""
    particles = objective in ("iwae", "iwae per step", "dreg")
    dims = {name: (2 if isinstance(net.config, VRNNConfig) else {"z1": 3, "z2": 2}[name]) for name in net.latent_names}
    return {
        name: (noise[name][:, rows] if particles else noise[name][0, rows])[..., : dims[name]]
        for name in net.latent_names
    }


def gradients(net):
    return torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in net.parameters()])


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()]).clone()


def loss_with_own_noise(program, x, mask, seed, annealing=0.5):
    pyro.set_rng_seed(seed)
    return program(x, mask, annealing)


def loss_with_given_noise(program, net, objective, rows):
    x, mask, noise = whole_batch()
    pyro.set_rng_seed(9)
    with Noise(noise_for(net, objective, noise, rows)):
        return program(x[rows], mask[rows], 0.5)


def work(rank, folder):
    """What each process does: gradients with noise of its own, with noise that is given, and a few updates."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=RANKS,
        timeout=datetime.timedelta(seconds=60),
    )
    x, mask, _ = whole_batch()
    rows, results = HALVES[rank], {}
    for system, objective in CASES:
        net = build(system, seed=rank)  # the processes begin with other weights, and take those of the first
        program = DistributedDataParallel(OBJECTIVES[objective]()(net, net.guide))
        result = {"start": weights(net)}
        for name, loss in (
            ("own noise", lambda: loss_with_own_noise(program, x[rows], mask[rows], 100 + rank)),  # noqa: B023
            ("given noise", lambda: loss_with_given_noise(program, net, objective, rows)),  # noqa: B023
        ):
            program.zero_grad()
            loss().backward()
            result[name] = gradients(net)
        optimiser = torch.optim.Adam(program.parameters(), lr=1e-2)
        for step in range(STEPS):
            optimiser.zero_grad()
            loss_with_own_noise(program, x[rows], mask[rows], 200 + 10 * step + rank).backward()
            optimiser.step()
        result["end"] = weights(net)
        results[system, objective] = result
    torch.save(results, f"{folder}/rank-{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What both processes found."""
    folder = tmp_path_factory.mktemp("ddp")
    multiprocessing.spawn(work, args=(str(folder),), nprocs=RANKS)
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(RANKS)]


pytestmark = [
    pytest.mark.usefixtures("double"),
    pytest.mark.skipif(not distributed.is_available(), reason="torch was built without torch.distributed"),
]
cases = pytest.mark.parametrize(("system", "objective"), CASES)


@cases
def test_the_gradient_of_all_processes_is_the_average_of_theirs(ranks, system, objective):
    """Against two runs in this process, one after the other, with the same noise."""
    net, (x, mask, _) = build(system, seed=0), whole_batch()
    alone = []
    for rank, rows in enumerate(HALVES):
        net.zero_grad()
        loss_with_own_noise(OBJECTIVES[objective]()(net, net.guide), x[rows], mask[rows], 100 + rank).backward()
        alone.append(gradients(net))
    found = [results[system, objective]["own noise"] for results in ranks]
    assert torch.equal(*found)
    torch.testing.assert_close(found[0], sum(alone) / RANKS, rtol=1e-9, atol=1e-11)
    assert (alone[0] - alone[1]).abs().max() > 1e-3, "the halves are too much alike to tell"


@pytest.mark.parametrize(("system", "objective"), [case for case in CASES if case[1] != "fivo"])
def test_it_is_half_of_the_gradient_for_the_whole_batch(ranks, system, objective):
    """On the same noise. A particle filter draws at no site, and so cannot be given any."""
    net, whole = build(system, seed=0), slice(0, 6)
    loss_with_given_noise(OBJECTIVES[objective]()(net, net.guide), net, objective, whole).backward()
    found = ranks[0][system, objective]["given noise"]
    torch.testing.assert_close(found, gradients(net) / RANKS, rtol=1e-9, atol=1e-11)
    assert found.abs().max() > 1e-2


@cases
def test_processes_start_and_stay_with_the_same_weights(ranks, system, objective):
    first, second = (results[system, objective] for results in ranks)
    assert torch.equal(first["start"], weights(build(system, seed=0)))
    assert torch.equal(first["start"], second["start"])
    assert torch.equal(first["end"], second["end"])
    assert (first["end"] != first["start"]).double().mean() > 0.9


@cases
def test_updates_of_two_processes_are_those_of_one_that_takes_the_average(ranks, system, objective):
    net, (x, mask, _) = build(system, seed=0), whole_batch()
    program = OBJECTIVES[objective]()(net, net.guide)
    program(x, mask)  # the first call of a vectorised ELBO counts plates, which takes random numbers
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    for step in range(STEPS):
        optimiser.zero_grad()
        for rank, rows in enumerate(HALVES):  # gradients add up
            loss = loss_with_own_noise(program, x[rows], mask[rows], 200 + 10 * step + rank)
            (loss / RANKS).backward()
        optimiser.step()
    torch.testing.assert_close(ranks[0][system, objective]["end"], weights(net), rtol=1e-6, atol=1e-8)
