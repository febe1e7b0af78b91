"""From stored predictions to fresh scores beside them: old runs, new metrics, no training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zoo.registry import Registry
from zoo.results import Result, save_scores
from zoo.scoring import Score, score


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
        old = result.scores()
        names = dict.fromkeys([*old, *added])
        metrics = {name: registry.find("metric", name) for name in names if name in registry.metrics or name in added}
        card, threshold = result.card(), result.run["protocol"]["threshold"]
        runs = [[result.predictions()]]
        kept = {name: found for name, found in old.items() if name not in metrics}
        scores: dict[str, dict[str, Score]] = {"scores": kept | score(runs, metrics, card, threshold=threshold)}
        if card.unit == "patient":
            scores["image_scores"] = score(runs, metrics, card, threshold=threshold, unit="image")
        save_scores(result, scores)
        undefined += sum(found.value is None for found in scores["scores"].values())
        progress(done, len(results))
    return undefined
