"""The tables of the paper as data: every row with its presets, its published figures, and what they are worth.

Aksan and Hilliges, STCN: Stochastic Temporal Convolutional Networks, ICLR 2019: Tables 1 to 4 and Figure 3. Figures are
as printed, in nats per sequence of standardised data. Caveats are from the code that the authors of each system
released, and from their own papers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from .presets import PRESETS
from .protocols import PROTOCOLS, Protocol

__all__ = ["COLUMNS", "TABLES", "Column", "Mark", "Published", "Table", "TableRow"]


class Mark(StrEnum):
    """What a published figure is, by the sign in front of it."""

    EXACT = ""
    BOUND = "≥"
    SAMPLED = "≈"


MARKS = {
    Mark.EXACT: "no sign: the log-likelihood of a model without latents",
    Mark.BOUND: "≥: an ELBO",
    Mark.SAMPLED: "≈: an estimate by importance sampling with 40 draws per sequence, which is above the ELBO",
}


@dataclass(frozen=True)
class Published:
    """A figure of the paper.

    :param value: nats per sequence, as printed.
    :param mark: what it is.
    :param caveats: what else has to be known of this figure.
    """

    value: float
    mark: Mark = Mark.BOUND
    caveats: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.value:,.1f}" if self.value % 1 else f"{self.value:,.0f}"
        return f"{self.mark} {text}".strip()


@dataclass(frozen=True)
class Column:
    """A corpus of the tables.

    :param title: as the paper prints it.
    :param small: first part of the names of the small presets with this corpus's channels.
    :param protocol: how STCN was scored on it, a name in :data:`~pyro_stcn.protocols.PROTOCOLS`.
    :param test_sequences: of the whole test set; None where it is not known or not fixed.
    :param caveat: what has to be known of all published figures on it.
    """

    title: str
    small: str
    protocol: str
    test_sequences: int | None = None
    caveat: str = ""


#: first part of the names of its presets -> :class:`Column`
COLUMNS = {
    "timit": Column("TIMIT", "timit", "timit/stcn", 1680),
    "blizzard": Column("Blizzard", "timit", "blizzard/vrnn"),
    "iamondb": Column(
        "IAM-OnDB",
        "iamondb",
        "iamondb/vrnn",
        caveat="published on the whole of valid.txt, which also stopped the training; there is no published test list",
    ),
    "deepwriting": Column(
        "Deepwriting",
        "iamondb",
        "deepwriting/stcn",
        caveat="published on the validation file, which also stopped the training",
    ),
}


@dataclass(frozen=True)
class TableRow:
    """A model of a table.

    :param label: as the paper prints it.
    :param system: the second part of its presets' names, for instance "stcn-dense-gmm".
    :param published: the figures by column; a column in which the paper prints none is left out.
    :param kl: by column, the KL of all layers and then of each, z1 first.
    :param stands_in: the small system that stands in for it, where that is another.
    :param protocols: by column, how it was scored where that is not as STCN was.
    :param shifted: columns in which x_1 was given to it and not scored.
    """

    label: str
    system: str
    published: Mapping[str, Published] = field(default_factory=dict)
    kl: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    stands_in: str | None = None
    protocols: Mapping[str, str] = field(default_factory=dict)
    shifted: tuple[str, ...] = ()

    def preset(self, column: str) -> str | None:
        """Name of its preset at the paper's size; None where there is none."""
        name = f"{column}/{self.system}"
        return name if name in PRESETS else None

    def small_preset(self, column: str) -> str:
        """Name of the small preset that stands in for it."""
        return f"{COLUMNS[column].small}/{self.stands_in or self.system}-small"

    def protocol(self, column: str) -> Protocol:
        """How the published figure was scored."""
        protocol = PROTOCOLS[self.protocols.get(column, COLUMNS[column].protocol)]
        if column in self.shifted and not protocol.given_first:
            return replace(
                protocol, name=f"{protocol.name}, x_1 given", source="Aksan & Hilliges 2019", given_first=True
            )
        return protocol


@dataclass(frozen=True)
class Table:
    """A table or figure of the paper.

    :param title: what it shows.
    :param rows: in the paper's order.
    :param columns: the corpora it has.
    :param with_kl: whether it prints KLs by layer.
    :param picture: whether it is a picture of what the models generate.
    """

    title: str
    rows: tuple[TableRow, ...]
    columns: tuple[str, ...] = tuple(COLUMNS)
    with_kl: bool = False
    picture: bool = False

    def rows_of(self, column: str) -> tuple[TableRow, ...]:
        """Rows that have a figure in a column; of a picture, those that can be trained for it."""
        if self.picture:
            return tuple(row for row in self.rows if row.preset(column))
        return tuple(row for row in self.rows if column in row.published)


