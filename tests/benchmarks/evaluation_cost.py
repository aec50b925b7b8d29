"""Cost of an evaluation at K = 1, 10, 100, 1000: seconds and peak memory, each in a fresh process.

    python tests/benchmarks/evaluation_cost.py --data timit_sample/nltk_layout --preset timit/stcn-dense-gmm
    python tests/benchmarks/evaluation_cost.py --data timit_sample/nltk_layout --preset timit/vrnn-gmm --filter
    python tests/benchmarks/evaluation_cost.py --data gw_online.stroke3.npz --preset iamondb/stcn-dense-gmm-small

Weights are untrained: they cost the same. What runs once (the networks over x) is timed by itself.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from pyro_stcn.bounds import FIVO
from pyro_stcn.data import SequenceDataset, batches, load_strokes, load_timit
from pyro_stcn.evaluation import evaluate
from pyro_stcn.presets import preset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--particles", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--window", type=int)
    parser.add_argument("--filter", action="store_true", help="K particles in a filter, beside one draw")
    parser.add_argument("--worker", type=int)
    args = parser.parse_args()
    if args.worker is not None:
        print(json.dumps(measure(args.data, args.preset, args.worker, args.sequences, args.window, args.filter)))
        return
    results = {}
    for k in args.particles:
        command = [sys.executable, __file__, *sys.argv[1:], "--worker", str(k)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        results[k] = json.loads(done.stdout.splitlines()[-1])
        print(f"K = {k}: {results[k]}", file=sys.stderr, flush=True)
    first = results[args.particles[0]]
    print(f"{args.preset}, {args.sequences} sequences of {first['steps']} steps together\n")
    print(
        "| K | seconds | per draw, over that of K = 1 | networks over x: once | the same K times | peak memory, MiB |"
    )
    print("|---|---|---|---|---|---|")
    for k, r in results.items():
        per_draw = r["seconds"] / k / first["seconds"] * args.particles[0]
        networks, memory = r["networks"], r["memory"]
        print(f"| {k} | {r['seconds']:.2f} | {per_draw:.2f} | {networks:.2f} | {k * networks:.2f} | {memory:.0f} |")


def measure(
    path: Path, name: str, particles: int, sequences: int, window: int | None, filter: bool
) -> dict[str, float]:
    """Return seconds of an evaluation and of the networks over x alone, and peak memory above that before it."""
    corpus = load_strokes(path) if path.suffix == ".npz" else load_timit(path)
    dataset: SequenceDataset = corpus.test.subset(range(sequences))
    torch.manual_seed(0)
    net = preset(name).model.build().eval()
    (batch,) = batches(dataset, sequences)
    with torch.no_grad():
        net.guide.prepare(batch.x, batch.mask)  # warm
        start = time.perf_counter()
        net.guide.prepare(batch.x, batch.mask)
        networks = time.perf_counter() - start
    options: dict[str, Any] = {"particles": 1, "filter": FIVO(particles)} if filter else {"particles": particles}
    # What happens in the first call only.
    evaluate(net, dataset.subset([0]), particles=1, filter=FIVO(1) if filter else None, progress=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    evaluate(net, dataset, batch_size=sequences, window=window, progress=False, **options)
    seconds = time.perf_counter() - start
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"seconds": seconds, "networks": networks, "memory": memory, "steps": dataset.steps}


if __name__ == "__main__":
    main()
