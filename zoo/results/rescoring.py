"""Recompute scores from stored predictions, also with new metrics, without training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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
    """Recompute the scores of every result, with its stored metrics and those `added`.

    Returns the number of undefined scores. A stored metric without an installed plugin keeps its old score.
    """
    undefined = 0
    for done, result in enumerate(results, start=1):
        card, threshold = result.card(), result.run["protocol"]["threshold"]
        old = stored_scores(result)
        names = dict.fromkeys([*(old or card.task.metrics), *added])
        metrics = {name: registry.find("metric", name) for name in names if name in registry.metrics or name in added}
        kept = {name: score for name, score in old.items() if name not in metrics}
        scores = score_run(result.predictions(), metrics, card, threshold=threshold)
        scores["scores"] = kept | scores["scores"]
        save_scores(result, scores)
        undefined += sum(score.value is None for score in scores["scores"].values())
        progress(done, len(results))
    return undefined


def stored_scores(result: Result) -> Mapping[str, Score]:
    """Return the stored scores, or {} if their file is damaged: they are about to be recomputed."""
    try:
        return result.scores()
    except ResultsError as error:
        if error.code != "scores":
            raise
        return {}