def _figures(mark: Mark, values: tuple[float | None, ...], **caveats: str) -> dict[str, Published]:
    """Figures in the order of ``COLUMNS``; None is "n/a". A caveat goes to its column, "all" to every one."""
    given = {column: value for column, value in zip(COLUMNS, values, strict=True) if value is not None}
    return {
        column: Published(value, mark, tuple(caveats[key] for key in ("all", column) if key in caveats))
        for column, value in given.items()
    }


_EXACT, _BOUND = Mark.EXACT, Mark.BOUND
_OWN = "the STCN authors' re-implementation, marked * in the paper"
_DENSE = (
    "the released code draws every latent anew for each use; what that reports of a dense model is no bound and can "
    "exceed the log-likelihood"
)
_PAIRED = "the released script pairs each piece with the targets of another stream"
_WAVENET = {"shifted": tuple(COLUMNS), "protocols": {"timit": "timit/wavenet"}}
_CHUNG = "from Chung et al. 2015, whose code for TIMIT is not published"
_SRNN = {"protocols": {"timit": "timit/srnn"}}


def _chung(mark: Mark, values: tuple[float, ...], **caveats: str) -> dict[str, Published]:
    """RNN and VRNN: three figures of Chung et al. and one of a re-implementation, which for VRNN is an ELBO."""
    figures = _figures(mark, values, **{"timit": _CHUNG, "deepwriting": _OWN} | caveats)
    own = _EXACT if mark is _EXACT else _BOUND
    return figures | {"deepwriting": replace(figures["deepwriting"], mark=own)}


_TABLE_4 = (
    TableRow("Wavenet (Normal)", "wavenet-normal", _figures(_EXACT, (-7443, 3784, 1053, 337)), **_WAVENET),
    TableRow("Wavenet (GMM)", "wavenet-gmm", _figures(_EXACT, (30188, 8190, 1381, 612)), **_WAVENET),
    TableRow("Wavenet-dense (Normal)", "wavenet-dense-normal", _figures(_EXACT, (-8579, 3712, 1030, 323)), **_WAVENET),
    TableRow("Wavenet-dense (GMM)", "wavenet-dense-gmm", _figures(_EXACT, (30636, 8212, 1380, 642)), **_WAVENET),
    TableRow("RNN (Normal)", "rnn-normal", _chung(_EXACT, (-1900, 3539, 1016, 363)), shifted=("deepwriting",)),
    TableRow("RNN (GMM)", "rnn-gmm", _chung(_EXACT, (26643, 7413, 1358, 528)), shifted=("deepwriting",)),
    TableRow(
        "VRNN (Normal)",
        "vrnn-normal",
        _chung(
            Mark.SAMPLED,
            (30235, 9516, 1354, 495),
            timit=f"{_CHUNG}; the ELBO beside this estimate is 28,805",
            blizzard="the ELBO beside this estimate is 9,223",
        ),
    ),
    TableRow(
        "VRNN (GMM)",
        "vrnn-gmm",
        _chung(
            Mark.SAMPLED,
            (29604, 9392, 1384, 673),
            timit=f"{_CHUNG}; the ELBO beside this estimate is 28,982",
            blizzard="printed by others as an ELBO, or with an ELBO of 9,107",
        ),
    ),
    TableRow("SRNN (Normal)", "srnn-normal", _figures(_BOUND, (60550, 11991, None, None)), **_SRNN),
    TableRow(
        "Z-forcing (Normal)",
        "zforcing-normal",
        _figures(
            _BOUND,
            (70469, 15430, None, None),
            timit="the released script counts 16 empty rows among 1,696 test sequences: without them 71,140",
            blizzard=_PAIRED,
        ),
        **_SRNN,
    ),
    TableRow(
        "Var. Bi-LSTM (Normal)",
        "bilstm-normal",
        _figures(
            _BOUND,
            (73976, 17319, None, None),
            timit="another version of that paper prints 73,315",
            all="no code was released: how it was scored is not known",
        ),
    ),
    TableRow(
        "SWaveNet (Normal)",
        "swavenet-normal",
        _figures(
            _BOUND,
            (72463, 15708, 1301, None),
            timit="the released script counts empty rows as test sequences",
            blizzard=_PAIRED,
            iamondb="the released script leaves out the last incomplete batch",
        ),
        protocols={"timit": "timit/srnn", "iamondb": "iamondb/swavenet"},
    ),
    TableRow("STCN (Normal)", "stcn-normal", _figures(_BOUND, (64913, 13273, 1327, 575))),
    TableRow(
        "STCN (GMM)",
        "stcn-gmm",
        _figures(_BOUND, (69195, 15800, 1338, 605), iamondb="1,339.2 in Table 2 and 1,339 in Table 3"),
    ),
    TableRow("STCN-dense (Normal)", "stcn-dense-normal", _figures(_BOUND, (70294, 15950, 1729, 740), all=_DENSE)),
    TableRow("STCN-dense (GMM)", "stcn-dense-gmm", _figures(_BOUND, (71386, 16288, 1796, 797), all=_DENSE)),
    TableRow(
        "STCN-dense-large (GMM)",
        "stcn-dense-large-gmm",
        _figures(_BOUND, (77438, 17670, None, None), all=_DENSE),
        stands_in="stcn-dense-gmm",
    ),
)
_NOT_IN_TABLE_1 = ("wavenet-normal", "wavenet-dense-normal", "rnn-normal", "stcn-normal", "stcn-dense-normal")


