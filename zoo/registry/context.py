"""The surroundings of a command: installed plugins, settings and console."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zoo.registry.lookup import Registry
from zoo.system.progress import Console
from zoo.system.settings import Settings


@dataclass(frozen=True, kw_only=True, eq=False)
class Context:
    """What the stages of a command share, from planning to timing."""

    registry: Registry
    settings: Settings
    console: Console
    emit: Callable[[Mapping[str, Any]], None] = lambda event: None  # noqa: ARG005 - sends an event to the observers
