"""The source of the author's modules: their trees, where a function stands in one, and comments that excuse a line."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import TypeAlias

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_EXCUSE = re.compile(r"#\s*everstep:\s*ignore(?:\[(?P<rules>[^\]]*)\])?")


@dataclass(frozen=True)
class Excuse:
    """A comment `# everstep: ignore[EV104] reason`; without rules in brackets it excuses nothing."""

    line: int
    column: int
    rules: tuple[str, ...]


class Source:
    """One module's source."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.tree = ast.parse(text, filename=str(path))
        self.excuses = tuple(_excuses(text))

    def functions(self, code: CodeType) -> list[FunctionNode]:
        """The functions that `code` may be compiled from: several only for lambdas on one line."""
        return [node for node in ast.walk(self.tree) if isinstance(node, FUNCTIONS) and _is_of(node, code)]


def _is_of(node: FunctionNode, code: CodeType) -> bool:
    if isinstance(node, ast.Lambda):
        return code.co_name == "<lambda>" and node.lineno == code.co_firstlineno
    first = min((decorator.lineno for decorator in node.decorator_list), default=node.lineno)
    return node.name == code.co_name and first == code.co_firstlineno


def _excuses(text: str) -> Iterator[Excuse]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and (found := _EXCUSE.search(token.string)):
            rules = tuple(rule.strip() for rule in (found["rules"] or "").split(",") if rule.strip())
            yield Excuse(token.start[0], token.start[1] + found.start() + 1, rules)


class Sources:
    """The sources of modules, each read once."""

    def __init__(self) -> None:
        self._by_path: dict[str, Source | None] = {}

    def of(self, module: ModuleType) -> Source | None:
        """The module's source, or None if there is none to read."""
        path = getattr(module, "__file__", None)
        if path is None or not path.endswith(".py"):
            return None
        if path not in self._by_path:
            self._by_path[path] = _read(path)
        return self._by_path[path]

    def __iter__(self) -> Iterator[Source]:
        return (source for source in self._by_path.values() if source is not None)


def _read(path: str) -> Source | None:
    try:
        with tokenize.open(path) as file:
            return Source(Path(path), file.read())
    except (OSError, SyntaxError, ValueError):
        return None
