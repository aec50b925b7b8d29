"""What a check of data found, and how it is told."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import Enum, StrEnum
from itertools import groupby
from pathlib import Path
from typing import Any

from .checks import printable

_PLACES = 5  # of a kind of finding that the table shows
_CHANNELS = 12  # whose figures the table shows


class Severity(StrEnum):
    """How bad it is.

    ERROR: the loader refuses the data. WARNING: they train, and the result is probably wrong or worse than it could be.
    NOTE: worth knowing before choosing a model or reading a figure.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class What(Enum):
    """The kinds of findings: what was found, and what to do about it."""

    UNREADABLE = ("files that cannot be read", "do as said of each, or take the file out")
    EMPTY = ("empty files", "copy or download them again, or take them out")
    TRUNCATED = ("truncated files", "copy or download them again")
    IRREGULAR = ("things that are no regular files", "take pipes, devices and broken links out of the folder")
    FORM = ("arrays that are no sequences", "give arrays of real numbers of shape (T, D), steps by channels")
    LIST = ("lists that cannot be used", "do as said of each")
    NOT_FINITE = (
        "values that are not finite",
        "leave the sequences out, cut them before the first, fill the gaps (what is made up is then scored like what "
        "was seen), or, where NaN means that nothing is known, have those steps left out of what is scored: "
        "load_arrays(missing='mark'), --loader missing=mark (--missing mark checks them so)",
    )
    UNKNOWN = ("sequences of which no step is known", "leave them out")
    PEN = (
        "pens that are neither up nor down",
        "the third channel must be 1 at the last point of a stroke, 0 elsewhere",
    )
    FEW = (
        "too few sequences",
        "give 3 or more, so that validation and test data can be held out; or cut a long one into pieces and give the "
        "parts yourself: load_arrays(train, valid, test)",
    )
    HUGE = (
        "values too large to compute with",
        "check the units: no standard deviation can be taken of them, and no loader reads them",
    )
    WIDTH = ("sequences of another width", "all sequences of a corpus need the same channels: take these apart")
    COLUMNS = ("files with other columns", "all files of a corpus need the same columns in the same order")
    RATE = ("recordings at another rate", "resample them: ffmpeg -i IN -ar RATE -c:a pcm_s16le OUT.wav")
    STEREO = ("recordings of several channels", "choose a channel or mix them: ffmpeg -i IN -ac 1 OUT.wav")
    ENCODING = ("recordings in another encoding", "convert them: ffmpeg -i IN -c:a pcm_s16le OUT.wav")
    MIXED = ("files of several kinds in one folder", "put audio and arrays into folders of their own")
    SHORT = ("sequences too short to use", "leave them out, or use a smaller frame")
    SILENT = ("sequences that never change", "leave them out: they teach nothing and have no finite best density")
    CONSTANT = ("channels that never change", "leave them out of the data, or leave them unscaled with keep=[...]")
    COPIES = ("recordings that are there twice and differ", "keep one of them")
    NAMES = ("names that clash", "give every sequence its own name: results are reported by it")
    BOTH_PARTS = ("sequences in training and in another part", "remove them from one, or the figures are too good")
    REPEATED = (
        "sequences that are there twice",
        "keep one of each; where parts are held out at random, copies fall into two and the figures are too good",
    )
    STILL = ("channels that hardly change", "take a coarser step, or a model that is told of changes only")
    CLIPPED = ("clipped recordings", "record or normalise them again with less gain, or leave them out")
    OFFSET = ("recordings that do not swing around 0", "take the mean of each recording off")
    SCALE = ("channels on very different scales", "check the units; standardise per channel (the default), not by one")
    OUTLIER = (
        "values far beyond the others",
        "check them: one such value sets the scale of its channel, and of a loss",
    )
    PADDED = ("sequences that end in copies of one step", "cut them: padding would be scored as data")
    RAGGED = ("lengths far from the median", "check them; batch by length, or cut long ones, as padding costs time")
    STUCK = ("channels that never change in some sequences", "check that they were recorded in these")
    BITS = ("channels of only 0 and 1", "leave them unscaled, keep=[...], and give them a likelihood of bits")
    GRID = (
        "values on a grid",
        "a log-density above the ceiling describes the rounding: compare up to there, or use probabilities of the "
        "values (DiscretisedMixtureConfig, for integers)",
    )
    MISSING = (
        "steps with missing values",
        "nothing: with missing=mark they are left out of what is scored, each as a whole",
    )
    IGNORED = ("files that are not used", "nothing, if they are no data")

    @property
    def title(self) -> str:
        """What was found, in words."""
        return self.value[0]

    @property
    def advice(self) -> str:
        """What to do."""
        return self.value[1]


