"""`zoo bench`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import click

from zoo.cli.help import GroupedOptions
from zoo.cli.options import PATH, RESULTS, TEXT, Name, Number, plugin_option, several
from zoo.cli.terminal import in_color, registry_with_warnings, terminal_width
from zoo.errors import EXIT_NOTHING_RAN, EXIT_SOME_FAILED, UsageError, clean
from zoo.specs.suite import Suite, SuiteKey, suite_keys

if TYPE_CHECKING:
    from zoo.leaderboard.boards import Board
    from zoo.runner.bench import Outcome

MAX_THREADS = 512  # more than any machine has cores; torch hangs at 5,000


HEADINGS = {
    "suite": "What to run",
    "seeds": "How to train and test",
    "allow_leak": "Data checks and controls",
    "test_on": "External validation",
    "weights_dir": "Where to run",
    "results": "Output",
}
BENCH_EXAMPLES = (
    "zoo bench                                              the quickstart",
    "zoo bench --datasets PATH --models starter             your own images",
    "zoo bench --datasets PATH --models resnet18 --dry-run  only show the runs",
    "zoo bench --datasets PATH --set epochs=3 --seeds 5     change the protocol",
)


class BenchCommand(GroupedOptions):
    """`zoo bench`, with an error that shows the right flag for a path or a protocol field typed without one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = list(args)
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if suggestion := suggest_setting(error.option_name, words):
                raise UsageError(f"no such option '{error.option_name}'", fix=suggestion) from error
            raise
        if ctx.args and not ctx.resilient_parsing:
            raise UsageError(f"unexpected argument {ctx.args[0]!r}", fix=suggest_flag(ctx.args))
        return rest


def suggest_setting(option: str, words: Sequence[str]) -> str:
    """`did you mean: zoo bench --set epochs=3` for `--epochs 3`, or an empty text if no protocol field has the name."""
    from zoo.specs.protocol import list_settings

    field = option.lstrip("-").replace("-", "_")
    if field not in list_settings():
        return ""
    value = "VALUE"
    for word, following in zip(words, (*words[1:], ""), strict=True):
        if word.partition("=")[0] == option:
            value = word.partition("=")[2] or ("" if following.startswith("-") else following) or value
    return f"did you mean: zoo bench --set {field}={value}"


def suggest_flag(arguments: Sequence[str]) -> str:
    """The flag for arguments without one: they are datasets if they are paths."""
    names = shlex.quote(",".join(arguments))
    datasets = f"did you mean: zoo bench --datasets {names}"
    paths = all(Path(name).exists() or "/" in name for name in arguments)
    return datasets if paths else f"{datasets}, or --models {names}"


PAIRS = tuple[tuple[str, str], ...]


def suite_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags of the fields of a suite, in their order."""
    types = get_type_hints(Suite)
    for name, key in reversed(suite_keys().items()):
        if key.flags:
            command = suite_option(name, key, types[name])(command)
    return command


def suite_option(name: str, key: SuiteKey, kind: Any) -> Callable[..., Any]:
    """The flag of a field, by the field's type."""
    texts: dict[str, Any] = {"help": key.help, **({"metavar": key.metavar} if key.metavar else {})}
    if tuple[str, ...] in (kind, *get_args(kind)) or (kind == PAIRS and "," in key.metavar):
        return several(*key.flags, kind=key.names, **texts)
    if kind is bool:
        return click.option(*key.flags, is_flag=True, **texts)
    if kind == int | None:
        return click.option(*key.flags, type=click.IntRange(min=key.limits["ge"]), **texts)
    if key.names:
        return click.option(*key.flags, type=Name(key.names), **texts)
    if choices := [choice for choice in get_args(kind) if isinstance(choice, str)]:
        return click.option(*key.flags, type=click.Choice(choices), **texts)
    return click.option(*key.flags, name, type=TEXT, multiple=kind == PAIRS, **texts)


