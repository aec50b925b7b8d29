"""``pyro-stcn import-official``: weights that the authors released, as checkpoints of this library."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from ..checkpoint import save_model
from ..data.checks import DataError
from ..data.corpora import CORPORA, load_corpus
from ..data.raw import StepKind
from ..data.standardise import Standardiser
from ..data.timit_files import SAMPLE_RATE
from ..observation import PenStrokeConfig
from ..published import valid_twin
from ..published_evaluation import evaluate_conventions
from ..published_files import Released, load_released, read_statistics

if TYPE_CHECKING:
    CorpusName = str
else:
    CorpusName = tyro.extras.literal_type_from_choices(CORPORA)


@dataclass
class ImportOfficial:
    """Import weights that the authors released (TensorFlow), and compare published with valid figures.

    Writes two checkpoints: OUTPUT computes what the released code computes, OUTPUT with "-valid" in its name has the
    same weights with one draw of each latent and a head that is a density, so that its bounds are bounds. Every
    variable must have its place, and every place its variable. TensorFlow is not needed.

    With --corpus both are scored on the same sequences.

        pyro-stcn import-official RELEASED_RUN --output timit.safetensors --corpus timit --data /path/to/TIMIT
    """

    checkpoint: tyro.conf.Positional[Path]
    """The run's folder, the prefix of its files ("model-1234"), or an .npz with the variables by name."""

    output: Path
    """The checkpoint to write, a .safetensors file; nothing is overwritten."""

    config: Path | None = None
    """The run's JSON configuration; default: the config.json beside the checkpoint."""

    statistics: Path | None = None
    """An .npz with the statistics of the released data, which the checkpoints then keep, and --data are scored in."""

    corpus: CorpusName | None = None
    """Score both on a corpus of this kind (pyro-stcn data list says what each is)."""

    data: Path | None = None
    """Where the corpus is; default: a small synthetic one."""

    part: Literal["test", "valid"] = "test"
    """The sequences to score. The published figures of handwriting are of the validation set."""

    particles: int = 10
    """K, draws of the latents for each sequence."""

    batch_size: int = 10
    """Sequences that are scored together."""

    seed: int = 0
    """Of the draws."""

    def run(self) -> None:
        """Import, write, and score if there is a corpus.

        :raises CheckpointError: for released files that cannot be read or do not fit each other.
        :raises DataError: for statistics or data that cannot be used.
        :raises FileExistsError: where a checkpoint to write is there.
        """
        if min(self.particles, self.batch_size) < 1:
            raise ValueError("--particles and --batch-size must be at least 1")
        if self.output.suffix != ".safetensors":
            raise ValueError(f"--output {self.output} does not end in .safetensors")
        valid_output = self.output.with_name(f"{self.output.stem}-valid{self.output.suffix}")
        for path in (self.output, valid_output):
            if path.exists():
                raise FileExistsError(f"{path} is there: move it or name another --output")
        if self.data is not None and self.corpus is None:
            raise ValueError("--data needs --corpus, the kind of data; see pyro-stcn data list")
        released = load_released(self.checkpoint, self.config)
        standardiser = None
        if self.statistics is not None:
            standardiser = read_statistics(self.statistics, released.config, released.net)
        corpus = None if self.corpus is None else load_corpus(self.corpus, self.data)
        if corpus is not None and standardiser is not None:
            corpus = corpus.in_units_of(standardiser)  # before anything is written, as it may be refused
            said = f"{corpus.description} Standardised with given statistics, not with those of these data."
            corpus = replace(corpus, description=said)
        if corpus is not None and corpus.data_dim != released.net.data_dim:
            raise DataError(f"the data have {corpus.data_dim} channels, and the released model {released.net.data_dim}")
        facts = _facts(released, standardiser)
        twin = valid_twin(released.net)
        save_model(self.output, released.net, conventions="published", **facts)
        save_model(valid_output, twin, conventions="valid", **facts)
        print(released)
        print(f"{self.output}: published conventions, {released.net.evidence}")
        print(f"{valid_output}: valid conventions, {twin.evidence}")
        if corpus is None:
            return
        print(f"\n{corpus.description}")
        if standardiser is None:
            print("These may not be the units of the release's training data: --statistics gives those.")
        print(f"Scored: the {self.part} set.\n")
        print(
            evaluate_conventions(
                released.net,
                getattr(corpus, self.part),
                standardiser=corpus.standardiser,
                particles=self.particles,
                batch_size=self.batch_size,
                seed=self.seed,
            )
        )


def _facts(released: Released, standardiser: Standardiser | None) -> dict[str, Any]:
    source = {"checkpoint": released.variables.path.name, "config": released.config}
    kept: dict[str, Any] = {}
    if standardiser is not None:  # with which a RawFormat finds the way back to raw data
        kind = StepKind.STROKES if isinstance(released.net.config.observation, PenStrokeConfig) else StepKind.AUDIO
        rate = SAMPLE_RATE if kind is StepKind.AUDIO else None
        kept = {"standardiser": standardiser.to_dict(), "kind": kind.value, "sample_rate": rate}
    return {"source": source, "facts": {"data": f"those of {source['checkpoint']}, a released model", **kept}}
