"""What a reproduction consists of: every row with its preset, its size, its updates and how it is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..data import Corpus
from ..data.checks import DataError
from ..data.corpora import CORPORA
from ..models import SequenceModel
from ..presets import PRESETS, Preset
from ..protocols import Protocol
from ..study import Row
from ..tables import COLUMNS, TABLES, Published, Table, TableRow
from .budget import Budget

__all__ = ["Plan", "PlannedRow", "column_of", "plan"]

AS_RELEASED = "-published"


@dataclass(frozen=True)
class PlannedRow:
    """A row of a table on one corpus.

    :param table_row: what the paper prints.
    :param preset: name of the preset that is trained.
    :param study: model and recipe; rows with the same name share their runs.
    :param parameters: of the model.
    :param has_latents: without, its figure is exact and needs no draws.
    :param protocol: how it is scored.
    :param published: the paper's figure; None in a picture.
    :param notes: what its figure has to be read with.
    """

    table_row: TableRow
    preset: str
    study: Row
    parameters: int
    has_latents: bool
    protocol: Protocol
    published: Published | None
    notes: tuple[str, ...]

    @property
    def steps(self) -> int:
        """Updates of each run."""
        return self.study.training.steps


@dataclass(frozen=True)
class Plan:
    """A table on one corpus with one budget.

    :param name: of the table, in :data:`~pyro_stcn.tables.TABLES`.
    :param kind: of the corpus, in :data:`~pyro_stcn.data.corpora.CORPORA`.
    :param column: of the tables that its figures stand beside.
    :param budget: what it may cost.
    :param seeds: every row is trained once for each.
    :param particles: K.
    :param rows: in the paper's order.
    :param not_comparable: why no difference from the published figures means anything; "" where it does.
    """

    name: str
    kind: str
    column: str
    budget: Budget
    seeds: tuple[int, ...]
    particles: int
    rows: tuple[PlannedRow, ...]
    not_comparable: str

    @property
    def table(self) -> Table:
        """The paper's table."""
        return TABLES[self.name]


def column_of(table: str, kind: str) -> str:
    """The column of a table that a kind of corpus belongs to, or stands in for; it needs no data.

    :raises DataError: where there is none.
    :raises ValueError: for an unknown table.
    """
    if table not in TABLES:
        raise ValueError(f"there is no table {table!r}; there are: {', '.join(TABLES)}")
    columns = TABLES[table].columns
    column = CORPORA[kind].presets if kind in CORPORA else None
    if column is None or column not in columns:
        fit = [name for name, known in CORPORA.items() if known.presets in columns]
        what = "is a picture of handwriting" if TABLES[table].picture else "has no column for it"
        raise DataError(f"corpus {kind!r}: {table} {what}; it can be made of: {', '.join(fit)}")
    return column


def plan(
    table: str,
    kind: str,
    corpus: Corpus,
    budget: Budget,
    *,
    seeds: Sequence[int] = (0,),
    steps: int | None = None,
    particles: int | None = None,
    systems: Sequence[str] = (),
    as_released: bool = False,
) -> Plan:
    """Say what has to be run.

    :param table: a name in :data:`~pyro_stcn.tables.TABLES`.
    :param kind: of the corpus, a name in :data:`~pyro_stcn.data.corpora.CORPORA`.
    :param corpus: the data.
    :param budget: one of :data:`~pyro_stcn.reproduction.BUDGETS`, or your own.
    :param seeds: every row is trained once for each.
    :param steps: updates of every run in place of the budget's.
    :param particles: K in place of the budget's.
    :param systems: leave out all rows but these, by the second part of their presets' names, "stcn-dense-gmm".
    :param as_released: train STCN rows as the released code does: independent draws, and floors of probabilities.
    :raises DataError: for a corpus that no column of the table fits.
    :raises ValueError: for an unknown table or system, numbers below 1, and ``as_released`` with small presets.
    """
    column = column_of(table, kind)
    _check_channels(table, column, corpus)
    seeds = tuple(dict.fromkeys(seeds))
    if not seeds or min(steps or 1, particles if particles is not None else 1) < 1 or steps == 0:
        raise ValueError("there must be a seed, and updates and particles must be at least 1")
    if as_released and budget.small:
        raise ValueError("the models as released are the paper's: they have no small presets, give the full budget")
    rows = TABLES[table].rows_of(column)
    known = [row.system for row in rows]
    if unknown := [system for system in systems if system not in known]:
        raise ValueError(f"{table} has no row {unknown[0]!r} on {COLUMNS[column].title}; it has: {', '.join(known)}")
    planned = [
        _planned(row, column, budget, steps, as_released) for row in rows if not systems or row.system in systems
    ]
    return Plan(
        table,
        kind,
        column,
        budget,
        seeds,
        particles or budget.particles,
        tuple(_naming_shared_runs(planned)),
        _not_comparable(kind, column, corpus),
    )


