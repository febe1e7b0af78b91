"""From the words of a command line to an exit status, whatever happens on the way."""

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
    room_needed,
)

SPENT = {errno.EMFILE, errno.ENFILE, errno.EAGAIN}
NO_MEMORY = re.compile("cannot allocate memory|failed to map segment", re.IGNORECASE)


class Terminated(BaseException):
    """Raised by SIGTERM, and by SIGHUP where a terminal is closed, so that children are ended on the way out."""


def terminate(number: int, _: Any) -> NoReturn:
    raise Terminated(number)


def run_main() -> NoReturn:
    """Run the words this process was started with, and end it."""
    # perf: importing torch, timm, scikit-learn and pandas makes objects by the hundred thousand, looked through for
    # cycles every 700: 5.2 s instead of 6.1
    gc.set_threshold(100_000, 50, 50)
    for name in ("stdout", "stderr"):  # closed by whoever started it: `zoo list models >&-`
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the process ends
    for stream in (sys.stdout, sys.stderr):  # a name that this terminal's encoding lacks must not end a bench
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    end = os._exit
    os._exit = partial(refuse_to_end, end, os.getpid())  # type: ignore[assignment]
    status = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # said by now, where its reader left or its disk is full
            stream.flush()
    # perf: Python takes torch and scikit-learn down piece by piece, 1 to 3 s in which nothing is left to be done
    end(status)


def refuse_to_end(end: Callable[[int], NoReturn], process: int, status: int) -> NoReturn:
    """In the place of `os._exit`, by which a plugin would end a bench with status 0 and nothing done."""
    if os.getpid() != process:
        end(status)
    raise SystemExit(status)


def run(arguments: Sequence[str]) -> int:
    """Carry out a command line; whatever happens becomes an exit status and, where something is wrong, one line."""
    as_json = "--json" in arguments
    command = " ".join([a for a in arguments if not a.startswith("-")][: 2 if "plugin" in arguments[:1] else 1])
    # Of the other commands nothing is half done that would be gone on with.
    kept = "; what was done is kept, the same command goes on from there" if command == "bench" else ""
    signal.signal(signal.SIGTERM, terminate)
    if os.name == "posix" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` has it
        signal.signal(signal.SIGHUP, terminate)
    # Pillow warns in lines of its own of what zoo refuses in one, and of EXIF tags that zoo does not read.
    warnings.filterwarnings("ignore", module=r"PIL\b")
    try:
        if command.partition(" ")[0] not in ("list", "plugin"):
            require_folder()
        with room_needed():
            status = zoo.main(args=list(arguments), prog_name="zoo", standalone_mode=False)
            sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except ZooError as error:
        return complain(error, command, as_json)
    except click.exceptions.NoArgsIsHelpError as error:  # `zoo` alone asks what there is
        tell(error.ctx.get_help() if error.ctx else "")
        return EXIT_USAGE
    except click.ClickException as error:
        hint = f"`zoo {command} --help`" if command.partition(" ")[0] in zoo.commands else "`zoo --help`"
        return complain(UsageError(" ".join(error.format_message().split()).rstrip("."), fix=hint), command, as_json)
    except (KeyboardInterrupt, click.Abort):
        tell(f"\nzoo: stopped{kept}")
        return EXIT_SIGINT
    except Terminated as error:
        tell(f"zoo: terminated{kept}")
        return EXIT_SIGTERM if error.args[0] == signal.SIGTERM else EXIT_SIGHUP
    except BrokenPipeError:  # the reader of our output left: `zoo list models | head`
        return 0
    except SystemExit as error:  # click, where the reader left; else a plugin, which must not end well what is not done
        return error.code if isinstance(error.code, int) and error.code else EXIT_BUG
    except Exception as error:
        if isinstance(error, OSError) and error.errno in SPENT:
            spent = RunError(f"the system: {error.strerror}", fix="raise it: `ulimit -n`, `ulimit -u`", code="limit")
            return complain(spent, command, as_json)
        if isinstance(error, OSError) and error.filename is not None:
            fix = "see that it can be read and written, and is what its name says"
            return complain(
                ResultsError(f"{error.filename}: {error.strerror}", fix=fix, code="unusable"), command, as_json
            )
        if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
            spent = RunError(f"out of memory: {clean(error)[:200]}", fix="free some, or raise `ulimit -v`", code="oom")
            return complain(spent, command, as_json)
        import traceback

        tell(
            traceback.format_exc() + "zoo: this is a bug in zoo; please report it with the lines above and `zoo doctor`"
        )
        return EXIT_BUG


def require_folder() -> None:
    """Raise where the working folder was removed: libraries that are imported later end the process over it."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise UsageError("the working folder is no more", fix="cd to one that is there") from error


def complain(error: ZooError, command: str, as_json: bool) -> int:
    """Say what is wrong on stderr, and with `--json` as a document on stdout too; return the exit status."""
    tell(error.line())
    if as_json:
        found = {"code": error.code, "message": error.message, "fix": error.fix}
        with contextlib.suppress(OSError):
            click.echo(json.dumps({"schema": 1, "command": command, "error": found}))
    return error.exit_status
