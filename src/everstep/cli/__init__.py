"""The command line, `everstep`. Each command stands in a module of its own that is imported when it is used."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence

import click

from everstep.cli._failures import DONE, INTERRUPTED, USAGE, code_of, sentence

# Name: where it is, and its line in `everstep --help`, so that help imports none of them.
COMMANDS = {
    "orchestrator": ("services", "Run an orchestrator for MODULE:app."),
    "worker": ("services", "Run a worker for MODULE:app."),
    "dev": ("dev", "Run everything for MODULE:app here, and again whenever its code changes."),
    "stack": ("stack", "A local Kafka and PostgreSQL."),
    "migrate": ("migrate", "Create or update the database and the topics."),
    "check": ("check", "Check the workflows of MODULE:app for what replay could not repeat."),
    "conformance": ("conformance", "Check a worker in any language against what any worker must do."),
    "check-config": ("check_config", "Check the settings, and what they lead to."),
    "start": ("steering", "Start a run."),
    "signal": ("steering", "Send a signal to a run."),
    "query": ("asking", "Ask a run."),
    "update": ("asking", "Ask a run to do something, and print its answer."),
    "cancel": ("steering", "Ask a run to end; its code may clean up."),
    "terminate": ("steering", "End a run without asking its code."),
    "callback": ("asking", "Complete or fail a callback."),
    "result": ("reading", "Wait for a run and print what it returned."),
    "list": ("reading", "List runs, newest first."),
    "describe": ("reading", "Describe a run."),
    "history": ("reading", "Tell what happened in a run."),
    "replay": ("replay", "Replay histories with the code of MODULE:app, before it is deployed."),
    "dlq": ("dlq", "Records that could not be understood."),
}
ALIASES = {"show": "describe"}


class _Commands(click.Group):
    """Imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"everstep.cli.{COMMANDS[name][0]}")
        command = getattr(module, f"{name.replace('-', '_')}_command")
        assert isinstance(command, click.Command)  # noqa: S101  # for the type checker
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, help) in COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="everstep", message="everstep %(version)s")
def everstep() -> None:
    """Durable functions in plain Python, on your own Kafka and PostgreSQL.

    Settings come from the environment: `everstep check-config` shows them all.

    Exit codes: 0 done, 1 a run failed or something was found, 2 usage or configuration, 3 not reachable.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits with its code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; what goes wrong is one line on standard error and an exit code."""
    logging.getLogger().addHandler(logging.NullHandler())  # what libraries have to say stands in that line
    try:
        code = everstep.main(args=arguments, prog_name="everstep", standalone_mode=False)
        return code if isinstance(code, int) else DONE
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return USAGE
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "everstep"
        print(f"error: {error.format_message()} (see `{command} --help`)", file=sys.stderr)
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone; nothing is left to tell them
        return DONE
    except Exception as error:
        return _failed(error)


def _failed(error: Exception) -> int:
    """Says what went wrong; of several things that went wrong at once, the first."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    code = code_of(error)
    if code is None:
        raise error
    print(f"error: {sentence(error)}", file=sys.stderr)
    return code
