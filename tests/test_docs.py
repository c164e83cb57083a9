"""What the README says has to be true of the program."""

import re
import shlex
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import click
import pytest

import medseg
from medseg import errors
from medseg.cli import main
from medseg.config import PredictConfig, TrainConfig, load_config
from medseg.voc.schedule import VocSchedule

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    shlex.split(part.strip(), comments=True)
    for block in BLOCKS
    for line in block.splitlines()
    for part in line.split("&&")
    if part.strip().startswith("medseg ")
]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ALL = main.commands | {
    name: EntryPoint(name, at, "").load() for name, at in PROJECT["entry-points"]["medseg.commands"].items()
}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_documented_command_has_the_options_that_it_is_shown_with(words):
    command = ALL[words[1]]
    if isinstance(command, click.Group):
        command = command.commands[words[2]]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    used = {word.split("=")[0] for word in words[2:] if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word)}
    assert used <= known


def test_every_command_is_documented():
    assert set(ALL) == {words[1] for words in COMMANDS}
    groups = {name: command for name, command in main.commands.items() if isinstance(command, click.Group)}
    for name, group in groups.items():
        assert set(group.commands) == {words[2] for words in COMMANDS if words[1] == name}


def test_exit_codes_are_those_of_the_errors():
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", README, flags=re.MULTILINE)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert documented == {0, 1, 130} | {kind.exit_code for kind in kinds}


def test_ci_runs_the_documented_test_command():
    marked = re.search(r"^<!-- test -->\n```sh\n(.*?)\n```$", README, flags=re.MULTILINE | re.DOTALL)
    assert marked
    assert marked[1].endswith("&& pytest")
    assert "<!-- test -->" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_files_that_the_readme_names_exist():
    for words in COMMANDS:
        for word in words:
            if word.startswith(("tests/data/", "configs/")):
                assert (ROOT / word).exists(), word
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert "://" in link or (ROOT / link).exists(), link


def test_python_names_in_the_readme_exist():
    for name in set(re.findall(r"\bmedseg\.(\w+)\(", README)):
        assert callable(getattr(medseg, name)), name


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*/*.yaml")), ids=lambda path: path.name)
def test_configuration_is_complete_and_valid(path):
    kind = {"train": TrainConfig, "predict": PredictConfig, "voc": VocSchedule}[path.parent.name]
    assert load_config(path, kind)
