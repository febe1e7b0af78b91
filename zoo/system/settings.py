"""Settings of a bench that are not part of its suite."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from zoo.system.files import cache_root

KeepWeights = Literal["best", "all", "none"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a bench that are not part of its suite. Only device and threads affect the result of a run."""

    results: Path = Path("results")
    cache: Path = field(default_factory=cache_root)
    weights_dir: Path | None = None
    keep_weights: KeepWeights = "best"
    device: str = "auto"
    threads: int = 1
    workers: int | None = None
    executor: str = "local"
    observers: tuple[str, ...] = ()
    run_timeout: float | None = None
    offline: bool = False
    fresh: bool = False
    fail_fast: bool = False
