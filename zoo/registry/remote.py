"""Work in a file, which `zoo worker` carries out on this machine or another one.

The file is one line of JSON, the versions of the machine that wrote it, followed by the pickled work. The messages of
the work are appended to a second file, one JSON document per line; the last one says how the work ended. A machine that
does not share the folder gets the content of the first file, and returns that of the second one and of a third one, the
parcel of results.
"""

from __future__ import annotations

import json
import os
import pickle
import platform
import signal
import stat
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, Generic

from zoo.errors import RunError, UsageError
from zoo.registry.finding import find_plugins
from zoo.registry.parcels import pack_runs, unpack_runs
from zoo.system.files import written_whole
from zoo.system.locks import is_locked, lock_of, locked
from zoo.system.machine import requirements_of, versions
from zoo.system.workers import Event, Notify, Work, carry_out_one, end_with

OTHER_MACHINE = ("other-versions", "other-data")  # codes of errors of a machine, not of a run
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class RemoteWork(Generic[Work]):
    """Work that is carried out by a command on another machine, and its events as they arrive in the folder.

    The folder is one in the results folder. If the other machine does not share it, its executor writes the content of
    the file there, adds the option `--apart` to the command, and appends what arrives beside that file, `.parcel`
    before the end of `.log`, to `parcel` and `log` here.
    """

    def __init__(self, work: Work, carry_out: Callable[[Work, str, Notify], None], device: str, folder: Path) -> None:
        self.work, self.device, self.offset, self.has_ended = work, device, 0, False
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder.resolve() / f"{uuid.uuid4().hex}.work"
        header = json.dumps({"schema": 1, "versions": environment()}).encode()
        with written_whole(self.path) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_bytes(header + b"\n" + pickle.dumps((carry_out, work, device)))

    @property
    def log(self) -> Path:
        """The file of its messages, one JSON document per line."""
        return log_of(self.path)

    @property
    def parcel(self) -> Path:
        """The file of results that were sent here."""
        return parcel_of(self.path)

    @property
    def command(self) -> list[str]:
        """The command that carries out the work. It may run again: it continues, or returns at once if all is done."""
        return [sys.executable, "-m", "zoo", "worker", str(self.path)]

    @property
    def is_taken(self) -> bool:
        """Whether a worker carries it out now. It may belong to a job that its engine has lost."""
        return is_locked(lock_of(self.path))

    def events(self) -> Iterator[Event[Work]]:
        """Yield the events since the last call. Raises RunError if versions or data on the other machine differ."""
        for message in self.read():
            if message.get("code") in OTHER_MACHINE:
                raise RunError(message["message"], fix=message["fix"], code=message["code"])
            self.has_ended = message.pop("kind") == "ended"
            if self.has_ended:
                if self.parcel.exists():
                    unpack_runs(self.parcel, self.path.parent.parent)
                yield Event(work=self.work, kind="ended", **message)
                return
            yield Event(work=self.work, kind="progress", details=message)

    def read(self) -> Iterator[dict[str, Any]]:
        with suppress(FileNotFoundError), open(self.log, "rb") as stream:
            stream.seek(self.offset)
            for line in stream:
                if not line.endswith(b"\n"):  # it is still being written
                    return
                self.offset += len(line)
                if message := parse_message(line):
                    yield message

    def remove(self) -> None:
        """Delete its files."""
        for path in (self.path, self.log, self.parcel, lock_of(self.path)):  # a killed worker leaves its lock
            path.unlink(missing_ok=True)


class MessageLog:
    """Append messages to the log of a file of work, as long as that file exists."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stream = open(log_of(path), "a", encoding="utf-8")  # noqa: SIM115 - until the process ends
        self.stream.write("\n")  # a killed worker may have left an unfinished line

    def send(self, message: dict[str, Any]) -> None:
        """Append a message. End this process if nobody follows the work any more: its bench has removed the file."""
        if not self.path.exists():
            os.kill(os.getpid(), signal.SIGTERM)  # training saves its state
        self.stream.write(json.dumps(message, default=float) + "\n")
        self.stream.flush()


def log_of(path: Path) -> Path:
    return path.with_suffix(".log")


def parcel_of(path: Path) -> Path:
    return path.with_suffix(".parcel")


def parse_message(line: bytes) -> dict[str, Any] | None:
    """A message of a log; None for an empty line, or one that a killed worker left unfinished."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


