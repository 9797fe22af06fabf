"""The comparison is complete: every row names all five peers, every claim about one says where it stands.

Whether the claims are true only people can say; that none lacks its source is said here.
"""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "comparison.md"
TEXT = PAGE.read_text()
PEERS = {"Lambda": "L-", "Step Functions": "S-", "Azure": "A-", "Temporal": "T-", "Cloudflare": "C-"}
OFFICIAL = {
    "L-": {"docs.aws.amazon.com"},
    "S-": {"docs.aws.amazon.com"},
    "A-": {"learn.microsoft.com"},
    "T-": {"docs.temporal.io", "python.temporal.io"},
    "C-": {"developers.cloudflare.com"},
}
UNKNOWN = "not found in its docs"

TARGETS = dict(re.findall(r"^\[([EALSTC]-[a-z-]+)\]: (\S+)$", TEXT, re.MULTILINE))
USED = re.findall(r"\]\[([^\]]+)\]", TEXT)


def tables() -> list[list[list[str]]]:
    """Each table as its rows, each row as its cells."""
    found = re.findall(r"(?:^\|.*\|$\n?)+", TEXT, re.MULTILINE)
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()] for table in found]


ROWS = [row for table in tables() for row in table[2:]]


def sources(cell: str) -> list[str]:
    return re.findall(r"\]\[([^\]]+)\]", cell)


@pytest.mark.parametrize("table", tables(), ids=lambda table: str(table[2][0]))
def test_every_table_has_a_column_for_each(table: list[list[str]]) -> None:
    assert table[0] == ["", "Everstep", *PEERS]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row[0]))
def test_every_row_names_all_five_peers(row: list[str]) -> None:
    capability, everstep, *peers = row
    assert capability
    assert everstep
    assert len(peers) == len(PEERS)
    for cell, prefix in zip(peers, PEERS.values(), strict=True):
        assert UNKNOWN in cell or any(source.startswith(prefix) for source in sources(cell)), cell


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row[0]))
def test_what_everstep_can_do_says_where_it_is_explained(row: list[str]) -> None:
    everstep = row[1]
    assert everstep.startswith(("not yet", "for ever")) or any(source.startswith("E-") for source in sources(everstep))


def test_every_source_is_known_and_used() -> None:
    assert set(USED) == set(TARGETS)


@pytest.mark.parametrize("name", [name for name in TARGETS if not name.startswith("E-")])
def test_sources_are_the_documentation_of_their_makers(name: str) -> None:
    url = urlsplit(TARGETS[name])
    assert url.scheme == "https"
    assert url.netloc in OFFICIAL[name[:2]]
