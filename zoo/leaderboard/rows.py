"""Build the rows of a board: the runs of one model, scored over their seeds and folds."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import Undefined
from zoo.evaluation.evidence import Evidence, weigh_decided
from zoo.evaluation.label_cases import keep_labels
from zoo.evaluation.predictions import LazyRun, Predictions
from zoo.evaluation.reasons import Reason, reason_for
from zoo.evaluation.scoring import deviate_by_seed, score_decided
from zoo.evaluation.thresholds import ThresholdRule
from zoo.evaluation.values import DecidedRuns, Runs, Score, decide_all
from zoo.leaderboard.records import MissingRun, list_missing
from zoo.leaderboard.sanity_checks import (
    NO_OUTPUTS,
    OutputCounts,
    count_outputs,
    find_degenerate,
    is_baseline,
    score_shuffles,
)
from zoo.leaderboard.tables import Failure
from zoo.results.memo import RunsMemo, ScoreMemo, is_core
from zoo.results.runs import read_run
from zoo.results.store import Provenance, Result
from zoo.specs.deviation import Deviation
from zoo.specs.metric import MetricSpec, ScoringContext
from zoo.specs.protocol import SECOND_READER
from zoo.statistics.means import exact_mean, rounded
from zoo.system.files import hash_bytes

COSTS = (
    "train_seconds",
    "images_per_second",
    "inference_images_per_second",
    "latency_seconds",
    "peak_memory_bytes",
    "num_parameters",
    "flops",
)
# The fields that separate rows: a run's identity without seed and fold.
KEPT_APART = (
    "model",
    "network",
    "weights_digest",
    "image_size",
    "precision",
    "device_kind",
    "threads",
    "tuned",
    "predictions",
    "estimator",
    "inputs",
    "choices",
)
UNCUT = ("estimator", "inputs", "choices")  # of these, texts that may differ at their ends


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model on one board: its scores over all seeds and folds, what they cost, and what deviates."""

    model: str
    qualified: str  # distribution:architecture
    network: str = ""  # models.identity.identify_network
    family: str = ""  # of the architecture, as its plugin names it; "" in older results
    weights: str  # tag; "random init"; "imported"
    init: str  # kind of initial weights
    baseline: bool
    scores: Mapping[str, Score]
    seed_sd: Mapping[str, float | None]  # standard deviation between the seeds' scores
    deterministic: bool = False  # every seed has the same outcome, so one run counts as all
    protocol: str  # its label
    label_parts: tuple[Any, ...] = ()  # of that label: name, version and overrides
    recipe: str = ""  # the short name of its protocol, on a board of recipes
    threshold: ThresholdRule = "val"
    seeds: tuple[int, ...]
    coverage: tuple[int, int]  # runs that count, runs expected
    num_finished: int = 0  # finished runs; a seed counts if all its folds finished
    cost: Mapping[str, float | None]  # mean over runs
    val_score: float | None = field(default=None, compare=False, repr=False)  # mean over runs; higher is better
    deviations: tuple[Deviation, ...]
    degenerate: tuple[str, ...] = ()  # why it is no better than the constant predictor
    tuned: str = ""
    num_tuning_runs: int = 0
    pretraining: tuple[str, ...] | None = None  # datasets of its initial weights; None: unknown
    key: tuple[Any, ...] = field(default=(), repr=False)  # what it has in common with its runs on another dataset
    variant: str = ""  # what distinguishes it from rows of the same name on its board
    untagged: bool = False  # named without its weights tag: report.names
    failures: tuple[Failure, ...] = ()
    faults: tuple[int, ...] = ()  # seeds that failed because of the model itself
    run_ids: tuple[str, ...] = ()
    missing: tuple[MissingRun, ...] = ()
    provenance: Provenance = ""  # of a row made from a bundle
    # or why there is none
    evidence: Evidence | Reason | str = field(default="no finished run", compare=False, repr=False)
    stored: Runs = field(default=(), compare=False, repr=False)  # predictions by seed and fold of the runs that count
    memo: RunsMemo = field(default_factory=RunsMemo, compare=False, repr=False)  # of these runs
    tested: tuple[TestedTargets, ...] = field(default=(), compare=False, repr=False)  # of each of these runs
    outputs: OutputCounts = NO_OUTPUTS  # of these runs
    folders: Sequence[Sequence[Path]] = field(default=(), compare=False, repr=False)  # of these runs

    @property
    def label(self) -> str:
        """The model with its weights tag, unless the name ends with it: what `zoo compare` takes."""
        tag = f".{self.weights}"
        plain = self.init != "pretrained" or self.model.endswith(tag)
        name = self.model if plain else f"{self.model}{tag}"
        name = name.removesuffix(tag) if self.untagged else name
        return self.with_recipe(f"{name}[{self.variant}]" if self.variant else name)

    @property
    def name(self) -> str:
        """The model, for sentences about this row."""
        return self.with_recipe(self.model)

    @property
    def is_imported(self) -> bool:
        """Whether another tool made the predictions, so that nothing was trained here."""
        return self.init == "none" and not self.baseline

    @property
    def is_second_reader(self) -> bool:
        """Whether its masks are those of a second reader of the dataset."""
        return self.label_parts[:1] == (SECOND_READER.name,)

    def with_recipe(self, name: str) -> str:
        return f"{name} · {self.recipe}" if self.recipe and not self.baseline and not self.is_imported else name


