"""Build boards from stored results: a pure function of the files, so equal files give equal bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from zoo.errors import clean
from zoo.evaluation.label_cases import LabelCases, choose_labels, count_label_cases
from zoo.evaluation.predictions import Predictions
from zoo.evaluation.thresholds import ThresholdRule
from zoo.leaderboard import external
from zoo.leaderboard.ranking_metrics import find_rank_fault
from zoo.leaderboard.records import RunsRecord, record_runs
from zoo.leaderboard.rows import (
    Row,
    RowScoring,
    board_key,
    build_recipes,
    data_key,
    flag_degenerate,
    group_rows,
    identify_targets,
    is_higher_better,
    list_unscored,
    load_tests,
    name_recipes,
    order,
    protocol_parts,
    recipe_key,
    seeds_of,
)
from zoo.leaderboard.sanity_checks import (
    SCORED,
    ShuffleVerdict,
    count_configurations,
    is_baseline,
    is_imported,
    is_untrained,
    judge_shuffles,
    tested_on,
)
from zoo.leaderboard.sections import CORE_PLUGIN, CORE_SECTIONS, DroppedSection, OwnedSection, build_sections
from zoo.leaderboard.significance import Comparisons, compare_rows
from zoo.leaderboard.tables import Failure, ReportOptions, ScoredRow, SectionRequest
from zoo.results.memo import ScoreMemo, is_core
from zoo.results.runs import SHUFFLED, trained_and_tested
from zoo.results.store import Result
from zoo.specs.metric import MetricSpec, ScoringContext
from zoo.specs.section import Section
from zoo.system.machine import can_fork
from zoo.system.workers import Notify, execute

MIN_SCORED_AHEAD = 200  # runs; fewer are scored sooner than the processes have imported what they need


@dataclass(frozen=True, kw_only=True)
class RankFault:
    """A metric that was requested to rank a board, and why it cannot."""

    metric: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Board:
    """All comparable rows: one dataset, content, split, protocol and kind of initial weights.

    Imported predictions, answers without training and baselines stand on every board of their data; models without
    weights stand on every board of their data and protocol.
    A board of `recipes` has the rows of all protocols and initial weights, each with its recipe.
    """

    dataset: str
    facts: Mapping[str, Any]  # data.dataset.describe_fold
    protocols: tuple[str, ...]  # their labels: one, unless it is a board of recipes
    label_parts: tuple[Any, ...] = ()  # of the protocol's label: name, version and overrides
    demonstration: bool
    init: str  # "mixed" on a board of recipes with both
    recipes: bool = False
    primary_metric: str  # the metric that ranks
    metrics: tuple[str, ...]  # the one that ranks, the requested ones, the others
    own_metric: str = ""  # the runs' primary metric, which ranks unless another one is requested
    requested: tuple[str, ...] = ()  # metrics to show first: requested ones, and the runs' own if another ranks
    rank_fault: RankFault | None = None  # why the requested metric does not rank this board
    higher_is_better: bool
    rows: tuple[Row, ...]
    device: str
    card: ScoringContext
    threshold: ThresholdRule
    specs: Mapping[str, MetricSpec] = field(default_factory=dict, compare=False, repr=False)  # of the installed metrics
    cases: tuple[LabelCases, ...] = ()  # of each label of a multi-label test set
    labels: tuple[int, ...] = ()  # positions of the labels that count in means over labels; empty: all
    dates: tuple[str, str] = ("", "")  # of the first and the last run
    bundle: str = ""  # the source of its patients' pseudonyms: rows of other bundles cannot be paired
    num_configurations: int = 0  # model x protocol x initial weights ever scored on this test set
    is_control: bool = False  # its runs were trained on shuffled labels
    controls: tuple[ShuffleVerdict, ...] = ()  # verdicts on its rows, or on those of the board with true labels
    versions: Mapping[str, str] = field(default_factory=dict)
    comparisons: Comparisons = field(default_factory=Comparisons)
    sections: tuple[Section, ...] = ()
    dropped: tuple[DroppedSection, ...] = ()  # sections that failed
    record: RunsRecord = field(default_factory=RunsRecord)

    def rank(self, row: int) -> int | None:
        """The rank of the row at this position, or None."""
        return self.comparisons.ranks[row] if self.comparisons.ranks else None

    def tied_with(self, row: int) -> list[str]:
        """The models without a detectable difference from this row."""
        return [self.rows[other].label for other in self.comparisons.tied_with(row)]

    @property
    def primary(self) -> MetricSpec | None:
        """The metric that ranks; None if its plugin is not installed."""
        return self.specs.get(self.primary_metric)

    @property
    def is_reranked(self) -> bool:
        """Whether another metric ranks than the runs' own primary one."""
        return self.primary_metric != self.own_metric

    @property
    def is_external(self) -> bool:
        """Whether the models were trained on another dataset than the one they are tested on."""
        return "external" in self.facts

    @property
    def training_key(self) -> tuple[Any, ...]:
        """The key shared by a board and the external validations of its models."""
        facts = self.facts
        data = facts["name"], facts["content_hash"], facts["split_hash"], self.bundle
        return data if self.recipes else (*data, self.protocols, self.init)

    @property
    def control_key(self) -> tuple[Any, ...]:
        """The key shared by a board and its control, the same runs on shuffled labels."""
        facts = self.facts
        data = self.dataset, facts["content_hash"], facts["split_hash"], self.bundle
        return data if self.recipes else (*data, self.init, *(part for part in self.label_parts if part != SHUFFLED))

    @property
    def protocol(self) -> str:
        """The label of its protocol; of several, all labels."""
        return ", ".join(self.protocols)

    def rule_of(self, row: Row) -> ThresholdRule:
        """The rule for the thresholds of a row."""
        return row.threshold if self.recipes else self.threshold

    @property
    def num_seeds(self) -> int:
        """The seeds of the rows whose outcome depends on the seed."""
        return max((len(row.seeds) for row in self.rows if not row.baseline and not row.deterministic), default=0)


