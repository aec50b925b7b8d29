"""What bfloat16 in the convolution blocks does to the bound: the same training with and without, scored in float32.

python tests/benchmarks/bfloat16_bound.py --data /path/to/TIMIT --steps 500
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pyro
import tyro
from pyro.infer import TraceMeanField_ELBO

from pyro_stcn.data import load_timit, synthetic_timit
from pyro_stcn.evaluation import Statistic, evaluate
from pyro_stcn.presets import preset
from pyro_stcn.training import fit


@dataclass
class Args:
    """Train a preset twice, with equal seeds, and print the paired difference of the ELBO on the validation set."""

    data: Path | None = None
    preset: str = "timit/stcn-dense-gmm-small"
    steps: int = 500


def main(args: Args) -> None:
    """Print the comparison."""
    corpus = load_timit(args.data or synthetic_timit())
    chosen = preset(args.preset)
    versions = {
        "float32": {},
        "bfloat16 blocks": {"bfloat16_blocks": True},
        "float32, other batches and noise": {"seed": 1},  # how much chance alone changes
    }
    objectives, seconds = {}, {}
    for name, options in versions.items():
        pyro.set_rng_seed(0)  # equal first weights
        net = chosen.model.build()
        config = dataclasses.replace(chosen.training, steps=args.steps, evaluate_every=args.steps, **options)
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            fit(net, corpus.train, elbo=TraceMeanField_ELBO(), config=config, folder=folder)
            seconds[name] = time.perf_counter() - start
        objectives[name] = evaluate(net, corpus.valid, particles=5).objective
    print(f"{args.preset}, {args.steps} steps, {corpus.name}; ELBO in nats per validation segment, scored in float32")
    for name, values in objectives.items():
        difference = Statistic.of(values - objectives["float32"])
        print(f"  {name:<34} {Statistic.of(values)}   minus float32, paired {difference}   {seconds[name]:.0f} s")


if __name__ == "__main__":
    main(tyro.cli(Args))
