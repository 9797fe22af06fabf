"""The Python in the guides is a program: it type-checks, it imports, it uses its imports; a file that it shows it is.

Blocks of one page belong together, in the order in which they are read.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDES = ["README.md", "docs/getting-started.md", "docs/writing-workflows.md"]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")


def blocks(guide: str) -> list[str]:
    return BLOCK.findall((ROOT / guide).read_text())


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("guides")
    files = {guide: directory / f"{Path(guide).stem.replace('-', '_').lower()}.py" for guide in GUIDES}
    for guide, file in files.items():
        file.write_text("\n\n".join(blocks(guide)))
    return files


@pytest.mark.parametrize("guide", GUIDES)
def test_code_runs(guide: str, programs: dict[str, Path]) -> None:
    program = programs[guide]
    done = subprocess.run(
        [sys.executable, str(program)], cwd=program.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_code_type_checks(programs: dict[str, Path]) -> None:
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file",
        "pyproject.toml",
        *map(str, programs.values()),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_name_is_used(programs: dict[str, Path]) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", *map(str, programs.values())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_getting_started_shows_the_order_example() -> None:
    """Up to the docstring, which the guide's own words replace."""
    example = (ROOT / "examples" / "order.py").read_text()
    docstring = ast.get_docstring(ast.parse(example), clean=False)
    assert blocks("docs/getting-started.md")[0].strip() == example.replace(f'"""{docstring}"""', "", 1).strip()


@pytest.mark.parametrize("guide", GUIDES)
def test_links_lead_somewhere(guide: str) -> None:
    links = LINK.findall(BLOCK.sub("", (ROOT / guide).read_text()))
    assert [link for link in links if not (ROOT / guide).parent.joinpath(link).exists()] == []
