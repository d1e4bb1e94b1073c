"""What the README shows is what happens."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
import typer.main
from rich.console import Console

from cosim.cli import app
from cosim.commands.prune_options import prune_app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_prints_what_stands_below_it():
    code, shown = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", README, re.S).groups()  # type: ignore[union-attr]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert printed.getvalue() == shown


@pytest.mark.parametrize("line", [line for line in README.splitlines() if line.startswith("cosim ")])
def test_every_command_line_names_a_command_and_options_that_exist(line: str):
    words = shlex.split(re.split(r"  +", line)[0].replace("[", "").replace("]", ""))
    command = typer.main.get_command(app).commands[words[1]]  # type: ignore[attr-defined]
    if words[1] == "prune":  # its options are made when it is called
        command = typer.main.get_command(prune_app("", Console()))
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words[2:] if word.startswith("-")} <= options


def test_files_and_links_of_the_documents_exist():
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for link in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_examples_are_studies_and_sweeps_that_load():
    from cosim.codesign.check import check_study
    from cosim.codesign.study import load_study
    from cosim.sweep import load_sweep

    check_study(load_study(ROOT / "examples" / "digits.yaml"), "digits.yaml")
    assert load_sweep(ROOT / "examples" / "arrays.yaml").designs > 1000
