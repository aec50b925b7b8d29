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
    objectives, seconds = {}, {}
    for bfloat16 in (False, True):
        pyro.set_rng_seed(0)
        net = chosen.model.build()
        config = dataclasses.replace(
            chosen.training, steps=args.steps, evaluate_every=args.steps, bfloat16_blocks=bfloat16
        )
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            fit(net, corpus.train, elbo=TraceMeanField_ELBO(), config=config, folder=folder)
            seconds[bfloat16] = time.perf_counter() - start
        objectives[bfloat16] = evaluate(net, corpus.valid, particles=5).objective
    print(f"{args.preset}, {args.steps} steps, {corpus.name}; ELBO in nats per validation segment, scored in float32")
    print(f"  float32                 {Statistic.of(objectives[False])}   {seconds[False]:.0f} s")
    print(f"  bfloat16 blocks         {Statistic.of(objectives[True])}   {seconds[True]:.0f} s")
    print(f"  difference, paired      {Statistic.of(objectives[True] - objectives[False])}")


if __name__ == "__main__":
    main(tyro.cli(Args))
