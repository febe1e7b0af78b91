"""Write model cards in the Hugging Face format, filled from the record of the runs; nothing is uploaded."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo.errors import UsageError, clean, plural_of
from zoo.evaluation.metrics.labels import describe_formula
from zoo.evaluation.values import Score
from zoo.leaderboard.boards import Board, build_leaderboard
from zoo.leaderboard.formatting import amount, milliseconds, number, section_cell, with_interval
from zoo.leaderboard.rows import Row, board_key, data_key, row_key
from zoo.leaderboard.sanity_checks import SCORED, is_baseline
from zoo.leaderboard.tables import ReportOptions
from zoo.registry.lookup import Registry
from zoo.report.board_markdown import escape, rule_line, section_lines
from zoo.report.board_page.checklists import fill_checklists
from zoo.report.board_page.record import describe_distinct, describe_making, list_limits
from zoo.report.board_page.rows import repeat_command
from zoo.report.deviations import deviation_text
from zoo.report.new_answers import OUTSIDE
from zoo.report.reasons import reason_text
from zoo.report.statements import (
    case_name,
    headings,
    state_notes,
    test_statement,
    tuning_statements,
    weights_statements,
)
from zoo.report.summary import answer, warnings
from zoo.results.runs import safe_name
from zoo.results.store import WEIGHTS_FILE, Result, load_result, load_results
from zoo.specs.section import Section
from zoo.trained.card import CARD_FILE, NOTICE, ModelCard, read_model_card, shareable_notes, transform_texts
from zoo.trained.opening import best_of

BLANK = "(blank: for the authors)"
HUB_LICENSE = re.compile(r"apache-2\.0|mit|bsd-[23]-clause|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-\d\.\d")  # its identifiers
HUB_TAGS = ["medical-imaging", "zoo-bench"]


@dataclass(frozen=True, kw_only=True, eq=False)
class KeptModel:
    """A run with kept weights, and the board of its row and the baselines alone."""

    result: Result
    card: ModelCard
    board: Board
    external_boards: tuple[Board, ...]
    external_results: tuple[Result, ...]  # of these weights

    @property
    def row(self) -> Row:
        """The row of all its seeds and folds."""
        own = [row for row in self.board.rows if self.result.id in row.run_ids]
        return own[0] if own else self.board.rows[0]

    @property
    def baselines(self) -> list[Row]:
        return [row for row in self.board.rows if row.baseline]


def find_kept(results: Sequence[Result], registry: Registry, options: ReportOptions) -> Iterator[KeptModel]:
    """Yield one model for each row that has kept weights: the seed with the best val score."""
    rows: dict[tuple[Any, ...], dict[Path, Result]] = {}
    for result in results:
        if result.ok and result.folder and keeps_model(result.folder):
            rows.setdefault((board_key(result), row_key(result)), {})[result.folder] = result
    for by_folder in rows.values():
        yield describe_kept(by_folder[best_of(list(by_folder))], results, registry, options)


def keeps_model(folder: Path) -> bool:
    return (folder / CARD_FILE).exists() and (folder / WEIGHTS_FILE).exists()


def describe_kept(
    result: Result, results: Sequence[Result], registry: Registry, options: ReportOptions | None = None
) -> KeptModel:
    """The record of a run with kept weights, from it and the other results of its folder."""
    assert result.folder
    scored = [each for each in results if each.run["purpose"] in SCORED and each.dataset]
    peers = [each for each in scored if (board_key(each), row_key(each)) == (board_key(result), row_key(result))]
    baselines = [each for each in scored if is_baseline(each.run) and data_key(each) == data_key(result)]
    trained = {each.id for each in peers}
    external = [each for each in results if each.details.get("trained_run") in trained]
    boards = [
        replace(board, facts={**board.facts, "notes": shareable_notes(board.facts)})
        for board in build_leaderboard(
            [*peers, *baselines, *external],
            registry.metrics,
            options,
            scored_runs=[each.run for each in results if each.ok],
        )
    ]
    return KeptModel(
        result=result,
        card=read_model_card(result.folder),
        board=next(board for board in boards if not board.is_external),
        external_boards=tuple(board for board in boards if board.is_external),
        external_results=tuple(each for each in external if each.details["trained_run"] == result.id and each.ok),
    )


def card_name(kept: KeptModel) -> str:
    """The file name of a card."""
    row = kept.row
    return f"{safe_name(kept.card.dataset['name'])}__{safe_name(row.label)}__{safe_name(row.protocol)}.md"


def write_cards(models: Iterable[KeptModel], folder: Path) -> list[Path]:
    """Write one card per model; return their paths."""
    from zoo.system.files import written_whole

    paths = []
    folder.mkdir(parents=True, exist_ok=True)
    for kept in models:
        path = folder / card_name(kept)
        if path in paths:  # rows that differ in their network only
            path = path.with_name(f"{path.stem}.{kept.result.id[:8]}.md")
        with written_whole(path) as temporary:
            temporary.write_text(to_model_card(kept), encoding="utf-8")
        paths.append(path)
    return paths


def write_readme(folder: Path, results: Path, registry: Registry) -> str:
    """The card of one run, with what `results` says of its row. Raises UsageError for a folder that is not a run's."""
    if not (folder / "result.json").is_file():
        raise UsageError(
            f"{folder}: an exported folder has no record of its run", fix="export DATASET/MODEL or a run's id instead"
        )
    result = load_result(folder)
    stored = load_results(results)[0] if results.is_dir() else []
    others = [each for each in stored if each.id != result.id]
    return to_model_card(describe_kept(result, [result, *others], registry))


