"""The errors a user can fix. Each is one line: what happened and how to fix it."""

from __future__ import annotations

import difflib
import errno
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

# Exit statuses of a command (docs/command-line.md); 0 is success. Each error class below has its own.
EXIT_BUG, EXIT_USAGE, EXIT_SOME_FAILED, EXIT_NOTHING_RAN, EXIT_RESULTS = 1, 2, 3, 4, 5
EXIT_SIGHUP, EXIT_SIGINT, EXIT_SIGTERM = 129, 130, 143


def clean(text: object) -> str:
    """Return `text` on one line, with control and bidirectional-override characters made visible.

    A file name or a CSV cell may hold escape sequences that would drive the reader's terminal.
    """
    return "".join(
        character if unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co"} else f"\\x{ord(character):02x}"
        for character in str(text)
    )


def message_of(error: BaseException) -> str:
    """The message of an exception. The `__str__` of a plugin's own exception class may fail."""
    try:
        return str(error)
    except Exception as failure:
        return f"(its message cannot be shown: {type(failure).__name__})"


def dataset_subject(name: str) -> str:
    return f"dataset {name!r}"


class ZooError(Exception):
    """An error that a user can fix: `message` says what happened, `fix` how to fix it.

    `subject` is what the message is about, a file or "dataset 'dots'", and precedes it.
    """

    code = "error"
    exit_status = EXIT_USAGE

    def __init__(self, message: str, *, subject: object = "", fix: str = "", code: str = "") -> None:
        super().__init__(message)
        self.subject, self.problem = clean(subject), clean(message)
        self.message = f"{self.subject}: {self.problem}" if self.subject else self.problem
        self.fix = clean(fix)
        if code:
            self.code = code

    def describe(self) -> dict[str, str]:
        """Return the error as plain data, for results and JSON documents."""
        return {"code": self.code, "message": self.message, "fix": self.fix}

    def line(self) -> str:
        """The printed line: `zoo: error[CODE] MESSAGE; fix: FIX`."""
        return f"zoo: error[{self.code}] {self}"

    def message_below(self, subject: object) -> str:
        """The message for a line that already names a subject."""
        return self.problem if self.subject == clean(subject) else self.message

    def __str__(self) -> str:
        return with_fix(self.message, self.fix)


def with_fix(message: str, fix: str) -> str:
    return f"{message}; fix: {fix}" if fix else message


class UsageError(ZooError):
    """An unknown name, a bad flag or suite, or nothing selected."""

    code, exit_status = "usage", EXIT_USAGE


class PluginError(ZooError):
    """A requested plugin that cannot be used."""

    code, exit_status = "plugin", EXIT_USAGE


class WeightsError(ZooError):
    """Pretrained weights that are not available or do not fit the model. Raised before any run starts."""

    code, exit_status = "weights", EXIT_USAGE


class DataError(ZooError):
    """Data that cannot be read or must not be benchmarked. The message names the file or row."""

    code, exit_status = "data", EXIT_NOTHING_RAN


class RunError(ZooError):
    """A run that failed for a known reason, such as a wrong output shape or a loss that is not finite."""

    code, exit_status = "run", EXIT_SOME_FAILED


class ResultsError(ZooError):
    """A results folder that is full, read-only, not a folder, or written by a newer version of zoo."""

    code, exit_status = "results", EXIT_RESULTS


DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}


@contextmanager
def convert_disk_errors() -> Iterator[None]:
    """Turn the OSError of a full or read-only disk into a ResultsError.

    This is not a bug in zoo: free some disk space and run again.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        fix = "free some disk space (`zoo cache list` shows what the cache holds)"
        if error.errno == errno.EFBIG:
            fix = "raise the limit on file sizes (`ulimit -f`)"
        raise ResultsError(
            f"{error.filename or 'a disk'}: {error.strerror}",
            fix=f"{fix}, then run the same command again: it continues",
            code="no-room",
        ) from error


class VerifyError(ZooError):
    """A bundle that does not match its own predictions or manifest."""

    code, exit_status = "bundle-differs", EXIT_SOME_FAILED


class Undefined(Exception):  # noqa: N818 - a valid outcome, not an error
    """Raised by a metric that has no value for these predictions; the message is the reason."""


def plural_of(word: str) -> str:
    """The plural of an English noun: `patients`, `losses`, `studies`, `children`."""
    if word.endswith("child"):
        return f"{word}ren"
    if word.endswith("y") and word[-2:-1] not in tuple("aeiou"):
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith(("s", "x", "ch", "sh")) else f"{word}s"


def nearest(name: str, names: Iterable[str]) -> str:
    """Return "Did you mean 'a' or 'b'?" for the names closest to `name`, or an empty string."""
    matches = difflib.get_close_matches(name, list(names), n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""


def unknown(kind: str, name: str, names: Iterable[str]) -> UsageError:
    """The error for a `name` that no plugin registers, with the nearest of the `names` that exist."""
    installed = sorted(names)
    hint = nearest(name, installed)
    listing = f"`zoo list {plural_of(kind)}` shows the {len(installed)} installed"
    return UsageError(f"unknown {kind} {name!r}", fix=f"{hint} {listing}".strip(), code=f"unknown-{kind}")