@dataclass(frozen=True, kw_only=True)
class BoardRequest:
    """What all boards of a report are built with."""

    metrics: Mapping[str, MetricSpec]
    options: ReportOptions
    sections: Sequence[OwnedSection]
    memo: ScoreMemo


def build_leaderboard(
    results: Iterable[Result],
    metrics: Mapping[str, MetricSpec],
    options: ReportOptions | None = None,
    sections: Sequence[OwnedSection] = CORE_SECTIONS,
    scored_runs: Iterable[Mapping[str, Any]] | None = None,
    memo: ScoreMemo | None = None,
) -> list[Board]:
    """Group results into boards and score every row from its predictions.

    Boards are ordered by dataset, protocol and initial weights; rows by the primary metric, baselines last. Runs on
    shuffled labels have separate boards. Tuning runs are excluded: they are not tested. `scored_runs` lists all runs
    ever scored (`Run.describe()`) if there are more than these results. `memo` keeps what is computed from predictions.
    """
    from threadpoolctl import threadpool_limits

    results, options = list(results), options or ReportOptions()
    request = BoardRequest(metrics=metrics, options=options, sections=sections, memo=memo or ScoreMemo())
    key_of = data_key if options.recipes else board_key
    uses = count_configurations([r.run for r in results if r.ok] if scored_runs is None else scored_runs)
    scored = [r for r in results if r.run["purpose"] in SCORED and r.dataset]
    baselines = [r for r in scored if is_baseline(r.run)]
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in scored:
        if not (is_baseline(result.run) or is_untrained(result.run) or has_no_weights(result)):
            groups.setdefault(key_of(result), []).append(result)
    fixed = [r for r in scored if has_no_weights(r) and not is_baseline(r.run) and not is_untrained(r.run)]
    add_everywhere(groups, fixed, data_key if options.recipes else recipe_key)
    add_everywhere(groups, [r for r in scored if is_untrained(r.run)], data_key)
    data = {data_key(group[0]) for group in groups.values()}
    orphans: dict[tuple[str, ...], list[Result]] = {data_key(r): [] for r in baselines if data_key(r) not in data}
    for result in baselines:
        if data_key(result) in orphans:
            orphans[data_key(result)].append(result)
    recipes = name_recipes(scored) if options.recipes else {}
    parts = [(group, matching_runs(baselines, group)) for _, group in sorted(groups.items())]
    parts += [([], group) for _, group in sorted(orphans.items())]
    with threadpool_limits(1):  # perf: products of resamples are small; BLAS with two threads took twice the CPU time
        score_ahead([group for group, _ in parts], recipes, request)
        boards = [build_board(group, controls, recipes, request) for group, controls in parts]
        shuffled = build_controls(
            [r for r in results if r.run["purpose"] == "shuffle" and r.dataset],
            replace(request, options=replace(options, rank_by=""), sections=()),
        )
    verdicts = {key: board.controls for key, board in shuffled.items()}
    counted = [
        replace(
            board,
            num_configurations=uses[tested_on({**board.facts, **board.facts.get("external", {})})],
            controls=verdicts.get(board.control_key, ()),
        )
        for board in boards
        if board
    ]
    return compare_sites(counted) + list(shuffled.values())


