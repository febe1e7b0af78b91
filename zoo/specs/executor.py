"""Executor specs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ExecutorSpec:
    """A way to execute runs. Provisional: its options may change.

    `execute(works, carry_out, devices=..., reuse=..., timeout=..., fail_fast=..., fits=..., more=...)` is a generator
    whose keyword arguments are fields of `zoo.system.workers.ExecutorOptions`. It yields a `zoo.Event` for everything
    that happens to the works, and an empty progress event after a second without any. A failed work is an event, not
    an exception. Closing the generator ends all work.

    With `remote`, works are carried out elsewhere: `carry_out` and the works can be pickled, and `execute` also
    receives `folder=`, a folder in the results folder. `zoo.RemoteWork` makes a command of each work, and
    `zoo.execute_on` carries the commands out as jobs of a `zoo.Engine`.
    """

    name: str
    execute: Callable[..., Any]
    title: str = ""
    remote: bool = False
