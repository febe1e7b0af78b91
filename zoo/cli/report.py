"""`zoo report`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.options import FILE_TYPE, PATH, RESULTS, SHARE_TYPE, TEXT, Name, plugin_option, several
from zoo.cli.stored import has_readable_scores, read_shared
from zoo.cli.terminal import in_color, registry_with_warnings, tell, terminal_width
from zoo.errors import EXIT_SOME_FAILED, ResultsError, UsageError, clean
from zoo.report.formats import FORMAT_OF_SUFFIX, FORMATS, Layout, write_boards

if TYPE_CHECKING:
    from zoo.leaderboard.boards import Board
    from zoo.leaderboard.tables import ReportOptions
    from zoo.registry.lookup import Registry
    from zoo.report.gallery import Gallery
    from zoo.results.store import Result


@click.command("report")
@click.option("--results", "folders", type=RESULTS, multiple=True, help="Results folders and bundles.")
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    help="Output format; by default terminal, or what the suffix of --output says.",
)
@click.option("--details", is_flag=True, help="In the terminal, show every statement and the tables below the boards.")
@click.option("--output", "outputs", type=FILE_TYPE, multiple=True, help="Write to this file instead of stdout.")
@click.option("--check", is_flag=True, help="Compare with --output instead of writing it; exit 3 if it is stale.")
@click.option(
    "--table", type=TEXT, metavar="NAME", help="With csv: one table instead of all scores: board, or a table below it."
)
@several("--metrics", kind="metric", metavar="NAME,...", help="Show these metrics first, stored or not.")
@click.option("--rank-by", type=Name("metric"), metavar="METRIC", help="Rank and test by this metric.")
@click.option("--prevalence", type=SHARE_TYPE, metavar="P", help="Add PPV and NPV at this share of positives, as 0.02.")
@click.option("--sensitivity", type=SHARE_TYPE, metavar="S", help="Use the threshold with this sensitivity on val.")
@click.option("--specificity", type=SHARE_TYPE, metavar="S", help="Use the threshold with this specificity on val.")
@click.option("--ensembles", is_flag=True, help="Add a table of the mean probability of each model's seeds.")
@click.option(
    "--ensemble",
    type=TEXT,
    multiple=True,
    metavar="A,B,...",
    help="Add the mean probability of these models, or of all, to that table.",
)
@click.option("--figures", "figures", type=PATH, metavar="DIR", help="Also write every figure to DIR: SVG, CSV, PDF.")
@click.option("--no-images", is_flag=True, help="With html: show no test images.")
@several("--data", metavar="NAME|PATH", help="With html: datasets whose test images may be shown.")
@click.option("--explain", is_flag=True, help="With html: show where models with kept weights look in these images.")
@click.option("--predictions", type=FILE_TYPE, help="Write every test prediction to this CSV instead.")
@click.option("--cards", type=PATH, metavar="DIR", help="Write a model card per row with kept weights to DIR instead.")
@click.option("--recipes", is_flag=True, help="One board of all protocols and initial weights on the same test set.")
@several("--by", metavar="COLUMN[:WIDTH],...", help="Add scores by group: sex,scanner,age:10 (groups of ten years).")
@plugin_option
def report_command(
    folders: tuple[Path, ...],
    form: str | None,
    outputs: tuple[Path, ...],
    check: bool,
    predictions: Path | None,
    **flags: Any,
) -> int:
    """Build the leaderboard from stored results."""
    from zoo.leaderboard.boards import build_leaderboard
    from zoo.leaderboard.families import fill_families
    from zoo.leaderboard.sections import list_sections
    from zoo.leaderboard.unfinished import list_unfinished
    from zoo.registry.loading import quiet_stdout
    from zoo.report.board_csv import table_to_csv
    from zoo.results.memo import ScoreMemo
    from zoo.system.files import cache_root
    from zoo.system.machine import num_cores
    from zoo.system.progress import Console

    forms = formats_of(outputs, form)
    if check and not outputs:
        raise UsageError("--check needs a file to compare with", fix="name it by --output")
    check_formats(set(forms.values()), flags)
    cards = flags["cards"]
    if predictions or cards:
        board_flags = {"output": outputs, "format": form not in (None, "terminal", "csv"), **flags}
        refuse_board_flags(board_flags, without_board="--predictions" if predictions else "--cards")
    registry = registry_with_warnings()
    options = options_from_flags(flags, registry)
    with quiet_stdout():
        results = [r for r in read_shared(folders or (Path("results"),), registry) if has_readable_scores(r)]
        if predictions:
            return export_predictions(results, predictions)
        if cards:
            return export_cards(results, registry, options, cards)
        check_metrics(results, options, registry)
        with Console().counting("building the leaderboard", "rows", alone=False) as progress:
            memo = ScoreMemo(cache=cache_root(), processes=num_cores(), progress=progress)
            boards = build_leaderboard(results, registry.metrics, options, list_sections(registry), memo=memo)
        page_boards = fill_families(boards, registry) if "html" in forms.values() else []
        galleries = find_galleries(page_boards, registry, flags) if page_boards else []
        if flags["figures"]:
            export_figures(boards, flags["figures"])
    tell_warnings(boards, options, galleries)
    if flags["table"]:
        texts = dict.fromkeys(forms, table_to_csv(boards, flags["table"]))
    else:
        layout = Layout(
            width=terminal_width(),
            color=not outputs and in_color(),
            details=flags["details"],
            sections=requested_sections(flags),
            more=details_command(folders, recipes=flags["recipes"]),
            unfinished=list_unfinished(results),
            galleries=galleries,
        )
        texts = {
            output: write_boards(page_boards if form == "html" else boards, form, layout)
            for output, form in forms.items()
        }
    finish = compare_with if check else write_report
    return max(finish(output, text) for output, text in texts.items())


def refuse_board_flags(flags: dict[str, Any], without_board: str) -> None:
    """Raise UsageError if flags of a board are given with one that writes no board."""
    used = () if without_board == "--predictions" else ("cards", "by")
    given = [f"--{name.replace('_', '-')}" for name, value in flags.items() if value and name not in used]
    refuse_ignored(without_board, given)


def tell_warnings(boards: Sequence[Board], options: ReportOptions, galleries: Sequence[Gallery]) -> None:
    warnings = (
        *warn_groupless(boards, options),
        *warn_unjoined(boards, options),
        *warn_unranked(boards),
        *warn_dropped(boards),
        *warn_pictureless(boards, galleries),
    )
    for line in warnings:
        tell(f"zoo: warning: {clean(line)}")


def check_formats(forms: set[str], flags: dict[str, Any]) -> None:
    """Raise UsageError for a flag of another format than those that are written."""
    if flags["table"] and forms != {"csv"}:
        raise UsageError("--table is for csv", fix="add --format csv")
    for flag in ("no_images", "data", "explain"):
        if flags[flag] and "html" not in forms:
            raise UsageError(f"--{flag.replace('_', '-')} is for the images of a page", fix="add --format html")


def formats_of(outputs: Sequence[Path], form: str | None) -> dict[Path | None, str]:
    """The format of each output: --format, else that of its suffix, else the terminal's. None stands for stdout."""
    return {
        output: form or FORMAT_OF_SUFFIX.get(output.suffix.lower() if output else "", "terminal")
        for output in outputs or (None,)
    }