def score_ahead(groups: Sequence[Sequence[Result]], recipes: Mapping[str, str], request: BoardRequest) -> None:
    """Let several processes store the facts of all rows, so that this one only reads them.

    A fact that they do not store is computed again.
    """
    memo, processes = request.memo, request.memo.processes
    if processes < 2 or not can_fork():  # a process that is not forked would read all results again
        return
    rows = [row for group in groups for row in list_unscored(group, memo)]
    if sum(map(len, rows)) < MIN_SCORED_AHEAD:
        return
    core = without_plugins(request)

    def score_share(share: int, _: str, notify: Notify) -> None:
        for row in rows[1 + share :: processes]:
            build_board(row, [], recipes, core)
            notify({"rows": 1})

    build_board(rows[0], [], recipes, core)  # perf: imports once what all processes need
    done = 1
    for event in execute(range(processes), score_share, devices=["cpu"] * processes, reuse=False):
        done += event.details.get("rows", 0)
        memo.progress(done, len(rows))


def without_plugins(request: BoardRequest) -> BoardRequest:
    """The part of a request whose facts are stored."""
    metrics = {name: spec for name, spec in request.metrics.items() if is_core(spec)}
    options = request.options
    options = ReportOptions(
        prevalence=options.prevalence,
        reach=options.reach,
        recipes=options.recipes,
        metrics=tuple(name for name in options.metrics if name in metrics),
        rank_by=options.rank_by if options.rank_by in metrics else "",
    )
    sections = [section for section in request.sections if section.plugin == CORE_PLUGIN]
    return replace(request, metrics=metrics, options=options, sections=sections)


def add_everywhere(
    groups: dict[tuple[str, ...], list[Result]],
    results: Iterable[Result],
    key_of: Callable[[Result], tuple[str, ...]],
) -> None:
    """Add results to every group with the same key; without one, they are a group of their own."""
    by_key: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        by_key.setdefault(key_of(result), []).append(result)
    present = {key_of(group[0]) for group in groups.values()}
    for group in groups.values():
        group += by_key.get(key_of(group[0]), ())
    groups.update({key: alone for key, alone in by_key.items() if key not in present})


def compare_sites(boards: Sequence[Board]) -> list[Board]:
    """Add to each external validation the scores of its models on their own test split, if their board is there."""
    homes = {board.training_key: board for board in boards if not board.is_external}
    compared = []
    for board in boards:
        home = homes.get(board.training_key) if board.is_external else None
        if home is not None:
            board = replace(board, sections=(build_external_section(board, home), *board.sections))
        compared.append(board)
    return compared


