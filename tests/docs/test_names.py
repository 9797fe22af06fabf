"""What the pages name is there: files, what is in them, the modules of the architecture, commands and their options."""

from __future__ import annotations

import ast
import os
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from everstep.cli import ALIASES, COMMANDS, everstep

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*/README.md")]
TOP = [".ci", "benchmarks", "deploy", "docs", "examples", "requirements", "schemas", "services", "src", "tests"]
FILE = re.compile(r"`([\w./-]+\.(?:py|sql|js|yaml|toml|txt))(?::\d+)?`(?: \(`([\w.]+)`\))?")
COMMAND = re.compile(r"`(everstep [^`]+)`|^ {4}(everstep .+)$", re.MULTILINE)
# The author's own, in examples of what may be called or said.
EXAMPLES = {"order.py"}


@cache
def files() -> list[Path]:
    found = [path for path in ROOT.iterdir() if path.is_file()]
    for top in TOP:
        for directory, inside, names in os.walk(ROOT / top):
            inside[:] = [name for name in inside if name not in ("node_modules", "__pycache__")]
            found += [Path(directory) / name for name in names]
    return found


def named(path: str) -> list[Path]:
    return [file for file in files() if file.as_posix().endswith(f"/{path.removeprefix('./')}")]


def pages(pattern: re.Pattern[str]) -> list[Path]:
    return [page for page in PAGES if pattern.search(page.read_text())]


@pytest.mark.parametrize("page", pages(FILE), ids=lambda page: page.name)
def test_files_are_there_with_what_is_in_them(page: Path) -> None:
    for path, inside in FILE.findall(page.read_text()):
        if path in EXAMPLES:
            continue
        assert named(path), f"{path}: no such file"
        assert not inside or any(inside in definitions(file) for file in named(path)), f"{path} has no {inside}"


def definitions(file: Path) -> set[str]:
    """What a module defines, and its classes: `Pending`, `Pending.deadlines`."""
    return set(_defined(ast.parse(file.read_text()).body, ""))


def _defined(body: list[ast.stmt], within: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield within + node.name
            if isinstance(node, ast.ClassDef):
                yield from _defined(node.body, f"{within}{node.name}.")


@pytest.mark.parametrize("package", ["services/orchestrator/everstep_orchestrator/pipeline", "src/everstep/_core"])
def test_the_architecture_names_every_module(package: str) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    modules = [file.name for file in (ROOT / package).glob("*.py") if file.name != "__init__.py"]
    assert [name for name in sorted(modules) if not re.search(rf"`(?:\w+/)*{name}`", text)] == []


def test_the_readme_lists_every_example() -> None:
    listed = re.findall(r"^\|.*\]\(examples/(\w+)(?:\.py)?\) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    programs = [path.stem for path in (ROOT / "examples").glob("*.py") if path.name != "__init__.py"]
    assert sorted(listed) == sorted([*programs, "orders"])


@pytest.mark.parametrize("page", pages(COMMAND), ids=lambda page: page.name)
def test_commands_and_options_are_there(page: Path) -> None:
    for quoted, typed in COMMAND.findall(page.read_text()):
        line = " ".join((quoted or typed).split())
        words = shlex.split(line.replace("…", " "), comments=True)
        known = options_of(words[1:])
        given = {word.partition("=")[0] for word in words[1 : words.index("--") if "--" in words else None]}
        assert {word for word in given if word.startswith("--")} <= known, line


def options_of(words: list[str]) -> set[str]:
    """All options of the command that the words begin with, or fail."""
    with click.Context(everstep, info_name="everstep") as context:
        command: click.Command = everstep
        for word in words:
            if not isinstance(command, click.Group) or not re.fullmatch(r"[a-z][a-z-]*", word):
                break
            found = command.get_command(context, word)
            assert found is not None, f"everstep {' '.join(words)}: no such command"
            command = found
        return {name for parameter in command.get_params(context) for name in parameter.opts}


def test_commands_are_found_at_all() -> None:
    said = {name for page in PAGES for name in re.findall(r"everstep ([a-z-]+)", page.read_text())}
    assert set(COMMANDS) <= said | set(ALIASES)
