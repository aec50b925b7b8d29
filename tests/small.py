"""A small STCN and small ragged data for the tests of training, evaluation, generation and checkpoints."""

import numpy as np
import pyro
from pyro.poutine.messenger import Messenger

from pyro_stcn.data import SequenceDataset
from pyro_stcn.ladder import LadderConfig, base_normal
from pyro_stcn.models import STCN, STCNConfig
from pyro_stcn.models.unroll import StepwiseNormal
from pyro_stcn.observation import CausalOutputConfig, GaussianMixtureConfig, PointwiseOutputConfig
from pyro_stcn.tcn import DilatedTCNConfig

POINTWISE, CAUSAL = PointwiseOutputConfig(2, 8), CausalOutputConfig(2, 8)
BACKBONE, LADDER = DilatedTCNConfig(((1, 2), (1,)), 8), LadderConfig((3, 2), 7, 1)


def small_stcn(output=POINTWISE, backbone=BACKBONE, *, seed=1, data_dim=4, **options):
    """Return a model of two layers, by default for data of 4 channels; the same weights every time."""
    pyro.set_rng_seed(seed)
    options = {"ladder": LADDER, "observation": GaussianMixtureConfig(3), **options}
    return STCN(STCNConfig(data_dim, backbone, output=output, **options))


def small_data(count=50, *, prefix="s", seed=0):
    """Return noisy sine waves of 5 to 19 steps, named s0, s1, ..."""
    rng = np.random.default_rng(seed)
    sequences = []
    for steps in rng.integers(5, 20, count):
        phase = rng.uniform(0, 2 * np.pi) + np.arange(steps)[:, None] * np.array([0.5, 0.7, 0.9, 1.1])
        sequences.append(np.sin(phase) + 0.1 * rng.normal(size=(steps, 4)))
    return SequenceDataset(tuple(sequences), tuple(f"{prefix}{i}" for i in range(count)))


class FixedNoise(Messenger):
    """Draws ``loc + scale * noise`` at the named sites, after a guide has put its distribution there.

    A trajectory whose steps depend on the draws before them is drawn step by step, each from its own row of the noise.
    """

    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg):
        if msg["name"] in self.noise and not msg["is_observed"]:
            fn, noise = msg["fn"], self.noise[msg["name"]]
            if isinstance(fn, StepwiseNormal):
                value = fn.rsample_from(noise)
            else:
                normal = base_normal(fn)
                value = normal.loc + normal.scale * noise
            msg["value"], msg["done"] = value, True
