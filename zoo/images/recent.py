"""Cache opened files of many frames while their frames are read one by one."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

Opened = TypeVar("Opened")
Key = tuple[tuple[str, int, int], ...]


def own_file(path: Path) -> tuple[Path, ...]:
    return (path,)


class Recent(Generic[Opened]):
    """A cache of the last opened files, of at most `limit_bytes` in total, but always with the last one.

    `files_of` lists the files that the content of a file depends on.

    It is thread-safe: one thread opens a file while the others wait, which bounds the memory. A forked child starts
    with an empty cache: it shares neither locks nor positions in open files with its parent.
    """

    def __init__(
        self,
        open_file: Callable[[Path], tuple[Opened, int]],
        limit_bytes: int,
        files_of: Callable[[Path], tuple[Path, ...]] = own_file,
    ) -> None:
        self.open_file, self.limit_bytes, self.files_of = open_file, limit_bytes, files_of
        self.forget()

    def forget(self) -> None:
        self.process = os.getpid()
        self.lock = threading.Lock()
        self.opened: OrderedDict[Key, tuple[Opened, int]] = OrderedDict()

    def __call__(self, path: Path) -> Opened:
        if self.process != os.getpid():
            self.forget()
        statuses = {file: file.stat() for file in self.files_of(path)}
        key = tuple((str(file), status.st_size, status.st_mtime_ns) for file, status in statuses.items())
        with self.lock:
            if key not in self.opened:
                while self.opened and sum(size for _, size in self.opened.values()) > self.limit_bytes // 2:
                    self.opened.popitem(last=False)  # before opening the next one: both would not fit
                self.opened[key] = self.open_file(path)
            self.opened.move_to_end(key)
            while len(self.opened) > 1 and sum(size for _, size in self.opened.values()) > self.limit_bytes:
                self.opened.popitem(last=False)
            return self.opened[key][0]
