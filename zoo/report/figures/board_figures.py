"""List the figures of a board: those of its task, and those that every task has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from zoo.arrays import Array
from zoo.errors import ResultsError, clean, plural_of
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.scoring import score
from zoo.evaluation.values import Score
from zoo.leaderboard.agreement import measure_agreement
from zoo.leaderboard.boards import Board, request_sections
from zoo.leaderboard.cases import list_case_values
from zoo.leaderboard.curves import RowCurves, compute_curves, count_confusion
from zoo.leaderboard.formatting import number, with_interval
from zoo.leaderboard.operating_points import list_label_questions
from zoo.leaderboard.reliability import Reliability, measure_reliability
from zoo.leaderboard.tables import ReportOptions, ScoredRow, SectionRequest
from zoo.leaderboard.training_curves import TrainingCurve, read_training
from zoo.report.charts import Axis, fit_axis
from zoo.report.figures.figure import Figure, figure_name, plain_cell, table_rows
from zoo.report.figures.label_curves import (
    BOTH_ENDS,
    UNIT_AXIS,
    draw_decision_curve,
    draw_precision_recall,
    draw_roc,
    find_operating_points,
)
from zoo.report.figures.plots import (
    CELL_SIDES,
    SIDE,
    Area,
    Dot,
    DotRow,
    GuideLine,
    Line,
    StripRow,
    draw_dots,
    draw_heat,
    draw_lines,
    draw_points,
    draw_strips,
)
from zoo.report.reasons import reason_text
from zoo.report.text import join_names
from zoo.specs.metric import positive_index
from zoo.specs.section import FigureSeries, SectionFigure
from zoo.tasks.task import FigureKind

MAX_DRAWN_MODELS = 4  # models in a figure, the best first
MAX_CURVE_LABELS = 6  # with curves of their own
MAX_NARROW_CLASSES, MAX_CLASSES = 5, CELL_SIDES[-1][0]  # of a confusion matrix that fits a phone, and that is drawn
ALL_LABELS, VALUES, TRAINING, SUBGROUPS = "All labels", "Predicted values", "Training", "Subgroups"
OF_SECTIONS = "Sections of plugins"
OF_THE_BOARD = (ALL_LABELS, VALUES, TRAINING, SUBGROUPS, OF_SECTIONS)
LABEL_METRICS = {spec.name: spec for spec in METRICS if spec.name in ("auroc", "average_precision")}


@dataclass(frozen=True, eq=False)
class FigureRequest:
    """The input of a figure: a board and the rows that are drawn."""

    board: Board

    @cached_property
    def sections(self) -> SectionRequest:
        return request_sections(self.board, ReportOptions())

    @cached_property
    def models(self) -> list[ScoredRow]:
        return [row for row in self.sections.rows if not row.baseline][:MAX_DRAWN_MODELS]

    @cached_property
    def labels(self) -> list[str]:
        """The labels with curves of their own."""
        card = self.board.card
        scored = card.task.targets.scored_labels(len(card.labels), card.positive)
        return [card.labels[number] for number in scored][:MAX_CURVE_LABELS]

    @cached_property
    def curves(self) -> dict[str, list[RowCurves]]:
        """The curves of the labels that have some."""
        by_label: dict[str, list[RowCurves]] = {}
        for curves in compute_curves(self.sections, self.models, self.labels):
            by_label.setdefault(curves.label, []).append(curves)
        return by_label

    @cached_property
    def reliability(self) -> dict[str | None, list[Reliability]]:
        by_label: dict[str | None, list[Reliability]] = {}
        for row in self.models:
            for diagram in measure_reliability(row, self.sections):
                if diagram.label is None or diagram.label in self.labels:
                    by_label.setdefault(diagram.label, []).append(diagram)
        return by_label

    def heading(self, label: str | None) -> str:
        """The heading of the figures about a label."""
        card = self.board.card
        if label is None:
            return ALL_LABELS
        if card.task.targets.has_positive:
            return f"{label} against {join_names([other for other in card.labels if other != label])}"
        return f"{label} against the others" if card.task.classes else label


@dataclass(frozen=True)
class BoardFigures:
    """The figures of a board, in the order of the page, and what is not drawn."""

    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()


def list_figures(board: Board) -> BoardFigures:
    """Draw the figures of a board: those that its task's `Presentation` lists, labels, training and subgroups."""
    request = FigureRequest(board)
    if not request.models:
        return BoardFigures(())
    figures = list(draw_label_scores(request))
    for kind in board.card.task.presentation.figures:
        figures += BUILDERS[kind](request)
    order = [ALL_LABELS, VALUES, *map(request.heading, board.card.labels)]
    figures.sort(key=lambda figure: order.index(figure.group))
    training, notes = draw_training(request)
    figures += [*training, *draw_subgroups(request), *draw_sections(request)]
    return BoardFigures(tuple(number_names(figures)), (*describe_left_out(request), *notes))


