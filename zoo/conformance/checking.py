"""Checks and their subjects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.registry.lookup import Kind
from zoo.specs.hooks import KINDS


class Inapplicable(Exception):  # noqa: N818 - not an error
    """There is nothing for a check to check, for this reason."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckedSpec:
    """A spec, with what its checks need besides."""

    spec: Any
    folder: Path | None = None  # of the data of a dataset, or of files for a reader
    module: str = ""  # of the plugin; default: that of the spec's first callable

    @property
    def kind(self) -> Kind:
        return next(kind for kind, spec_type in KINDS.items() if isinstance(self.spec, spec_type))


@dataclass(frozen=True, kw_only=True)
class Check:
    """One claim about a spec. Its id never changes, because plugins name it in their lists of expected failures.

    `run` raises AssertionError if the claim is false, and Inapplicable if there is nothing to check.
    """

    id: str
    claim: str
    run: Callable[[CheckedSpec], None]
    of_plugin: bool = False  # the same for every spec of a plugin