def data_key(result: Result) -> tuple[str, ...]:
    run = result.run
    external = run.get("tested_on", ""), run.get("test_hash", "")  # older results have neither
    return (run["dataset"], run["content_hash"], run["split_hash"], *external, result.bundle)


def recipe_key(result: Result) -> tuple[str, ...]:
    return (*data_key(result), result.run["protocol_label"])


def board_key(result: Result) -> tuple[str, ...]:
    return (*recipe_key(result), result.run["init"])


def row_key(result: Result) -> tuple[Any, ...]:
    return tuple(kept_apart(result.run).values())


def kept_apart(run: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a run (`Run.describe()`) that separate rows."""
    fields = {**run, "choices": ", ".join(run.get("choices", ()))}  # a list in `result.json`
    return {name: fields.get(name, "") for name in KEPT_APART}  # older results lack some


def protocol_parts(protocol: Mapping[str, Any]) -> tuple[Any, ...]:
    return protocol["name"], protocol["version"], *map(tuple, protocol.get("overrides", ()))


def is_higher_better(metric: str, metrics: Mapping[str, MetricSpec]) -> bool:
    return metrics[metric].higher_is_better if metric in metrics else True


def load_tests(finished: Sequence[Result]) -> list[Predictions]:
    """The test split of each fold; in external validation all folds have the same."""
    with_targets = [result for result in finished if result.provenance != "stated"]
    by_fold = {0 if r.run["purpose"] == "external" else r.run["fold"]: r for r in reversed(with_targets)}
    return [by_fold[fold].predictions()["test"] for fold in sorted(by_fold)]


def seeds_of(row: Row) -> tuple[int, ...]:
    """The seed of each part of `stored`; in external validation each fold is a part."""
    each = len(row.stored) // max(1, len(row.seeds))
    return tuple(seed for seed in row.seeds for _ in range(each))


@dataclass(frozen=True, kw_only=True)
class RowScoring:
    """What the rows of a board are scored by."""

    metrics: Mapping[str, MetricSpec]
    primary: str  # the metric that ranks
    labels: tuple[int, ...]  # positions of the labels that count; empty: all
    memo: ScoreMemo


def build_rows(results: Sequence[Result], scoring: RowScoring, seeds: Sequence[int]) -> list[Row]:
    """Build one row per model; rows of the same name get a variant that distinguishes them."""
    rows, parts = [], group_rows(results)
    for part in parts:
        row = build_row(part, scoring, seeds)
        run = part[0].run
        twins = [t[0].run for t in parts if all(t[0].run[name] == run[name] for name in ("shown", "weights_tag"))]
        differing = [name for name in KEPT_APART if len({kept_apart(twin)[name] for twin in twins}) > 1]
        texts = {name: str(kept_apart(run)[name]) for name in differing}
        shown = {name: (text if name in UNCUT else text[:20]) or "unrecorded" for name, text in texts.items()}
        if len({(*kept_apart(twin).values(),) for twin in twins}) < len(twins):
            shown["params"] = str(next(map(describe_parameters, part), None))
        rows.append(replace(row, variant=", ".join(f"{name}={value}" for name, value in shown.items())))
    return rows


def build_recipes(results: Sequence[Result], scoring: RowScoring, recipes: Mapping[str, str]) -> list[Row]:
    """Build the rows of each recipe by itself: a model is compared with the others of its recipe for missing seeds."""
    rows = []
    for part in split_by_recipe(results):
        recipe = recipes.get(part[0].run["protocol_label"], "")
        rows += [replace(row, recipe=recipe) for row in build_rows(part, scoring, expected_seeds(part))]
    return rows


def expected_seeds(results: Sequence[Result]) -> list[int]:
    """The seeds that the rows of one recipe should have."""
    return [0] if is_baseline(results[0].run) else sorted({r.run["seed"] for r in results})


def list_unscored(results: Sequence[Result], memo: ScoreMemo) -> list[list[Result]]:
    """The results of each row of a board whose facts can be stored but are not."""
    parts = [(row, expected_seeds(part)) for part in split_by_recipe(results) for row in group_rows(part)]
    return [row for row, seeds in parts if memo.of_runs(find_whole(row, seeds)[1]).is_missing()]


def name_recipes(results: Iterable[Result]) -> dict[str, str]:
    """A short name of each protocol's label: the protocol's name, or the label if several protocols have the name."""
    labels = {r.run["protocol_label"]: r.run["protocol"]["name"] for r in results}
    names = Counter(labels.values())
    return {label: name if names[name] == 1 else label for label, name in labels.items()}


def split_by_recipe(results: Sequence[Result]) -> list[list[Result]]:
    """Split runs by protocol and kind of initial weights, in the order of their labels."""
    recipes: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        recipes.setdefault(board_key(result), []).append(result)
    return [part for _, part in sorted(recipes.items())]


def group_rows(results: Sequence[Result]) -> list[list[Result]]:
    rows: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        rows.setdefault(row_key(result), []).append(result)
    return [part for key in sorted(rows, key=repr) for part in split_by_parameters(rows[key])]


def split_by_parameters(results: Sequence[Result]) -> list[list[Result]]:
    """Split the runs of one row by their number of parameters.

    It differs if a plugin changed without a new version. A failed run has no number and stays with the first ones.
    """
    counts = sorted({count for result in results if (count := describe_parameters(result)) is not None})
    if len(counts) < 2:
        return [list(results)]
    return [[r for r in results if (describe_parameters(r) or counts[0]) == count] for count in counts]


def describe_parameters(result: Result) -> int | None:
    count: int | None = result.cost.get("num_parameters")
    return count


def order(row: Row, primary: str, higher: bool) -> tuple[bool, float, str]:
    score = row.scores.get(primary)
    value = None if score is None or score.value is None else float(rounded(score.value))  # keeps ties
    return value is None, 0.0 if value is None else (-value if higher else value), row.model


def build_row(results: Sequence[Result], scoring: RowScoring, seeds: Sequence[int]) -> Row:
    """Build the row of some runs from the seeds that have all their folds.

    Means over different sets of folds are not comparable.
    """
    run = results[0].run
    deterministic = read_run(run).is_deterministic
    if deterministic:  # older benches repeated such a run for every seed
        seeds = sorted({r.run["seed"] for r in results})
    finished = {(r.run["seed"], r.run["fold"]): r for r in results if r.ok}
    folds = range(run["num_folds"])
    whole, complete = find_whole(results, seeds)
    counted = [result for part in complete for result in part]
    scored = score_row(complete, scoring)
    evidence = scored.evidence
    if not complete:
        evidence = "no seed has finished all its folds" if finished else "no finished run"
    elif scored.stored and any(deviation.kind == "leak-allowed" for r in results for deviation in r.deviations):
        evidence = "a row on a dataset that leaks is not ranked"
    deterministic = deterministic and not any(scored.seed_sd.values())
    if deterministic and isinstance(evidence, Evidence):
        evidence = replace(evidence, deterministic=True, seed_scores=evidence.seed_scores[:1])
    return Row(
        model=run["shown"],
        qualified=run["model"],
        network=run.get("network", ""),  # absent from the oldest results
        family=next((r.details["family"] for r in finished.values() if r.details.get("family")), ""),
        weights=name_weights(run),
        baseline=is_baseline(run),
        scores=scored.scores,
        seed_sd=scored.seed_sd,
        deterministic=deterministic and not is_baseline(run),
        key=(run["protocol_label"], run["init"], *row_key(results[0])),
        init=run["init"],
        protocol=run["protocol_label"],
        label_parts=protocol_parts(run["protocol"]),
        threshold=run["protocol"]["threshold"],
        seeds=tuple(whole),
        coverage=(len(counted), len(seeds) * len(folds)),
        num_finished=len(finished),
        cost={name: mean_cost(counted, name) for name in COSTS},
        val_score=mean_val_score(counted),
        deviations=tuple(dict.fromkeys(d for r in results for d in r.deviations)),
        tuned=run["tuned"],
        num_tuning_runs=run.get("num_tuning_runs", 0),  # absent from the oldest results
        pretraining=find_pretraining(list(finished.values())),
        failures=tuple(
            dict.fromkeys(Failure(r.status, r.error["message"], r.error.get("fix", "")) for r in results if r.error)
        ),
        faults=tuple(sorted({r.run["seed"] for r in results if r.is_models_fault} - set(whole))),
        run_ids=tuple(r.id for r in counted),
        missing=list_missing(results, seeds, len(folds)),
        evidence=evidence,
        stored=scored.stored,
        memo=scored.memo,
        tested=scored.tested,
        outputs=scored.outputs,
        folders=[[result.folder for result in part if result.folder] for part in complete] if scored.stored else (),
        provenance=strongest(results),
    )


def find_whole(results: Sequence[Result], seeds: Sequence[int]) -> tuple[list[int], list[list[Result]]]:
    """The seeds of a row that have all their folds, and their runs by seed and fold."""
    run = results[0].run
    finished = {(r.run["seed"], r.run["fold"]): r for r in results if r.ok}
    folds = range(run["num_folds"])
    whole = [seed for seed in seeds if all((seed, fold) in finished for fold in folds)]
    complete = [[finished[seed, fold] for fold in folds] for seed in whole]
    if run["purpose"] == "external":  # the models of all folds are tested on the same images
        complete = [[result] for part in complete for result in part]
    return whole, complete


def name_weights(run: Mapping[str, Any]) -> str:
    """The tag of a run's initial weights, or what it has instead."""
    if run["init"] == "pretrained":
        return str(run["weights_tag"])
    return {"random": "random init", "fixed": "no weights", "none": "imported"}[run["init"]]


@dataclass(frozen=True, eq=False, kw_only=True)
class RowScores:
    """What the complete seeds of a row have scored, and the predictions that this was computed from."""

    scores: Mapping[str, Score]
    seed_sd: Mapping[str, float | None]
    evidence: Evidence | Reason | str
    stored: Runs = ()
    memo: RunsMemo = field(default_factory=RunsMemo)
    tested: tuple[TestedTargets, ...] = ()
    outputs: OutputCounts = NO_OUTPUTS


def score_row(complete: Sequence[Sequence[Result]], scoring: RowScoring) -> RowScores:
    """Score the complete seeds of a row, or repeat what a bundle without targets states."""
    metrics = scoring.metrics
    each = [[result.scores() for result in part] for part in complete]
    seed_sd = {name: seed_deviation(each, name) for name in metrics}
    if not complete:
        return RowScores(scores={}, seed_sd=seed_sd, evidence="")
    if any(result.provenance == "stated" for part in complete for result in part):
        stated = {name: stated_score(complete, name) for name in metrics}
        return RowScores(scores=stated, seed_sd=seed_sd, evidence="its bundle holds no targets")
    first = complete[0][0]
    threshold: ThresholdRule = first.run["protocol"]["threshold"]
    stored = [[LazyRun(result.predictions) for result in part] for part in complete]
    runs, card = keep_labels(stored, first.card(), scoring.labels)
    decided = cache(partial(decide_all, runs, card, threshold))  # only for facts that are not stored
    stored_names = set.intersection(*(set(scores) for part in each for scores in part))
    how = f"threshold {threshold}, labels {scoring.labels}"
    scores: Mapping[str, Score]
    evidence: Evidence | Reason | str
    with scoring.memo.of_runs(complete) as memo:
        if first.run["purpose"] == "shuffle":
            compute = partial(score_shuffles, runs, card=card, threshold=threshold)
            scores, evidence = memo.find_scores(f"shuffles, {how}", metrics, compute), "a control is not ranked"
        else:
            scores = memo.find_scores(f"scores, {how}", metrics, lambda some: score_decided(decided(), some, card))
            if scoring.labels:
                counted = f"over {len(card.labels)} of {len(first.card().labels)} labels"
                scores = {name: add_note(found, counted) for name, found in scores.items()}
            evidence = recall_evidence(memo, how, metrics.get(scoring.primary), partial(find_evidence, decided, card))
        for name, metric in metrics.items():
            if scoring.labels or name not in stored_names:
                deviate = partial(lambda spec: deviate_by_seed(decided(), spec, card), metric)
                seed_sd[name] = recall_deviation(memo, how, metric, deviate)
        tested = memo.find("tested", lambda: [identify_targets(run["test"]) for part in stored for run in part])
        outputs = memo.find(f"outputs, {how}", lambda: asdict(count_outputs(stored, first.card(), decided())))
    return RowScores(
        scores=scores,
        seed_sd=seed_sd,
        evidence=evidence,
        stored=stored,
        memo=memo,
        tested=tuple(map(tuple, tested)),
        outputs=OutputCounts(**outputs),
    )


TestedTargets = tuple[str, str]  # digests of the ids of the test images, sorted, and of the targets in this order


def identify_targets(test: Predictions) -> TestedTargets:
    order = np.argsort(test.sample_ids)
    ids, targets = test.sample_ids[order].tolist(), test.targets[order].astype(np.float64)
    return hash_bytes(*ids), hash_bytes(str(targets.shape), targets.tobytes())


def recall_evidence(
    memo: RunsMemo, how: str, metric: MetricSpec | None, find: Callable[[MetricSpec | None], Evidence | Reason | str]
) -> Evidence | Reason | str:
    """The stored evidence of a metric of the core, else what `find` finds."""
    if metric is None or not is_core(metric):
        return find(metric)
    fact = memo.find(f"evidence, {how}, {metric.name}@{metric.version}", lambda: describe_evidence(find(metric)))
    if "patients" not in fact:
        return Reason(fact["code"], tuple(fact["detail"]), fact["sentence"])
    return Evidence(
        patients=np.array(fact["patients"], dtype=np.str_),
        influence=np.array(fact["influence"], dtype=np.float64),
        seed_scores=np.array(fact["seed_scores"], dtype=np.float64),
    )


def recall_deviation(memo: RunsMemo, how: str, metric: MetricSpec, find: Callable[[], float | None]) -> float | None:
    """The stored standard deviation between seeds of a metric of the core, else what `find` finds."""
    if not is_core(metric):
        return find()
    deviation: float | None = memo.find(f"seed SD, {how}, {metric.name}@{metric.version}", find)
    return deviation


def describe_evidence(evidence: Evidence | Reason | str) -> dict[str, Any]:
    """What a metric of the core gives, as JSON values."""
    assert not isinstance(evidence, str)  # the metric is installed
    if isinstance(evidence, Reason):
        return asdict(evidence)
    return {name: getattr(evidence, name).tolist() for name in ("patients", "influence", "seed_scores")}


def find_pretraining(results: Sequence[Result]) -> tuple[str, ...] | None:
    """The datasets on which the row's initial weights were trained, as recorded by its runs."""
    names = next((result.details["pretraining"] for result in results if result.details.get("pretraining")), None)
    return None if names is None else tuple(names)


def flag_degenerate(row: Row, constant: Score | None, primary: str, higher: bool, card: ScoringContext) -> Row:
    score = row.scores.get(primary)
    reasons = find_degenerate(score, constant, higher_is_better=higher, outputs=row.outputs, unit=card.unit)
    return replace(row, degenerate=reasons)


def find_evidence(
    decided: Callable[[], DecidedRuns], card: ScoringContext, metric: MetricSpec | None
) -> Evidence | Reason | str:
    """What the row is ranked by, or why it is not ranked; an error in a plugin's metric is such a reason."""
    if metric is None:
        return "the primary metric is not installed"
    try:
        return weigh_decided(decided(), metric, card)
    except Undefined as error:
        return reason_for(error, "undefined")
    except (Exception, SystemExit) as error:
        return reason_for(error, "failed")


def strongest(results: Sequence[Result]) -> Provenance:
    """The provenance of a row: a single run that was reproduced here counts for the row."""
    present = {result.provenance for result in results}
    order: tuple[Provenance, ...] = ("reproduced", "stated", "recomputed")
    return next((provenance for provenance in order if provenance in present), "")


def stated_score(complete: Sequence[Sequence[Result]], name: str) -> Score:
    """The mean of the scores stated by a bundle without targets; it has no interval."""
    stated = [result.scores().get(name) for part in complete for result in part]
    values = [score.value for score in stated if score is not None and score.value is not None]
    if len(values) < len(stated):
        return Score(value=None, reason=Reason("partly-stated"))
    reason = Reason("stated")
    return Score(value=exact_mean(values), reason=reason)


def add_note(score: Score, note: str) -> Score:
    return replace(score, note="; ".join(filter(None, (score.note, note))))


def seed_deviation(stored: Sequence[Sequence[Mapping[str, Score]]], name: str) -> float | None:
    """Standard deviation between the stored scores of the seeds, each the mean over folds; None for one seed."""
    values = []
    for part in stored:
        scores = [each.get(name) for each in part]
        numbers = [s.value for s in scores if s is not None and s.value is not None]
        if len(numbers) < len(part):
            return None
        values.append(exact_mean(numbers))
    return statistics.stdev(values) if len(values) > 1 else None


def mean_cost(results: Sequence[Result], name: str) -> float | None:
    values = [r.cost[name] for r in results if r.cost.get(name) is not None]
    return statistics.fmean(values) if values else None


def mean_val_score(results: Sequence[Result]) -> float | None:
    values = [value for result in results if (value := result.details.get("val_score")) is not None]
    return exact_mean(values) if values and len(values) == len(results) else None
