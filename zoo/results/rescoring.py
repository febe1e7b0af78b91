"""From stored predictions to fresh scores beside them: old runs, new metrics, no training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zoo.errors import ResultsError
from zoo.evaluation.scoring import score_run
from zoo.evaluation.values import Score
from zoo.registry.lookup import Registry
from zoo.results.store import Result, save_scores


def rescore(
    results: Sequence[Result],
    added: Sequence[str],
    registry: Registry,
    progress: Callable[[int, int | None], None],
) -> int:
    """Score every result again, with the metrics it had and those `added`; returns how many scores have no value.

    A stored metric whose plugin is gone keeps its old score.
    """
    undefined = 0
    for done, result in enumerate(results, start=1):
        card, threshold = result.card(), result.run["protocol"]["threshold"]
        old = stored_scores(result)
        names = dict.fromkeys([*(old or card.task.metrics), *added])
        metrics = {name: registry.find("metric", name) for name in names if name in registry.metrics or name in added}
        kept = {name: found for name, found in old.items() if name not in metrics}
        scores = score_run(result.predictions(), metrics, card, threshold=threshold)
        scores["scores"] = kept | scores["scores"]
        save_scores(result, scores)
        undefined += sum(found.value is None for found in scores["scores"].values())
        progress(done, len(results))
    return undefined


def stored_scores(result: Result) -> dict[str, Score]:
    """The scores there are; none where their file is damaged, since they are about to be made again."""
    try:
        return result.scores()
    except ResultsError as error:
        if error.code != "scores":
            raise
        return {}
