"""Keep the identities of the last plan of a results folder, for `zoo why`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from zoo.results.runs import Run
from zoo.system.files import cache_root, hash_bytes, read_regular, write_json


def plan_path(results: Path) -> Path:
    """Where the identities of the last plan for a results folder are kept: in the cache, a dry run leaves no folder."""
    return cache_root() / "plans" / f"{hash_bytes(str(results.resolve()))[:16]}.json"


def save_plan(runs: Sequence[Run], results: Path) -> None:
    """Keep it where that is possible: what was done does not depend on it."""
    with suppress(OSError):
        write_json(plan_path(results), {run.id: run.identity for run in runs})


def load_plan(results: Path) -> dict[str, dict[str, Any]]:
    """The identities of the last plan by run id; empty where there is none."""
    try:
        plan = json.loads(read_regular(plan_path(results)))
    except (OSError, ValueError, RecursionError):
        return {}
    return {run: known for run, known in plan.items() if isinstance(known, dict)} if isinstance(plan, dict) else {}