def _check_channels(table: str, column: str, corpus: Corpus) -> None:
    dims = next(preset.model.data_dim for name, preset in PRESETS.items() if name.startswith(f"{column}/"))
    if corpus.data_dim != dims:
        raise DataError(f"the sequences of {corpus.name!r} have {corpus.data_dim} channels, and {table} needs {dims}")


def _not_comparable(kind: str, column: str, corpus: Corpus) -> str:
    title, whole = COLUMNS[column].title, COLUMNS[column].test_sequences
    if corpus.name.startswith("synthetic"):
        return f"these data are synthetic, the published figures are of {title}"
    if not CORPORA[kind].published:
        return f"these data ({corpus.name}) are not {title}, and the published figures are of {title}"
    if whole is not None and len(corpus.test) != whole:
        return f"the test set has {len(corpus.test)} sequences, and that of {title} {whole}"
    return ""


def _planned(row: TableRow, column: str, budget: Budget, steps: int | None, as_released: bool) -> PlannedRow:
    full = row.preset(column)
    name = row.small_preset(column) if budget.small else full
    assert name is not None  # rows_of gives rows that have one
    if as_released and f"{name}{AS_RELEASED}" in PRESETS:
        name += AS_RELEASED
    chosen = PRESETS[name]
    training = replace(chosen.training, steps=steps or budget.steps or chosen.training.steps)
    net = _on_paper(chosen)
    parameters = sum(p.numel() for p in net.parameters())
    notes = []
    if budget.small and full is not None:
        whole = sum(p.numel() for p in _on_paper(PRESETS[full]).parameters())
        notes.append(f"small preset: {_millions(parameters)} instead of {_millions(whole)} parameters")
    paper = PRESETS[full].training.steps if full is not None else training.steps
    if training.steps != paper:
        notes.append(f"{training.steps:,} of {paper:,} updates")
    if net.latent_names and (weight := training.kl_weight(training.steps)) < 1:
        notes.append(f"the weight of the KL had come to {weight:.2g} when training ended")
    if name.endswith(AS_RELEASED):
        notes.append("trained and scored as the released code does it")
    protocol, changed = _protocol(row, column, net)
    notes += changed
    published = row.published.get(column)
    notes += [f"of the published figure: {caveat}" for caveat in (published.caveats if published else ())]
    # With the corpus of the presets in its name: two columns can share a folder of runs.
    study = Row(name.replace("/", "-"), chosen.model, training)
    return PlannedRow(row, name, study, parameters, bool(net.latent_names), protocol, published, tuple(notes))


def _on_paper(preset: Preset) -> SequenceModel:
    """The model without memory for its weights."""
    with torch.device("meta"):
        return preset.model.build()


def _protocol(row: TableRow, column: str, net: SequenceModel) -> tuple[Protocol, list[str]]:
    """How the row was scored, or what comes nearest to it with this model."""
    protocol = row.protocol(column)
    if protocol.given_first and net.scores_first_step and not net.pointwise:
        protocol = replace(
            protocol, name=f"{protocol.name}, all steps", source=f"changed from {protocol.source}", given_first=False
        )
        return protocol, ["published with x_1 given, which would be no bound for this model: all steps are scored"]
    return protocol, []


def _naming_shared_runs(rows: Sequence[PlannedRow]) -> list[PlannedRow]:
    """Say which rows have the same small model for want of one for each."""
    result = []
    for row in rows:
        others = [other.table_row.label for other in rows if other.preset == row.preset and other is not row]
        note = f"the same runs as {', '.join(others)}: there is one small model for them"
        result.append(replace(row, notes=(note, *row.notes)) if others else row)
    return result


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count < 1e8 else f"{count / 1e6:.0f} M"
