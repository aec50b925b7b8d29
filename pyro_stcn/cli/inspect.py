"""``pyro-stcn inspect``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import tyro

from .. import plots
from ..data import Corpus, batches
from ..evaluation import Evaluation, Statistic, evaluate
from ..generation import generate, reconstruct
from ..posterior import posterior_of
from ..whole_files import replacing
from .options import Data, pick_device, set_seed
from .pictures import draw, save
from .trained import Trained

OFF = 0.01  # nats per step, below which a layer says next to nothing


@dataclass
class Inspect:
    """Look at what a run learned: an ArviZ file of its latents, KLs, plots.

    It prints how many nats every layer of latents carries, and writes to RUN/inspected: posterior.nc (for ArviZ, draws
    of all latents of the first test sequences), training.png (the run), kl.png (KL by layer) and sequences.png (a test
    sequence, its reconstruction and a sample from the model).

        pyro-stcn inspect runs/first
        pyro-stcn inspect runs/first --draws 200 --sequences 5
        python -c "import arviz; print(arviz.from_netcdf('runs/first/inspected/posterior.nc'))"
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder: the weights of its best validation. Or a checkpoint (.safetensors)."""
    draws: int = 50
    """Draws of the latents in posterior.nc."""
    sequences: int = 3
    """Test sequences in posterior.nc."""
    particles: int = 5
    """Draws for the KLs."""
    seed: int = 0
    """Of the draws."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto is a GPU where there is one."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="(default: RUN/inspected)")] = (
        None
    )
    """Where the files go; those of an earlier call are replaced."""
    data: Annotated[Data, tyro.conf.OmitArgPrefixes] = field(default_factory=Data)

    def run(self) -> None:
        """Inspect."""
        if min(self.draws, self.sequences, self.particles) < 1:
            raise ValueError("--draws, --sequences and --particles must be at least 1")
        trained = Trained.open(self.run_folder, pick_device(self.device))
        corpus = trained.corpus(self.data)
        folder = self.output or trained.folder / "inspected"
        folder.mkdir(parents=True, exist_ok=True)
        print(corpus.description)
        set_seed(self.seed)
        written: list[Path] = []
        if trained.net.latent_names:
            result = evaluate(trained.net, corpus.test, particles=self.particles, seed=self.seed)
            print(_kl_table(result))
            written += [self._posterior(trained, corpus, folder), folder / "kl.png"]
            self._save_axes(plots.kl_by_layer(result.kl), written[-1])
        else:
            print("This system has no latents: there are no posterior and no KLs.")
        if (trained.folder / "train.csv").exists():
            written.append(folder / "training.png")
            self._save_axes(plots.training_curve(trained.folder), written[-1])
        written += self._sequences(trained, corpus, folder)
        for path in written:
            print(path.resolve())

    def _posterior(self, trained: Trained, corpus: Corpus, folder: Path) -> Path:
        """Hand the posterior of the first test sequences to ArviZ."""
        idata = posterior_of(trained.net, next(batches(corpus.test, self.sequences)), self.draws)
        path = folder / "posterior.nc"
        with replacing(path) as unfinished:  # an older one may be open in a notebook
            idata.to_netcdf(str(unfinished))
        return path

    def _sequences(self, trained: Trained, corpus: Corpus, folder: Path) -> list[Path]:
        net = trained.net
        batch = next(batches(corpus.test, 1)).to(next(net.parameters()).device)
        name, x = batch.names[0], batch.x[0].cpu().numpy()
        shown = {f"test, {name}": x}
        if net.latent_names:
            # The mean of every step at one draw of the latents.
            shown["reconstruction"] = reconstruct(net, batch.x, batch.mask)[0].cpu().numpy()
        shown["a sample"] = generate(net, steps=len(x))[0].cpu().numpy()
        return save(draw(corpus.raw, shown, apart=True), folder / "sequences", corpus.raw)

    @staticmethod
    def _save_axes(axes, path: Path) -> None:
        axes.figure.savefig(path, dpi=120)
        plt.close(axes.figure)


def _kl_table(result: Evaluation) -> str:
    """Return KL(q || p) of every layer, over the test set, with standard errors."""
    lines = [
        f"KL(q || p) of every layer given the draws above it, {len(result.names)} test sequences, {result.particles} "
        "draws, mean ± standard error over sequences",
        f"  {'layer':<8} {'nats per sequence':>22} {'nats per step':>20}",
    ]
    for name, values in result.kl.items():
        whole, step = Statistic.of(values), Statistic.ratio(values, result.scored)
        note = "   next to nothing" if step.mean < OFF else ""
        lines.append(
            f"  {name:<8} {f'{whole.mean:.2f} ± {whole.standard_error:.2g}':>22} "
            f"{f'{step.mean:.4f} ± {step.standard_error:.2g}':>20}{note}"
        )
    return "\n".join(lines)
