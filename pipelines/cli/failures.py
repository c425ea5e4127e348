"""How a command that fails says so: an exit code, a line for people, and under --json one JSON object."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from enum import IntEnum

from pass_ops.errors import PassError
from pass_ops.support.secrecy import hidden


class ExitCode(IntEnum):
    """How a command ended. A process that a signal ends has 128 + its number: 143 for SIGTERM, 137 for SIGKILL."""

    DONE = 0, "done; also where a job was submitted that runs on by itself, or whoever read the output had had enough"
    FAILED = 1, "failed midway; of verify, lint, explain, gpu-check and doctor: something was found"
    WRONG_INPUT = 2, "wrong usage or input: nothing was begun, and the same command would be refused again"
    INTERRUPTED = 130, "interrupted (Ctrl-C, SIGINT); what is committed stays, the same command goes on from there"

    meaning: str

    def __new__(cls, code: int, meaning: str) -> ExitCode:
        """A member with its meaning."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member


class UsageError(PassError, ValueError):
    """The command line cannot be parsed. usage: what it should look like. prog: of which command."""

    def __init__(self, message: str, *, usage: str, prog: str) -> None:
        fix = f"see {prog} --help"
        super().__init__(f"{message}; {fix}", fix=fix)
        self.usage, self.prog = usage, prog


class RanksError(PassError, ValueError):
    """A command that runs once was started on several ranks."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What ended a command.

    kind: the error's class. message: all there is to say. place and fix: what of it is the place (a file, a URL, a key,
    an option) and what to do; None where the error does not say them apart.
    """

    kind: str
    message: str
    place: str | None
    fix: str | None
    exit_code: int


@dataclass(frozen=True, kw_only=True)
class Failed:
    """What a command prints under --json in place of its result."""

    error: Failure


def exit_code(error: BaseException) -> ExitCode:
    """The code of a command that an error ended."""
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    if type(error).__name__ == "JobSubmitted":  # by name: a light command need not import the runners
        return ExitCode.DONE
    if isinstance(error, PassError) and isinstance(error, (ValueError, LookupError, FileNotFoundError, ImportError)):
        return ExitCode.WRONG_INPUT
    return ExitCode.FAILED


def failure(error: BaseException) -> Failure:
    """What an error says.

    >>> failure(PassError("runs/x: no such dataset; check the path", place="runs/x", fix="check the path")).fix
    'check the path'
    """
    place, fix = (error.place, error.fix) if isinstance(error, PassError) else (None, None)
    message = str(error)
    if isinstance(error, KeyboardInterrupt):
        fix = "run the same command again: it goes on from what is committed"
        message = f"interrupted; what is committed stays; {fix}"
    return Failure(
        kind=type(error).__name__,
        message=hidden(message),
        place=None if place is None else hidden(place),
        fix=None if fix is None else hidden(fix),
        exit_code=int(exit_code(error)),
    )


def tell(error: BaseException, *, command: str, as_json: bool) -> int:
    """Say what ended a command: a line on standard error, under --json also an object on standard output."""
    found = failure(error)
    print(f"{command}: {found.message}", file=sys.stderr)
    if as_json:
        tell_json(found)
    return found.exit_code


def tell_json(found: Failure) -> None:
    """The object on standard output."""
    print(json.dumps(asdict(Failed(error=found)), indent=1))