@dataclass(frozen=True)
class Finding:
    """One thing that was found in one place; what does not apply is None.

    :param severity: how bad it is.
    :param what: the kind.
    :param detail: what was found here, in words.
    :param file: the file's path.
    :param sequence: the sequence's name.
    :param step: the first step, from 0; of a recording, the first sample.
    :param channel: the channel of that step, from 0.
    :param channel_name: what the data call that channel.
    :param count: how many values, steps, sequences or files, as ``detail`` says.
    """

    severity: Severity
    what: What
    detail: str = ""
    file: str | None = None
    sequence: str | None = None
    step: int | None = None
    channel: int | None = None
    channel_name: str | None = None
    count: int | None = None

    @property
    def advice(self) -> str:
        """What to do."""
        return self.what.advice

    def __str__(self) -> str:
        return self.told()

    def told(self, source: str = "") -> str:
        """In words, the file as it is called below ``source``."""
        file = self.file
        if source and file is not None and Path(file).is_relative_to(source):
            file = None if file == source else str(Path(file).relative_to(source))
        named = f" ({self.channel_name!r})" if self.channel_name is not None else ""
        places = [
            file,
            None if self.sequence is None else f"sequence {self.sequence!r}",
            None if self.step is None else f"step {self.step}",
            None if self.channel is None else f"channel {self.channel}{named}",
        ]
        where = ", ".join(place for place in places if place is not None)
        return printable(": ".join(part for part in (where, self.detail) if part))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; without what does not apply."""
        fields = {"severity": self.severity.value, "what": self.what.name.lower(), "title": self.what.title}
        names = ("detail", "file", "sequence", "step", "channel", "channel_name", "count", "advice")
        found = {name: getattr(self, name) for name in names if getattr(self, name) not in (None, "")}
        return fields | {k: printable(v) if isinstance(v, str) else v for k, v in found.items()}


@dataclass(frozen=True)
class Channel:
    """Figures of one channel over all finite values; nan where there are none.

    :param name: what the data call it, or its number.
    """

    name: str
    mean: float
    std: float
    min: float
    max: float


@dataclass(frozen=True)
class Summary:
    """What the data are, as far as they could be read.

    :param sequences: how many.
    :param steps: of all sequences together; samples, for recordings.
    :param lengths: least, quartiles and greatest of the sequences' steps; empty without sequences.
    :param parts: sequences by part, where the data have parts.
    :param channels: figures of each.
    :param rates: recordings by samples per second.
    :param formats: files, or sequences, by what they are.
    """

    sequences: int
    steps: int
    lengths: tuple[float, ...]
    parts: dict[str, int]
    channels: tuple[Channel, ...]
    rates: dict[int, int]
    formats: dict[str, int]

    def __str__(self) -> str:
        lines = [f"{self.sequences} sequences, {self.steps} steps, channels: {len(self.channels)}"]
        if self.parts:
            lines.append("parts: " + ", ".join(f"{part} {count}" for part, count in self.parts.items()))
        if self.lengths:
            low, first, middle, third, high = self.lengths
            lines.append(f"lengths: {low:g} to {high:g}, half of them {first:g} to {third:g}, median {middle:g}")
        if self.rates:
            lines.append("rates: " + ", ".join(f"{rate} Hz ({n})" for rate, n in self.rates.items()))
        if self.formats:
            lines.append("formats: " + ", ".join(f"{name} ({n})" for name, n in self.formats.items()))
        if self.channels:
            width = max(len("channel"), *(len(c.name[:20]) for c in self.channels[:_CHANNELS]))
            lines.append(f"{'channel':>{width}} {'mean':>12} {'std':>12} {'min':>12} {'max':>12}")
            for c in self.channels[:_CHANNELS]:
                figures = " ".join(f"{value:>12.5g}" for value in (c.mean, c.std, c.min, c.max))
                lines.append(f"{printable(c.name[:20]):>{width}} {figures}")
            if len(self.channels) > _CHANNELS:
                lines.append(f"... and {len(self.channels) - _CHANNELS} more channels")
        return "\n".join("  " + line for line in lines)


@dataclass(frozen=True)
class Report:
    """What was looked at, what the data are, and all that was found, the worst first.

    :param source: what was looked at.
    :param kind: what it was read as, a name of ``CORPORA``.
    """

    source: str
    kind: str
    summary: Summary
    findings: tuple[Finding, ...]

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """The findings of one severity."""
        return tuple(f for f in self.findings if f.severity is severity)

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.of(Severity.ERROR)

    def __str__(self) -> str:
        lines = [f"{printable(self.source)}: read as {self.kind}", str(self.summary)]
        for (severity, what), group in groupby(self.findings, key=lambda f: (f.severity, f.what)):
            found = list(group)
            number = f", {len(found)} places" if len(found) > 1 else ""
            lines += ["", f"{severity.upper()}  {what.title}{number}"]
            lines += [f"  {finding.told(self.source)}" for finding in found[:_PLACES]]
            if len(found) > _PLACES:
                lines.append(f"  ... and {len(found) - _PLACES} more")
            lines.append(f"  -> {what.advice}")
        counts = {severity: len(self.of(severity)) for severity in Severity}
        lines += ["", ", ".join(f"{n} {severity}{'s' * (n != 1)}" for severity, n in counts.items())]
        return "\n".join(lines)

    def to_json(self, path: str | Path | None = None) -> str:
        """All of it as JSON, every finding included; also written to ``path`` if one is given."""
        summary = vars(self.summary) | {"channels": [_finite(vars(c)) for c in self.summary.channels]}
        content = {
            "source": printable(self.source),
            "kind": self.kind,
            "ok": self.ok,
            "summary": summary,
            "findings": [finding.to_dict() for finding in self.findings],
        }
        text = json.dumps(content, indent=1, allow_nan=False)
        if path is not None:
            Path(path).write_text(text + "\n")
        return text


def _finite(figures: dict[str, Any]) -> dict[str, Any]:
    """JSON has no nan."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in figures.items()}