def compare_with(output: Path | None, text: str) -> int:
    """Say whether a file holds this report; return the exit status."""
    assert output is not None  # --check needs a file
    stale = not output.is_file() or output.read_bytes() != text.encode()
    tell(f"{clean(output)}: {'stale: run zoo report again' if stale else 'up to date'}")
    return EXIT_SOME_FAILED if stale else 0


def write_report(output: Path | None, text: str) -> int:
    """Write a report to a file or to stdout; return the exit status."""
    from zoo.system.files import written_whole

    if output is None:
        click.echo(text, nl=False)
        return 0
    try:
        with written_whole(output) as temporary:
            temporary.write_bytes(text.encode())
    except OSError as error:
        raise UsageError(f"--output {output}: {error.strerror}", fix="name a file that can be written") from error
    return 0


def find_galleries(boards: Sequence[Board], registry: Registry, flags: dict[str, Any]) -> list[Gallery]:
    """The test images of a page; empty with --no-images."""
    from zoo.report.gallery import ImageSource, make_galleries
    from zoo.report.names import name_plainly
    from zoo.system.settings import Settings

    if flags["no_images"]:
        if flags["explain"]:
            raise UsageError("--explain is for the images that --no-images leaves out", fix="use one of them")
        return []
    source = ImageSource(registry=registry, cache=Settings().cache, paths=flags["data"], explain=bool(flags["explain"]))
    return make_galleries(name_plainly(boards), source)


