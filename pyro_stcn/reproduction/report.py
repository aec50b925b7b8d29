"""Our figures beside the published ones, as Markdown to read and as CSV to compute with.

Nothing in it depends on the clock: a reproduction that was cut short and taken up again gives the same bytes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..comparison import Score
from ..data import Corpus
from ..models import Evidence
from ..reports import Statistic
from ..tables import COLUMNS, MARKS, Mark, Published
from .execution import Result
from .plan import Plan

__all__ = ["csv_table", "markdown_report"]


@dataclass(frozen=True)
class _Cell:
    """One figure of ours beside one of the paper's.

    :param quantity: what the paper calls it: "log-likelihood", "KL", "KL1" ...
    :param figure: what ours is, by name; None where there is none.
    :param ours: mean over seeds, error over sequences.
    :param seeds: the mean of each seed.
    """

    quantity: str
    figure: str | None
    ours: Statistic | None
    seeds: tuple[float, ...]
    published: Published | None

    @property
    def difference(self) -> float | None:
        return None if self.ours is None or self.published is None else self.ours.mean - self.published.value


def _statistic(scores: Sequence[Score], values: Sequence[np.ndarray]) -> Statistic:
    """Of values per sequence, one array for each seed."""
    mean, recordings = np.mean(values, 0), scores[0].recordings
    return Statistic.mean_of(mean, recordings)


def _main_figure(score: Score, mark: Mark) -> str:
    """The figure that is of the published one's kind: from many draws where that is, else the objective itself."""
    names = list(score.figures)
    return names[1] if mark is Mark.SAMPLED and score.evidence is not Evidence.EXACT else names[0]


def _cells(result: Result, plan: Plan) -> Iterator[_Cell]:
    published, scores = result.row.published, result.scores

    def cell(quantity: str, figure: str | None, values: list[np.ndarray], of: Published | None) -> _Cell:
        ours = _statistic(scores, values) if values else None
        return _Cell(quantity, figure, ours, tuple(float(np.mean(value)) for value in values), of)

    figure = _main_figure(scores[0], published.mark if published else Mark.BOUND) if scores else None
    yield cell("log-likelihood", figure, [np.array(s.figures[figure]) for s in scores if figure], published)
    if not plan.table.with_kl:
        return
    layers = [name for name in (scores[0].figures if scores else ()) if name.startswith("KL ")]
    per_layer = {name: [np.array(score.figures[name]) for score in scores] for name in layers}
    total = [np.sum([per_layer[name][i] for name in layers], 0) for i in range(len(scores))] if layers else []
    in_paper = result.row.table_row.kl[plan.column]
    yield cell("KL", "KL of all layers" if total else None, total, Published(in_paper[0], Mark.EXACT))
    for number in range(1, max(len(layers), len(in_paper) - 1) + 1):
        name = f"KL z{number}"
        of = Published(in_paper[number], Mark.EXACT) if number < len(in_paper) else None
        yield cell(f"KL{number}", name if name in layers else None, per_layer.get(name, []), of)


def _tightest(result: Result) -> tuple[str, Statistic] | None:
    scores = result.scores
    return (scores[0].bound, _statistic(scores, [np.array(score.nats) for score in scores])) if scores else None


def _notes(result: Result) -> list[str]:
    return [*result.row.notes, *result.notes, *result.failures]


# ------------------------------------------------------------------------------------------------------------ Markdown


def markdown_report(plan: Plan, corpus: Corpus, results: Sequence[Result], command: str = "") -> str:
    """Return the table with all that has to be known to read it.

    :param results: of the rows so far; the others are "not run yet".
    :param command: the one that made it.
    """
    every = [*results, *(Result(row) for row in plan.rows[len(results) :])]
    pending = {row.table_row.label for row in plan.rows[len(results) :]}
    notes: dict[str, int] = {}

    def numbers(result: Result) -> str:
        return ", ".join(map(str, sorted(notes.setdefault(note, len(notes) + 1) for note in _notes(result))))

    body = _kl_body(plan, every, numbers) if plan.table.with_kl else _body(plan, every, numbers)
    protocols = dict.fromkeys(str(result.row.protocol) for result in every)
    lines = [*_opening(plan, corpus, every), "", *body, ""]
    if pending:
        lines += [f"{len(pending)} of {len(every)} rows have not been run yet.", ""]
    lines += ["Scored as:", "", *(f"* {protocol}" for protocol in protocols), ""]
    if notes:
        lines += ["Notes:", "", *(f"{number}. {note}" for note, number in notes.items()), ""]
    if command:
        lines += [f"Made by `{command}`"]
    return "\n".join(lines).rstrip() + "\n"


def _opening(plan: Plan, corpus: Corpus, results: Sequence[Result]) -> list[str]:
    column = COLUMNS[plan.column]
    lines = [
        f"# {plan.table.title}",
        "",
        f"Data: {corpus.description}",
        "",
        f"Budget {plan.budget.name}: {plan.budget.says}.",
    ]
    steps = sorted({result.row.steps for result in results})
    seeds = f"seed{'s' * (len(plan.seeds) > 1)} {', '.join(map(str, plan.seeds))}"
    made = f"{' or '.join(f'{count:,}' for count in steps)} updates a run; {seeds}; K = {plan.particles}."
    segments = {result.row.protocol.segment for result in results}
    unit, over = "nats per sequence", f"{len(corpus.test)} test sequences"
    if segments != {None}:
        unit, over = f"nats per piece of {max(filter(None, segments))} steps", "test recordings"
    lines += [
        "",
        f"{made} Ours: {unit}, mean over seeds ± standard error over {over}; an ELBO is the "
        f"mean of {plan.particles} draws a sequence. Higher is better.",
    ]
    if plan.table.picture:
        return lines
    text = f"Published: Aksan and Hilliges 2019, column {column.title}; {'; '.join(MARKS.values())}."
    lines += ["", text + (f" All of it {column.caveat}." if column.caveat else "")]
    if plan.not_comparable:
        lines += ["", f"**Not comparable: {plan.not_comparable}.** No differences are given."]
    return lines


