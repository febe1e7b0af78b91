"""Score the masks of a second reader against those of the first: a row of every board of a dataset, not ranked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from zoo.arrays import Array
from zoo.data.masks import check_grid, hash_masks, read_mask
from zoo.data.references import ReferenceFold, open_references
from zoo.errors import DataError
from zoo.evaluation.predict_masks import collect_masks
from zoo.registry.context import Context
from zoo.results.runs import Run
from zoo.results.store import Result, find_done
from zoo.runner.importing import hash_predictions, plan_import, store_import
from zoo.runner.planning import Plan
from zoo.specs.protocol import SECOND_READER
from zoo.system.files import hash_bytes
from zoo.system.progress import Progress


def score_second_readers(plan: Plan, context: Context) -> dict[str, Result]:
    """Score the second reader of each dataset of a plan that has one; return the results by run id.

    A dataset whose second masks cannot be used gets a warning and no such row.
    """
    tested = {run.dataset for run in plan.runs if run.purpose == "score"}
    results: dict[str, Result] = {}
    for name, (source, split) in plan.sources.items():
        if name not in tested or source.samples.second_masks is None:
            continue
        folds = [open_references(source, split, fold) for fold in range(len(split.folds))]
        try:
            with context.console.counting(f"comparing two readers of {name}", "images") as progress:
                stored = score_reader(folds, context, progress)
        except DataError as error:
            context.console.warn(f"{name}: no row of the second reader: {error.line()}")
            continue
        results |= {result.id: result for result in stored}
    return results


def score_reader(folds: list[ReferenceFold], context: Context, progress: Progress) -> list[Result]:
    """Score and store the second reader's masks of all test images, unless this was done before."""
    if not context.settings.fresh and (done := find_stored(folds, context, progress)):
        return done
    predicted = [collect_masks(fold, fold.index("test"), read_second_masks(fold, progress)) for fold in folds]
    digest = hash_predictions(predicted)
    return [
        store_import(fold, part, plan_reader(fold, digest), context)
        for fold, part in zip(folds, predicted, strict=True)
    ]


def find_stored(folds: list[ReferenceFold], context: Context, progress: Progress) -> list[Result] | None:
    """The stored results of all folds for these masks, which are only read: comparing them takes far longer."""
    digest = hash_bytes(*(hash_masks(read_second_masks(fold, progress)) for fold in folds))
    results = (find_done(context.settings.results, plan_reader(fold, digest)) for fold in folds)
    done = [result for result in results if result]
    return done if len(done) == len(folds) else None


def plan_reader(fold: ReferenceFold, digest: str) -> Run:
    """The run of the second reader on one fold; `digest` is that of the masks of all folds."""
    return plan_import(f"reference:{SECOND_READER.name}", fold, digest, SECOND_READER)


def read_second_masks(fold: ReferenceFold, progress: Progress) -> Iterator[Array]:
    """Yield the second reader's mask of each test image. Raises DataError for one that has none, or another grid."""
    spec, samples = fold.source.spec, fold.source.samples
    second = replace(samples, masks=samples.second_masks)
    rows = fold.index("test").tolist()
    for done, row in enumerate(rows):
        progress(done, len(rows))
        image = samples.table["image"].iloc[row]
        mask = read_mask(spec, second, image)
        check_grid(spec, second, image, mask, fold.label_maps[row])
        yield mask