def number_names(figures: Sequence[Figure]) -> Iterator[Figure]:
    """Make names unique: labels that differ only in signs have the same name."""
    names: set[str] = set()
    for figure in figures:
        name, count = figure.name, 1
        while name in names:
            count += 1
            name = f"{figure.name}-{count}"
        names.add(name)
        yield replace(figure, name=name)


def describe_left_out(request: FigureRequest) -> Iterator[str]:
    card, kinds = request.board.card, request.board.card.task.presentation.figures
    models = sum(not row.baseline for row in request.sections.rows)
    if models > MAX_DRAWN_MODELS:
        yield f"drawn: the first {MAX_DRAWN_MODELS} of {models} models"
    if "roc" in kinds and not request.curves:
        yield "no curves: no label has positives and negatives in test"
    labels = card.task.targets.scored_labels(len(card.labels), card.positive)
    if "roc" in kinds and len(labels) > MAX_CURVE_LABELS:
        yield f"curves: of the first {MAX_CURVE_LABELS} of {len(labels)} labels"
    if "confusion" in kinds and len(card.labels) > MAX_CLASSES:
        yield f"no confusion matrix: {len(card.labels)} classes"


# --- labels ----------------------------------------------------------------------------------------------------------
def roc_figures(request: FigureRequest) -> Iterator[Figure]:
    points = find_operating_points(request.board.sections)
    for label, curves in request.curves.items():
        yield draw_roc(curves, points, request.heading(label), request.sections.case_name)


def precision_recall_figures(request: FigureRequest) -> Iterator[Figure]:
    for label, curves in request.curves.items():
        yield draw_precision_recall(curves, request.heading(label), request.sections.case_name)


def decision_figures(request: FigureRequest) -> Iterator[Figure]:
    for label, curves in request.curves.items():
        yield draw_decision_curve(curves, request.heading(label))


def reliability_figures(request: FigureRequest) -> Iterator[Figure]:
    for label, diagrams in request.reliability.items():
        yield draw_reliability(label, diagrams, request)


