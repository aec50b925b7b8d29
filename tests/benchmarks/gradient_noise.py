"""Signal and noise of the gradients of IWAE and DReG on a ladder whose guide merges the model's prior.

    python tests/benchmarks/gradient_noise.py --data gw_online.stroke3.npz [--model best.safetensors]

On one batch, ``repeats`` gradients of each estimator: the length of their mean, the length of their standard deviation
(over all parameters), and the cosine between the two means, which estimate the same vector.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from pyro import poutine

from pyro_stcn import IWAE, DReG, load_model, preset
from pyro_stcn.data import load_strokes
from pyro_stcn.data.batch import ShuffledBatches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--particles", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--sequences", type=int, default=8)
    args = parser.parse_args()
    corpus = load_strokes(args.data)
    torch.manual_seed(0)
    net = load_model(args.model)[0] if args.model else preset("iamondb/stcn-dense-gmm-small").model.build()
    batch = ShuffledBatches(corpus.train, args.sequences, 0).next()
    weights = (1 / batch.lengths.to(batch.x.dtype)).reshape(-1, 1)
    means = {}
    print(f"K = {args.particles}, weights per step, {args.sequences} words, {args.repeats} gradients of each")
    print("| estimator | length of the mean | length of the noise | signal to noise |\n|---|---|---|---|")
    for elbo in (IWAE(args.particles, ("sequences", "time")), DReG(args.particles, ("sequences", "time"))):
        gradients = []
        for _ in range(args.repeats):
            net.zero_grad()
            with poutine.scale(scale=weights):
                elbo.loss_and_grads(net.model, net.guide, batch.x, batch.mask)
            parts = [p.grad.flatten() for p in net.parameters() if p.grad is not None]
            gradients.append(torch.cat(parts) / args.sequences)
        stacked = torch.stack(gradients)
        mean, noise = stacked.mean(0), stacked.std(0)
        means[type(elbo).__name__] = mean
        signal = (mean.norm().square() - noise.norm().square() / args.repeats).clamp(min=0).sqrt()
        print(f"| {type(elbo).__name__} | {signal:.3g} | {noise.norm():.3g} | {signal / noise.norm():.3g} |")
    cosine = torch.cosine_similarity(means["IWAE"], means["DReG"], dim=0)
    print(f"\ncosine between the two means: {cosine:.3f}")


if __name__ == "__main__":
    main()
