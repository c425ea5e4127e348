"""How a command that fails says so: an exit code, a line for people, and under --json one JSON object."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, dataclass
from enum import IntEnum

from pass_ops.errors import PassError
from pass_ops.support.secrecy import hidden

#: what a message's advice begins with
_ADVICE = (
    "add|begin|bring|cast|change|check|choose|delete|did you mean|do not|evaluate|give|install|leave|look|lower|make|"
    "mend|move|name|pip install|point|put|raise|read|remove|rename|restore|run|see|set|shorten|start|take|try|use|wait|"
    "write|it is one of|the choices are"
)
_FIX = re.compile(
    rf"(?:[;.]\s+)((?:(?:or|and|then|first|once \w+ \w+ \w+), )?(?:{_ADVICE})\b.*)", re.I | re.S
)
#: what a message is about: the option, key, file or URL that it begins with, or else the first path or URL in it
_PLACES = (
    re.compile(r"argument ([^:]+): "),
    re.compile(r"(--[\w-]+(?: [^\s:]+)?): "),
    re.compile(r"([^\s:]+(?:://[^\s:]*)?): "),
    re.compile(r"(?:.*?[\s(])??((?:\w+:/)?/[^\s:;,)]+)", re.DOTALL),
)


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

    def __init__(self, message: str, *, usage: str = "", prog: str = "passrl") -> None:
        super().__init__(message)
        self.usage, self.prog = usage, prog


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What ended a command.

    kind: the error's class. message: all there is to say. place: the option, key, file or URL that the message is
    about, where it names one. fix: the message's advice up to its end, where it has one. Both are taken out of the
    message by its form.
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
    """What an error says, taken apart by the form that messages have: place, fact, advice.

    >>> found = failure(PassError("runs/x is no dataset: it holds no _dataset.json; check the path"))
    >>> (found.place, found.fix)
    ('runs/x', 'check the path')
    """
    interrupted = isinstance(error, KeyboardInterrupt)
    message = "interrupted; what is committed stays, the same command goes on from there" if interrupted else str(error)
    message = hidden(message)
    place = next((found[1] for form in _PLACES if (found := form.match(message))), None)
    fix = _FIX.search(message)
    return Failure(
        kind=type(error).__name__,
        message=message,
        place=place,
        fix=fix[1].strip() if fix else None,
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
