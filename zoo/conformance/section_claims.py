"""Checks of sections, on drawn predictions of two models and a baseline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from zoo.arrays import Array
from zoo.conformance.checking import Check, CheckedSpec, Inapplicable
from zoo.conformance.steps import check_plain_fields, check_tasks, expect, step
from zoo.conformance.task_claims import num_labels_of
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.predictions import Predictions
from zoo.leaderboard.sections import OwnedSection, complete_sections
from zoo.leaderboard.tables import GroupBy, ReportOptions, ScoredRow, SectionRequest
from zoo.specs.metric import ScoringContext
from zoo.specs.section import Section, SectionSpec
from zoo.tasks.kinds import TASKS
from zoo.tasks.task import Task

KIT_PATIENTS = 40  # in each split of a fold, with two images each
KIT_IMAGES = 2
KIT_FOLDS, KIT_SEEDS = 2, 2
KIT_OPTIONS = ReportOptions(by=(GroupBy(column="sex"),), ensembles=True)  # so that sections of options have rows


def draw_split_part(task: Task, rng: np.random.Generator, prefix: str, is_sharp: bool) -> Predictions:
    """Predictions of one split; the images of a patient share their target."""
    num, num_labels = KIT_PATIENTS * KIT_IMAGES, num_labels_of(task)
    targets, perfect = task.targets.draw(np.random.default_rng(KIT_PATIENTS), KIT_PATIENTS, num_labels)
    drawn = task.answers.draw(rng, KIT_PATIENTS, num_labels)
    numbers = np.repeat(np.arange(KIT_PATIENTS), KIT_IMAGES)
    return Predictions(
        sample_ids=np.array([f"{prefix}{place}" for place in range(num)]),
        patients=np.array([f"{prefix}p{number}" for number in numbers]),
        targets=targets[numbers],
        probabilities=((perfect + 3 * drawn) / 4 if is_sharp else drawn)[numbers],
        metadata={"sex": np.array(["f", "m"])[numbers % 2], "age": (20 + numbers).astype(str)},
    )


def draw_board(task: Task) -> SectionRequest:
    """A board of two models and a constant predictor, of two seeds and folds, with intervals."""
    labels = tuple(f"label {index}" for index in range(num_labels_of(task)))
    rng = np.random.default_rng(0)

    def draw_row(label: str, seeds: Sequence[int], is_sharp: bool) -> ScoredRow:
        stored = [
            [
                {split: draw_split_part(task, rng, f"{split}{fold}-", is_sharp) for split in ("val", "test")}
                for fold in range(KIT_FOLDS)
            ]
            for _ in seeds
        ]
        return ScoredRow(label=label, baseline=label == "constant", stored=stored, seeds=tuple(seeds), names=(label,))

    seeds = range(KIT_SEEDS)
    rows = [draw_row("net", seeds, True), draw_row("other_net", seeds, False), draw_row("constant", [0], False)]
    return SectionRequest(
        rows=rows,
        card=ScoringContext(
            task=task, labels=labels, positive=1 if task.targets.has_positive else None, unit="image", has_patients=True
        ),
        facts={
            "name": "drawn",
            "task": task.name,
            "labels": list(labels),
            "patient": "patient_id",
            "num_folds": KIT_FOLDS,
            "has_patients": True,
            "unit": "image",
            "notes": [],
        },
        primary=next((metric for metric in METRICS if metric.name == task.primary_metric), None),
        threshold="val",
        options=KIT_OPTIONS,
    )


def shrink_board(request: SectionRequest) -> Iterator[tuple[str, SectionRequest]]:
    """Boards with less than an ordinary one: a row, no row, one seed and fold, no metadata, no installed metric."""
    first = request.rows[0]
    single = [[{split: replace(part, metadata={}) for split, part in first.stored[0][0].items()}]]
    yield "a board of one model", replace(request, rows=[first])
    yield "a board without rows", replace(request, rows=[])
    yield "a board without metadata", replace(request, rows=[replace(first, stored=single, seeds=(0,))])
    yield "a board whose metric is not installed", replace(request, primary=None)
    yield "a board without options", replace(request, options=ReportOptions())


def draw_boards(spec: SectionSpec) -> Iterator[tuple[str, SectionRequest]]:
    for name in spec.tasks or TASKS:
        if name in TASKS and not TASKS[name].targets.spatial:
            yield f"section {spec.name!r}, {name} task", draw_board(TASKS[name])


def build_section_of(spec: SectionSpec, request: SectionRequest, what: str) -> list[Section]:
    with step(what):
        return complete_sections(spec.build(request), OwnedSection(name=spec.name, plugin="", spec=spec))


def section_or_skip(spec: SectionSpec, request: SectionRequest) -> list[Section]:
    """The tables. Raises Inapplicable if it fails, which `section-builds` reports."""
    try:
        return build_section_of(spec, request, "")
    except AssertionError as error:
        raise Inapplicable(str(error)) from error


def check_section_fields(subject: CheckedSpec) -> None:
    check_plain_fields("section", subject.spec)
    if subject.spec.tasks:
        check_tasks("section", subject.spec)


def check_section_builds(subject: CheckedSpec) -> None:
    shown = [build_section_of(subject.spec, request, where) for where, request in draw_boards(subject.spec)]
    if not any(shown):
        raise Inapplicable("it shows nothing for the drawn boards")


def check_section_repeats(subject: CheckedSpec) -> None:
    boards = zip(draw_boards(subject.spec), draw_boards(subject.spec), strict=True)
    for (where, request), (_, same) in boards:
        first, second = (section_or_skip(subject.spec, each) for each in (request, same))
        expect(first == second, f"{where}: the same board gives two different sections")


def check_section_shrinks(subject: CheckedSpec) -> None:
    for where, request in draw_boards(subject.spec):
        section_or_skip(subject.spec, request)
        for what, smaller in shrink_board(request):
            build_section_of(subject.spec, smaller, f"{where}: {what}")


def board_arrays(request: SectionRequest) -> list[Array]:
    parts = [part for row in request.rows for folds in row.stored for run in folds for part in run.values()]
    return [values for part in parts for values in (part.targets, part.probabilities)]


def check_section_reads_only(subject: CheckedSpec) -> None:
    for where, request in draw_boards(subject.spec):
        before = [values.copy() for values in board_arrays(request)]
        section_or_skip(subject.spec, request)
        same = all(
            np.array_equal(one, other, equal_nan=True) for one, other in zip(before, board_arrays(request), strict=True)
        )
        expect(same, f"{where}: it writes into the predictions")


SECTION_CHECKS = (
    Check(id="section-fields", claim="Its fields are valid", run=check_section_fields),
    Check(id="section-builds", claim="Every format can show its tables of an ordinary board", run=check_section_builds),
    Check(id="section-repeats", claim="The same board gives the same tables", run=check_section_repeats),
    Check(
        id="section-shrinks",
        claim="It accepts boards of one row, without rows, without metadata",
        run=check_section_shrinks,
    ),
    Check(id="section-reads", claim="It leaves the predictions as they are", run=check_section_reads_only),
)
