"""`zoo bench`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.options import PATH, RESULTS, TEXT, Number, several
from zoo.cli.terminal import in_color, registry_with_warnings, terminal_width
from zoo.errors import EXIT_NOTHING_RAN, EXIT_SOME_FAILED, UsageError, clean

if TYPE_CHECKING:
    from zoo.leaderboard.boards import Board
    from zoo.runner.bench import Outcome
    from zoo.runner.suites import Suite

MAX_THREADS = 512  # more than a machine has cores; of 5,000 torch does not come back


@click.command("bench")
@several("--models", "-m", metavar="NAME|GLOB,...", help="Models, or the set `starter`.")
@several("--datasets", "-d", metavar="NAME|PATH,...", help="Datasets by name, or a folder, CSV or npz.")
@click.option("--suite", type=TEXT, metavar="NAME|FILE.toml", help="A suite; flags given beside it win.")
@several("--metrics", metavar="NAME,...", help="Metrics beside the task's own.")
@click.option(
    "--protocol", type=TEXT, metavar="NAME", help="The training recipe (default finetune; quickstart: quick)."
)
@click.option(
    "--set", "settings", type=TEXT, multiple=True, metavar="FIELD=VALUE", help="Change a field of the protocol."
)
@click.option("--seeds", type=TEXT, metavar="N|a,b,c", help="How many seeds, or which (default 3).")
@click.option("--folds", type=click.IntRange(min=1), help="Cross-validation by patient in K folds; 1: hold-out.")
@click.option("--weights", type=click.Choice(["pretrained", "auto", "none"]), help="Initial weights.")
@click.option("--weights-dir", type=PATH, help="Folder of .pth or .safetensors files.")
@click.option(
    "--keep-weights",
    type=click.Choice(["best", "all", "none"]),
    default="best",
    show_default=True,
    help="Keep the trained weights of the best seed on val, of all, or of none.",
)
@click.option("--results", type=RESULTS, default="results", show_default=True, help="Results folder.")
@click.option(
    "--device",
    type=TEXT,
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda|cuda:N|mps",
    help="Where runs compute.",
)
@click.option(
    "--threads", type=click.IntRange(1, MAX_THREADS), default=1, show_default=True, help="Threads a CPU run uses."
)
@click.option("--executor", type=TEXT, default="local", show_default=True, metavar="NAME", help="Who carries runs out.")
@click.option("--workers", type=click.IntRange(1, MAX_THREADS), help="Runs at once (default: cores / threads).")
@click.option(
    "--run-timeout", type=Number(min=0, min_open=True), metavar="SECONDS", help="End a run that takes longer."
)
@click.option(
    "--allow-leak", type=TEXT, metavar="REASON", help="Go on where a dataset leaks; every result is stamped, unranked."
)
@click.option("--drop-leaks", is_flag=True, help="Leave copies of test images out of train and val.")
@click.option("--resplit", is_flag=True, help="Discard official splits: another dataset, NAME-resplit.")
@several("--test-on", metavar="NAME|PATH[:test],...", help="Other datasets to test every model on too.")
@several("--label-map", metavar="ITS=OURS,...", help="Labels of those in the words of the dataset trained on.")
@click.option("--distinct-patients", is_flag=True, help="Patients of the same name there are other people.")
@click.option("--shuffle-labels", is_flag=True, help="The control: shuffle the labels of train and val, 20 times.")
@click.option("--offline", is_flag=True, help="Do not try the network.")
@click.option("--dry-run", is_flag=True, help="Print what would run, and stop.")
@click.option("--fresh", is_flag=True, help="Run again what is done already.")
@click.option("--fail-fast", is_flag=True, help="Start nothing more after the first failure.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def bench_command(as_json: bool, dry_run: bool, **flags: Any) -> int:
    """Fine-tune and evaluate every model on every dataset, and print the leaderboard."""
    from zoo.system.progress import Console

    console = Console()
    with console.counting("starting"):
        from zoo.leaderboard.boards import SECTIONS, build_leaderboard
        from zoo.registry.loading import quiet_stdout
        from zoo.results.plans import save_plan
        from zoo.results.store import load_scored_runs
        from zoo.runner.bench import bench as run_bench
        from zoo.runner.bench import plan_only
        from zoo.system.settings import Settings

        suite = suite_from_flags(flags)
        registry = registry_with_warnings(console)
    names = ("results", "weights_dir", "keep_weights", "device", "threads", "executor", "workers", "run_timeout")
    settings = Settings(**{name: flags[name] for name in (*names, "offline", "fresh", "fail_fast")})
    carry_out = plan_only if dry_run else run_bench
    with quiet_stdout():
        outcome = carry_out(suite, registry, settings, console)
        save_plan(outcome.runs, settings.results)
        boards: list[Board] = []
        if not dry_run:
            with console.counting("building the leaderboard"):
                scored = load_scored_runs(settings.results)
                # a bench ends with the order; the sections would push it off the screen, and are a third of the time
                boards = build_leaderboard(
                    outcome.results.values(), registry.metrics, sections=SECTIONS if as_json else (), scored_runs=scored
                )
    if as_json:
        document = describe_outcome(outcome, boards)
        click.echo(json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False))
    elif dry_run:
        for planned in outcome.runs:
            state = "done" if planned.id in outcome.reused else "to run"
            click.echo(f"{planned.id[:8]}  {state:6}  {planned.folder.as_posix()}")
    else:
        print_boards(boards, settings.results)
    return exit_status(outcome, dry_run)


def suite_from_flags(flags: dict[str, Any]) -> Suite:
    """The suite asked for, with every flag that was given in place of what it says."""
    from zoo.registry.model_sets import STARTER
    from zoo.results.runs import NUM_SHUFFLES
    from zoo.runner.suites import Suite, load_suite, parse_seeds

    if flags["suite"]:
        suite = load_suite(flags["suite"])
    elif flags["datasets"]:
        suite = Suite(name="flags", models=STARTER)
    else:
        suite = load_suite("quickstart")
    changes: dict[str, Any] = {
        name: flags[name]
        for name in (
            *("models", "datasets", "metrics", "protocol", "folds", "weights"),
            *("allow_leak", "drop_leaks", "resplit", "shuffle_labels", "test_on", "distinct_patients"),
        )
        if flags[name]
    }
    if flags["label_map"]:
        changes["label_map"] = tuple(parse_pairs("--label-map", flags["label_map"]).items())
    if flags["shuffle_labels"]:
        changes["seeds"] = tuple(range(NUM_SHUFFLES))
    if flags["seeds"]:
        changes["seeds"] = parse_seeds(flags["seeds"])
    given = parse_pairs("--set", flags["settings"])
    return replace(suite, **changes, settings=tuple(sorted({**dict(suite.settings), **given}.items())))


def parse_pairs(flag: str, texts: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` each. Of a setting given twice the last holds, as of any flag; a label can mean one alone."""
    found: dict[str, str] = {}
    for text in texts:
        name, sign, value = (part.strip() for part in text.partition("="))
        if not name or not sign:
            raise UsageError(f"{flag} {text}: expected {'FIELD=VALUE' if flag == '--set' else 'ITS_LABEL=OUR_LABEL'}")
        if flag == "--label-map" and found.get(name, value) != value:
            raise UsageError(f"{flag}: {name} is said to be {found[name]} and {value}", fix="say it once")
        found[name] = value
    return found


