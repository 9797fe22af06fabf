"""What pytest does with Everstep installed: a fixture, an option for kept histories, and one replay elsewhere.

At the end of a session all histories that its tests have left are replayed in one other process; a test whose run does
something else there has failed. Nothing of this costs a session anything that makes no environment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from everstep.testing import _hooks

if TYPE_CHECKING:
    from datetime import datetime

    from everstep import App
    from everstep.testing._elsewhere import Elsewhere, Recorded
    from everstep.testing._environment import WorkflowEnvironment

_INI = "everstep_replay_elsewhere"
_NAME = "everstep-replays"
_SHARED = "everstep_findings"


class EnvironmentFactory(Protocol):
    """What the fixture `workflow_environment` gives: `WorkflowEnvironment`, which it sees closed."""

    def __call__(
        self, app: App, *, start: datetime = ..., auto_skip: bool = True, replay_every_event: bool = True
    ) -> WorkflowEnvironment: ...


@pytest.fixture
def workflow_environment() -> Iterator[EnvironmentFactory]:
    """Makes environments: `async with workflow_environment(app) as env`. One that is left open fails the test."""
    from everstep.testing._environment import WorkflowEnvironment

    made: list[WorkflowEnvironment] = []

    def make(app: App, **options: Any) -> WorkflowEnvironment:
        made.append(WorkflowEnvironment(app, **options))
        return made[-1]

    yield make
    if any(environment.is_open for environment in made):
        raise RuntimeError("the test left its environment open: write `async with workflow_environment(app) as env`")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("everstep")
    group.addoption(
        _hooks.UPDATE_OPTION,
        action="store_true",
        help="write the histories that assert_history() compares anew",
    )
    parser.addini(_INI, "replay the histories that tests leave in another process", type="bool", default=True)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Replays(config), _NAME)


class Replays:
    """The histories of one session, and what is found when they are replayed."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._recorded: list[Recorded] = []
        self._findings: list[tuple[str, str]] = []
        self._elsewhere: Elsewhere | None = None
        self._before = (_hooks.collector, os.environ.get(_hooks.UPDATE_VARIABLE))
        if config.getini(_INI):
            _hooks.collector = self._recorded.append
        if config.getoption(_hooks.UPDATE_OPTION):
            os.environ[_hooks.UPDATE_VARIABLE] = "1"

    def pytest_unconfigure(self) -> None:
        _hooks.collector, update = self._before
        if update is None:
            os.environ.pop(_hooks.UPDATE_VARIABLE, None)
        else:
            os.environ[_hooks.UPDATE_VARIABLE] = update

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self._recorded and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            self._replay()
        output = getattr(self._config, "workeroutput", None)
        if output is not None:  # a worker of pytest-xdist: the controller tells
            output[_SHARED] = self._findings
            return
        for name, message in self._findings:
            self._config.hook.pytest_runtest_logreport(report=_failed(name, message))
        if self._findings and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _replay(self) -> None:
        from everstep.testing._elsewhere import NotReplayed, replay_elsewhere

        try:
            self._elsewhere = done = replay_elsewhere(self._recorded)
        except NotReplayed as error:
            self._findings.append(("everstep", f"the histories of this session were not replayed elsewhere: {error}"))
        else:
            again = f"\nAgain: PYTHONHASHSEED={done.seed}; objects have other addresses each time"
            self._findings += [(one.name, one.message + again) for one in done.differences]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """What a worker of pytest-xdist has found."""
        found = getattr(node, "workeroutput", {}).get(_SHARED, ())
        self._findings += [(name, message) for name, message in found]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        done = self._elsewhere
        if done is None or self._config.get_verbosity() < 1:
            return
        left_out = "".join(f"; {count} not: {reason}" for reason, count in done.skipped.items())
        terminalreporter.line(
            f"everstep: {done.replayed} histories replayed in another process, PYTHONHASHSEED={done.seed}{left_out}"
        )


def _failed(name: str, message: str) -> pytest.TestReport:
    """The report of a test that passed here and would not have elsewhere."""
    return pytest.TestReport(
        nodeid=name,
        location=(name.partition("::")[0], None, name.rpartition("::")[2]),
        keywords={},
        outcome="failed",
        longrepr=message,
        when="call",
    )