def to_model_card(kept: KeptModel) -> str:
    """The card: metadata with a model-index as YAML, then the record as text."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UsageError("model cards need huggingface_hub", fix="pip install 'zoo-bench[hub]'", code="extra-missing")
    from huggingface_hub import ModelCardData

    card = kept.card
    data = ModelCardData(
        model_name=card.name,
        eval_results=list(list_evaluations(kept)),
        pipeline_tag=card.task_kind.presentation.hub_task or None,
        **license_fields(card),
        tags=HUB_TAGS,
    )
    sections = (
        ("Model", model_lines(kept)),
        ("Use", use_lines(kept)),
        ("Protocol", text_table(("field", "value"), describe_distinct(kept.board.record.protocol))),
        ("Data", data_lines(kept)),
        ("Results", [*results_table(kept), *external_lines(kept)]),
        ("Calibration", calibration_lines(kept)),
        ("Subgroups", subgroups_lines(kept)),
        ("Cost", cost_lines(kept)),
        ("Seeds and deviations", runs_lines(kept)),
        ("Limits", limits_lines(kept)),
        *((each["name"], checklist_lines(each)) for each in fill_from_all(kept)),
    )
    lines = [f"---\n{data.to_yaml()}\n---", "", f"# {escape(card.name)}", "", f"**{NOTICE}**", ""]
    lines += [f"**{escape(line)}**\n" for line in headings(kept.board)]
    lines += [escape(answer(kept.board)), ""]
    for title, body in sections:
        lines += [f"## {title}", "", *body, ""]
    return "\n".join(lines)


def license_fields(card: ModelCard) -> dict[str, Any]:
    """`license` of the metadata, from the licenses of the data and of pretrained weights; {} if one is unknown.

    Several, or one that the hub has no identifier for, are "other" with their names.
    """
    sources = [card.dataset["license"], *([card.weights["license"]] if card.weights["tag"] else [])]
    if any(text.strip().lower() in ("", "unknown") for text in sources):  # plugins must write "unknown" for none
        return {}
    identifiers = {re.sub(r"\s+", "-", text.strip().lower()) for text in sources}
    if len(identifiers) == 1 and HUB_LICENSE.fullmatch(identifier := identifiers.pop()):
        return {"license": identifier}
    return {"license": "other", "license_name": ", ".join(dict.fromkeys(sources))}


# --- model-index -----------------------------------------------------------------------------------------------------
def list_evaluations(kept: KeptModel) -> Iterator[Any]:
    """The defined scores of these weights as `EvalResult`s: of their own test split, then of external datasets."""
    from huggingface_hub import EvalResult

    task = kept.card.task_kind.presentation
    for result in (kept.result, *kept.external_results):
        facts = result.dataset
        external = facts.get("external")
        name = external["dataset"] if external else facts["name"]
        test = facts["splits"]["test"]
        for metric, score in result.scores().items():
            if score.value is None:
                continue
            spec = kept.board.specs.get(metric)
            yield EvalResult(
                task_type=task.hub_task or "other",
                task_name=facts["task"],
                dataset_type=name,
                dataset_name=name if external else facts.get("title") or name,
                dataset_split="test",
                dataset_args={
                    "content_hash": external["content_hash"] if external else facts["content_hash"],
                    "split_hash": None if external else facts["split_hash"],
                },
                metric_type=metric,
                metric_name=metric,
                metric_value=float(score.value),
                metric_args={
                    **interval_arguments(score),
                    "n_images": test["images"],
                    "n_patients": test["patients"] if facts["has_patients"] else None,
                    "unit": facts["unit"],
                    "definition": describe_formula(spec) if spec else None,
                    "run": result.id,
                    "seed": result.run["seed"],
                },
            )


def interval_arguments(score: Score) -> dict[str, Any]:
    """The 95 % interval, or why there is none."""
    if score.low is None or score.high is None:
        return {"ci": None, "ci_missing": reason_text(score.reason) if score.reason else None}
    return {"ci": [float(score.low), float(score.high)], "ci_method": score.method.text if score.method else None}


# --- sections --------------------------------------------------------------------------------------------------------
def text_table(columns: Sequence[str], rows: Iterable[Sequence[str]], texts: Sequence[str] = ()) -> list[str]:
    """A Markdown table; `texts` are the columns aligned to the left."""
    heading = ["| " + " | ".join(map(escape, columns)) + " |", rule_line(columns, texts or columns)]
    return [*heading, *("| " + " | ".join(map(escape, row)) + " |" for row in rows)]


def bullet_list(lines: Iterable[str]) -> list[str]:
    return [f"- {escape(line)}" for line in lines]


def quote_numbers(values: Iterable[float]) -> str:
    return ", ".join(map(number, values))


def show_mapping(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def describe_initial_weights(weights: Mapping[str, Any]) -> str:
    """Where training began; `derivation` is absent from older cards."""
    derivation = weights.get("derivation")
    return f"{weights['tag'] or 'random init'} ({weights['init']})" + (f"; {derivation}" if derivation else "")


def model_lines(kept: KeptModel) -> list[str]:
    card, weights = kept.card, kept.card.weights
    reading = show_mapping(card.reading or {}) or "as stored"
    facts = [
        ("architecture", card.model),
        ("parameters", amount(kept.row.cost["num_parameters"])),
        ("protocol", card.protocol),
        ("labels", ", ".join(card.labels) or "none"),
        ("positive label", "none" if card.positive is None else card.labels[card.positive]),
        *input_facts(card),
        ("preprocessing before resizing", ", ".join(transform_texts(card)) or "none"),
        ("files are read", reading if card.reading is not None else "by a plugin's code"),
        ("threshold", quote_numbers(card.thresholds or ()) or "none"),
        ("initial weights", describe_initial_weights(weights)),
        ("license of the initial weights", (weights["license"] or "not recorded") if weights["tag"] else "none"),
        ("license of these weights", f"{BLANK}; the metadata have those of the data and the initial weights, if known"),
        ("run", card.run),
        ("command", repeat_command(kept.board, kept.row)),
        ("software", show_mapping(card.versions)),
    ]
    return [*text_table(("fact", "value"), facts), "", *bullet_list(weights_statements(kept.board))]


def input_facts(card: ModelCard) -> list[tuple[str, str]]:
    """The size of the input and how its values are scaled."""
    if card.volumes is None:
        return [
            ("input", f"{card.image_size} px, {card.channels} channels"),
            ("normalization", f"mean {quote_numbers(card.mean)}, SD {quote_numbers(card.std)}"),
        ]
    patch, spacing, window = (card.volumes[name] for name in ("patch", "spacing", "window"))
    scale = (
        f"{quote_numbers(window)} become -2 and 2, values beyond are clipped" if window else "mean 0, SD 1 per volume"
    )
    is_cut = card.task_kind.targets.spatial
    unresampled = "as stored" if is_cut else "of which the longest side of a volume has all voxels"
    return [
        (
            "input",
            f"{'patches' if is_cut else 'a cube'} of {' x '.join(map(str, patch))} voxels, {card.channels} channels",
        ),
        ("spacing", f"{quote_numbers(spacing)} mm" if spacing else unresampled),
        ("normalization", scale),
    ]


def use_lines(kept: KeptModel) -> list[str]:
    return [
        f"{NOTICE}. Intended use: {BLANK}.",
        "",
        describe_prediction(kept.card) + " `load.py`, if it is there, loads the weights without zoo.",
        "",
        escape(f"From logits to answers: {kept.card.task_kind.answers.formula}"),
    ]


def describe_prediction(card: ModelCard) -> str:
    """What `zoo predict` does with the model."""
    if card.task_kind.targets.spatial:
        files = "volume, NIfTI on its grid" if card.volumes else "image, PNG of its size"
        return f"`zoo predict FOLDER FILES -o MASKS` reads new files as in training and writes a mask of each {files}."
    answers = "the probabilities and the decision" if card.task_kind.decisions else "the value"
    threshold = " at the threshold of val" if card.thresholds else ""
    return (
        f"`zoo predict FOLDER {'VOLUMES' if card.volumes else 'IMAGES'}` reads new files as in training and writes "
        f"{answers}{threshold}, with `outside` for {'volumes' if card.volumes else 'images'} unlike the training data."
    )


def data_lines(kept: KeptModel) -> list[str]:
    board = kept.board
    leaks = [deviation_text(each) for each in kept.row.deviations if each.kind == "leak-allowed"]
    audit_line = f"audit: {'; '.join(leaks) or 'passed: zoo bench refuses datasets with leaks'}"
    notes = [clean(audit_line), test_statement(board), *state_notes(board)]
    return [*text_table(("fact", "value"), describe_making(board)), "", *bullet_list(notes)]


def results_table(kept: KeptModel) -> list[str]:
    """Every metric: these weights, all seeds, the best baseline, and the definition."""
    card, own, row = kept.card, kept.result.scores(), kept.row
    fold = f", fold {card.fold}" if kept.board.facts["num_folds"] > 1 else ""
    columns = (
        "metric",
        f"these weights: seed {card.seed}{fold}",
        f"all seeds ({len(row.seeds)})",
        "seed SD",
        "best baseline",
        "definition",
    )
    rows = []
    for name in kept.board.metrics:
        spec, mine = kept.board.specs.get(name), row.scores.get(name)
        why = mine.reason if mine and mine.value is None else None
        shown = reason_text(why) if why else with_interval(mine)
        definition = describe_formula(spec) if spec else ""
        rows.append(
            (
                name,
                with_interval(own.get(name)),
                shown,
                number(row.seed_sd.get(name)),
                best_baseline(kept, name),
                definition,
            )
        )
    lines = text_table(columns, rows, ("metric", "best baseline", "definition"))
    return [
        *lines,
        "",
        escape("Values are value [95 % interval]. The metadata of this card have those of these weights."),
    ]


def best_baseline(kept: KeptModel, metric: str) -> str:
    spec = kept.board.specs.get(metric)
    baselines = [row for row in kept.baselines if not row.is_second_reader]
    scores = [(score, row.label) for row in baselines if (score := row.scores.get(metric))]
    values = [(score.value, label) for score, label in scores if score.value is not None]
    if not values or spec is None:
        return "-"
    value, label = (max if spec.higher_is_better else min)(values)
    return f"{number(value)} ({label})"


def external_lines(kept: KeptModel) -> list[str]:
    """The scores of the primary metric on external datasets, over all seeds."""
    if not kept.external_boards:
        return ["", "External validation: none recorded."]
    rows = [
        (board.facts["external"]["dataset"], board.primary_metric, with_interval(row.scores.get(board.primary_metric)))
        for board in kept.external_boards
        for row in board.rows
        if not row.baseline
    ]
    return ["", *text_table(("external dataset", "metric", "all seeds"), rows)]


def find_section(kept: KeptModel, name: str) -> Section | None:
    return next((section for section in kept.board.sections if section.name == name and section.rows), None)


def calibration_lines(kept: KeptModel) -> list[str]:
    card, section = kept.card, find_section(kept, "calibration")
    fitted = f"temperature {number(card.temperature)}" if card.temperature else f"none: {card.temperature_missing}"
    lines = [escape(f"Temperature of these weights, from val: {fitted}."), ""]
    if section is None:
        return [*lines, "No calibration is recorded."]
    rows = [list(map(section_cell, cells)) for cells in section.rows]
    return [*lines, *text_table(section.columns, rows, section.columns[:1])]


def subgroups_lines(kept: KeptModel) -> list[str]:
    section = find_section(kept, "subgroups")
    if section is None:
        return ["None were requested: `zoo report --cards DIR --by COLUMN` adds them, if the dataset has the column."]
    return section_lines(section, "###")[2:]


def cost_lines(kept: KeptModel) -> list[str]:
    cost, system = kept.row.cost, kept.board.device
    facts = [
        ("training", f"{number(cost['train_seconds'])} s per run" if cost["train_seconds"] else "-"),
        ("images per second in training", amount(cost["images_per_second"])),
        ("images per second in inference", amount(cost["inference_images_per_second"])),
        ("latency of one image", milliseconds(cost["latency_seconds"])),
        ("peak memory", amount(cost["peak_memory_bytes"], "B")),
        ("FLOPs", amount(cost["flops"])),
        ("machine", system),
    ]
    return text_table(("cost", "mean over runs"), facts)


def runs_lines(kept: KeptModel) -> list[str]:
    row, primary, (counted, expected) = kept.row, kept.board.primary_metric, kept.row.coverage
    lines = [
        f"seeds: {', '.join(map(str, row.seeds)) or 'none finished'}; {counted} of {expected} runs count",
        f"SD of {primary} between seeds: {number(row.seed_sd.get(primary))}",
        *tuning_statements(kept.board),
        *(f"deviation: {clean(deviation_text(each))}" for each in row.deviations),
        *(f"missing: seed {each.seed}, fold {each.fold}: {each.status}" for each in row.missing),  # no message: a path
    ]
    return bullet_list([*lines, *([] if row.deviations else ["no deviations from the protocol"])])


def limits_lines(kept: KeptModel) -> list[str]:
    board = kept.board
    issues = [f"known issue: {issue}" for issue in board.facts["known_issues"]]
    reasons = "; ".join(dict.fromkeys(OUTSIDE.values()))
    unlike = f"zoo predict marks images unlike the {plural_of(case_name(board))} of training: {reasons}"
    marked = [] if kept.card.task_kind.head.dense else [unlike]
    return bullet_list([*map(clean, warnings(board)), *issues, *list_limits(board), *marked])


def fill_from_all(kept: KeptModel) -> list[dict[str, Any]]:
    """The checklists; what the model's own board leaves blank is filled from its external validations."""
    filled = [fill_checklists(board) for board in (kept.board, *kept.external_boards)]
    merged = []
    for lists in zip(*filled, strict=True):
        items = [
            (number, text, next((said for *_, said in each if said), ""))
            for each in zip(*(one["items"] for one in lists), strict=True)
            for number, text, _ in each[:1]
        ]
        merged.append({**lists[0], "items": items, "num_filled": sum(bool(said) for *_, said in items)})
    return merged


def checklist_lines(filled: Mapping[str, Any]) -> list[str]:
    """One reporting guideline: its items with what the record says."""
    count = f"{filled['num_filled']} of {len(filled['items'])} items are filled from the record."
    rows = [(item, text, said or BLANK) for item, text, said in filled["items"]]
    return [count, "", *text_table(("item", "what it asks", "record"), rows)]
