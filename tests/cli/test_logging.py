"""Every line of a log, whoever wrote it, has one form and holds no secret."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import structlog

from everstep.logging import configure
from everstep.settings import LogFormat, Settings

DSN = "postgresql://me:s3cret@db/app"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _undo() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def settings(log_format: LogFormat = "auto") -> Settings:
    return Settings(log_format=log_format, kafka_sasl_password="hunter2", postgres_dsn=DSN)


def logged(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_off_a_terminal_with_the_bound_ids() -> None:
    stream = io.StringIO()
    configure(settings(), "worker", stream)
    structlog.stdlib.get_logger("mine").bind(workflow_id="order-17", run=1).info("activity done", attempt=2)
    (line,) = logged(stream)
    assert datetime.fromisoformat(line.pop("timestamp")).utcoffset() == timedelta(0)
    assert line == {
        "level": "info",
        "event": "activity done",
        "service": "worker",
        "logger": "mine",
        "workflow_id": "order-17",
        "run": 1,
        "attempt": 2,
    }


def test_text_on_a_terminal() -> None:
    stream = Terminal()
    configure(settings(), "worker", stream)
    structlog.stdlib.get_logger().info("activity done")
    assert "activity done" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_the_format_can_be_forced() -> None:
    stream = Terminal()
    configure(settings("json"), "worker", stream)
    structlog.stdlib.get_logger().info("activity done")
    assert logged(stream)[0]["event"] == "activity done"


def test_libraries_take_the_same_path_and_chatter_stays_out() -> None:
    stream = io.StringIO()
    configure(settings(), "orchestrator", stream)
    logging.getLogger("aiokafka.consumer").info("Updating subscribed topics")
    logging.getLogger("uvicorn.error").warning("port %d taken", 8080)
    (line,) = logged(stream)
    assert (line["event"], line["logger"], line["service"]) == ("port 8080 taken", "uvicorn.error", "orchestrator")


def test_an_error_is_one_line_with_fields() -> None:
    stream = io.StringIO()
    configure(settings(), "worker", stream)
    try:
        raise ConnectionError("gone\nfor good")
    except ConnectionError:
        structlog.stdlib.get_logger().exception("commit failed")
        logging.getLogger("other").error("also", exc_info=True)
    for line in logged(stream):
        assert line["error_type"] == "ConnectionError"
        assert line["error"] == "gone\nfor good"
        assert "test_an_error_is_one_line" in line["traceback"]


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_secrets_are_masked_wherever_they_stand(stream: io.StringIO) -> None:
    configure(settings(), "worker", stream)
    try:
        raise ValueError("cannot parse postgresql://me:s3cret@db/app")
    except ValueError:
        structlog.stdlib.get_logger().exception("refused", dsn=DSN, note="it is hunter2")
    assert "s3cret" not in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


def test_unknown_settings_are_warned_about() -> None:
    stream = io.StringIO()
    configure(Settings.from_environment({"EVERSTEP_SHARD": "8"}), "worker", stream)
    assert logged(stream)[0]["hint"] == "EVERSTEP_SHARD is not a setting of Everstep: did you mean EVERSTEP_SHARDS?"
