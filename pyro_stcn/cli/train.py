"""``pyro-stcn train``."""

from __future__ import annotations

import dataclasses
import re
import shlex
import typing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyro
import torch
import tyro

from ..checkpoint import load_model
from ..data import Corpus
from ..evaluation import evaluate
from ..interrupts import sigterm_as_ctrl_c
from ..models import SequenceModel
from ..objectives import FLOOR, OBJECTIVES, check_objective
from ..presets import preset
from ..presets.fitted import fitted
from ..presets.own import REAL_HEADS
from ..runs import Objective, Recipe, Run, digests
from ..study import InterruptedRunError
from ..training import check_blocks, fit
from ..training_config import TrainingConfig
from .options import Data, pick_device
from .reporting import write_report

_MEANINGS = "; ".join(f"{name}: {kind.meaning}" for name, kind in OBJECTIVES.items())
_SHOWN = {int: "INT", float: "FLOAT", bool: "{True,False}"}


def _overrides() -> type:
    """Return a dataclass with every field of TrainingConfig, None by default, and what it says about them."""
    hints = typing.get_type_hints(TrainingConfig)
    made: list[Any] = []
    for f in dataclasses.fields(TrainingConfig):
        kind = hints[f.name]
        shown = tyro.conf.arg(metavar=_SHOWN[kind], help_behavior_hint="(default: the preset's)")
        if f.name != "bfloat16_blocks":  # which is --bfloat16
            made.append((f.name, Annotated[kind | None, shown], field(default=None)))
    text = (
        re.sub(r":\w+:`~?([\w.]*\.)?(\w+)`", r"\2", TrainingConfig.__doc__ or "")
        .replace("``", "")
        .replace("math.inf", "inf")
    )
    summary = "What differs from the preset's recipe."
    return dataclasses.make_dataclass(
        "TrainingOptions", made, namespace={"__doc__": summary + text[text.index("\n") :]}
    )


if TYPE_CHECKING:
    ObjectiveName = str
    Head = str
    TrainingOptions = Any
else:
    ObjectiveName = tyro.extras.literal_type_from_choices(OBJECTIVES)
    Head = tyro.extras.literal_type_from_choices(REAL_HEADS)
    TrainingOptions = _overrides()