def draw_reliability(label: str | None, diagrams: Sequence[Reliability], request: FigureRequest) -> Figure:
    """Observed share by predicted probability, and the distribution of the best model's probabilities."""
    event = label or "the most probable class"
    best, unit = diagrams[0], request.sections.unit_name
    text = f"Reliability diagram of the probability of {event}. On average, " + join_names(
        [
            f"{d.row} predicts {number(float(d.claimed @ d.count / d.count.sum()))} where "
            f"{number(float(d.share @ d.count / d.count.sum()))} is observed"
            for d in diagrams
        ]
    )
    highest = max(np.nanmax([*d.claimed, *d.share, *(d.high if d is best else ())]) for d in diagrams)
    axis = UNIT_AXIS if highest > 0.5 else fit_axis((0.0, highest))  # a rare event
    lines = [
        Line(name=d.row, x=d.claimed, y=d.share, style=place, bars=(d.low, d.high) if place == 0 else None)
        for place, d in enumerate(diagrams)
    ]
    rows = []
    for d in diagrams:
        bins = (d.lowest, d.highest, d.count, d.claimed, d.share, d.low, d.high)
        rows += [(d.row, "bin", *cells) for cells in table_rows(*bins)]
        edges = np.linspace(0, 1, d.stripes.shape[1] + 1)
        total = d.stripes.sum(axis=0)
        share = np.divide(d.stripes[1], total, out=np.full(len(total), np.nan), where=total > 0)
        stripes = table_rows(edges[:-1], edges[1:], total, np.full(len(total), np.nan), share)
        rows += [(d.row, "distribution", *cells, None, None) for cells in stripes]
    return Figure(
        name=figure_name("reliability", label or ""),
        title="Reliability",
        text=f"{text}.",
        columns=("model", "part", "from", "to", plural_of(unit), "mean predicted", "observed share", "low", "high"),
        rows=tuple(rows),
        svg=draw_lines(
            Area(x=axis, y=axis, labels=("predicted probability", "observed share"), height=SIDE),
            lines,
            [GuideLine(name="as predicted", x=BOTH_ENDS * axis.high, y=BOTH_ENDS * axis.high)],
            f"{text}.",
            best.stripes,
        ),
        note=f"Each marker: about {best.count.mean():.0f} {plural_of(unit)} of {best.row}, with a 95 % "
        "interval. Bars: how many "
        f"of its {plural_of(unit)} have each probability, up with the event, down without.",
        group=request.heading(label),
    )


def draw_label_scores(request: FigureRequest) -> Iterator[Figure]:
    """AUROC and average precision of every label of several, with the positives they rest on."""
    card = request.board.card
    if not card.task.labeled or len(card.labels) < 3:
        return
    found: dict[str, list[tuple[str, int, dict[str, Score]]]] = {label: [] for label in card.labels}
    for question in list_label_questions(replace(request.sections, rows=request.models)):
        positives = sum(int((run["test"].targets == 1).sum()) for run in question.runs[0])
        scores = score(question.runs, LABEL_METRICS, question.card, threshold="half")
        found[question.label].append((question.row.label, positives, dict(scores)))
    names = [row.label for row in request.models]
    for name, spec in LABEL_METRICS.items():
        rows = [
            DotRow(
                name=label,
                remark=f"{entries[0][1]} positive{'s' * (entries[0][1] != 1)}",
                dots=tuple(to_dot(place, scores[name]) for place, (_, _, scores) in enumerate(entries)),
            )
            for label, entries in found.items()
        ]
        text = f"{spec.title} of each label, of {names[0]}: " + ", ".join(
            f"{label} {number(entries[0][2][name].value)}" for label, entries in found.items()
        )
        yield Figure(
            name=figure_name("labels", name),
            title=f"{spec.title[0].upper()}{spec.title[1:]} by label",
            text=f"{text}.",
            columns=("label", "model", "positives", spec.title, "low", "high", "reason"),
            rows=tuple(
                (label, row, positives, *score_cells(scores[name]))
                for label, entries in found.items()
                for row, positives, scores in entries
            ),
            svg=draw_dots(rows, names, (axis_of(rows), spec.title), (), f"{text}."),
            note="Each label against all others; an interval needs 10 positives and 10 negatives.",
            group=ALL_LABELS,
            tabled=True,
        )


def to_dot(series: int, found: Score) -> Dot:
    return Dot(series=series, value=found.value, low=found.low, high=found.high)


def score_cells(found: Score) -> tuple[object, ...]:
    return found.value, found.low, found.high, found.reason and reason_text(found.reason)


def axis_of(rows: Sequence[DotRow], references: Sequence[float] = ()) -> Axis:
    values = [v for row in rows for dot in row.dots for v in (dot.value, dot.low, dot.high) if v is not None]
    return fit_axis([*values, *references])


