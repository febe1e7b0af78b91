"""A file of many frames to what was opened of it, kept while its frames are asked for one after the other."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

Opened = TypeVar("Opened")
Key = tuple[str, int, int]


class Recent(Generic[Opened]):
    """The files opened last, while together they take at most `limit_bytes`; the very last one always.

    Safe to call from several threads: one opens, the others wait, so that memory stays bounded. A forked child starts
    empty: it shares neither locks nor positions in open files with its parent.
    """

    def __init__(self, open_file: Callable[[Path], tuple[Opened, int]], limit_bytes: int) -> None:
        self.open_file, self.limit_bytes = open_file, limit_bytes
        self.forget()

    def forget(self) -> None:
        self.process = os.getpid()
        self.lock = threading.Lock()
        self.opened: OrderedDict[Key, tuple[Opened, int]] = OrderedDict()

    def __call__(self, path: Path) -> Opened:
        if self.process != os.getpid():
            self.forget()
        status = path.stat()
        key = (str(path), status.st_size, status.st_mtime_ns)
        with self.lock:
            if key not in self.opened:
                while self.opened and sum(size for _, size in self.opened.values()) > self.limit_bytes // 2:
                    self.opened.popitem(last=False)  # before the next one comes in: both would not fit
                self.opened[key] = self.open_file(path)
            self.opened.move_to_end(key)
            while len(self.opened) > 1 and sum(size for _, size in self.opened.values()) > self.limit_bytes:
                self.opened.popitem(last=False)
            return self.opened[key][0]
