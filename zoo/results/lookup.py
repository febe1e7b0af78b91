"""Find stored and planned runs by id, and describe or compare them, for `zoo info runs` and `zoo why`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.errors import UsageError, unknown
from zoo.registry.lookup import Registry
from zoo.system.progress import Console


def describe_run(run_id: str, root: Path, registry: Registry) -> dict[str, Any]:
    """A stored run with its inputs, hashes, versions, and how each score and interval was computed."""
    from zoo.results.provenance import trace_run

    return trace_run(find_run(run_id, stored_results(root)), registry.metrics)


def stored_results(root: Path) -> list[Any]:
    """Every readable result; a damaged one is a warning."""
    from zoo.results.store import load_result, load_results

    # Not tried as a whole: of the one that is asked for, what is wrong with its predictions is told.
    results, damaged = load_results(root, load_result) if root.is_dir() else ([], [])
    for line in damaged:
        Console().warn(f"left out: {line}")
    return results


def find_run(run_id: str, results: Sequence[Any]) -> Any:
    """The one run whose id begins with `run_id`."""
    # By id: one run is stored twice where `--set` asked for what is the protocol's own value.
    found = {r.id: r for r in results if r.id.startswith(run_id)} if len(run_id) >= 4 else {}
    if len(found) != 1:
        raise unknown_run(run_id, list(found), [result.id[:8] for result in results])
    return next(iter(found.values()))


def unknown_run(run_id: str, found: Sequence[str], known: Sequence[str]) -> UsageError:
    if len(found) > 1:
        return UsageError(f"run {run_id!r} is the beginning of {len(found)} ids", fix="give more of it")
    if len(run_id) < 4:
        return UsageError(f"run {run_id!r}: too short", fix="give at least 4 characters of the id")
    error = unknown("run", run_id, known)
    return UsageError(
        error.message, fix=error.fix.partition("`")[0] + "`zoo bench --dry-run` prints ids", code="unknown-run"
    )


def explain_run(run_id: str, root: Path) -> dict[str, Any]:
    """Whether a planned or stored run is done already, and else what keeps it apart from the nearest that is."""
    from zoo.results.plans import load_plan

    results = stored_results(root)
    identities = {**load_plan(root), **{result.id: dict(result.identity) for result in results}}
    found = [known for known in identities if known.startswith(run_id)] if len(run_id) >= 4 else []
    if len(found) != 1:
        raise unknown_run(run_id, found, [known[:8] for known in identities])
    full, identity = found[0], identities[found[0]]
    own = next((result for result in results if result.id == full), None)
    explained: dict[str, Any] = {"id": full, "status": own.status if own else "not run"}
    if own and own.ok:
        explained["answer"] = f"done on {own.created}: the same command reuses it"
    elif own:
        explained["answer"] = f"ended as {own.status}: only a run that is ok is reused, so it is tried again"
    else:
        explained["answer"] = "no stored run has this identity, so it is carried out"
    others = [
        (compare_identities(identity, result.identity), result)
        for result in results
        if result.id != full and result.ok and result.identity["dataset"] == identity["dataset"]
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
    """The fields that differ, those of the protocol one by one."""
    left = {**mine, **{f"protocol.{k}": v for k, v in mine["protocol"].items()}}
    right = {**theirs, **{f"protocol.{k}": v for k, v in theirs["protocol"].items()}}
    names = [name for name in {**left, **right} if name != "protocol"]
    return {
        n: (shorten_digest(left.get(n)), shorten_digest(right.get(n))) for n in names if left.get(n) != right.get(n)
    }


def shorten_digest(value: Any) -> Any:
    return value[:8] if isinstance(value, str) and len(value) == 64 else value
