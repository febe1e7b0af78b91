"""Run a command line and turn every outcome, errors included, into an exit status."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click
from click.shell_completion import shell_complete

from zoo.cli.commands import zoo
from zoo.cli.terminal import tell
from zoo.errors import (
    EXIT_BUG,
    EXIT_SIGHUP,
    EXIT_SIGINT,
    EXIT_SIGTERM,
    EXIT_USAGE,
    ResultsError,
    RunError,
    UsageError,
    ZooError,
    clean,
    convert_disk_errors,
)

COMPLETION = "_ZOO_COMPLETE"  # set by a shell that asks for completions, as in `_ZOO_COMPLETE=bash_source zoo`
SPENT = {errno.EMFILE, errno.ENFILE, errno.EAGAIN}
NO_MEMORY = re.compile("cannot allocate memory|failed to map segment", re.IGNORECASE)


class Terminated(BaseException):
    """Raised on SIGTERM, and on SIGHUP when a terminal is closed, so that child processes are ended."""


def terminate(number: int, _: Any) -> NoReturn:
    raise Terminated(number)


def run_main() -> NoReturn:
    """Run the command line of this process and exit."""
    # perf: importing torch, timm, scikit-learn and pandas creates hundreds of thousands of objects; searching them for
    # cycles every 700 allocations costs 0.9 s (6.1 s instead of 5.2 s)
    gc.set_threshold(100_000, 50, 50)
    for name in ("stdout", "stderr"):  # closed by the parent: `zoo list models >&-`
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the process ends
    for stream in (sys.stdout, sys.stderr):  # a character outside the terminal's encoding must not end a bench
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    end = os._exit
    os._exit = partial(refuse_to_end, end, os.getpid())  # type: ignore[assignment]
    status = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # the reader left or the disk is full
            stream.flush()
    # perf: skips the teardown of torch and scikit-learn, 1 to 3 s without effect
    end(status)


def refuse_to_end(end: Callable[[int], NoReturn], process: int, status: int) -> NoReturn:
    """Replace `os._exit`, with which a plugin could end a bench with status 0 and nothing done."""
    if os.getpid() != process:
        end(status)
    raise SystemExit(status)


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit status; an error is one line on stderr."""
    as_json = "--json" in arguments
    command = " ".join([a for a in arguments if not a.startswith("-")][: 2 if "plugin" in arguments[:1] else 1])
    # only a bench leaves finished runs from which the same command continues
    resumable = "; finished runs are kept, and the same command continues from there" if command == "bench" else ""
    if instruction := os.environ.get(COMPLETION):
        return shell_complete(zoo, {}, "zoo", COMPLETION, instruction)
    signal.signal(signal.SIGTERM, terminate)
    if os.name == "posix" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` has it
        signal.signal(signal.SIGHUP, terminate)
    # Pillow prints warnings about images that zoo refuses and EXIF tags that zoo does not read.
    warnings.filterwarnings("ignore", module=r"PIL\b")
    try:
        if command.partition(" ")[0] not in ("list", "plugin"):
            require_folder()
        with convert_disk_errors():
            status = zoo.main(args=list(arguments), prog_name="zoo", standalone_mode=False)
            sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except ZooError as error:
        return report_error(error, command, as_json)
    except click.exceptions.NoArgsIsHelpError as error:  # `zoo` without a command
        tell(error.ctx.get_help() if error.ctx else "")
        return EXIT_USAGE
    except click.ClickException as error:
        hint = f"`zoo {command} --help`" if command.partition(" ")[0] in zoo.commands else "`zoo --help`"
        return report_error(
            UsageError(" ".join(error.format_message().split()).rstrip("."), fix=hint), command, as_json
        )
    except (KeyboardInterrupt, click.Abort):
        tell(f"\nzoo: stopped{resumable}")
        return EXIT_SIGINT
    except Terminated as error:
        tell(f"zoo: terminated{resumable}")
        return EXIT_SIGTERM if error.args[0] == signal.SIGTERM else EXIT_SIGHUP
    except BrokenPipeError:  # the reader of our output left: `zoo list models | head`
        return 0
    except SystemExit as error:  # from click if the reader left; else from a plugin, and never success
        return error.code if isinstance(error.code, int) and error.code else EXIT_BUG
    except Exception as error:
        if expected := explain_exception(error):
            return report_error(expected, command, as_json)
        import traceback

        tell(
            traceback.format_exc() + "zoo: this is a bug in zoo; please report it with the lines above and `zoo doctor`"
        )
        return EXIT_BUG


def explain_exception(error: Exception) -> ZooError | None:
    """The error to report for an exception whose cause is the system or a file; None for a bug in zoo."""
    if isinstance(error, OSError) and error.errno in SPENT:
        return RunError(f"the system: {error.strerror}", fix="raise it: `ulimit -n`, `ulimit -u`", code="limit")
    if isinstance(error, OSError) and error.filename is not None:
        fix = "check that it can be read and written and has the format of its name"
        return ResultsError(f"{error.filename}: {error.strerror}", fix=fix, code="unusable")
    if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
        return RunError(f"out of memory: {clean(error)[:200]}", fix="free some, or raise `ulimit -v`", code="oom")
    return None


def require_folder() -> None:
    """Raise UsageError if the working folder was removed: libraries imported later would crash."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise UsageError("the working folder was removed", fix="cd to an existing folder") from error


def report_error(error: ZooError, command: str, as_json: bool) -> int:
    """Print an error on stderr, with `--json` also as a document on stdout; return its exit status."""
    tell(error.line())
    if as_json:
        described = error.describe()
        with contextlib.suppress(OSError):
            click.echo(json.dumps({"schema": 1, "command": command, "error": described}))
    return error.exit_status