@click.command(
    "bench",
    cls=BenchCommand,
    headings=HEADINGS,
    examples=BENCH_EXAMPLES,
    context_settings={"allow_extra_args": True},
)
@click.option(
    "--suite", type=Name("suite"), metavar="NAME|FILE.toml", help="A suite; other flags override what it sets."
)
@suite_options
@click.option("--weights-dir", type=PATH, metavar="DIR", help="Folder of .pth or .safetensors files.")
@click.option(
    "--device", type=TEXT, default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:N|mps", help="Device of runs."
)
@click.option("--workers", type=click.IntRange(1, MAX_THREADS), metavar="N", help="Runs at once (default: by cores).")
@click.option(
    "--threads",
    type=click.IntRange(1, MAX_THREADS),
    default=1,
    show_default=True,
    metavar="N",
    help="CPU threads of a run.",
)
@click.option(
    "--executor",
    type=Name("executor"),
    default="local",
    show_default=True,
    metavar="NAME",
    help="Executor of runs.",
)
@several("--observers", kind="observer", metavar="NAME,...", help="Observers, such as tensorboard, mlflow or jsonl.")
@click.option("--run-timeout", type=Number(min=0, min_open=True), metavar="SECONDS", help="End a run after this time.")
@plugin_option
@click.option("--offline", is_flag=True, help="Do not use the network.")
@click.option("--fail-fast", is_flag=True, help="Start no run after the first failure.")
@click.option("--results", type=RESULTS, default="results", show_default=True, metavar="DIR", help="Results folder.")
@click.option(
    "--keep-weights",
    type=click.Choice(["best", "all", "none"]),
    default="best",
    show_default=True,
    help="Keep the trained weights of the best seed on val, of all seeds, or of none.",
)
@click.option("--fresh", is_flag=True, help="Repeat runs that are done already.")
@click.option("--dry-run", is_flag=True, help="Show the runs without starting them.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def bench_command(as_json: bool, dry_run: bool, **flags: Any) -> int:
    """Train and test every model on every dataset and print the leaderboard."""
    from zoo.system.progress import Console

    console = Console()
    with console.counting("starting"):
        from zoo.leaderboard.boards import build_leaderboard
        from zoo.leaderboard.sections import list_sections
        from zoo.leaderboard.tables import ReportOptions
        from zoo.registry.context import Context
        from zoo.registry.loading import quiet_stdout
        from zoo.results.memo import ScoreMemo
        from zoo.results.plans import save_plan
        from zoo.results.store import load_scored_runs
        from zoo.runner.bench import bench as run_bench
        from zoo.runner.bench import plan_only
        from zoo.system.settings import Settings

        registry = registry_with_warnings(console)
        suite = suite_from_flags(flags, registry.suites)
    names = (
        "results",
        "weights_dir",
        "keep_weights",
        "device",
        "threads",
        "executor",
        "workers",
        "run_timeout",
        "observers",
    )
    settings = Settings(**{name: flags[name] for name in (*names, "offline", "fresh", "fail_fast")})
    carry_out = plan_only if dry_run else run_bench
    with quiet_stdout():
        outcome = carry_out(suite, Context(registry=registry, settings=settings, console=console))
        save_plan(outcome.runs, settings.results)
        boards: list[Board] = []
        if not dry_run:
            with console.counting("building the leaderboard"):
                scored = load_scored_runs(settings.results)
                # perf: the sections are not printed after a bench, and take a third of the time
                boards = build_leaderboard(
                    outcome.results.values(),
                    registry.metrics,
                    ReportOptions(recipes=len(suite.protocols) > 1, metrics=tuple(outcome.plan.metrics)),
                    sections=list_sections(registry) if as_json else (),
                    scored_runs=scored,
                    memo=ScoreMemo(cache=settings.cache),
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


def suite_from_flags(flags: dict[str, Any], registered: Mapping[str, Suite]) -> Suite:
    """Return the requested suite, with every flag that was given in place of the suite's own value."""
    from zoo.results.runs import NUM_SHUFFLES
    from zoo.runner.suites import load_suite

    if flags["suite"]:
        suite = load_suite(flags["suite"], registered)
    elif flags["datasets"]:
        suite = Suite(name="flags")
    else:
        suite = load_suite("quickstart")
    changes = {name: from_flag(name, flags[name]) for name, key in suite_keys().items() if key.flags and flags[name]}
    if flags["shuffle_labels"]:
        changes.setdefault("seeds", tuple(range(NUM_SHUFFLES)))
    changes["settings"] = tuple(sorted({**dict(suite.settings), **dict(changes.get("settings", ()))}.items()))
    return replace(suite, **changes)


def from_flag(name: str, value: Any) -> Any:
    """Convert the value of a flag to that of the suite's field."""
    from zoo.runner.suites import parse_seeds

    if name == "seeds":
        return parse_seeds(value)
    kind = get_type_hints(Suite)[name]
    return tuple(parse_pairs(suite_keys()[name].flags[0], value).items()) if kind == PAIRS else value


def parse_pairs(flag: str, texts: Sequence[str]) -> dict[str, str]:
    """Parse `NAME=VALUE` texts. The last value of a repeated setting counts; a label can have only one."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, sign, value = (part.strip() for part in text.partition("="))
        if not name or not sign:
            raise UsageError(f"{flag} {text}: expected {'FIELD=VALUE' if flag == '--set' else 'ITS_LABEL=OUR_LABEL'}")
        if flag == "--label-map" and pairs.get(name, value) != value:
            raise UsageError(f"{flag}: {name} is mapped to both {pairs[name]} and {value}", fix="map it once")
        pairs[name] = value
    return pairs


def print_boards(boards: Sequence[Board], results: Path) -> None:
    """Print the boards, and the command that shows more of them."""
    from zoo.report.formats import Layout, write_boards

    flag = " --recipes" if any(board.recipes for board in boards) else ""
    flag += "" if results == Path("results") else f" --results {shlex.quote(clean(results))}"
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
    """Return the document of `zoo bench --json`."""
    from zoo.report.board_json import leaderboard_items
    from zoo.report.deviations import deviation_text
    from zoo.report.reasons import describe_score

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
                "deviations": list(map(deviation_text, run.deviations)),
                "scores": {name: describe_score(score) for name, score in result.scores().items()}
                if result and result.ok
                else {},
                "cost": dict(result.cost) if result else {},
            }
        )
    refused = [{"dataset": name, **error} for name, error in outcome.refused.items()]
    return {
        "schema": 1,
        "command": "bench",
        "runs": runs,
        "leaderboard": leaderboard_items(boards),
        "refused": refused,
    }