def warn_pictureless(boards: Sequence[Board], galleries: Sequence[Gallery]) -> Iterator[str]:
    """How to get the images that the page lacks, once for each dataset."""
    hints = {board.dataset: gallery.hint for board, gallery in zip(boards, galleries, strict=False) if gallery.hint}
    for dataset, hint in hints.items():
        yield f"no images of {dataset}: {hint}"


def export_figures(boards: Sequence[Board], folder: Path) -> None:
    from zoo.report.figures.files import write_figures

    written = write_figures(boards, folder)
    tell(f"{clean(folder)}: {written.num_figures} figures")
    if written.pdf_problem:
        tell(f"zoo: {written.pdf_problem}")


def requested_sections(flags: dict[str, Any]) -> frozenset[str]:
    """The tables below a board that a flag asks for; the terminal shows them without --details too."""
    by_section = {
        "operating": ("prevalence", "sensitivity", "specificity"),
        "ensembles": ("ensembles", "ensemble"),
        "subgroups": ("by",),
    }
    return frozenset(section for section, names in by_section.items() if any(flags[name] for name in names))


def details_command(folders: Sequence[Path], recipes: bool) -> str:
    flags = ["--recipes"] * recipes + [f"--results {shlex.quote(clean(folder))}" for folder in folders]
    return " ".join(["zoo report --details", *flags])


def refuse_ignored(what: str, flags: Sequence[str]) -> None:
    """Raise if flags of boards are given with a flag that replaces the board."""
    if flags:
        message = f"{what} replaces the board and ignores {', '.join(flags)}"
        raise UsageError(message, fix="run zoo report once for each")


def options_from_flags(flags: dict[str, Any], registry: Registry) -> ReportOptions:
    """The options of the boards that the flags request."""
    from zoo.evaluation.thresholds import ThresholdTarget
    from zoo.leaderboard.tables import ReportOptions, parse_by

    targets = [
        ThresholdTarget(metric=name, least=flags[name]) for name in ("sensitivity", "specificity") if flags[name]
    ]
    if len(targets) > 1:
        raise UsageError("--sensitivity and --specificity: one threshold cannot reach both", fix="use one of them")
    return ReportOptions(
        prevalence=flags["prevalence"],
        reach=targets[0] if targets else None,
        by=parse_by(flags["by"]),
        ensembles=flags["ensembles"],
        members=tuple(tuple(name.strip() for name in text.split(",") if name.strip()) for text in flags["ensemble"]),
        recipes=flags["recipes"],
        metrics=tuple(name for pattern in flags["metrics"] for name in registry.match("metric", pattern)),
        rank_by=registry.key("metric", flags["rank_by"]) if flags["rank_by"] else "",
    )


