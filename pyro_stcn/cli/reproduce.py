"""``pyro-stcn reproduce``: a table of the paper, our figures beside the published ones."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..checkpoint import load_model
from ..data import Corpus
from ..data.checks import DataError
from ..data.corpora import CORPORA, load_corpus
from ..reproduction import (
    BUDGETS,
    Plan,
    Result,
    column_of,
    cost_table,
    csv_table,
    draw_figure,
    markdown_report,
    measured_costs,
    plan,
    reproduce,
    rough_costs,
)
from ..study import InterruptedRunError
from ..whole_files import replacing
from .options import pick_device

__all__ = ["Reproduce"]


@dataclass
class Reproduce:
    """Run a table of the paper on your data: train or load every row, score it, print it beside the published figure.

    Rows are those that the paper has for the corpus; each is trained at the paper's size, scored as the published
    figure was as far as the model allows, and printed with the name of its bound, K, its standard error and whatever
    makes it not comparable. Ctrl-C or SIGTERM finishes the update, saves, and exits with 130; the same command goes on,
    and ends with the same table as if nothing had happened. A row that fails is in the table with its reason, does not
    end the others, and makes the exit code 1.

        pyro-stcn reproduce table1 --corpus timit --data /path/to/TIMIT --dry-run

        pyro-stcn reproduce table1 --corpus strokes --data words.stroke3.npz --budget small
    """

    table: Annotated[Literal["table1", "table2", "table3", "table4", "figure3"], tyro.conf.Positional]
    """What to reproduce: log-likelihoods (1, and 4 in detail), KL of each layer (2), ladders on LSTMs (3), handwriting
    (figure 3)."""
    corpus: Annotated[str, tyro.conf.arg(metavar="NAME")] = "timit"
    """Kind of the data: timit, blizzard, iamondb or deepwriting; or strokes, handwriting of your own beside the figures
    that were published on IAM-OnDB."""
    data: Path | None = None
    """Where the data are, in their owner's format. Default: a small synthetic corpus, which shows only that it runs."""
    budget: Literal["full", "small", "tiny"] = "full"
    """full: the paper's sizes, for a GPU. small: small models and 600 updates, for two CPU cores. tiny: two updates, a
    smoke test. The table says which."""
    steps: int | None = None
    """Updates of every run in place of the budget's."""
    seeds: tuple[int, ...] = (0,)
    """Every row is trained once for each: weights, batches and noise."""
    particles: int | None = None
    """K, draws per sequence when a row is scored. Default: the budget's (40; tiny: 2)."""
    rows: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Only these rows, by the second part of their presets' names: stcn-dense-gmm vrnn-gmm. Default: all."""
    as_released: bool = False
    """Train and score STCN rows as the released code does, which for dense models is no bound. Budget full only."""
    weights: Path | None = None
    """Folder with trained weights, CORPUS-SYSTEM.safetensors (timit-stcn-dense-gmm.safetensors), or the --output of
    another reproduction: rows that are found there are not trained."""
    dry_run: bool = False
    """Only list rows, sizes and the expected cost."""
    timing: bool = True
    """Of a dry run: make two updates of every row and take their time; --no-timing gives a rough estimate at once."""
    lines: int = 8
    """Of figure3: lines in the picture."""
    device: str = "auto"
    """Where to train and score: cpu, cuda ...; auto: the GPU if there is one."""
    output: Path = Path("runs/reproduce")
    """Folder for the runs, one for each row and seed, and for the table as .md and .csv, or the picture."""

    def run(self) -> None:
        """Do it.

        :raises InterruptedRunError: after Ctrl-C or SIGTERM, with the command that goes on.
        :raises SystemExit: with 1 where a row failed.
        """
        if self.lines < 1:
            raise ValueError(f"--lines must be at least 1, not {self.lines}")
        device = str(pick_device(self.device))
        if self.corpus in CORPORA:  # else load_corpus says which there are
            column_of(self.table, self.corpus)  # before a large corpus is read
        corpus = load_corpus(self.corpus, self.data)
        planned = plan(
            self.table,
            self.corpus,
            corpus,
            BUDGETS[self.budget],
            seeds=self.seeds,
            steps=self.steps,
            particles=self.particles,
            systems=self.rows,
            as_released=self.as_released,
        )
        if self.dry_run:
            self._list(planned, corpus, device)
            return
        results = self._make(planned, corpus, device)
        print(self._path(".md").read_text(encoding="utf-8"))
        if planned.table.picture:
            self._draw(planned, corpus, results)
        print(f"Everything is in {self.output.resolve()}")
        if failed := [result.row.table_row.label for result in results if result.failures]:
            print(f"{len(failed)} of {len(results)} rows failed: {', '.join(failed)}", file=sys.stderr)
            raise SystemExit(1)

    def command(self) -> str:
        """Return the command line that is this one."""
        words = ["pyro-stcn", "reproduce", self.table]
        for field in dataclasses.fields(self)[1:]:
            value: Any = getattr(self, field.name)
            name = field.name.replace("_", "-")
            if value == field.default:
                continue
            if isinstance(value, bool):
                words.append(f"--{name}" if value else f"--no-{name}")
            else:
                words += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
        return shlex.join(words)

    def _list(self, planned: Plan, corpus: Corpus, device: str) -> None:
        if self.timing:
            costs, how = measured_costs(planned, corpus, device), f"two updates of every row on this machine, {device}"
        else:
            costs = rough_costs(planned, corpus)
            how = "roughly, from parameters and the speed of a matrix product here; without --no-timing measured"
        listed = []
        for cost in costs:
            listed.append(cost)
            print(f"{len(listed)} of {len(planned.rows)}: {cost.row.preset}", file=sys.stderr, flush=True)
        print(cost_table(planned, corpus, listed, how))

    def _make(self, planned: Plan, corpus: Corpus, device: str) -> list[Result]:
        self.output.mkdir(parents=True, exist_ok=True)

        def write(results: list[Result]) -> None:
            report = markdown_report(planned, corpus, results, self.command())
            for ending, text in ((".md", report), (".csv", csv_table(planned, corpus, results))):
                with replacing(self._path(ending)) as unfinished:
                    unfinished.write_text(text, encoding="utf-8")
            last = results[-1]
            state = "; ".join(last.failures) or "done"
            print(f"{len(results)} of {len(planned.rows)}: {last.row.table_row.label}: {state}", flush=True)

        runs = self.output / self.corpus
        try:
            return reproduce(planned, corpus, runs, weights=self._weights(), device=device, after_row=write)
        except InterruptedRunError as error:
            made = f"The rows that are finished are in {self._path('.md')}. " * self._path(".md").exists()
            raise InterruptedRunError(f"{error}\n{made}To go on:\n  {self.command()}") from None

    def _weights(self) -> Path | None:
        """Return the folder to look for weights in: the --output of another reproduction has one for each corpus."""
        inside = None if self.weights is None else self.weights / self.corpus
        return inside if inside is not None and inside.is_dir() else self.weights

    def _draw(self, planned: Plan, corpus: Corpus, results: list[Result]) -> None:
        nets = {r.row.table_row.label: load_model(r.checkpoints[0])[0] for r in results if r.checkpoints}
        if not nets:
            raise DataError("no row was finished: there is nothing to draw")
        files = draw_figure(
            nets,
            corpus,
            self._path(""),
            lines=self.lines,
            seed=planned.seeds[0],
            invert_y=not CORPORA[self.corpus].y_upwards,
        )
        print(f"Lines of seed {planned.seeds[0]}: {', '.join(map(str, files))}")

    def _path(self, ending: str) -> Path:
        """Where a table with these settings is."""
        parts = [self.table, self.corpus, self.budget]
        parts += [f"{self.steps}"] * (self.steps is not None)
        parts += ["seed", *map(str, self.seeds)] * (self.seeds != (0,))
        parts += [f"k{self.particles}"] * (self.particles is not None)
        if self.rows:
            rows = "+".join(self.rows)
            parts.append(rows if len(rows) < 60 else f"{len(self.rows)}-rows-{sha256(rows.encode()).hexdigest()[:8]}")
        parts += ["as-released"] * self.as_released
        return self.output / f"{'-'.join(parts)}{ending}"
