"""The command line, in this process or in one of its own."""

import os
import subprocess
import sys

from click.testing import CliRunner, Result

from medseg.cli import main


def medseg_command(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(result: Result, code: int, *parts: str) -> None:
    """Ended with this code and one line on stderr that has these parts, in this order."""
    assert result.exit_code == code, (result.output, result.exception)
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("medseg: ")
    position = 0
    for part in parts:
        position = lines[0].index(part, position)


def process(*arguments: object, **options) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "medseg", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options
    )
