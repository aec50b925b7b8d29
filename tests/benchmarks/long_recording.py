"""Peak memory and time of scoring one long recording, whole and window by window, each in a fresh process.

python tests/benchmarks/long_recording.py
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
import torch

from pyro_stcn import SequenceDataset, evaluate, preset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="iamondb/stcn-dense-gmm-small")
    parser.add_argument("--steps", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--window", type=int, default=1000)
    parser.add_argument("--worker", type=int, nargs=2)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(measure(args.preset, *args.worker)))
        return
    print(f"{args.preset}, K = 5, one recording of T steps\n")
    print("| T | computed | seconds per 1,000 steps | peak memory above that before, MiB |\n|---|---|---|---|")
    for steps in args.steps:
        for window in (0, args.window):
            command = [sys.executable, __file__, "--preset", args.preset, "--worker", str(steps), str(window)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"| {steps:,} | {'whole' if not window else f'windows of {window:,}'} | failed | |", flush=True)
                continue
            seconds, memory = json.loads(done.stdout.splitlines()[-1])
            how = f"windows of {window:,}" if window else "whole"
            print(f"| {steps:,} | {how} | {1000 * seconds / steps:.2f} | {memory:.0f} |", flush=True)


def measure(name: str, steps: int, window: int) -> tuple[float, float]:
    """Return the seconds of an evaluation and its peak memory above that before it, in MiB."""
    torch.manual_seed(0)
    net = preset(name).model.build()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(steps, net.data_dim)).astype(np.float32)
    x[:, -1] = rng.integers(0, 2, steps)
    data = SequenceDataset((x,))
    evaluate(net, SequenceDataset((x[:10],)), particles=1, progress=False)  # what happens in the first call only
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    evaluate(net, data, particles=5, window=window or None, progress=False)
    seconds = time.perf_counter() - start
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


if __name__ == "__main__":
    main()
