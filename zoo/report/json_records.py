"""The records of the document that `zoo report --format json` writes; its JSON schema is made from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

SCHEMA_VERSION: Literal[1] = 1  # of the document; fields may be added without a new version
SCHEMA_NAME = "report.schema.json"


def about(text: str) -> Any:
    """The description of a field in the schema."""
    return Field(description=text)


NumberOrNull = float | None


@dataclass(frozen=True, kw_only=True)
class ScoreValueRecord:
    """A score with its 95 % interval."""

    value: Annotated[NumberOrNull, about("null if it is undefined; `reason` states why")]
    low: Annotated[NumberOrNull, about("Lower end of the 95 % interval; null without an interval.")]
    high: Annotated[NumberOrNull, about("Upper end.")]
    method: Annotated[str, about("How the interval was computed.")]
    reason_code: Annotated[str | None, about("Code of why there is no value, or no interval: `too-few`, `undefined`.")]
    reason: Annotated[str | None, about("The same in words.")]
    note: Annotated[str, about("What a reader must know about the value: `macro over 6 of 7 labels`.")]
    version: Annotated[int, about("Version of the metric.")]


@dataclass(frozen=True, kw_only=True)
class RowRecord:
    """One model on one board."""

    dataset: Annotated[str, about("Dataset of the board.")]
    protocol: Annotated[str, about("Name, version and overrides of the protocol.")]
    init: Annotated[str, about("`pretrained`, `random`, or `none` of imported predictions.")]
    model: Annotated[str, about("Short name.")]
    label: Annotated[str, about("The row as `zoo compare` takes it.")]
    qualified: Annotated[str, about("distribution:architecture")]
    weights: Annotated[str, about("Tag of the initial weights, `random init`, `no weights` or `imported`.")]
    baseline: Annotated[bool, about("Whether it is a baseline, which is never ranked.")]
    rank: Annotated[int | None, about("1 + the number of models that score detectably better; null: see `unranked`.")]
    tied_with: Annotated[list[str], about("Labels of the rows without a detectable difference from this one.")]
    unranked: Annotated[str | None, about("Why it has no rank.")]
    metric: Annotated[str, about("The metric that ranks.")]
    value: Annotated[NumberOrNull, about("Its score in that metric.")]
    low: Annotated[NumberOrNull, about("Lower end of the 95 % interval.")]
    high: Annotated[NumberOrNull, about("Upper end.")]
    reason: Annotated[str | None, about("Why there is no value or no interval.")]
    seeds: Annotated[int, about("NumberOrNull of seeds that count.")]
    seed_sd: Annotated[NumberOrNull, about("Standard deviation between seeds; null for one seed.")]
    deterministic: Annotated[bool, about("Whether every seed has the same outcome, so that one run counts as all.")]
    coverage: Annotated[str, about("Runs that count / runs expected.")]
    scores: Annotated[dict[str, ScoreValueRecord], about("By metric.")]
    label_scores: Annotated[
        dict[str, dict[str, ScoreValueRecord]], about("Multi-label: by label, then by metric. Empty for other tasks.")
    ]
    cost: Annotated[dict[str, NumberOrNull], about("Mean over runs, by kind of cost.")]
    deviations: Annotated[list[str], about("Deviations from the protocol.")]
    runs: Annotated[list[str], about("Ids of the runs that count.")]
    degenerate: Annotated[list[str], about("Why it is no better than the constant predictor.")]
    tuned: Annotated[str, about("How it was tuned.")]
    provenance: Annotated[str | None, about("Of a row from a bundle: `recomputed`, `reproduced` or `stated`.")]
    bundle: Annotated[str | None, about("The bundle it comes from.")]
    content_hash: Annotated[str, about("Of the dataset.")]
    split_hash: Annotated[str, about("Of the split.")]


@dataclass(frozen=True, kw_only=True)
class PairRecord:
    """The test of two rows."""

    first: Annotated[str, about("Label of a row.")]
    second: Annotated[str, about("Label of the other row.")]
    difference: Annotated[float, about("Score of the first minus that of the second.")]
    low: Annotated[float, about("Lower end of its 95 % interval, of this pair alone.")]
    high: Annotated[float, about("Upper end.")]
    p: float
    p_holm: Annotated[float, about("After Holm's correction over all pairs of the board.")]
    df: Annotated[NumberOrNull, about("Degrees of freedom; null without variance.")]
    patient_variance: float
    seed_variance: float
    detectable: Annotated[NumberOrNull, about("The difference found with 80 % power; null if there is none.")]
    patients_needed: Annotated[int | None, about("For 80 % power at the observed difference.")]
    winner: Annotated[str | None, about("Label of the better row; null: no detectable difference.")]


@dataclass(frozen=True, kw_only=True)
class ComparisonsRecord:
    """The tests between the rows of a board."""

    winner: Annotated[str | None, about("Label of the row with the best score, if any row is ranked.")]
    num_patients: int
    detectable: Annotated[NumberOrNull, about("Median over pairs of the smallest difference found with 80 % power.")]
    patients_change_winner: Annotated[NumberOrNull, about("Share of resampled test sets with another best row.")]
    seeds_change_winner: Annotated[NumberOrNull, about("Share of redrawn seeds with another best row.")]
    pairs: list[PairRecord]


@dataclass(frozen=True, kw_only=True)
class SectionRecord:
    """A table below a board."""

    title: str
    text: Annotated[str, about("A sentence between title and table, or empty.")]
    columns: list[str]
    rows: Annotated[list[dict[str, Any]], about("By column: a score, a text, a number or null.")]
    notes: list[str]
    figures: Annotated[list[dict[str, Any]], about("Figures of a plugin's section as data.")]
    details: Annotated[dict[str, Any], about("Further data, such as curves.")]


@dataclass(frozen=True, kw_only=True)
class ControlRecord:
    """The verdict on a model trained on shuffled labels."""

    model: str
    passed: Annotated[bool | None, about("null without an interval")]
    text: str


@dataclass(frozen=True, kw_only=True)
class MetricRecord:
    """A metric of a board."""

    name: str
    version: int
    higher_is_better: bool
    definition: str


@dataclass(frozen=True, kw_only=True)
class LabelRecord:
    """A label of a multi-label test set."""

    label: str
    positives: Annotated[int, about("Test patients (images without a patient key) with it.")]
    negatives: Annotated[int, about("Test patients without it.")]
    counts: Annotated[bool, about("Whether it counts in means over labels and in the ranks.")]


@dataclass(frozen=True, kw_only=True)
class RankFaultRecord:
    """Why the metric of `--rank-by` does not rank a board."""

    metric: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class BoardRecord:
    """One dataset, split, protocol and kind of initial weights."""

    title: str
    statements: Annotated[list[str], about("Every sentence that a reader needs to judge the numbers.")]
    dataset: Annotated[dict[str, Any], about("The dataset's card, splits and hashes.")]
    ranked_by: Annotated[str, about("The metric that ranks.")]
    rank_fault: Annotated[RankFaultRecord | None, about("Why it is not the requested one.")]
    metrics: list[MetricRecord]
    labels: Annotated[list[LabelRecord], about("Of a multi-label test set, else empty.")]
    configurations: Annotated[int, about("Configurations ever scored on this test set.")]
    is_control: Annotated[bool, about("Whether its runs were trained on shuffled labels.")]
    controls: list[ControlRecord]
    comparisons: ComparisonsRecord
    sections: Annotated[dict[str, SectionRecord], about("By name.")]


@dataclass(frozen=True, kw_only=True)
class AcrossPairRecord:
    """Wilcoxon's test of two models over datasets."""

    first: str
    second: str
    p_holm: float


@dataclass(frozen=True, kw_only=True)
class AcrossRecord(SectionRecord):
    """One order of models over several datasets."""

    protocol: str
    init: str
    over: Annotated[Literal["all", "common"], about("All datasets, or those that every model has.")]
    datasets: list[str]
    pairs: Annotated[list[AcrossPairRecord], about("Empty: too few datasets to test.")]


@dataclass(frozen=True, kw_only=True)
class ReportRecord:
    """The document of `zoo report --format json`."""

    schema: Annotated[Literal[1], about("Version of this format.")]
    command: Literal["report"]
    boards: list[BoardRecord]
    across: list[AcrossRecord]
    leaderboard: Annotated[list[RowRecord], about("The rows of all boards.")]


def report_schema() -> dict[str, Any]:
    """The JSON schema of the document, published as `docs/report.schema.json`."""
    schema = TypeAdapter(ReportRecord).json_schema(mode="serialization")
    schema["properties"] = {"$schema": {"type": "string", "description": "Name of this file."}, **schema["properties"]}
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, **schema, "title": "zoo report --format json"}
