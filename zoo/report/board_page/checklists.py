"""CLAIM 2024 and TRIPOD+AI, item by item: filled from the record where it has the fact, else a blank for the authors.

CLAIM, 44 items: Tejani et al. 2024, Radiology: Artificial Intelligence 6(4):e240300. TRIPOD+AI, 27 items with 52
parts: Collins et al. 2024, BMJ 385:e078378. Numbers and order are those of the papers; the items are in our own words.
An item is filled only if the record answers what it asks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zoo.errors import clean, plural_of
from zoo.leaderboard.boards import Board
from zoo.leaderboard.formatting import with_interval
from zoo.report.board_page.answer import best_model, detectable_statement
from zoo.report.statements import (
    case_name,
    interval_statement,
    list_counts,
    ranking_statements,
    split_statement,
    state_notes,
    test_statement,
    tuning_statements,
    weights_statements,
)
from zoo.report.summary import answer, list_some, outlook

Fill = Callable[[Board], str]  # the text of an item from the record, or "" if the record lacks it


@dataclass(frozen=True)
class Item:
    """One item of a reporting guideline. `fill` None: only the authors can write it."""

    number: str
    text: str
    fill: Fill | None = None


# --- what the record can say -----------------------------------------------------------------------------------------
def recorded_fact(name: str) -> Fill:
    return lambda board: str(board.facts.get(name) or "")


def state_technology(board: Board) -> str:
    models = [row.label for row in board.rows if not row.baseline]
    return f"deep networks on images, {board.facts['task']} task: {list_some(models)}" if models else ""


def state_sources(board: Board) -> str:
    facts = board.facts
    parts = [facts["name"], facts.get("title"), facts.get("modality"), facts.get("citation"), facts.get("license")]
    return "; ".join(str(part) for part in parts if part)


def state_preparation(board: Board) -> str:
    sizes = board.record.setup.get("image_size", ())
    normalization = board.record.protocol.get("normalization", ())
    return (
        f"images resized to {' or '.join(f'{size} px' for size in sizes)}, normalization by "
        f"{' or '.join(map(str, normalization))}"
        if sizes and normalization
        else ""
    )


def state_exclusions(board: Board) -> str:
    return "; ".join(state_notes(board))


def state_outcome(board: Board) -> str:
    labels = board.facts["labels"]
    return f"{board.facts['task']}: {', '.join(labels)}" if labels else str(board.facts["task"])


def state_outcome_assessment(board: Board) -> str:
    standard = str(board.facts.get("reference_standard") or "")
    return "; ".join(filter(None, (state_outcome(board), standard and f"assessed by: {standard}")))


def state_predictors(board: Board) -> str:
    return f"the pixels of the images ({board.facts['modality']}), nothing else" if board.facts.get("modality") else ""


def state_partition_level(board: Board) -> str:
    facts = board.facts
    return f"disjoint by {case_name(board)}" if facts["has_patients"] else "disjoint by image; patients are unknown"


def state_partition_sizes(board: Board) -> str:
    splits = board.facts["splits"]
    return "; ".join(
        f"{name}: {split['images']} images"
        + (f", {split['patients']} {plural_of(case_name(board))}" * board.facts["has_patients"])
        for name, split in splits.items()
    )


def state_partition_labels(board: Board) -> str:
    splits = board.facts["splits"]
    return "; ".join(f"{name}: {list_counts(split['labels'])}" for name, split in splits.items() if split.get("labels"))


def state_participants(board: Board) -> str:
    return "; ".join(filter(None, (state_partition_sizes(board), state_partition_labels(board))))


def state_sample_size(board: Board) -> str:
    return f"by what was available, not calculated; {detectable_statement(board)}"


def state_architectures(board: Board) -> str:
    parts = [
        f"{row.label}: {row.cost['num_parameters']:,.0f} parameters"
        for row in board.rows
        if not row.baseline and row.cost["num_parameters"]
    ]
    return list_some(parts) if parts else ""


def state_libraries(board: Board) -> str:
    return ", ".join(f"{name} {' / '.join(map(str, each))}" for name, each in sorted(board.record.versions.items()))


def state_initialization(board: Board) -> str:
    return "; ".join(weights_statements(board))


def state_training(board: Board) -> str:
    titles = board.record.protocol.get("title", ())
    return f"{board.protocol}: {' / '.join(map(str, titles))}; every field is listed above" if titles else ""


def state_selection(board: Board) -> str:
    ways = " / ".join(map(str, board.record.protocol.get("select_by", ())))
    return f"round selected by {ways}; {'; '.join(tuning_statements(board))}" if ways else ""


def state_building(board: Board) -> str:
    return "; ".join(filter(None, (state_training(board), state_selection(board))))


def state_thresholds(board: Board) -> str:
    kinds = {"val": "threshold by Youden's J on val, never on test", "half": "threshold .5"}
    return kinds.get(str(board.threshold), "")


def state_calculation(board: Board) -> str:
    versions = " / ".join(map(str, board.record.versions.get("zoo-bench", ()))) or "of an unrecorded version"
    return f"zoo-bench {versions}, by the command to which each row of the board opens"


def state_metrics(board: Board) -> str:
    return (
        f"primary: {board.primary_metric}; also {', '.join(board.metrics[1:])}"
        if board.metrics[1:]
        else board.primary_metric
    )


def state_uncertainty(board: Board) -> str:
    return "; ".join([interval_statement(board), *ranking_statements(board)[:1]])


def state_external(board: Board) -> str:
    return f"tested on {board.facts['external']['dataset']}" if board.is_external else ""


def state_results(board: Board) -> str:
    parts = [
        f"{row.label} {with_interval(row.scores.get(board.primary_metric))}" for row in board.rows if not row.baseline
    ]
    return f"{board.primary_metric} {list_some(parts)}; all in the board" if parts else ""


def state_diagnostic_performance(board: Board) -> str:
    """Sensitivity and specificity of the best model at the threshold of the protocol."""
    best = best_model(board)
    names = [name for name in ("sensitivity", "specificity") if best and name in best.scores]
    parts = [f"{name} {with_interval(best.scores[name])}" for name in names] if best else []
    return f"{best.label}: {', '.join(parts)}" if best and parts else ""


def state_results_by_group(board: Board) -> str:
    return "; ".join(filter(None, (state_results(board), state_subgroup_tables(board))))


def state_subgroup_tables(board: Board) -> str:
    return ", ".join(section.title for section in board.sections if section.name == "subgroups")


def state_robustness(board: Board) -> str:
    return outlook(board)


def state_failures(board: Board) -> str:
    return "images on which the best models disagree most, listed under Pairs" if board.comparisons.pairs else ""


def state_limits(board: Board) -> str:
    return "; ".join(board.facts["known_issues"]) or "see the limits above"


def state_full_protocol(board: Board) -> str:
    content, split = board.facts["content_hash"], board.facts["split_hash"]
    return f"every protocol field above; content {content[:16]}, split {split[:16]}"


def state_availability(board: Board) -> str:
    return f"each row opens to its command; license of the data: {board.facts.get('license') or 'not recorded'}"


def state_interpretation(board: Board) -> str:
    return answer(board)


CLAIM = (
    Item("1", "title names the AI method", state_technology),
    Item("2", "summary of design, methods, results and conclusions"),
    Item("3", "background, intended use and role of the AI"),
    Item("4", "aims, objectives and hypotheses"),
    Item("5", "prospective or retrospective"),
    Item("6", "goal of the study"),
    Item("7", "sources of data", state_sources),
    Item("8", "inclusion and exclusion criteria"),
    Item("9", "preprocessing", state_preparation),
    Item("10", "selection of subsets", state_exclusions),
    Item("11", "de-identification"),
    Item("12", "handling of missing data"),
    Item("13", "protocol of image acquisition", recorded_fact("modality")),
    Item("14", "methods that gave the reference standard", recorded_fact("reference_standard")),
    Item("15", "why this reference standard"),
    Item("16", "source of the reference annotations"),
    Item("17", "annotation of the test set"),
    Item("18", "variability between and within raters"),
    Item("19", "assignment to partitions", split_statement),
    Item("20", "level at which partitions are disjoint", state_partition_level),
    Item("21", "intended sample size", state_sample_size),
    Item("22", "detailed description of the models", state_architectures),
    Item("23", "software and packages", state_libraries),
    Item("24", "initialization of the parameters", state_initialization),
    Item("25", "training approach", state_training),
    Item("26", "selection of the final model", state_selection),
    Item("27", "ensembling"),
    Item("28", "metrics of performance", state_metrics),
    Item("29", "significance and uncertainty", state_uncertainty),
    Item("30", "robustness and sensitivity analysis", state_robustness),
    Item("31", "explainability or interpretability"),
    Item("32", "evaluation on internal data", test_statement),
    Item("33", "testing on external data", state_external),
    Item("34", "registration of a clinical trial"),
    Item("35", "patients or examinations included and excluded", state_partition_sizes),
    Item("36", "demographic and clinical characteristics by partition", state_partition_labels),
    Item("37", "performance metrics with their uncertainty", state_results),
    Item("38", "diagnostic performance and its precision", state_diagnostic_performance),
    Item("39", "analysis of incorrect results", state_failures),
    Item("40", "limitations", state_limits),
    Item("41", "implications for practice, intended use"),
    Item("42", "reference to the full protocol or technical details", state_full_protocol),
    Item("43", "availability of software, trained models and data", state_availability),
    Item("44", "funding and the role of funders"),
)
TRIPOD_AI = (
    Item("1", "title: a model developed or evaluated, population, outcome", state_technology),
    Item("2", "abstract, by TRIPOD+AI for Abstracts"),
    Item("3a", "healthcare context and rationale"),
    Item("3b", "target population, purpose in the care pathway, users"),
    Item("3c", "known health inequalities"),
    Item("4", "objectives: development, validation or both"),
    Item("5a", "sources of data, why these, and whom they represent", state_sources),
    Item("5b", "dates of the data"),
    Item("6a", "setting and centers"),
    Item("6b", "eligibility"),
    Item("6c", "treatments and how they were handled"),
    Item("7", "preprocessing and quality checks", state_preparation),
    Item("8a", "definition and assessment of the outcome", state_outcome_assessment),
    Item("8b", "qualifications of those who assessed the outcome"),
    Item("8c", "blinding of the outcome's assessment"),
    Item("9a", "choice of predictors", state_predictors),
    Item("9b", "definition and measurement of predictors", state_preparation),
    Item("9c", "qualifications of those who assessed predictors"),
    Item("10", "how the sample size was arrived at", state_sample_size),
    Item("11", "handling of missing data"),
    Item("12a", "use and partition of the data", split_statement),
    Item("12b", "handling of predictors", state_preparation),
    Item("12c", "model type, building steps, tuning, internal validation", state_building),
    Item("12d", "heterogeneity between clusters, as hospitals"),
    Item("12e", "measures and plots of performance", state_metrics),
    Item("12f", "updating of models"),
    Item("12g", "how predictions were calculated", state_calculation),
    Item("13", "methods against class imbalance"),
    Item("14", "approaches to fairness"),
    Item("15", "output of the models, and thresholds", state_thresholds),
    Item("16", "differences between training and evaluation data", state_external),
    Item("17", "ethical approval and consent"),
    Item("18a", "funding and the role of funders"),
    Item("18b", "conflicts of interest"),
    Item("18c", "access to the study protocol"),
    Item("18d", "registration of the study"),
    Item("18e", "availability of the data", state_sources),
    Item("18f", "availability of the code", state_availability),
    Item("19", "involvement of patients and the public"),
    Item("20a", "flow of participants, with and without the outcome", state_participants),
    Item("20b", "characteristics of participants"),
    Item("20c", "predictors and outcome in development and evaluation data", state_partition_labels),
    Item("21", "participants and events in each analysis", state_participants),
    Item("22", "specification of the full models", state_architectures),
    Item("23a", "performance with intervals, also by subgroup", state_results_by_group),
    Item("23b", "heterogeneity of performance between clusters"),
    Item("24", "results of updating"),
    Item("25", "overall interpretation", state_interpretation),
    Item("26", "limitations", state_limits),
    Item("27a", "handling of poor or missing input in use"),
    Item("27b", "what users must do and know"),
    Item("27c", "next steps, applicability, generalizability"),
)
CHECKLISTS = (("CLAIM 2024", CLAIM), ("TRIPOD+AI", TRIPOD_AI))


def fill_checklists(board: Board) -> list[dict[str, Any]]:
    """Each checklist with its items as (number, text, what the record says or "")."""
    filled = []
    for name, items in CHECKLISTS:
        rows = [(item.number, item.text, clean(item.fill(board)) if item.fill else "") for item in items]
        filled.append({"name": name, "items": rows, "num_filled": sum(bool(text) for _, _, text in rows)})
    return filled