# --- decisions and numbers -------------------------------------------------------------------------------------------
def confusion_figures(request: FigureRequest) -> Iterator[Figure]:
    """The confusion matrix of the best model, as counts and as shares of each true class."""
    best, card = request.models[0], request.board.card
    labels = card.labels
    counts = count_confusion(best, request.sections)
    if counts is None or len(labels) > MAX_CLASSES:
        return
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    right = ", ".join(f"{100 * shares[i, i]:.0f} % of {label}" for i, label in enumerate(labels) if totals[i])
    text = f"Confusion matrix of {best.label}: right for {right}."
    yield Figure(
        name="confusion",
        title="Confusion matrix",
        text=text,
        columns=("model", "true", "decided", plural_of(request.sections.unit_name), "share of true"),
        rows=tuple(
            (best.label, true, decided, plain_cell(counts[i, j]), plain_cell(shares[i, j]) if totals[i] else None)
            for i, true in enumerate(labels)
            for j, decided in enumerate(labels)
        ),
        svg=draw_heat(counts, shares, labels, ("decided", "true"), text),
        wide=len(labels) > MAX_NARROW_CLASSES,
        tabled=True,
        note=f"{best.label}: {plural_of(request.sections.unit_name)}, mean over seeds, and their share of "
        "each true class.",
        group=request.heading(labels[positive_index(card)] if card.task.targets.has_positive else None),
    )


def agreement_figures(request: FigureRequest) -> Iterator[Figure]:
    """Predicted against true values of the best model, and their difference against their mean."""
    found = measure_agreement(request.models[0], request.sections)
    if found is None:
        return
    name, unit = f"{found.row}, seed {found.seed}", request.sections.unit_name
    axis = fit_axis([*found.true, *found.predicted])
    ends = np.array([axis.low, axis.high])
    counted = f"{len(found.true)} {plural_of(unit)}"
    text = f"Predicted against true values of {counted}, {name}. Mean difference {number(found.bias)}."
    yield Figure(
        name="predicted-true",
        title="Predicted against true",
        text=text,
        columns=("model", "seed", "true", "predicted"),
        rows=tuple((found.row, found.seed, *cells) for cells in table_rows(found.true, found.predicted)),
        svg=draw_points(
            Area(x=axis, y=axis, labels=("true", "predicted"), height=SIDE),
            found.true,
            found.predicted,
            [GuideLine(name="equal", x=ends, y=ends)],
            text,
        ),
        note=f"{name}.",
        group=VALUES,
    )
    mean = (found.true + found.predicted) / 2
    limits = {} if found.limits is None else {"lower limit": found.limits[0], "upper limit": found.limits[1]}
    levels = {"mean difference": found.bias, **limits}
    across = fit_axis(mean)
    text = f"Difference of predicted and true values against their mean, {name}: " + ", ".join(
        f"{level} {number(value)}" for level, value in levels.items()
    )
    yield Figure(
        name="bland-altman",
        title="Bland-Altman plot",
        text=f"{text}.",
        columns=("model", "seed", "part", "mean of both", "predicted - true"),
        rows=tuple(
            [(found.row, found.seed, unit, *cells) for cells in table_rows(mean, found.difference)]
            + [(found.row, found.seed, level, None, value) for level, value in levels.items()]
        ),
        svg=draw_points(
            Area(
                x=across,
                y=fit_axis([*found.difference, *levels.values()]),
                labels=("mean of predicted and true", "predicted - true"),
                height=SIDE,
            ),
            mean,
            found.difference,
            [
                GuideLine(name=f"{level} {number(value)}", x=np.array([across.low, across.high]), y=np.full(2, value))
                for level, value in levels.items()
            ],
            f"{text}.",
        ),
        note=f"{name}. Between the limits lie 95 % of differences if they are normal (mean -+ 1.96 SD).",
        group=VALUES,
    )


