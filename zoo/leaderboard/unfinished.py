"""The groups of runs that make no board because none of them finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zoo.leaderboard.rows import board_key
from zoo.leaderboard.sanity_checks import SCORED, is_baseline
from zoo.results.runs import trained_and_tested
from zoo.results.store import Result


@dataclass(frozen=True, kw_only=True)
class UnfinishedModel:
    """A model of which no run finished, on a dataset where no run of this protocol finished at all."""

    dataset: str
    protocol: str
    model: str
    num_runs: int
    status: str
    message: str


def list_unfinished(results: Sequence[Result]) -> tuple[UnfinishedModel, ...]:
    """The models without a board, by dataset, protocol and model; equal failures of a model count together."""
    scored = [r for r in results if r.run["purpose"] in SCORED and not is_baseline(r.run) and r.dataset]
    finished = {board_key(result) for result in scored if result.ok}
    counts: dict[tuple[str, ...], int] = {}
    for result in scored:
        if board_key(result) not in finished:
            run, message = result.run, result.error["message"] if result.error else ""
            key = trained_and_tested(run), run["protocol_label"], run["shown"], result.status, message
            counts[key] = counts.get(key, 0) + 1
    return tuple(
        UnfinishedModel(dataset=dataset, protocol=protocol, model=model, num_runs=count, status=status, message=message)
        for (dataset, protocol, model, status, message), count in sorted(counts.items())
    )
