"""The command line, ``pyro-stcn`` or ``python -m pyro_stcn``: a file for each command, and this one finds them.

Only the module of the command that is asked for is imported: importing torch takes seconds, and an overview, a version
or a misspelt command should not wait for it.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Union

import tyro

from .errors import friendly

__all__ = ["COMMANDS", "Command", "Group", "main"]

DESCRIPTION = """Stochastic temporal convolutional networks, and the systems they are compared with, in Pyro.

pyro-stcn COMMAND --help says what a command does and what it writes. A training makes a run folder, and the other
commands need nothing but that folder.

    pyro-stcn train --corpus timit --output runs/first        (on synthetic speech; --data PATH for other)
    pyro-stcn evaluate runs/first --particles 100
    pyro-stcn generate runs/first --steps 160 --count 4
    pyro-stcn inspect runs/first

--version prints the version, --debug keeps the traceback of an error. pyro-stcn --tyro-print-completion bash prints
what completes words in bash (zsh, too)."""


@dataclasses.dataclass(frozen=True)
class Command:
    """A command.

    :param where: "module:Class" in this package: a dataclass whose fields are the options and that has a ``run()``.
    :param summary: the first line of its help.
    """

    where: str
    summary: str

    def load(self) -> type:
        """Import the class."""
        module, name = self.where.split(":")
        return getattr(importlib.import_module(f"{__name__}.{module}"), name)

    def stand_in(self) -> type:
        """Return an empty class with the same summary, for an overview."""
        return dataclasses.make_dataclass("StandIn", [], namespace={"__doc__": self.summary})


@dataclasses.dataclass(frozen=True)
class Group:
    """Commands with a word in common, as in ``pyro-stcn data check``.

    :param summary: what they are about.
    :param commands: two or more, by name.
    """

    summary: str
    commands: Mapping[str, Command]


#: name -> :class:`Command` or :class:`Group`, in the order of the overview
COMMANDS: dict[str, Command | Group] = {
    "train": Command("train:Train", "Train a system on a corpus; go on with a run, or do it again."),
    "evaluate": Command("evaluate:Evaluate", "Score a trained system: bounds with standard errors, KL per layer."),
    "generate": Command("generate:Generate", "Let a trained system make sequences, in the unit of its data."),
    "inspect": Command("inspect:Inspect", "Look at what a run learned: an ArviZ file of its latents, KLs, plots."),
    "data": Group(
        "Data, before anything is trained on them.",
        {
            "check": Command("data:Check", "Look through data for what would spoil a training, and say what to do."),
            "list": Command(
                "data:ListCorpora", "List the corpora that can be read, and where their owners offer them."
            ),
        },
    ),
    "reproduce": Command(
        "reproduce:Reproduce",
        "Run a table of the paper on your data: train or load every row, score it, print it beside the published "
        "figure.",
    ),
    "import-official": Command(
        "import_official:ImportOfficial",
        "Import weights that the authors released (TensorFlow), and compare published with valid figures.",
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command.

    :param argv: the words after the program's name; default: those of this process.
    :raises SystemExit: with 1 after an error that the user can mend, 2 for a wrong option, 130 after an interruption.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"] or ["--help"]
    if words == ["--version"]:
        print(f"pyro-stcn {_version()}")
        return
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # no evaluation is lost to a terminal or pipe that has no "±"
            stream.reconfigure(errors="backslashreplace")
    completion = any(word.startswith("--tyro-") for word in words)
    with friendly(debug):
        kinds = _union(COMMANDS, words, everything=completion)
        tyro.cli(kinds, prog="pyro-stcn", description=DESCRIPTION, args=words).run()


def _union(commands: Mapping[str, Command | Group], words: Sequence[str], everything: bool) -> Any:
    """Return the type that tyro parses: the class of the command in ``words``, and stand-ins for the others."""
    members = []
    for name, command in commands.items():
        chosen = list(words[:1]) == [name]
        kind: Any
        if isinstance(command, Group):
            kind = _union(command.commands, words[1:] if chosen else (), everything)
        else:
            kind = command.load() if chosen or everything else command.stand_in()
        about = command.summary if isinstance(command, Group) else None
        members.append(Annotated[kind, tyro.conf.subcommand(name, description=about, prefix_name=False)])
    return Union[tuple(members)]  # noqa: UP007 (made while it runs)


def _version() -> str:
    try:
        return version("pyro-stcn")
    except PackageNotFoundError:
        return "(not installed: run from its sources)"