def build_external_section(board: Board, home: Board) -> Section:
    own = {row.key: row for row in home.rows}
    rows = []
    for row in board.rows:
        at_home, there = (
            tested.scores.get(board.primary_metric, external.NO_RUN) if tested else external.NO_RUN
            for tested in (own.get(row.key), row)
        )
        seeds = own[row.key].seeds if row.key in own else ()
        rows.append(external.TestedTwice(label=row.label, home=at_home, there=there, seeds=(seeds, row.seeds)))
    datasets = clean(board.facts["name"]), clean(board.facts["external"]["dataset"])
    return external.build_section(rows, board.primary_metric, datasets, board.higher_is_better)


def build_controls(results: Sequence[Result], request: BoardRequest) -> dict[tuple[str, ...], Board]:
    """Build the boards of runs on shuffled labels, by `control_key`."""
    groups: dict[tuple[str, ...], list[Result]] = {}
    key_of = data_key if request.options.recipes else board_key
    for result in results:
        groups.setdefault(key_of(result), []).append(result)
    recipes = name_recipes(results) if request.options.recipes else {}
    boards = [build_board(group, [], recipes, request) for _, group in sorted(groups.items())]
    controls = {}
    for board in boards:
        if board:
            verdicts = tuple(judge_shuffles(row.label, row.scores, len(row.seeds), board.card) for row in board.rows)
            controls[board.control_key] = replace(board, is_control=True, controls=verdicts)
    return controls


def has_no_weights(result: Result) -> bool:
    """Whether the model computes its features by a formula."""
    return bool(result.run["init"] == "fixed")


def matching_runs(baselines: Sequence[Result], group: Sequence[Result]) -> list[Result]:
    """The baselines on the same data, one row each; of several image sizes, the board's."""
    rows = group_rows([b for b in baselines if data_key(b) == data_key(group[0])])
    sizes = {r.run["image_size"] for r in group}
    rows.sort(key=lambda row: row[0].run["image_size"] not in sizes)
    chosen: dict[str, list[Result]] = {}
    for row in rows:
        chosen.setdefault(row[0].run["model"], row)
    return [result for row in chosen.values() for result in row]


def build_board(
    group: Sequence[Result],
    baselines: Sequence[Result],
    recipes: Mapping[str, str],
    request: BoardRequest,
) -> Board | None:
    """Build one board, or return None if none of its runs finished.

    `recipes` are the short names of the protocols on a board of recipes.
    """
    metrics, options = request.metrics, request.options
    finished = [r for r in (*group, *baselines) if r.ok]
    if not finished:
        return None
    own = [r for r in group if not is_untrained(r.run)] or group or baselines  # their recipe is the board's
    first, run = finished[0], own[0].run
    rule: ThresholdRule = run["protocol"]["threshold"]
    primary, rank_fault = choose_ranking(finished, options.rank_by, metrics, rule)
    requested = list_requested(finished, primary, metrics, options)
    known = choose_board_metrics(finished, [primary, *requested], metrics)
    higher = is_higher_better(primary, metrics)
    cases = count_board_cases(finished)
    labels = choose_labels(cases)
    scoring = RowScoring(metrics=known, primary=primary, labels=labels, memo=request.memo)
    rows, controls = (
        sorted(build_recipes(part, scoring, recipes), key=lambda row: order(row, primary, higher))
        for part in (group, baselines)
    )
    rows, controls = check_rows(rows, controls, finished, metrics)
    created = sorted(r.created[:10] for r in finished if r.created)
    protocols = sorted({r.run["protocol_label"] for r in own})
    inits = sorted({r.run["init"] for r in own if not has_no_weights(r)}) or ["fixed"]
    board = Board(
        dataset=f"{trained_and_tested(run)} (external)" if run["purpose"] == "external" else run["dataset"],
        facts=describe_test(finished, [*rows, *controls]),
        protocols=tuple(protocols),
        label_parts=protocol_parts(run["protocol"]),
        demonstration=any(r.run["protocol"]["demonstration"] for r in own),
        init=inits[0] if len(inits) == 1 else "mixed",
        recipes=bool(recipes),
        primary_metric=primary,
        own_metric=first.details["primary_metric"],
        metrics=tuple(known),
        requested=tuple(name for name in requested if name in known),
        rank_fault=rank_fault,
        higher_is_better=higher,
        rows=(*rows, *controls),
        device=describe_device(first),
        dates=(created[0], created[-1]) if created else ("", ""),
        card=first.card(),
        threshold=rule,
        specs=known,
        cases=cases,
        labels=labels,
        bundle=first.bundle,
        versions=first.versions,
        record=record_runs(own, baselines),
        comparisons=compare_rows(
            [*(row.evidence for row in rows), *["a baseline is not ranked"] * len(controls)],
            higher,
            metrics[primary].bounds if primary in metrics else (None, None),
        ),
    )
    built, dropped = build_sections(request_sections(board, options), request.sections)
    return replace(board, sections=built, dropped=dropped)