def _row_of_table_2(label: str, system: str, dense: bool, **columns: tuple[float, ...]) -> TableRow:
    """ELBO, KL, and KL of each layer by column."""
    caveats = (_DENSE,) if dense else ()
    published = {column: Published(values[0], Mark.BOUND, caveats) for column, values in columns.items()}
    return TableRow(label, system, published, {column: values[1:] for column, values in columns.items()})


def _row_of_table_3(size: str, name: str, dense: bool, observation: str, timit: float, iamondb: float) -> TableRow:
    system = f"{name.lower()}{'-dense' * dense}-{observation.lower()}"
    label = f"{size}-{name}{'-dense' * dense} ({observation})"
    caveats = {"all": _DENSE} if dense else {}
    if name == "LadderRNN":
        caveats = {"all": "no code of it was released" + "; drawn as STCN-dense is, it would be no bound" * dense}
    published = _figures(_BOUND, (timit, None, iamondb, None), **caveats)
    if name == "LadderRNN":
        return TableRow(label, f"{size}-{system}", published, stands_in=system)
    return TableRow(label, system, published)


#: name -> :class:`Table`
TABLES = {
    "table1": Table(
        "Table 1: average log-likelihood per sequence",
        tuple(row for row in _TABLE_4 if row.system not in _NOT_IN_TABLE_1),
    ),
    "table2": Table(
        "Table 2: KL of each layer, z1 nearest the data",
        (
            _row_of_table_2(
                "STCN-dense",
                "stcn-dense-gmm",
                True,
                iamondb=(1796.3, 1653.9, 17.9, 1287.4, 305.3, 41.0, 2.4),
                timit=(71385.9, 22297.5, 16113.0, 5641.6, 529.0, 8.3, 5.7),
            ),
            _row_of_table_2(
                "STCN",
                "stcn-gmm",
                False,
                iamondb=(1339.2, 964.2, 846.0, 105.2, 12.9, 0.1, 0.0),
                timit=(69194.9, 23118.3, 22275.5, 487.2, 355.5, 0.0, 0.0),
            ),
        ),
        ("timit", "iamondb"),
        with_kl=True,
    ),
    "table3": Table(
        "Table 3: the ladder on LSTMs and on convolutions, ELBO",
        tuple(
            _row_of_table_3(*row)
            for row in (
                ("25x256", "LadderRNN", False, "Normal", 28207, 1305),
                ("25x256", "LadderRNN", True, "Normal", 27413, 1278),
                ("25x256", "LadderRNN", False, "GMM", 24839, 1381),
                ("25x256", "LadderRNN", True, "GMM", 26240, 1377),
                ("5x512", "LadderRNN", False, "Normal", 49770, 1299),
                ("5x512", "LadderRNN", True, "Normal", 48612, 1374),
                ("5x512", "LadderRNN", False, "GMM", 47179, 1359),
                ("5x512", "LadderRNN", True, "GMM", 50113, 1581),
                ("25x256", "STCN", False, "Normal", 64913, 1327),
                ("25x256", "STCN", True, "Normal", 70294, 1729),
                ("25x256", "STCN", False, "GMM", 69195, 1339),
                ("25x256", "STCN", True, "GMM", 71386, 1796),
            )
        ),
        ("timit", "iamondb"),
    ),
    "table4": Table("Table 4: average log-likelihood per sequence, detailed results", _TABLE_4),
    "figure3": Table(
        "Figure 3: real handwriting and what the models write",
        tuple(
            # Scored as in Table 4: the tables share their runs.
            replace(next(row for row in _TABLE_4 if row.system == system), label=label, published={})
            for label, system in (
                ("VRNN", "vrnn-gmm"),
                ("SWaveNet", "swavenet-normal"),
                ("STCN-dense", "stcn-dense-gmm"),
            )
        ),
        ("iamondb", "deepwriting"),
        picture=True,
    ),
}
