"""How a command ends: its exit code, and one line for an error that a user can mend."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from typing import Any, cast

import click

from medseg.errors import MedsegError
from medseg.resources import resource_error

EXIT_CODES = """\b
Exit codes: 0 done, 1 a bug (with traceback), 2 wrong usage, configuration or
model, 3 bad input, 4 grid unknown or refused, 5 out of memory or disk,
6 some cases of several failed, 7 the PACS failed, 130 interrupted."""

COMMANDS = "medseg.commands"

_INTERRUPTED = 130


class Program(click.Group):
    """The commands, with every error that a user can mend as one line on stderr.

    Other packages add theirs by entry points of the group `medseg.commands`, each a click command.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return sorted({*super().list_commands(ctx), *entry_points(group=COMMANDS).names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command; that of another package is imported only now."""
        own = super().get_command(ctx, cmd_name)
        others = () if own else entry_points(group=COMMANDS, name=cmd_name)
        return own or next((cast("click.Command", other.load()) for other in others), None)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command and exit; what is not a user's error keeps its traceback."""
        kwargs["standalone_mode"] = False
        try:
            code = super().main(*args, **kwargs)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            code = 0
        except click.ClickException as error:
            command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "medseg"
            code = complain(f"{error.format_message()} `{command} --help` lists the options.", error.exit_code)
        except click.Abort:
            code = complain("interrupted.", _INTERRUPTED)
        except MedsegError as error:
            code = complain(str(error), error.exit_code)
        except Exception as error:
            scarce = resource_error(error)
            if scarce is None:
                raise
            code = complain(str(scarce), scarce.exit_code)
        sys.exit(code if isinstance(code, int) else 0)


def complain(message: str, code: int) -> int:
    """Write one line to stderr and return the code."""
    click.echo(f"medseg: {' '.join(message.split())}", err=True)
    return code
