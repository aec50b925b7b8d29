"""Memory of a process that streams shuffled batches of a small corpus and of a large one, over the batches read.

python tests/benchmarks/streaming_memory.py --plot docs/images/streaming-memory.png

The large corpus is one recording of ten minutes under many names (hard links): as large as the number of its files says
for everything that reads it, and small on the disk. Each line is measured in a fresh process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from pyro_stcn.data import ShuffledBatches, load_blizzard, write_wav
from pyro_stcn.data.prefetch import PrefetchedBatches

RATE, SECONDS = 16000, 600
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.1, 10.0])
    parser.add_argument("--workers", type=int, default=2, help="also with so many worker processes, of the largest")
    parser.add_argument("--batches", type=int, default=1500, help="of 128 rows of half a second")
    parser.add_argument("--plot", type=Path, help="where to save the figure")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        root, workers, batches = Path(args.measure[0]), int(args.measure[1]), int(args.measure[2])
        print(json.dumps(measure(root, workers, batches)))
        return
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        roots = {size: make(Path(folder), size) for size in args.gigabytes}
        for size, workers in [*((size, 0) for size in args.gigabytes), (max(args.gigabytes), args.workers)]:
            command = [sys.executable, __file__, "--measure", str(roots[size]), str(workers), str(args.batches)]
            environment = os.environ | {"PYRO_STCN_CACHE": str(Path(folder) / "cache")}
            done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, text=True, check=True)
            runs[size, workers] = json.loads(done.stdout.splitlines()[-1])
            print(f"{size:g} GB, {workers} workers: done", file=sys.stderr)
    print(f"{args.batches} shuffled batches of 128 rows of 8,000 samples; memory in MiB, with that of the workers\n")
    print(
        "| corpus | as float32 | workers | before loading | loaded | after 100 batches | at the end | most | ms/batch |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for (size, workers), run in runs.items():
        at = np.array(run["memory"])
        settled = at[np.searchsorted(run["batches"], 100)]
        print(
            f"| {size:g} GB | {2 * size * 1e9 / MIB:,.0f} | {workers} | {run['before']:.0f} | {run['loaded']:.0f} "
            f"| {settled:.0f} | {at[-1]:.0f} | {max(at.max(), run['loaded']):.0f} | {run['milliseconds']:.1f} |"
        )
    if args.plot:
        plot(runs, args.plot)


def make(folder: Path, gigabytes: float) -> Path:
    """A tree of links to one recording."""
    source = folder / "recording.wav"
    if not source.exists():
        samples = 1000 * np.random.default_rng(0).standard_normal(SECONDS * RATE)
        write_wav(source, samples.astype(np.int16), RATE)
    root = folder / f"{gigabytes:g}"
    for number in range(round(gigabytes * 1e9 / source.stat().st_size)):
        book = root / f"book-{number // 20:03d}"
        book.mkdir(parents=True, exist_ok=True)
        os.link(source, book / f"chapter-{number % 20:02d}.wav")
    return root


def measure(root: Path, workers: int, count: int) -> dict:
    """Memory in MiB of this process and its workers, before, after loading and over ``count`` batches."""
    before = memory()
    train = load_blizzard(root, streams=16).train
    run: dict = {"before": before, "loaded": memory(), "batches": [], "memory": []}
    stream = PrefetchedBatches(train, 128, 0, workers=workers) if workers else ShuffledBatches(train, 128, 0)
    start, paused = time.perf_counter(), 0.0
    for number in range(1, count + 1):
        next(stream)
        if number % 20 == 0 or number == 1:
            pause = time.perf_counter()
            run["batches"].append(number)
            run["memory"].append(memory())
            paused += time.perf_counter() - pause
    run["milliseconds"] = 1000 * (time.perf_counter() - start - paused) / count
    stream.close()
    return run


def memory() -> float:
    """MiB that this process has in memory, and those that its children have for themselves alone."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        children = file.read().split()
    own = fields("/proc/self/smaps_rollup")["Rss"]
    theirs = (fields(f"/proc/{pid}/smaps_rollup") for pid in children)
    return (own + sum(f["Private_Clean"] + f["Private_Dirty"] for f in theirs)) / 1024


def fields(path: str) -> dict[str, int]:
    """The fields of a file of /proc in kiB."""
    lines = (line.split() for line in Path(path).read_text().splitlines()[1:])
    return {words[0].rstrip(":"): int(words[1]) for words in lines}


def plot(runs: dict[tuple[float, int], dict], path: Path) -> None:
    """Memory over batches, and what the largest corpus would take."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for (size, workers), run in runs.items():
        label = f"{size:g} GB" + (f", {workers} workers" if workers else "")
        axes.plot(run["batches"], run["memory"], label=label)
    largest = max(size for size, _ in runs)
    axes.axhline(largest * 1e9 / MIB, color="grey", linestyle="--")
    axes.annotate(
        f"{largest:g} GB", (0, largest * 1e9 / MIB), xytext=(4, -12), textcoords="offset points", color="grey"
    )
    axes.set(xlabel="batches of 128 half seconds", ylabel="memory in MiB", yscale="log", ylim=(100, None))
    axes.legend(title="corpus, 16-bit samples", loc="center right")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