def count_board_cases(finished: Sequence[Result]) -> tuple[LabelCases, ...]:
    """Count the test cases of each label. perf: predictions are read here for multi-label tasks only."""
    card = finished[0].card()
    return count_label_cases(load_tests(finished), card) if card.task.targets.form == "flags" else ()


def check_rows(
    rows: Sequence[Row], controls: Sequence[Row], finished: Sequence[Result], metrics: Mapping[str, MetricSpec]
) -> tuple[list[Row], list[Row]]:
    """Flag the models that are no better than the constant predictor, and refuse rows with other targets than most."""
    first = finished[0]
    own_metric, card = first.details["primary_metric"], first.card()
    constant = next((row.scores.get(own_metric) for row in controls if row.model == "constant"), None)
    if first.run["purpose"] in SCORED:
        upward = is_higher_better(own_metric, metrics)
        rows = [flag_degenerate(row, constant, own_metric, upward, card) for row in rows]
    majorities = find_majority_targets(finished, [*rows, *controls])
    same, same_controls = ([refuse_other_targets(row, majorities) for row in part] for part in (rows, controls))
    return same, same_controls


def choose_ranking(
    finished: Sequence[Result], requested: str, metrics: Mapping[str, MetricSpec], rule: ThresholdRule
) -> tuple[str, RankFault | None]:
    """Choose the metric that ranks: the requested one, or the runs' own with the reason why the other cannot."""
    own: str = finished[0].details["primary_metric"]
    if requested in ("", own):
        return own, None
    tested = next((result for result in finished if result.provenance != "stated"), None)
    reason = "its bundle holds no targets"
    if tested is not None:
        reason = find_rank_fault(metrics[requested], tested.predictions(), tested.card(), rule)
    return (own, RankFault(metric=requested, reason=reason)) if reason else (requested, None)


def list_requested(
    finished: Sequence[Result], primary: str, metrics: Mapping[str, MetricSpec], options: ReportOptions
) -> list[str]:
    """The metrics to show first after the one that ranks.

    These are the runs' own primary metric if another one ranks, those that the options request, and stored ones that
    the task does not have: they were requested when the runs were scored.
    """
    first, task = finished[0], finished[0].card().task
    added = [name for result in finished for name in result.scores() if name not in task.metrics]
    named = [name for name in options.metrics if task.name in metrics[name].tasks]
    return [name for name in dict.fromkeys([first.details["primary_metric"], *named, *added]) if name != primary]


def choose_board_metrics(
    finished: Sequence[Result], leading: Sequence[str], metrics: Mapping[str, MetricSpec]
) -> dict[str, MetricSpec]:
    """The installed metrics of a board: the leading ones, then the stored ones."""
    names = dict.fromkeys([*leading, *(name for result in finished for name in result.scores())])
    return {name: metrics[name] for name in names if name in metrics}


def find_majority_targets(finished: Sequence[Result], rows: Iterable[Row]) -> dict[str, str | None]:
    """The targets that most models of a board have for each set of test images; None without a majority.

    Both are given as digests: `rows.TestedTargets`. perf: those of runs that count on a row are known.
    """
    identified = {run: tested for row in rows for run, tested in zip(row.run_ids, row.tested, strict=False)}
    votes: dict[str, dict[str, set[str]]] = {}
    for result in finished:
        if result.provenance != "stated":  # bundles of data that may not be shared have no targets
            images, targets = identified.get(result.id) or identify_targets(result.predictions()["test"])
            votes.setdefault(images, {}).setdefault(targets, set()).add(result.run["model"])
    majorities: dict[str, str | None] = {}
    for images, models_by_targets in votes.items():
        most, *others = sorted(models_by_targets, key=lambda targets: -len(models_by_targets[targets]))
        is_tie = bool(others) and len(models_by_targets[others[0]]) == len(models_by_targets[most])
        majorities[images] = None if is_tie else most
    return majorities