@cache
def environment() -> dict[str, str]:
    """The versions that must be equal on all machines: of Python, zoo, its plugins and what they require."""
    plugins = {plugin.name: plugin.version for plugin in find_plugins()}
    return {**versions(*requirements_of(plugins)), **plugins}


def carry_out_file(path: Path, *, apart: bool = False) -> dict[str, Any]:
    """Carry out the work of a file, as a worker process of the local executor does, and return how it ended.

    With `apart`, no folder is shared with the bench: the results are packed into a file beside that of the work. Work
    that has ended is not repeated. Raises UsageError if another worker carries it out at the moment, and RunError if
    the versions here differ from those of the machine that wrote the file.
    """
    from filelock import Timeout

    header, _, pickled = read_own(path).partition(b"\n")
    try:
        expected = json.loads(header)["versions"]
    except (ValueError, TypeError, KeyError):
        raise UsageError(f"{path}: not a file of work", fix="pass a file that `zoo bench` wrote") from None
    try:
        with locked(lock_of(path), timeout=0):
            return find_end(path) or carry_out_pickled(pickled, expected, MessageLog(path), apart=apart)
    except Timeout:
        raise UsageError(f"{path}: another worker carries it out", fix="wait for it", code="work-taken") from None


def carry_out_pickled(pickled: bytes, expected: dict[str, str], messages: MessageLog, *, apart: bool) -> dict[str, Any]:
    """Carry out pickled work if the versions here are the expected ones."""
    if error := compare_versions(expected):
        messages.send({"kind": "ended", "status": "failed", **error.describe()})
        raise error
    carry_out, work, device = pickle.loads(pickled)
    end_with(os.getppid())
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as in a child of the local executor: training saves its state
    if apart:
        carry_out = partial(carry_out_apart, carry_out, path=messages.path)
    ended = carry_out_one(carry_out, work, device, messages.send)
    messages.send(ended)
    return ended


def carry_out_apart(carry_out: Callable[..., None], work: Any, device: str, notify: Notify, *, path: Path) -> None:
    """Carry out work with a results folder beside its file, and pack what was written there, also by a failure."""
    results = path.with_suffix(".results")
    try:
        carry_out(work, device, notify, results=results)
    finally:
        if results.exists():
            pack_runs(results, parcel_of(path))


def compare_versions(expected: dict[str, str]) -> RunError | None:
    """The error for the first version that is not the expected one."""
    here = environment()
    for name in sorted({*expected, *here}):
        if expected.get(name) != here.get(name):
            return RunError(
                f"{platform.node()} has {name} {here.get(name, 'not installed')}, the machine of the bench "
                f"{expected.get(name, 'not installed')}",
                fix="install the same versions and plugins on every machine",
                code="other-versions",
            )
    return None


def read_own(path: Path) -> bytes:
    """The content of a file that only this user can change, because a pickle can execute code."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file", fix="pass a file that `zoo bench` wrote")
    with suppress(PermissionError), open(path, "rb") as stream:
        status = os.fstat(stream.fileno())  # of the open file: somebody may replace the path after a check
        if os.name != "posix" or (status.st_uid == os.getuid() and not status.st_mode & OTHERS_WRITE):
            return stream.read()
    raise UsageError(
        f"{path}: another user owns it or can change it", fix="pass a file that your own `zoo bench` wrote"
    )


def find_end(path: Path) -> dict[str, Any] | None:
    """The last message of work that has ended."""
    try:
        lines = log_of(path).read_bytes().splitlines()
    except FileNotFoundError:
        return None
    messages = [message for line in lines if (message := parse_message(line))]
    return messages[-1] if messages and messages[-1]["kind"] == "ended" else None