def case_figures(request: FigureRequest) -> Iterator[Figure]:
    """A strip of the primary metric's values for each label; models are the first of the board, and the baselines."""
    metric = request.board.primary
    rows = [*request.models, *(row for row in request.sections.rows if row.baseline)]
    found = [case for row in rows for case in list_case_values(row, request.sections) if len(case.known)]
    if metric is None or not found:
        return
    places = {row.label: place for place, row in enumerate(rows)}
    unit, axis = request.sections.unit_name, fit_axis(np.concatenate([case.known for case in found]))
    for label in request.labels:
        own = [case for case in found if case.label == label]
        means = ", ".join(f"{case.row} {number(case.mean)} ({number(case.worst_bound(metric))})" for case in own)
        text = f"{metric.title} of each {unit} for {label}; mean (worst twentieth): {means}."
        strips = [
            StripRow(
                name=case.row,
                values=case.known,
                mean=case.mean,
                worst=case.worst_bound(metric),
                style=places[case.row],
            )
            for case in own
        ]
        if strips:
            yield Figure(
                name=figure_name("cases", label),
                title=f"{metric.title} of each {unit}",
                text=text,
                columns=("model", "label", metric.title),
                rows=tuple((case.row, label, float(value)) for case in own for value in np.sort(case.known)),
                svg=draw_strips(strips, (axis, metric.title), text),
                note=f"A dot per {unit}, mean over seeds; the mark is the mean, the bar bounds the worst twentieth.",
                group=request.heading(label),
            )


# --- training --------------------------------------------------------------------------------------------------------
def draw_training(request: FigureRequest) -> tuple[list[Figure], list[str]]:
    """Training loss and score on val of every run; also return why models have none."""
    curves: list[list[TrainingCurve]] = []
    notes = []
    for row in request.models:
        try:
            of_row = read_training(row)
        except ResultsError as error:
            notes.append(f"{row.label}: no learning curve: {error.message}")
            continue
        if of_row:
            curves.append(of_row)
        else:
            notes.append(f"{row.label}: no learning curve: its runs hold no history of rounds")
    if not curves:
        return [], notes
    metric = clean(request.board.primary_metric)
    places = {row.label: place for place, row in enumerate(request.models)}
    figures = []
    for name, title, label in (
        ("training-loss", "Training loss", "mean training loss"),
        ("val-score", f"{metric} on val", f"{metric} on val"),
    ):
        values_of: Callable[[TrainingCurve], Array] = loss_of if name == "training-loss" else val_score_of
        known = [c for of_row in curves for c in of_row if np.isfinite(values_of(c)).any()]
        if not known:
            continue
        ends = [
            f"{row[0].row} from {number(mean_known([values_of(c)[0] for c in row]))} to "
            f"{number(mean_known([values_of(c)[-1] for c in row]))}"
            for row in curves
        ]
        text = f"{title} of each run, from the first to the last round, mean over runs: {join_names(ends)}."
        area = Area(
            x=fit_axis([0, *(c.step.max() for c in known)]),
            y=fit_axis(np.concatenate([values_of(c) for c in known])),
            labels=("step", label),
        )
        lines = [
            Line(name=c.row, x=c.step.astype(float), y=values_of(c), style=places[c.row], thin=True) for c in known
        ]
        figures.append(
            Figure(
                name=name,
                title=title,
                text=text,
                columns=("model", "seed", "fold", "step", label),
                rows=tuple(
                    (c.row, c.seed, c.fold, *cells) for c in known for cells in table_rows(c.step, values_of(c))
                ),
                svg=draw_lines(area, lines, (), text),
                note="One line per run.",
                group=TRAINING,
            )
        )
    return figures, notes


def loss_of(curve: TrainingCurve) -> Array:
    return curve.loss


def val_score_of(curve: TrainingCurve) -> Array:
    return curve.val_score


