"""From a training that is interrupted to one that goes on where it was, bit for bit."""

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

EVERY_SECONDS = 60.0  # at most so much is trained again; perf: .4 to .8 s for the 187 MB of a resnet18 with AdamW
State = dict[str, Any]  # tensors, numbers, texts, None, and lists, tuples and dicts of them


@dataclass(kw_only=True, eq=False)
class Checkpoints:
    """Where one training keeps its state once a minute, and when it is told to end.

    The file is named by the run and by its own digest: what is damaged is not gone on from. A disk without room costs
    the checkpoint, not the run.
    """

    folder: Path
    key: str  # of the run, and of all that its bits follow from
    last: float = field(default_factory=time.monotonic)
    told_to_end: bool = False

    def load(self) -> State | None:
        """The state last kept; None where there is none, or it is damaged."""
        import torch

        for path in self.files():
            with suppress(Exception):  # what a damaged file makes torch raise cannot be listed
                if hash_file(path) == path.suffixes[0].removeprefix("."):
                    state: State = torch.load(path, weights_only=True, map_location="cpu")
                    mark_used(path)
                    return state
        return None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside the block SIGTERM ends this process at the next `keep`, not at once."""

        def note(*_: object) -> None:
            self.told_to_end = True

        before = signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def keep(self, state: Callable[[], State]) -> None:
        """Keep `state()` where a minute has passed, or this process is to end; which it then does."""
        if not self.told_to_end and time.monotonic() - self.last < EVERY_SECONDS:
            return
        with suppress(OSError, RuntimeError):  # no room: torch makes a RuntimeError of it
            self.save(state())
        if self.told_to_end:
            raise KeyboardInterrupt
        self.last = time.monotonic()

    def save(self, state: State) -> None:
        """Write a state durably, and then remove the one before."""
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
        """The run is done, or begun anew: nothing of it is gone on from."""
        for path in self.files():
            path.unlink(missing_ok=True)

    def files(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.key}.*.pt"))


def find_checkpoints(cache: Path, *identity: str) -> Checkpoints:
    """The checkpoints of what `identity` names: the run, its results folder, the versions of whatever computes."""
    return Checkpoints(folder=cache / "checkpoints", key=hash_bytes(*identity)[:32])
