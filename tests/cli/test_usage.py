"""Mistakes in a command or its environment: one line on standard error, and an exit code that says whose they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from everstep.cli import COMMANDS

from .conftest import Everstep

KAFKA = {"EVERSTEP_KAFKA_BOOTSTRAP": "127.0.0.1:1"}
POSTGRES = {"EVERSTEP_POSTGRES_DSN": "postgresql://me:s3cret@127.0.0.1:1/app"}
API = {"EVERSTEP_API_URL": "http://127.0.0.1:1"}


async def test_help_lists_every_command_and_imports_none(everstep: Everstep) -> None:
    everstep.set({"PYTHONPROFILEIMPORTTIME": "1"})
    ran = await everstep("--help")
    assert ran.code == 0
    listed = [
        line.split()[0]
        for line in ran.out.partition("Commands:")[2].splitlines()
        if line.startswith("  ") and line[2] != " "
    ]
    assert listed == list(COMMANDS)
    imported = {line.rpartition("|")[2].strip() for line in ran.err.splitlines()}
    assert "everstep.cli._failures" in imported
    assert not imported & {"aiokafka", "asyncpg", "httpx", "rich", "everstep.cli.steering", "everstep.cli.dev"}


@pytest.mark.parametrize("command", COMMANDS)
async def test_every_command_has_help(everstep: Everstep, command: str) -> None:
    ran = await everstep(command, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert f"everstep {command}" in ran.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["strat"], "No such command 'strat'"),
        (["start"], "Missing argument 'WORKFLOW'"),
        (["start", "w", "{"], "'{' is not JSON"),
        (["start", "w", "--id", "a\nb"], "holds a control character"),
        (["signal", "a", "b", "nul"], "text needs its quotes"),
        (["start", "w", "--attribute", "a"], "'a' is not name=JSON"),
        (["start", "w", "--attribute", "a={}"], "attribute 'a' is text, a number"),
        (["start", "w", "--memo", "a=1", "--memo", "a=2"], "'a' is given twice"),
        (["start", "w", "--signal", "go=x"], "go: 'x' is not JSON"),
        (["start", "w", "--start-at", "2026-01-31T18:00:00"], "is no instant with a time zone"),
        (["start", "w", "--start-at", "soon"], "is no instant with a time zone"),
        (["start", "w", "--timeout", "0"], "0.0 is not in the range"),
        (["list", "--attribute", "customer=C-9"], "text needs its quotes"),
        (["query"], "Missing argument 'ID'"),
        (["query", "a", "total"], "EVERSTEP_API_URL is not set"),
        (["query", "a"], "EVERSTEP_API_URL is not set"),
        (["query", "a", "total", "x"], "'x' is not JSON"),
        (["update", "a", "add", "x"], "'x' is not JSON"),
        (["update", "a", "add"], "EVERSTEP_KAFKA_BOOTSTRAP is not set"),
        (["callback", "complete", "x"], "'x' is no token of a callback"),
        (["callback", "fail", "0.1.2.0.x"], "Missing argument 'MESSAGE'"),
        (["callback", "heartbeat", "0.1.2.0.x"], "EVERSTEP_KAFKA_BOOTSTRAP is not set"),
        (["list", "--status", "lost"], "'lost' is not one of"),
        (["worker", "app:app", "--concurrency", "0"], "0 is not in the range"),
        (["list"], "neither EVERSTEP_API_URL nor EVERSTEP_POSTGRES_DSN is set"),
        (["cancel", "a"], "EVERSTEP_KAFKA_BOOTSTRAP is not set"),
        (["dlq", "list"], "EVERSTEP_KAFKA_BOOTSTRAP is not set"),
        (["migrate"], "EVERSTEP_POSTGRES_DSN is not set"),
        (["worker", "nowhere:app"], "EVERSTEP_KAFKA_BOOTSTRAP is not set"),
        (["orchestrator", "nowhere:app"], "EVERSTEP_KAFKA_BOOTSTRAP is not set"),
    ],
)
async def test_usage_and_configuration_are_2(everstep: Everstep, arguments: list[str], message: str) -> None:
    ran = await everstep(*arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert message in ran.err
    assert len(ran.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("environment", "arguments"),
    [
        (KAFKA, ["start", "w"]),
        (KAFKA, ["signal", "a", "b"]),
        (KAFKA, ["dlq", "list"]),
        (POSTGRES, ["list"]),
        (POSTGRES, ["history", "a"]),
        (POSTGRES, ["result", "a"]),
        (API, ["list"]),
        (API, ["query", "a", "total"]),
        (API, ["query", "a"]),
        (API, ["update", "a", "add"]),
        (API, ["callback", "complete", "0.1.2.0.x"]),
        (KAFKA, ["update", "a", "add"]),
        (API, ["start", "w"]),
        (KAFKA | POSTGRES, ["migrate"]),
    ],
)
async def test_not_reachable_is_3(everstep: Everstep, environment: dict[str, str], arguments: list[str]) -> None:
    everstep.set(environment)
    ran = await everstep(*arguments)
    assert (ran.code, ran.out) == (3, "")
    assert len(ran.err.splitlines()) == 1
    assert "s3cret" not in ran.err


async def test_no_command_gets_help(everstep: Everstep) -> None:
    ran = await everstep()
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Usage: everstep")


async def test_kafka_away_is_told_with_what_to_do(everstep: Everstep) -> None:
    everstep.set(KAFKA)
    assert "check EVERSTEP_KAFKA_BOOTSTRAP" in (await everstep("dlq", "list")).err


async def test_a_service_whose_app_is_not_there(everstep: Everstep) -> None:
    everstep.set(KAFKA | POSTGRES)
    for service in ("orchestrator", "worker"):
        ran = await everstep(service, "nowhere:app")
        assert ran.code == 2
        assert "nowhere" in ran.err


async def test_check_config_tells_every_mistake(everstep: Everstep, tmp_path: Path) -> None:
    everstep.set({"EVERSTEP_SHARDS": "many", "EVERSTEP_HTTP_PORT": "x", "EVERSTEP_KAFKA_BOOTSTRAP_FILE": "/nowhere"})
    ran = await everstep("check-config", "--json")
    assert ran.code == 2
    assert [check["text"].split()[0] for check in ran.json["checks"]] == [
        "EVERSTEP_KAFKA_BOOTSTRAP",
        "EVERSTEP_SHARDS",
        "EVERSTEP_HTTP_PORT",
    ]


async def test_check_config_shows_settings_and_what_does_not_answer(everstep: Everstep, tmp_path: Path) -> None:
    dsn = tmp_path / "dsn"
    dsn.write_text(POSTGRES["EVERSTEP_POSTGRES_DSN"])
    everstep.set({**KAFKA, "EVERSTEP_POSTGRES_DSN_FILE": str(dsn), "EVERSTEP_KAFKA_BOTSTRAP": "x"})
    ran = await everstep("check-config", "--json")
    assert ran.code == 3
    settings = ran.json["settings"]
    assert settings["EVERSTEP_KAFKA_BOOTSTRAP"]["origin"] == "environment"
    assert settings["EVERSTEP_POSTGRES_DSN"] == {
        "name": "EVERSTEP_POSTGRES_DSN",
        "value": "postgresql://me:***@127.0.0.1:1/app",
        "origin": "file",
    }
    assert settings["EVERSTEP_SHARDS"]["origin"] == "default"
    assert [(check["name"], check["code"]) for check in ran.json["checks"]] == [
        ("settings", 0),
        ("database", 3),
        ("topics", 3),
    ]
    plain = await everstep("check-config")
    assert "s3cret" not in plain.out + plain.err
    assert "did you mean EVERSTEP_KAFKA_BOOTSTRAP?" in plain.out
