"""Every error a user can meet and mend, as one line that says what to do."""

from __future__ import annotations

import difflib
import errno
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

# What a command ends with; 0 where all is well, an error's own where one ended it (docs/command-line.md).
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
    """What an exception says; a plugin's own class may not even print."""
    try:
        return str(error)
    except Exception as second:
        return f"(its message cannot be shown: {type(second).__name__})"


class ZooError(Exception):
    """Something a user can mend: `message` says what was met, `fix` what to do about it."""

    code = "error"
    exit_status = EXIT_USAGE

    def __init__(self, message: str, *, fix: str = "", code: str = "") -> None:
        super().__init__(message)
        self.message = clean(message)
        self.fix = clean(fix)
        if code:
            self.code = code

    def line(self) -> str:
        """The one line that is printed: `zoo: error[CODE] WHAT: cause; fix: what to do`."""
        return f"zoo: error[{self.code}] {self.message}" + (f"; fix: {self.fix}" if self.fix else "")

    def __str__(self) -> str:
        return self.message + (f"; fix: {self.fix}" if self.fix else "")


def without_name(text: str, name: str) -> str:
    """What is said of a dataset for a line that names it in front: without `dataset 'dots':`, and "it" for the name."""
    rest = text.removeprefix(clean(f"dataset {name!r}"))
    return text if rest == text else rest.removeprefix(": ") if rest.startswith(":") else f"it{rest}"


class UsageError(ZooError):
    """An unknown name, a bad flag or suite, or nothing selected."""

    code, exit_status = "usage", EXIT_USAGE


class PluginError(ZooError):
    """A plugin that was asked for and cannot serve."""

    code, exit_status = "plugin", EXIT_USAGE


class WeightsError(ZooError):
    """Pretrained weights that cannot be had or do not fit; found before anything starts."""

    code, exit_status = "weights", EXIT_USAGE


class DataError(ZooError):
    """Data that cannot be read or must not be benchmarked: the file or row is named."""

    code, exit_status = "data", EXIT_NOTHING_RAN


class RunError(ZooError):
    """A run that failed for a reason worth one line (wrong output shape, loss not finite)."""

    code, exit_status = "run", EXIT_SOME_FAILED


class ResultsError(ZooError):
    """A results folder that is full, read-only, not a folder, or written by a newer zoo."""

    code, exit_status = "results", EXIT_RESULTS


NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}


@contextmanager
def room_needed() -> Iterator[None]:
    """Make of a disk that takes no more what it is: nothing of ours, and mended in a minute."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        mend = "make room (`zoo cache list` shows what the cache holds)"
        if error.errno == errno.EFBIG:
            mend = "raise the limit on the size of files (`ulimit -f`)"
        raise ResultsError(
            f"{error.filename or 'a disk'}: {error.strerror}",
            fix=f"{mend}; the same command then goes on",
            code="no-room",
        ) from error


class VerifyError(ZooError):
    """A bundle that differs from what its own predictions or manifest say."""

    code, exit_status = "bundle-differs", EXIT_SOME_FAILED


class Undefined(Exception):  # noqa: N818 - it is an answer, not a fault
    """Raised by a metric whose value does not exist for these predictions; the message is the reason."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "Did you mean 'a' or 'b'?" for the names closest to `name`, or an empty string."""
    matches = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """An error for a `name` that no plugin offers, with the nearest ones that exist."""
    names = sorted(known)
    hint = nearest(name, names)
    listing = f"`zoo list {kind}s` shows the {len(names)} installed"
    return UsageError(f"unknown {kind} {name!r}", fix=f"{hint} {listing}".strip(), code=f"unknown-{kind}")
