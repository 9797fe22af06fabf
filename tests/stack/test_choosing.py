"""Which servers `open` gives, and what it says when it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from everstep import stack

KAFKA, POSTGRES = "EVERSTEP_KAFKA_BOOTSTRAP", "EVERSTEP_POSTGRES_DSN"


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (KAFKA, POSTGRES, f"{KAFKA}_FILE", f"{POSTGRES}_FILE", "EVERSTEP_STACK"):
        monkeypatch.delenv(name, raising=False)


async def test_addresses_in_the_environment_win_over_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dsn_file = tmp_path / "dsn"
    dsn_file.write_text("postgresql://db.example/app\n")
    monkeypatch.setenv(KAFKA, "broker.example:9092")
    monkeypatch.setenv(f"{POSTGRES}_FILE", str(dsn_file))
    monkeypatch.setenv("EVERSTEP_STACK", "docker")
    async with stack.open() as s:
        assert stack.environment(s) == {KAFKA: "broker.example:9092", POSTGRES: "postgresql://db.example/app"}
        for server in (s.kafka, s.postgres):
            with pytest.raises(stack.StackError, match="is not ours"):
                await server.kill()


@pytest.mark.integration
async def test_one_address_in_the_environment_leaves_the_other_to_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KAFKA, "broker.example:9092")
    async with stack.open() as s:
        assert s.kafka_bootstrap == "broker.example:9092"
        assert await s.postgres.running()


async def test_a_way_that_nobody_knows_is_named_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSTEP_STACK", "kubernetes")
    with pytest.raises(stack.StackError, match="'kubernetes'; it can be embedded, docker, system"):
        async with stack.open():
            pass


async def test_a_way_that_cannot_work_here_says_what_would_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("EVERSTEP_STACK", "system")
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    with pytest.raises(stack.StackError, match="set KAFKA_HOME"):
        async with stack.open():
            pass
