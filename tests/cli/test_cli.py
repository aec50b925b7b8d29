import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tyro

import pyro_stcn
from pyro_stcn import cli
from pyro_stcn.cli import COMMANDS, Command, Group, main

from .conftest import refused

ROOT = Path(__file__).parents[2]


def python(*words):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, timeout=300)


def test_the_overview_in_a_process_of_its_own_names_every_command_and_does_not_import_torch():
    done = python("-m", "pyro_stcn", "--help")
    assert done.returncode == 0, done.stderr
    assert all(f"• {name}" in done.stdout for name in COMMANDS)
    code = (
        "import sys; from pyro_stcn.cli import main; main(['--version']); assert not {'torch', 'pyro'} & {*sys.modules}"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pyro-stcn ")


def test_what_the_package_offers_is_imported_when_it_is_used():
    for name in pyro_stcn.__all__:
        assert getattr(pyro_stcn, name) is not None
    assert pyro_stcn.data.load_timit
    with pytest.raises(AttributeError, match="No pyro_stcn attribute nothing"):
        _ = pyro_stcn.nothing


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_and_its_outputs(name, capsys):
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    command = COMMANDS[name]
    if isinstance(command, Command):
        assert command.summary == (command.load().__doc__ or "").splitlines()[0]
        assert f"    pyro-stcn {name} " in said
        for field in dataclasses.fields(command.load()):
            assert field.name.replace("_", "-") in said or field.name in ("run_folder", "data", "training")


def test_a_misspelt_command_is_a_wrong_usage(capsys):
    with pytest.raises(SystemExit) as left:
        main(["trian"])
    assert left.value.code == 2


def test_without_a_word_there_is_help(capsys):
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 0
    assert "pyro-stcn COMMAND --help" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shell_completion_knows_commands_and_options(shell, capsys):
    with pytest.raises(SystemExit) as left:
        main(["--tyro-print-completion", shell])
    assert not left.value.code
    said = capsys.readouterr().out
    assert all(word in said for word in ("train", "evaluate", "--resume", "--latent-temperature", "--learning-rate"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash to complete in")
@pytest.mark.parametrize(
    ("line", "expected"),
    [("tr", "train"), ("train --lea", "--learning-rate"), ("train --objective iwae-", "iwae-per-step")],
)
def test_bash_completes(line, expected, capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["--tyro-print-completion", "bash"])
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    words = ["pyro-stcn", *line.split()]
    script = f"source {tmp_path}/completion; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
    script += '_tyro_pyro_stcn; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == [expected], done.stderr


@dataclasses.dataclass
class Hello:
    """Say hello."""

    name: tyro.conf.Positional[str]
    fail: str = ""

    def run(self):
        if self.fail:
            raise {"ours": ValueError, "files": PermissionError, "bug": KeyError}[self.fail](f"no {self.name}")
        print(f"hello {self.name}")


def test_commands_can_have_a_word_in_common(monkeypatch, capsys):
    group = Group("Greetings.", {"hello": Command("greet:Hello", "Say hello."), "bye": Command("none:X", "Say bye.")})
    monkeypatch.setitem(COMMANDS, "greet", group)
    monkeypatch.setattr(Command, "load", lambda self: {"greet:Hello": Hello}[self.where])  # "bye" must not be loaded
    main(["greet", "hello", "you"])
    assert capsys.readouterr().out == "hello you\n"
    with pytest.raises(SystemExit):
        main(["greet", "--help"])
    assert "Say bye." in capsys.readouterr().out


def test_errors_of_users_are_a_line_and_bugs_keep_their_traceback(monkeypatch, capsys):
    monkeypatch.setitem(COMMANDS, "hello", Command("greet:Hello", "Say hello."))
    monkeypatch.setattr(Command, "load", lambda self: Hello)
    monkeypatch.setattr(cli.errors, "_is_ours", lambda error: isinstance(error, ValueError))
    assert refused(capsys, "hello", "you", "--fail", "ours") == "error: no you\n"
    assert refused(capsys, "hello", "you", "--fail", "files") == "error: no you\n"
    with pytest.raises(KeyError):
        main(["hello", "you", "--fail", "bug"])
    with pytest.raises(ValueError, match="no you"):
        main(["hello", "you", "--fail", "ours", "--debug"])
    monkeypatch.setenv("PYRO_STCN_DEBUG", "1")
    with pytest.raises(PermissionError):
        main(["hello", "you", "--fail", "files"])