def print_boards(boards: Sequence[Board], results: Path) -> None:
    """Print the boards, and the command that shows more of them."""
    from zoo.report.formats import Layout, write_boards

    flag = "" if results == Path("results") else f" --results {shlex.quote(clean(results))}"
    layout = Layout(width=terminal_width(), color=in_color(), more=f"zoo report --details{flag}")
    click.echo(write_boards(boards, "terminal", layout), nl=False)
    if boards:
        click.echo(f"Results are in {clean(results)}.")


def exit_status(outcome: Outcome, dry_run: bool) -> int:
    if all(run.dataset in outcome.refused for run in outcome.runs):
        return EXIT_NOTHING_RAN
    missing = not dry_run and any(
        run.id not in outcome.results or not outcome.results[run.id].ok for run in outcome.runs
    )
    return EXIT_SOME_FAILED if missing or outcome.refused else 0


def describe_outcome(outcome: Outcome, boards: Sequence[Board]) -> dict[str, Any]:
    """The document of `zoo bench --json`."""

    from zoo.report.board_json import leaderboard_items

    runs = []
    for run in outcome.runs:
        result = outcome.results.get(run.id)
        runs.append(
            {
                "id": run.id,
                "model": run.shown,
                "weights": run.weights_tag or None,
                "init": run.init,
                "dataset": run.dataset,
                "tested_on": run.tested_on or None,
                "protocol": run.protocol.label,
                "seed": run.seed,
                "fold": run.fold,
                "status": result.status if result else "skipped",
                "reused": run.id in outcome.reused,
                "error": result.error if result else None,
                "deviations": list(run.deviations),
                "scores": {name: asdict(score) for name, score in result.scores().items()}
                if result and result.ok
                else {},
                "cost": dict(result.cost) if result else {},
            }
        )
    refused = [{"dataset": name, "code": code, "message": text} for name, (code, text) in outcome.refused.items()]
    return {
        "schema": 1,
        "command": "bench",
        "runs": runs,
        "leaderboard": leaderboard_items(boards),
        "refused": refused,
    }
