"""Save the state of a training, so that an interrupted one continues bit for bit."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.system.caches import mark_used
from zoo.system.files import hash_bytes, hash_file, sync_folder, temporary_beside

EVERY_SECONDS = 60.0  # the most that is trained again; perf: saving takes .4 to .8 s for resnet18 and AdamW, 187 MB
State = dict[str, Any]  # tensors, numbers, strings, None, and lists, tuples and dicts of them


@dataclass(kw_only=True, eq=False)
class Checkpoints:
    """The checkpoints of one training, saved once a minute and on SIGTERM.

    The file name contains the digest of its content, so a damaged checkpoint is ignored. On a full disk the checkpoint
    is skipped and the run goes on.
    """

    folder: Path
    key: str  # hash of the run and of everything that determines its bits
    last: float = field(default_factory=time.monotonic)
    is_ending: bool = False  # SIGTERM was received

    def load(self) -> State | None:
        """Load the last state; None if there is none, or it is damaged."""
        import torch

        for path in self.files():
            with suppress(Exception):  # torch may raise anything on a damaged file
                if hash_file(path) == path.suffixes[0].removeprefix("."):
                    state: State = torch.load(path, weights_only=True, map_location="cpu")
                    mark_used(path)
                    return state
        return None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside the block, SIGTERM ends this process at the next `keep` instead of at once."""

        def note(*_: object) -> None:
            self.is_ending = True

        before = signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def keep(self, state: Callable[[], State]) -> None:
        """Save `state()` if a minute has passed or SIGTERM was received; after SIGTERM raise KeyboardInterrupt."""
        if not self.is_ending and time.monotonic() - self.last < EVERY_SECONDS:
            return
        with suppress(OSError, RuntimeError):  # torch raises a RuntimeError on a full disk
            self.save(state())
        if self.is_ending:
            raise KeyboardInterrupt
        self.last = time.monotonic()

    def save(self, state: State) -> None:
        """Write a state durably, then remove the previous one."""
        import torch

        old = self.files()
        with temporary_beside(self.folder / self.key) as temporary:
            with open(temporary, "wb") as stream:
                torch.save(state, stream)
                stream.flush()
                os.fsync(stream.fileno())
            path = self.folder / f"{self.key}.{hash_file(temporary)}.pt"
            temporary.replace(path)
        sync_folder(self.folder)
        for other in old:
            if other != path:
                other.unlink(missing_ok=True)

    def drop(self) -> None:
        """Delete the checkpoints, when the run is done or starts over."""
        for path in self.files():
            path.unlink(missing_ok=True)

    def files(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.key}.*.pt"))


def find_checkpoints(cache: Path, *identity: str) -> Checkpoints:
    """The checkpoints of a run; `identity` is its id, its results folder, and the versions of the libraries."""
    return Checkpoints(folder=cache / "checkpoints", key=hash_bytes(*identity)[:32])