def _body(plan: Plan, results: Sequence[Result], numbers) -> list[str]:
    several = len(plan.seeds) > 1
    heads = ["model", "figure", "ours", *["single seeds"] * several]
    if not plan.table.picture:
        heads += [f"published, {COLUMNS[plan.column].title}", *["ours minus published"] * (not plan.not_comparable)]
    heads += ["tightest figure of ours", "is", "preset", "parameters", "updates", "scored as", "notes"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for result in results:
        cell, tightest = next(_cells(result, plan)), _tightest(result)
        cells = [result.row.table_row.label, cell.figure or "", _ours(cell, result)]
        cells += [", ".join(f"{seed:,.1f}" for seed in cell.seeds)] * several
        if not plan.table.picture:
            cells += [_published(cell), *[_signed(cell.difference)] * (not plan.not_comparable)]
        cells += [f"{tightest[0]}: {_text(tightest[1])}", str(result.scores[0].evidence)] if tightest else ["", ""]
        cells += [result.row.preset, f"{_parameters(result):,}", f"{_updates(result):,}"]
        lines.append(f"| {' | '.join([*cells, result.row.protocol.name, numbers(result)])} |")
    return lines


def _kl_body(plan: Plan, results: Sequence[Result], numbers) -> list[str]:
    """Two lines a model, the paper's way round: ours, then what was published."""
    every = {result.row.preset: list(_cells(result, plan)) for result in results}
    quantities = max(([cell.quantity for cell in cells[1:]] for cells in every.values()), key=len)
    heads = ["model", "whose", "figure", "value", *quantities, "parameters", "updates", "scored as", "notes"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for result in results:
        first, *kls = every[result.row.preset]
        empty = [""] * (len(quantities) - len(kls))
        ours = [result.row.table_row.label, "ours", first.figure or "", _ours(first, result)]
        ours += [*("" if cell.ours is None else _text(cell.ours) for cell in kls), *empty]
        ours += [f"{_parameters(result):,}", f"{_updates(result):,}", result.row.protocol.name, numbers(result)]
        theirs = [result.row.table_row.label, f"published, {COLUMNS[plan.column].title}", "ELBO", _published(first)]
        theirs += [*(_published(cell) for cell in kls), *empty, "", "", "", ""]
        lines += [f"| {' | '.join(ours)} |", f"| {' | '.join(theirs)} |"]
    return lines


def _ours(cell: _Cell, result: Result) -> str:
    if cell.ours is not None:
        return _text(cell.ours)
    return "failed" if result.failures else "not run yet"


def _text(statistic: Statistic) -> str:
    decimals = 1 if abs(statistic.mean) >= 10 else 2
    return f"{statistic.mean:,.{decimals}f} ± {statistic.standard_error:,.{decimals}f}"


def _published(cell: _Cell) -> str:
    return "" if cell.published is None else str(cell.published)


def _signed(difference: float | None) -> str:
    return "" if difference is None else f"{difference:+,.1f}"


def _parameters(result: Result) -> int:
    return result.scores[0].parameters if result.scores else result.row.parameters


def _updates(result: Result) -> int:
    return result.scores[0].steps if result.scores else result.row.steps


# ----------------------------------------------------------------------------------------------------------------- CSV


def csv_table(plan: Plan, corpus: Corpus, results: Sequence[Result]) -> str:
    """Return one line for every figure of every row, empty where there is none; numbers as they are, not rounded."""
    file = io.StringIO()
    writer: csv.DictWriter | None = None
    for result in [*results, *(Result(row) for row in plan.rows[len(results) :])]:
        for cell in _cells(result, plan):
            line = _line(cell, result, plan, corpus)
            if writer is None:
                writer = csv.DictWriter(file, list(line), lineterminator="\n")
                writer.writeheader()
            writer.writerow(line)
    return file.getvalue()


def _line(cell: _Cell, result: Result, plan: Plan, corpus: Corpus) -> dict[str, object]:
    row, ours, tightest = result.row, cell.ours, _tightest(result)
    status = "failed" if result.failures else "done" if result.scores else "not run yet"
    return {
        "table": plan.name,
        "model": row.table_row.label,
        "quantity": cell.quantity,
        "corpus": corpus.name,
        "status": status,
        "figure": cell.figure,
        "ours": None if ours is None else ours.mean,
        "standard error": None if ours is None else ours.standard_error,
        "sequences": None if ours is None else ours.count,
        "seeds": " ".join(str(score.seed) for score in result.scores),
        "single seeds": " ".join(map(repr, cell.seeds)),
        "published": None if cell.published is None else cell.published.value,
        "published mark": None if cell.published is None else cell.published.mark,
        "published corpus": COLUMNS[plan.column].title,
        "comparable": not plan.not_comparable,
        "difference": None if plan.not_comparable else cell.difference,
        "tightest figure": tightest and tightest[0],
        "tightest": tightest and tightest[1].mean,
        "tightest standard error": tightest and tightest[1].standard_error,
        "evidence": str(result.scores[0].evidence) if result.scores else None,
        "K": plan.particles,
        "budget": plan.budget.name,
        "preset": row.preset,
        "parameters": _parameters(result),
        "updates": _updates(result),
        "protocol": str(row.protocol),
        "notes": "; ".join([*([plan.not_comparable] if plan.not_comparable else []), *_notes(result)]),
    }
