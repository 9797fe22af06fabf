"""What goes wrong, as an exit code and one line."""

from __future__ import annotations

from collections.abc import Iterator

DONE, FINDING, USAGE, UNREACHABLE = 0, 1, 2, 3
INTERRUPTED = 130


class Finding(Exception):
    """The command did its work and found something wrong."""


def code_of(error: Exception) -> int | None:
    """The exit code for an error that a user can do something about; None for a mistake in Everstep itself."""
    return next((code for code, kinds in _kinds() if isinstance(error, kinds)), None)


def sentence(error: Exception) -> str:
    """The error on one line."""
    from aiokafka.errors import KafkaError

    text = " ".join((str(error) or type(error).__name__).split())
    if isinstance(error, KafkaError):
        return f"Kafka does not do as asked ({text}): check EVERSTEP_KAFKA_BOOTSTRAP and the brokers"
    return text


def _kinds() -> Iterator[tuple[int, tuple[type[Exception], ...]]]:
    # Imported only when something has gone wrong, since together they take long.
    from aiokafka.errors import KafkaError

    from everstep.admin.database import DatabaseError, DatabaseUnreachable
    from everstep.admin.topics import TopicError
    from everstep.app import LoadError
    from everstep.errors import (
        CallbackClosed,
        EverstepError,
        NotReachable,
        QueryError,
        Rejected,
        RunAlreadyExists,
        RunError,
        RunNotFound,
        UpdateFailed,
        UpdateRejected,
    )
    from everstep.reads import DatabaseUnavailable, NotMigrated
    from everstep.settings import SettingsError
    from everstep.stack import StackError

    yield USAGE, (NotMigrated,)
    yield UNREACHABLE, (NotReachable, DatabaseUnreachable, DatabaseUnavailable, KafkaError)
    yield FINDING, (Finding, RunError, RunNotFound, RunAlreadyExists, Rejected, TimeoutError)
    yield FINDING, (QueryError, UpdateRejected, UpdateFailed, CallbackClosed)
    yield USAGE, (SettingsError, TopicError, DatabaseError, LoadError, StackError, EverstepError, ValueError)
