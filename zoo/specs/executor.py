"""Specs of executors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class ExecutorSpec:
    """Where runs are carried out. Provisional until a second executor ships.

    `execute(works, carry_out, devices=..., reuse=..., timeout=..., fail_fast=..., fits=..., more=...)`, whose arguments
    `zoo.system.workers.execute` describes, yields a `zoo.Event` for all that happens to the works, and one with
    nothing to tell where a second has passed without; a failed work is an event, not an exception. It is a generator:
    closing it ends all.
    """

    name: str
    execute: Callable[..., Any]
    title: str = ""
