"""What `pip install everstep` puts on a machine.

The wheel is built and installed by pip into an empty environment. Its dependencies are lent by a path entry instead of
being downloaded anew; path files in there are not followed, so the project itself can only come from the wheel.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "everstep": ROOT / "src" / "everstep",
    "everstep_orchestrator": ROOT / "services" / "orchestrator" / "everstep_orchestrator",
    "everstep_worker": ROOT / "services" / "worker" / "everstep_worker",
    "everstep_schemas": ROOT / "schemas" / "everstep_schemas",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", directory, ROOT)
    [built] = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with the wheel."""
    environment = tmp_path_factory.mktemp("empty") / "venv"
    venv.create(environment, with_pip=False)
    run(sys.executable, "-m", "pip", "--python", environment, "install", "--no-index", "--no-deps", wheel)
    [site_packages] = environment.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return environment / "bin"


def test_holds_the_four_packages_and_nothing_else(wheel: Path) -> None:
    names = {PurePosixPath(name).parts[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == PACKAGES.keys()


def test_holds_every_file_of_the_packages(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    for package, source in PACKAGES.items():
        files = {f"{package}/{path.relative_to(source)}" for path in source.rglob("*") if path.is_file()}
        assert {name for name in files if "__pycache__" not in name} <= held
        assert f"{package}/py.typed" in held
    assert any(name.startswith("everstep_schemas/") and name.endswith(".sql") for name in held)
    assert "everstep/stack/kafka-jars.txt" in held


def test_gives_the_command_and_the_services(installed: Path, tmp_path: Path) -> None:
    assert "stack" in run(installed / "everstep", "--help", cwd=tmp_path)
    for package in PACKAGES:
        where = run(installed / "python", "-c", f"import {package}; print({package}.__file__)", cwd=tmp_path)
        assert Path(where.strip()).is_relative_to(installed.parent)


def test_runs_from_the_wheel_alone_where_sql_is_read(installed: Path, tmp_path: Path) -> None:
    program = (
        "from importlib.resources import files;"
        "print(sum(path.name.endswith('.sql') for path in files('everstep_schemas').joinpath('sql').iterdir()))"
    )
    assert int(run(installed / "python", "-c", program, cwd=tmp_path)) > 0


@pytest.mark.integration
@pytest.mark.process
def test_runs_the_order_example_with_nothing_else(installed: Path, directory: Path) -> None:
    shutil.copy(ROOT / "examples" / "order.py", directory)
    everstep = installed / "everstep"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EVERSTEP_")}
    environment["XDG_DATA_HOME"] = str(directory / "data")
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen([everstep, "dev", "order:app"], cwd=directory, env=environment, stdout=log, stderr=log) as dev,
    ):
        try:
            environment |= exports(dev, directory / "log")
            order = json.dumps({"order_id": "1", "sku": "mug", "quantity": 1})
            run(everstep, "start", "fulfil_order", order, "--id", "order-1", env=environment)
            run(everstep, "signal", "order-1", "ShippingConfirmed", '{"carrier": "DHL"}', env=environment)
            assert json.loads(run(everstep, "result", "order-1", env=environment)) == "shipped"
        finally:
            dev.send_signal(signal.SIGINT)
            dev.wait()
    assert dev.returncode == 0


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that every user may enter, the database's as well."""
    path = Path(tempfile.mkdtemp(prefix="test-wheel-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


def exports(dev: subprocess.Popen[bytes], log: Path) -> dict[str, str]:
    """The addresses that `everstep dev` prints once everything is made."""
    while dev.poll() is None:
        found: dict[str, str] = dict(re.findall(r"export (\w+)=(\S+)", log.read_text()))
        if len(found) == 2:
            return found
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def run(*command: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