def mean_known(values: Sequence[float]) -> float | None:
    known = [float(value) for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else None


# --- subgroups -------------------------------------------------------------------------------------------------------
def draw_subgroups(request: FigureRequest) -> Iterator[Figure]:
    """The primary metric by group, one figure for each column of `--by`."""
    section = next((section for section in request.board.sections if section.name == "subgroups"), None)
    if section is None or not section.rows:
        return
    metric = request.board.primary_metric
    column = next(place for place, cell in enumerate(section.rows[0]) if isinstance(cell, Score))
    count = section.columns[3]
    models = [row.label for row in request.models]
    for by in dict.fromkeys(str(cells[1]) for cells in section.rows):
        own = [cells for cells in section.rows if cells[1] == by and cells[0] in models]
        groups: dict[str, list[tuple[str, Score]]] = {}
        counts = {str(cells[2]): cells[3] for cells in own}
        for cells in own:
            found = cells[column]
            assert isinstance(found, Score)
            groups.setdefault(str(cells[2]), []).append((str(cells[0]), found))
        if all(found.value is None for entries in groups.values() for _, found in entries):
            continue  # the table has the reasons
        rows = [
            DotRow(
                name=group,
                remark=f"{counts[group]} {count}",
                dots=tuple(to_dot(models.index(model), found) for model, found in entries),
            )
            for group, entries in groups.items()
        ]
        text = f"{metric} by {by}, of {models[0]}: " + ", ".join(
            f"{group} {with_interval(found)}" for group, entries in groups.items() for model, found in entries[:1]
        )
        yield Figure(
            name=figure_name("subgroups", by),
            title=f"{metric} by {by}",
            text=f"{text}.",
            columns=("by", "group", count, "model", metric, "low", "high", "reason"),
            rows=tuple(
                (by, group, counts[group], model, *score_cells(found))
                for group, entries in groups.items()
                for model, found in entries
            ),
            svg=draw_dots(rows, models, (axis_of(rows), metric), (), f"{text}."),
            note="Dots with 95 % intervals; the table below has the differences and their tests.",
            group=SUBGROUPS,
        )


# --- sections of plugins ---------------------------------------------------------------------------------------------
def draw_sections(request: FigureRequest) -> Iterator[Figure]:
    """The figures that sections describe as data."""
    for section in request.board.sections:
        for figure in section.figures:
            yield Figure(
                name=figure_name("section", section.name, figure.title),
                title=figure.title,
                text=figure.text,
                columns=("series", *figure.axes, "low", "high"),
                rows=tuple(
                    (each.name, *cells)
                    for each in figure.series
                    for cells in zip(each.x, each.y, *bounds_of(each), strict=True)
                ),
                svg=draw_section_lines(figure) if figure.kind == "lines" else draw_section_dots(figure),
                note=f"Of the section “{section.title}”.",
                group=OF_SECTIONS,
                tabled=True,
            )


def bounds_of(series: FigureSeries) -> tuple[tuple[float | None, ...], tuple[float | None, ...]]:
    unknown = (None,) * len(series.x)
    return series.low or unknown, series.high or unknown


def draw_section_lines(figure: SectionFigure) -> str:
    lines = []
    for style, series in enumerate(figure.series):
        x, y, low, high = (np.array(values, dtype=float) for values in (series.x, series.y, *bounds_of(series)))
        band = (low, high) if series.low else None
        lines.append(Line(name=series.name, x=x, y=y, style=style, band=band))
    across = fit_axis(float(value) for line in lines for value in line.x)
    up = fit_axis(float(v) for line in lines for values in (line.y, *(line.band or ())) for v in values)
    return draw_lines(Area(x=across, y=up, labels=figure.axes), lines, (), figure.text)


def draw_section_dots(figure: SectionFigure) -> str:
    by_name: dict[str, list[Dot]] = {}
    for place, series in enumerate(figure.series):
        for name, value, low, high in zip(series.x, series.y, *bounds_of(series), strict=True):
            by_name.setdefault(str(name), []).append(Dot(series=place, value=value, low=low, high=high))
    rows = [DotRow(name=name, dots=tuple(dots)) for name, dots in by_name.items()]
    names = [series.name for series in figure.series]
    return draw_dots(rows, names, (axis_of(rows), figure.axes[1]), (), figure.text)


BUILDERS: dict[FigureKind, Callable[[FigureRequest], Iterator[Figure]]] = {
    "roc": roc_figures,
    "precision-recall": precision_recall_figures,
    "decision-curve": decision_figures,
    "reliability": reliability_figures,
    "confusion": confusion_figures,
    "agreement": agreement_figures,
    "cases": case_figures,
}