def refuse_other_targets(row: Row, majorities: Mapping[str, str | None]) -> Row:
    """Name a row as damaged and refuse to rank it if its targets are not those of most models."""
    if all(majorities[images] == targets for images, targets in row.tested):
        return row
    reason = "its targets are not those of most models for the same test images"
    return replace(row, evidence=reason, failures=(*row.failures, Failure("damaged", reason)))


def request_sections(board: Board, options: ReportOptions) -> SectionRequest:
    """The board as its sections see it: the rows that have predictions."""
    return SectionRequest(
        rows=[
            ScoredRow(
                label=row.label,
                baseline=row.baseline,
                stored=row.stored,
                seeds=seeds_of(row),
                threshold=board.rule_of(row),
                folders=row.folders,
                names=(row.name, row.model, row.qualified),
                cost=row.cost,
                val_score=row.val_score,
                memo=row.memo,
            )
            for row in board.rows
            if row.stored
        ],
        card=board.card,
        facts=board.facts,
        primary=board.primary,
        threshold=board.threshold,
        options=options,
        labels=board.labels,
    )


def describe_test(finished: Sequence[Result], rows: Iterable[Row]) -> dict[str, Any]:
    """The dataset's facts, with the test split counted over all folds and its patients by label."""
    facts, card = finished[0].dataset, finished[0].card()
    test: dict[str, Any] = dict(facts["splits"]["test"])
    if facts["num_folds"] > 1:
        folds = {r.dataset["fold"]: r.dataset["splits"]["test"] for r in finished}
        test |= {name: sum(part[name] for part in folds.values()) for name in ("images", "patients")}
        test["folds"] = len(folds)
        if "labels" in test:
            test["labels"] = {label: sum(part["labels"][label] for part in folds.values()) for label in facts["labels"]}
    stored = next((row.stored for row in rows if row.stored), ())
    if stored and card.has_patients:
        test["label_patients"] = count_label_patients(stored[0], card)
    if stored and card.unit != "image":
        test |= count_units(stored[0], card)
    return {**facts, "splits": {**facts["splits"], "test": test}}


def count_units(folds: Sequence[Mapping[str, Predictions]], card: ScoringContext) -> dict[str, Any]:
    """Count the test units (patients or clips) in all and by class, for the prevalence."""
    tests = [fold["test"].by_unit(card.unit) for fold in folds]
    counts: dict[str, Any] = {"units": sum(map(len, tests))}
    if card.task.classes:
        by_class = np.bincount(np.concatenate([test.targets for test in tests]), minlength=len(card.labels))
        counts["label_units"] = {label: int(n) for label, n in zip(card.labels, by_class, strict=True)}
    return counts


def count_label_patients(folds: Sequence[Mapping[str, Predictions]], card: ScoringContext) -> dict[str, int]:
    """Count the test patients with at least one image of each label; a patient may count for several labels."""
    if not card.task.labeled:
        return {}
    counts = dict.fromkeys(card.labels, 0)
    for position, label in enumerate(card.labels):
        for fold in folds:
            targets = fold["test"].targets
            has_label = targets == position if targets.ndim == 1 else targets[:, position] == 1
            counts[label] += len(np.unique(fold["test"].patients[has_label]))
    return counts


def describe_device(result: Result) -> str:
    system = result.system
    if is_imported(result.run):
        return "no training here"
    if "gpu" in system:
        return str(system["gpu"])
    threads = system.get("threads", 1)
    return f"{system.get('processor') or system.get('machine')}, {threads} thread{'s' * (threads != 1)}"