def check_metrics(results: Sequence[Result], options: ReportOptions, registry: Registry) -> None:
    """Raise UsageError if a requested metric fits no result, or if the one to rank by can rank none."""
    from zoo.leaderboard.ranking_metrics import find_rank_fault, list_ranking_metrics

    by_task = {result.card().task.name: result for result in results if result.ok and result.provenance != "stated"}
    for name in options.metrics:
        if by_task and not set(by_task) & set(registry.metrics[name].tasks):
            raise UsageError(
                f"--metrics {name}: not a metric of {' or '.join(sorted(by_task))} tasks", fix="see: zoo list metrics"
            )
    if not options.rank_by:
        return
    tested = [(r.predictions(), r.card(), r.run["protocol"]["threshold"]) for r in by_task.values()]
    faults = [find_rank_fault(registry.metrics[options.rank_by], *each) for each in tested]
    if faults and all(faults):
        able = sorted({name for each in tested for name in list_ranking_metrics(registry.metrics, *each)})
        raise UsageError(f"--rank-by {options.rank_by}: {faults[0]}", fix=f"use one of: {', '.join(able)}")


def warn_groupless(boards: Sequence[Board], options: ReportOptions) -> Iterator[str]:
    """A warning for each column of `--by` that makes no group on any board, with the reason from the boards."""
    from zoo.report.reasons import section_notes

    tables = [table for board in boards for table in board.sections if table.name == "subgroups"]
    grouped = {row[table.columns.index("by")] for table in tables for row in table.rows}
    notes = list(dict.fromkeys(note for table in tables for note in section_notes(table)))
    for by in options.by:
        if by.text not in grouped:
            own = [note.removeprefix(f"{by.text}: ") for note in notes if note.startswith(f"{by.text}: ")]
            yield f"--by {by.text}: no groups: {'; '.join(own or notes) or 'there is no board'}"


def warn_unjoined(boards: Sequence[Board], options: ReportOptions) -> Iterator[str]:
    """A warning for each `--ensemble` that no board has, with the reason."""
    notes = [note for board in boards for table in board.sections if table.name == "ensembles" for note in table.notes]
    for names in options.members:
        text = f"--ensemble {','.join(names)}: "
        own = [str(note) for note in notes if str(note).startswith(text)]
        if own and len(own) == sum(not board.is_control for board in boards):
            yield own[0]


def warn_unranked(boards: Sequence[Board]) -> Iterator[str]:
    """A warning for each board that the metric of `--rank-by` cannot rank."""
    for board in boards:
        if fault := board.rank_fault:
            yield f"--rank-by {fault.metric}: {board.dataset} is ranked by {board.primary_metric}: {fault.reason}"


def warn_dropped(boards: Sequence[Board]) -> Iterator[str]:
    """A warning for each section that failed, once for each plugin and reason."""
    from zoo.report.statements import dropped_statements

    yield from dict.fromkeys(line for board in boards for line in dropped_statements(board))


def export_cards(results: Sequence[Result], registry: Registry, options: ReportOptions, folder: Path) -> int:
    from zoo.report.model_cards import find_kept, write_cards

    kept = list(find_kept(results, registry, options))
    if not kept:
        raise ResultsError(
            "no weights are kept, so there are no models to describe",
            fix="run zoo bench again with --keep-weights best --fresh",
            code="no-weights",
        )
    for path in write_cards(kept, folder):
        tell(f"{clean(path)}")
    return 0


def export_predictions(results: Sequence[Result], path: Path) -> int:
    from zoo.report.predictions_csv import write_predictions
    from zoo.system.files import written_whole
    from zoo.system.progress import Console

    try:
        with (
            written_whole(path) as temporary,
            open(temporary, "w", encoding="utf-8", newline="") as stream,
            Console().counting("writing predictions", "runs") as progress,
        ):
            lines, runs = write_predictions(results, stream, progress)
    except OSError as error:
        raise UsageError(f"--predictions {path}: {error.strerror}", fix="name a file that can be written") from error
    tell(f"{clean(path)}: {lines} predictions of {runs} runs")
    return 0
