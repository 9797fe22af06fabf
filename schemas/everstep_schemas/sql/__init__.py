"""SQL as files: numbered migrations, their sum, and named queries.

Every statement names its tables as `{schema}.table`, so nothing depends on a session's `search_path`. The loader puts
the quoted name of the schema there, the only text that is ever put into SQL; values travel as parameters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Literal

Phase = Literal["pre", "post"]

_FILE = re.compile(r"(\d{4})_(pre|post)_(\w+)\.sql")
_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
MAX_IDENTIFIER_BYTES = 63


@dataclass(frozen=True, slots=True)
class Migration:
    """A step of the schema. `pre` only grows, so older code runs on it; `post` removes what no running code needs."""

    number: int
    phase: Phase
    name: str
    text: str = field(repr=False)

    def sql(self, schema: str) -> str:
        return self.text.replace("{schema}", quoted(schema))


def quoted(identifier: str) -> str:
    """`identifier` as SQL. Postgres would cut a name of more than 63 bytes in silence, so that is a `ValueError`."""
    if not 1 <= len(identifier.encode()) <= MAX_IDENTIFIER_BYTES or "\0" in identifier:
        raise ValueError(f"{identifier!r} cannot name a schema: 1 to {MAX_IDENTIFIER_BYTES} bytes are allowed, no NUL")
    return '"' + identifier.replace('"', '""') + '"'


def migrations() -> list[Migration]:
    """All migrations that this code knows, by number."""
    found = [(_FILE.fullmatch(file.name), file) for file in files(__package__).joinpath("migrations").iterdir()]
    return sorted(
        (
            Migration(int(match[1]), "pre" if match[2] == "pre" else "post", match[3], file.read_text("utf-8"))
            for match, file in found
            if match
        ),
        key=lambda migration: migration.number,
    )


def schema_sql(schema: str) -> str:
    """The sum of the migrations, as one would write it today."""
    return files(__package__).joinpath("schema.sql").read_text("utf-8").replace("{schema}", quoted(schema))


def queries(file: str, schema: str) -> dict[str, str]:
    """The statements of `queries/<file>.sql` by the name in the `-- name:` line that each begins with."""
    text = files(__package__).joinpath("queries", f"{file}.sql").read_text("utf-8")
    _, *parts = _NAME.split(text.replace("{schema}", quoted(schema)))
    return {name: statement.strip() for name, statement in zip(parts[::2], parts[1::2], strict=True)}