@dataclass
class Train:
    """Train a system on a corpus; go on with a run, or do it again.

    Everything goes into one run folder: run.json (the whole configuration, versions, digests of the data, command
    line), log.txt, train.csv and valid.csv, best.safetensors and last.safetensors, and how the best weights do on the
    test set (test.txt, test.csv, test.json).

        pyro-stcn train --corpus timit --output runs/first           on synthetic speech
        pyro-stcn train --corpus timit --data /path/to/TIMIT --system vrnn --steps 2000
        pyro-stcn train --corpus arrays --data my.npz --loader keep=[2] --observation normal
        pyro-stcn train --resume runs/first                          go on; --steps may be raised
        pyro-stcn train --again runs/first --output runs/second      the same anew: bit for bit on a CPU

    Ctrl-C and SIGTERM finish the update, save, and say how to go on.
    """

    data: Annotated[Data, tyro.conf.OmitArgPrefixes] = field(default_factory=Data)
    system: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: stcn-dense)")] = None
    """A small system, made to fit the data: stcn-dense, stcn, ladderrnn, vrnn, srnn, wavenet, rnn, swavenet ..."""
    observation: Annotated[
        Head | None, tyro.conf.arg(metavar="{" + ",".join(REAL_HEADS) + "}", help_behavior_hint="(default: gmm)")
    ] = None
    """Distribution of the values, for --system: a mixture of five Gaussians, or one."""
    preset: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: a small system)")] = None
    """A preset instead of a system, such as timit/stcn-dense-gmm, the paper's size."""
    objective: Annotated[
        ObjectiveName | None,
        tyro.conf.arg(
            metavar="NAME", help_behavior_hint="(default: meanfield)", help=f"What to optimise. {_MEANINGS}."
        ),
    ] = None
    particles: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 1; 5 for importance weights)")
    ] = None
    """Draws per sequence in the objective."""
    free_bits: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint=f"(default: {FLOOR})")] = None
    """Nats per step and layer that --objective freebits gives free."""
    bfloat16: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Run the convolution blocks in bfloat16 while training."""
    output: Annotated[
        Path | None, tyro.conf.arg(metavar="RUN", help_behavior_hint="(default: runs/CORPUS-SYSTEM-SEED)")
    ] = None
    """The run folder."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN", help_behavior_hint="")] = None
    """Go on with this run. Beside it go only --data, where its data have moved, --steps, --patience and --device."""
    again: Annotated[Path | None, tyro.conf.arg(metavar="RUN", help_behavior_hint="")] = None
    """Make this run once more, into --output. Beside it go only --data and --device."""
    device: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: a GPU where there is one)")
    ] = None
    """cpu, cuda, cuda:1."""
    test_particles: int = 20
    """K of the importance-weighted bound on the test set; 0 leaves the test out."""
    training: Annotated[TrainingOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=TrainingOptions)

    def run(self) -> None:
        """Train."""
        if self.resume is not None and self.again is not None:
            raise ValueError("--resume goes on with a run and --again makes it anew: give one of them")
        if self.test_particles < 0:
            raise ValueError(f"--test-particles must not be negative, it is {self.test_particles}")
        with sigterm_as_ctrl_c():
            if self.resume is not None:
                run, corpus = self._resumed(self.resume)
            elif self.again is not None:
                run, corpus = self._repeated(self.again)
            else:
                run, corpus = self._begun()
            go_on = f"Go on with: pyro-stcn train --resume {shlex.quote(str(run.folder))}"
            if self.test_particles != Train.test_particles:  # which the folder does not keep
                go_on += f" --test-particles {self.test_particles}"
            try:
                self._train(run, corpus, go_on)
            except KeyboardInterrupt:
                raise InterruptedRunError(f"interrupted. {go_on}") from None

    # --------------------------------------------------------------------------------------- what is to be trained

    def _begun(self) -> tuple[Run, Corpus]:
        corpus = self.data.load()
        assert self.data.corpus is not None
        assert corpus.kind is not None
        if self.preset is not None:
            if self.system is not None or self.observation is not None:
                raise ValueError(
                    "--preset is a system with its observation model: leave --system and --observation out"
                )
            name, chosen = self.preset, preset(self.preset)
        else:
            if self.observation is not None and corpus.raw.kind.discrete:
                raise ValueError(f"--observation is for real values, and these data are {corpus.kind}: leave it out")
            system, observation = self.system or "stcn-dense", self.observation or "gmm"
            name, chosen = fitted(system, corpus.kind, corpus.data_dim, observation)
        if chosen.model.data_dim != corpus.data_dim:
            raise ValueError(
                f"{name} is for {chosen.model.data_dim} channels, and these data have {corpus.data_dim}: --system NAME "
                "instead of --preset makes a small system that fits"
            )
        training = replace(chosen.training, bfloat16_blocks=self.bfloat16, **self._overridden())
        if self.training.evaluate_every is None:  # the shortest run has a validation, too
            training = replace(training, evaluate_every=min(training.evaluate_every, training.steps))
        recipe = Recipe(
            corpus=self.data.corpus,
            data=self.data.data and self.data.data.resolve(),
            options=self.data.options(),
            digests=digests(corpus),
            preset=name,
            model=chosen.model,
            training=training,
            objective=self._objective(),
            device=str(pick_device(self.device or "auto")),
            threads=torch.get_num_threads(),
        )
        default = Path("runs") / f"{self.data.corpus}-{name.rpartition('/')[2]}-{training.seed}"
        # Before there is a folder: what cannot be is refused here.
        with torch.device("meta"):  # which takes no memory
            net = recipe.model.build()
        check_blocks(net, training)
        check_objective(net, recipe.objective.build(), training)
        return Run.begin(self.output or default, recipe), corpus

    def _resumed(self, folder: Path) -> tuple[Run, Corpus]:
        self._refuse_others("--resume", "data", "device", "steps", "patience")
        run = Run.open(folder)
        recipe = replace(run.recipe, training=replace(run.recipe.training, **self._overridden()))
        if (made := run.steps_made()) > recipe.training.steps:
            raise ValueError(f"--steps {recipe.training.steps}: {folder} has {made} steps already; see --again")
        run = replace(run, recipe=self._elsewhere(recipe))
        was, now = (torch.device(one.device).type for one in (recipe, run.recipe))
        if was != now and (folder / "last.safetensors").exists():
            raise ValueError(f"--device {self.device}: a run that began on {was} cannot go on on {now}, see --again")
        corpus = run.corpus(self.data.data)
        if run.recipe != recipe or recipe != Run.open(folder).recipe:
            run.write()
        return run, corpus

    def _repeated(self, folder: Path) -> tuple[Run, Corpus]:
        self._refuse_others("--again", "data", "device", "output")
        if self.output is None:
            raise ValueError("--again needs --output, the folder of the new run")
        old = Run.open(folder)
        corpus = old.corpus(self.data.data)
        if changed := old.changed_versions():
            print(f"Not as it was, so figures can differ in their last digits: {'; '.join(changed)}")
        return Run.begin(self.output, self._elsewhere(old.recipe)), corpus

    def _elsewhere(self, recipe: Recipe) -> Recipe:
        """Return the recipe with the place of the data and the device that were asked for, if they were."""
        if self.data.data is not None:
            recipe = replace(recipe, data=self.data.data.resolve())
        if self.device is not None:
            recipe = replace(recipe, device=str(pick_device(self.device)))
        return recipe

    def _objective(self) -> Objective:
        name = self.objective or Objective().name
        if self.free_bits is not None and name != "freebits":
            raise ValueError("--free-bits is for --objective freebits")
        particles = OBJECTIVES[name].particles if self.particles is None else self.particles
        return Objective(name, particles, FLOOR if self.free_bits is None else self.free_bits)

    def _overridden(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self.training).items() if value is not None}

    def _refuse_others(self, by: str, *allowed: str) -> None:
        """Refuse options that a run folder has an answer to.

        :raises ValueError: naming the first of them.
        """
        plain = Train()
        given = [
            name
            for ours, default in ((self, plain), (self.data, plain.data), (self.training, plain.training))
            for name, value in vars(ours).items()
            if value != getattr(default, name) and not dataclasses.is_dataclass(value)
        ]
        for name in given:
            if name not in (*allowed, "resume", "again", "test_particles"):
                option = name.replace("_", "-")
                raise ValueError(
                    f"{by} takes everything from the run's folder: leave --{option} out, or begin another run"
                )

    # ------------------------------------------------------------------------------------------------- training it

    def _train(self, run: Run, corpus: Corpus, go_on: str) -> None:
        recipe, training = run.recipe, run.recipe.training
        net = self._built(run)
        run.say(corpus.description)
        count = sum(p.numel() for p in net.parameters())
        run.say(f"{recipe.preset}: {count:,} parameters on {recipe.device}; objective {recipe.objective.name}")
        if net.latent_names and (weight := training.kl_weight(training.steps)) < 1:
            run.say(
                f"The KL weight reaches only {weight:.2g} in {training.steps} steps: the run ends in the middle of the "
                "annealing. Give more --steps or a larger --kl-increment."
            )
        goes_on = (run.folder / "last.safetensors").exists()
        if goes_on and (changed := run.changed_versions()):
            run.say(f"Not as it was when the run was begun: {'; '.join(changed)}")
        result = fit(
            net,
            corpus.train,
            corpus.valid,
            elbo=recipe.objective.build(),
            config=training,
            folder=run.folder,
            resume=goes_on,
            # The data were compared by their digests; a folder that moved may have changed their description.
            facts=None if goes_on else corpus.facts(),
        )
        run.say(str(result))
        if result.interrupted:
            raise InterruptedRunError(f"{result.stopped}. {go_on}")
        if self.test_particles:
            net = load_model(result.best)[0].to(recipe.device)
            test = evaluate(
                net, corpus.test, particles=self.test_particles, seed=training.seed, standardiser=corpus.standardiser
            )
            run.say(f"The test set: {test}")
            write_report(test, run.folder / "test", corpus, result.best)
        run.say(f"Everything is in {run.folder.resolve()}")

    def _built(self, run: Run) -> SequenceModel:
        """Build the model as it was when the run was begun."""
        device = pick_device(run.recipe.device)
        if device.type == "cpu":
            torch.set_num_threads(run.recipe.threads)
        pyro.set_rng_seed(run.recipe.training.seed)
        return run.recipe.model.build().to(device)
