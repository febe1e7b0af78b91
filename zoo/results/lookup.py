"""Find stored and planned runs by id, for `zoo info runs` and `zoo why`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.errors import UsageError, nearest
from zoo.registry.lookup import Registry
from zoo.system.progress import Console


def describe_run(run_id: str, root: Path, registry: Registry) -> dict[str, Any]:
    """Describe a stored run: inputs, hashes, versions, and the computation of each score and interval."""
    from zoo.results.provenance import trace_run

    return trace_run(find_run(run_id, stored_results(root)), registry.metrics)


def stored_results(root: Path) -> list[Any]:
    """Load all readable results; print a warning for each damaged one."""
    from zoo.results.store import load_result, load_results

    # Without the check of predictions: `trace_run` reports faults of the requested run.
    results, damaged = load_results(root, load_result) if root.is_dir() else ([], [])
    for line in damaged:
        Console().warn(f"skipped: {line}")
    return results


def find_run(run_id: str, results: Sequence[Any]) -> Any:
    """Return the only run whose id begins with `run_id`."""
    # Keyed by id: a run is stored twice if `--set` repeats the protocol's own value.
    matches = {r.id: r for r in results if r.id.startswith(run_id)} if len(run_id) >= 4 else {}
    if len(matches) != 1:
        raise unknown_run(run_id, list(matches), [result.id[:8] for result in results])
    return next(iter(matches.values()))


def unknown_run(run_id: str, matches: Sequence[str], ids: Sequence[str]) -> UsageError:
    if len(matches) > 1:
        return UsageError(f"run {run_id!r} is ambiguous: {len(matches)} ids begin with it", fix="use more characters")
    if len(run_id) < 4:
        return UsageError(f"run {run_id!r}: too short", fix="use at least 4 characters of the id")
    fix = f"{nearest(run_id, sorted(ids))} `zoo bench --dry-run` prints ids".strip()
    return UsageError(f"unknown run {run_id!r}", fix=fix, code="unknown-run")


def explain_run(run_id: str, root: Path) -> dict[str, Any]:
    """Explain whether a planned or stored run is done, and how it differs from the most similar finished runs."""
    from zoo.results.plans import load_plan

    results = stored_results(root)
    identities = {**load_plan(root), **{result.id: dict(result.identity) for result in results}}
    matches = [full_id for full_id in identities if full_id.startswith(run_id)] if len(run_id) >= 4 else []
    if len(matches) != 1:
        raise unknown_run(run_id, matches, [full_id[:8] for full_id in identities])
    full_id, identity = matches[0], identities[matches[0]]
    own = next((result for result in results if result.id == full_id), None)
    explained: dict[str, Any] = {"id": full_id, "status": own.status if own else "not run"}
    if own and own.ok:
        explained["answer"] = f"done on {own.created}: the same command reuses it"
    elif own:
        explained["answer"] = f"status {own.status}: only runs with status ok are reused, so the run is repeated"
    else:
        explained["answer"] = "no stored run has this identity, so it is executed"
    others = [
        (compare_identities(identity, result.identity), result)
        for result in results
        if result.id != full_id and result.ok and result.identity["dataset"] == identity["dataset"]
    ]
    others.sort(key=lambda pair: (len(pair[0]), pair[1].id))
    explained["nearest"] = [
        {
            "id": result.id[:8],
            "differs in": "; ".join(f"{k}: {mine} here, {theirs} there" for k, (mine, theirs) in d.items()),
        }
        for d, result in others[:3]
    ]
    explained["identity"] = identity
    return explained


def compare_identities(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the fields that differ, with the protocol's fields listed one by one."""
    left = {**mine, **{f"protocol.{k}": v for k, v in mine["protocol"].items()}}
    right = {**theirs, **{f"protocol.{k}": v for k, v in theirs["protocol"].items()}}
    names = [name for name in {**left, **right} if name != "protocol"]
    return {
        n: (shorten_digest(left.get(n)), shorten_digest(right.get(n))) for n in names if left.get(n) != right.get(n)
    }


def shorten_digest(value: Any) -> Any:
    return value[:8] if isinstance(value, str) and len(value) == 64 else value
