"""Store the run identities of the last plan for a results folder, for `zoo why`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from zoo.results.runs import Run
from zoo.system.files import cache_root, hash_bytes, read_regular, write_json


def plan_path(results: Path) -> Path:
    """Return the path of the plan in the cache, because a dry run creates no results folder."""
    return cache_root() / "plans" / f"{hash_bytes(str(results.resolve()))[:16]}.json"


def save_plan(runs: Sequence[Run], results: Path) -> None:
    """Store the identities; write errors are ignored, since no run depends on them."""
    with suppress(OSError):
        write_json(plan_path(results), {run.id: run.identity for run in runs})


def load_plan(results: Path) -> dict[str, dict[str, Any]]:
    """Return the identities of the last plan by run id, or {} if there is no plan."""
    try:
        plan = json.loads(read_regular(plan_path(results)))
    except (OSError, ValueError, RecursionError):
        return {}
    return (
        {run_id: value for run_id, value in plan.items() if isinstance(value, dict)} if isinstance(plan, dict) else {}
    )
