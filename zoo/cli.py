"""From a command line to an exit status: one short function a command. The contract is docs/command-line.md."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import json
import math
import os
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from zoo.errors import ResultsError, RunError, UsageError, ZooError, clean, room_needed

if TYPE_CHECKING:
    from zoo.leaderboard import Board
    from zoo.progress import Console
    from zoo.registry import Registry
    from zoo.results import Result
    from zoo.runner import Outcome
    from zoo.sections import ReportOptions
    from zoo.suites import Suite

KINDS = ("models", "datasets", "metrics", "protocols", "suites", "executors")
EXIT_BUG, EXIT_USAGE, EXIT_SOME_FAILED, EXIT_NOTHING_RAN = 1, 2, 3, 4
EXIT_SIGHUP, EXIT_SIGINT, EXIT_SIGTERM = 129, 130, 143
SPENT = {errno.EMFILE, errno.ENFILE, errno.EAGAIN}
NO_MEMORY = re.compile("cannot allocate memory|failed to map segment", re.IGNORECASE)
MAX_THREADS = 512  # more than a machine has cores; of 5,000 torch does not come back
FIX_HELP = "Write a dataset.toml that leaves out what makes the split untrustworthy."


class Number(click.FloatRange):
    """A number in a range, which NaN is not: it passes every comparison that click makes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is not a number", param, ctx)
        return number


class Text(click.types.StringParamType):
    """A text that says something: an empty one would pass for an option that was not given."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(super().convert(value, param, ctx))
        if not text.strip():
            self.fail("expected a text, got none", param, ctx)
        return text


class SomePath(click.Path):
    """A path that was typed: `Path("")` is the working folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value):
            self.fail("expected a path, got none", param, ctx)
        return super().convert(value, param, ctx)


SHARE = Number(min=0, max=1, min_open=True, max_open=True)
TEXT = Text()
PATH = SomePath(path_type=Path)
FILE = SomePath(path_type=Path, dir_okay=False)


class Terminated(BaseException):
    """Raised by SIGTERM, and by SIGHUP where a terminal is closed, so that children are ended on the way out."""


def terminate(number: int, _: Any) -> NoReturn:
    raise Terminated(number)


def main() -> NoReturn:
    """Run the words this process was started with, and end it."""
    # perf: importing torch, timm, scikit-learn and pandas makes objects by the hundred thousand, looked through for
    # cycles every 700: 5.2 s instead of 6.1
    gc.set_threshold(100_000, 50, 50)
    for name in ("stdout", "stderr"):  # closed by whoever started it: `zoo list models >&-`
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the process ends
    for stream in (sys.stdout, sys.stderr):  # a name that this terminal's encoding lacks must not end a bench
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    end = os._exit
    os._exit = partial(refuse_to_end, end, os.getpid())  # type: ignore[assignment]
    status = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # said by now, where its reader left or its disk is full
            stream.flush()
    # perf: Python takes torch and scikit-learn down piece by piece, 1 to 3 s in which nothing is left to be done
    end(status)


def refuse_to_end(end: Callable[[int], NoReturn], process: int, status: int) -> NoReturn:
    """In the place of `os._exit`, by which a plugin would end a bench with status 0 and nothing done."""
    if os.getpid() != process:
        end(status)
    raise SystemExit(status)


def run(arguments: Sequence[str]) -> int:
    """Carry out a command line; whatever happens becomes an exit status and, where something is wrong, one line."""
    as_json = "--json" in arguments
    command = " ".join([a for a in arguments if not a.startswith("-")][: 2 if "plugin" in arguments[:1] else 1])
    signal.signal(signal.SIGTERM, terminate)
    if os.name == "posix" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` has it
        signal.signal(signal.SIGHUP, terminate)
    # Pillow warns in lines of its own of what zoo refuses in one, and of EXIF tags that zoo does not read.
    warnings.filterwarnings("ignore", module=r"PIL\b")
    try:
        if command.partition(" ")[0] not in ("list", "plugin"):
            require_folder()
        with room_needed():
            status = zoo.main(args=list(arguments), prog_name="zoo", standalone_mode=False)
            sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except ZooError as error:
        return complain(error, command, as_json)
    except click.exceptions.NoArgsIsHelpError as error:  # `zoo` alone asks what there is
        tell(error.ctx.get_help() if error.ctx else "")
        return EXIT_USAGE
    except click.ClickException as error:
        hint = f"`zoo {command} --help`" if command.partition(" ")[0] in zoo.commands else "`zoo --help`"
        return complain(UsageError(" ".join(error.format_message().split()).rstrip("."), fix=hint), command, as_json)
    except (KeyboardInterrupt, click.Abort):
        tell("\nzoo: stopped; what was done is kept, the same command goes on from there")
        return EXIT_SIGINT
    except Terminated as error:
        tell("zoo: terminated; what was done is kept, the same command goes on from there")
        return EXIT_SIGTERM if error.args[0] == signal.SIGTERM else EXIT_SIGHUP
    except BrokenPipeError:  # the reader of our output left: `zoo list models | head`
        return 0
    except SystemExit as error:  # click, where the reader left; else a plugin, which must not end well what is not done
        return error.code if isinstance(error.code, int) and error.code else EXIT_BUG
    except Exception as error:
        if isinstance(error, OSError) and error.errno in SPENT:
            spent = RunError(f"the system: {error.strerror}", fix="raise it: `ulimit -n`, `ulimit -u`", code="limit")
            return complain(spent, command, as_json)
        if isinstance(error, OSError) and error.filename is not None:
            fix = "see that it can be read and written, and is what its name says"
            return complain(
                ResultsError(f"{error.filename}: {error.strerror}", fix=fix, code="unusable"), command, as_json
            )
        if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
            spent = RunError(f"out of memory: {clean(error)[:200]}", fix="free some, or raise `ulimit -v`", code="oom")
            return complain(spent, command, as_json)
        import traceback

        tell(
            traceback.format_exc() + "zoo: this is a bug in zoo; please report it with the lines above and `zoo doctor`"
        )
        return EXIT_BUG


def tell(text: str) -> None:
    """On stderr, if anybody listens."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def require_folder() -> None:
    """Raise where the working folder was removed: libraries that are imported later end the process over it."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise UsageError("the working folder is no more", fix="cd to one that is there") from error


def complain(error: ZooError, command: str, as_json: bool) -> int:
    """Say what is wrong on stderr, and with `--json` as a document on stdout too; return the exit status."""
    tell(error.line())
    if as_json:
        found = {"code": error.code, "message": error.message, "fix": error.fix}
        with contextlib.suppress(OSError):
            click.echo(json.dumps({"schema": 1, "command": command, "error": found}))
    return error.exit_status


def split_names(_: Any, __: Any, values: Sequence[str]) -> tuple[str, ...]:
    """Options that repeat or take commas."""
    names = tuple(name.strip() for value in values for name in value.split(",") if name.strip())
    if values and not names:
        raise click.BadParameter("expected at least one name")
    return names


def several(*names: str, **settings: Any) -> Callable[..., Any]:
    return click.option(*names, type=TEXT, multiple=True, callback=split_names, **settings)


def registry_with_warnings(console: Console | None = None) -> Registry:
    """Everything installed; a broken plugin is one warning line, and the others serve on."""
    from zoo.progress import Console
    from zoo.registry import open_registry

    registry = open_registry()
    for broken in registry.broken:
        (console or Console()).warn(f"plugin {broken.plugin} is broken and left out: {broken.reason}")
    return registry


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="zoo-bench", prog_name="zoo", message="%(prog)s %(version)s")
def zoo() -> None:
    """Benchmark pretrained networks on medical images, and say how far the order can be trusted.

    \b
    zoo bench                                      the quickstart: synthetic data, minutes on a CPU
    zoo bench --datasets PATH --models starter     your own images
    zoo list models 'resnet*'                      what is there
    """


# --- bench -----------------------------------------------------------------------------------------------------------
@zoo.command()
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
@click.option("--results", type=PATH, default="results", show_default=True, help="Results folder.")
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
@click.option("--workers", type=click.IntRange(min=1), help="Runs at once (default: cores / threads).")
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
def bench(as_json: bool, dry_run: bool, **flags: Any) -> int:
    """Fine-tune and evaluate every model on every dataset, and print the leaderboard."""
    from zoo.progress import Console

    console = Console()
    with console.counting("starting"):
        from zoo.leaderboard import SECTIONS, build_leaderboard
        from zoo.planning import Settings, save_plan
        from zoo.registry import quiet_stdout
        from zoo.results import load_scored_runs
        from zoo.runner import bench as run_bench
        from zoo.runner import plan_only

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
    from zoo.suites import NUM_SHUFFLES, STARTER, Suite, load_suite, parse_seeds

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
        changes["label_map"] = tuple(parse_pair("--label-map", pair) for pair in flags["label_map"])
    if flags["shuffle_labels"]:
        changes["seeds"] = tuple(range(NUM_SHUFFLES))
    if flags["seeds"]:
        changes["seeds"] = parse_seeds(flags["seeds"])
    given = dict(parse_pair("--set", setting) for setting in flags["settings"])
    return replace(suite, **changes, settings=tuple(sorted({**dict(suite.settings), **given}.items())))


def parse_pair(flag: str, text: str) -> tuple[str, str]:
    name, sign, value = (part.strip() for part in text.partition("="))
    if not name or not sign:
        raise UsageError(f"{flag} {text}: expected {'FIELD=VALUE' if flag == '--set' else 'ITS_LABEL=OUR_LABEL'}")
    return name, value


def print_boards(boards: Sequence[Board], results: Path) -> None:
    from zoo.report import to_terminal

    click.echo(to_terminal(boards, width=terminal_width(), color=in_color()), nl=False)
    if boards:
        elsewhere = "" if results == Path("results") else f" --results {shlex.quote(clean(results))}"
        click.echo(f"results are in {clean(results)}; `zoo report{elsewhere}` says more of each model")


def in_color() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def terminal_width() -> int:
    import shutil

    return shutil.get_terminal_size((140, 40)).columns


def exit_status(outcome: Outcome, dry_run: bool) -> int:
    if all(run.dataset in outcome.refused for run in outcome.runs):
        return EXIT_NOTHING_RAN
    missing = not dry_run and any(
        run.id not in outcome.results or not outcome.results[run.id].ok for run in outcome.runs
    )
    return EXIT_SOME_FAILED if missing or outcome.refused else 0


def describe_outcome(outcome: Outcome, boards: Sequence[Board]) -> dict[str, Any]:
    """The document of `zoo bench --json`."""
    from dataclasses import asdict

    from zoo.report import leaderboard_items

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


# --- what is there ---------------------------------------------------------------------------------------------------
@zoo.command("list")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("pattern", type=TEXT, required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def list_(kind: str, pattern: str | None, as_json: bool) -> None:
    """List what is installed, all or what matches PATTERN (a glob, or a part of a name)."""
    from zoo.catalog import list_items, to_lines

    items = list_items(kind, pattern, registry_with_warnings())
    if as_json:
        click.echo(json.dumps({"schema": 1, "command": "list", "kind": kind, "items": items}, ensure_ascii=False))
        return
    click.echo("\n".join(to_lines(items)) or f"no {kind} match {pattern!r}")


@zoo.command()
@click.argument("kind", type=click.Choice([*KINDS[:5], "runs"]))
@click.argument("name", type=TEXT)
@click.option("--results", type=PATH, default="results", show_default=True, help="Results folder.")
@click.option("--sheet", type=FILE, help="Where a dataset's contact sheet (PNG) is written.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def info(kind: str, name: str, results: Path, sheet: Path | None, as_json: bool) -> None:
    """Show all that is known of one model, dataset (or PATH), metric, protocol, suite or run."""
    from zoo.catalog import describe_item, describe_run, to_text
    from zoo.registry import quiet_stdout

    if sheet and kind != "datasets":
        raise UsageError("--sheet is for datasets", fix="zoo info datasets PATH --sheet FILE")
    with quiet_stdout():
        if kind == "runs":
            described = describe_run(name, results, registry_with_warnings())
        else:
            described = describe_item(kind, name, registry_with_warnings(), sheet=sheet)
    if as_json:
        document = {"schema": 1, "command": "info", "kind": kind, "item": described}
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        if kind == "datasets" and "sizes" in described:
            from zoo.datasheet import to_readable

            described = to_readable(described)
        click.echo(to_text(described))


@zoo.command("audit")
@click.argument("datasets", type=TEXT, nargs=-1, required=True, metavar="DATASET|PATH...")
@click.option("--fix", "fixed_card", type=FILE, metavar="OUT.toml", help=FIX_HELP)
@click.option("--write", is_flag=True, help="Write what is guessed of a PATH to a dataset.toml beside it.")
@click.option("--output", type=FILE, help="Where --write puts it, instead.")
@click.option("--html", type=FILE, help="A page of the findings, with the images.")
@click.option("--label-noise", is_flag=True, help="Look for labels that do not fit their images (needs cleanlab).")
@click.option("--features", type=TEXT, metavar="MODEL", help="The frozen network that --label-noise looks with.")
@click.option("--weights-dir", type=PATH, help="Folder of .pth or .safetensors files.")
@click.option("--offline", is_flag=True, help="Do not try the network.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def audit_(datasets: tuple[str, ...], offline: bool, as_json: bool, **flags: Any) -> int:
    """Look for leaks, duplicates and label conflicts; exit status 4 where a dataset is refused."""
    from zoo import auditing
    from zoo.label_noise import require_cleanlab
    from zoo.pages import write_page
    from zoo.planning import Settings
    from zoo.progress import Console
    from zoo.registry import quiet_stdout
    from zoo.sources import write_card

    fixed_card, write, output = flags["fixed_card"], flags["write"], flags["output"]
    if (fixed_card or write) and len(datasets) > 1:
        raise UsageError("--fix and --write are for one dataset", fix="name one, and call again for each other")
    if output and not write:
        raise UsageError("--output says where --write writes", fix="add --write")
    if (flags["features"] or flags["weights_dir"]) and not flags["label_noise"]:
        raise UsageError("--features and --weights-dir are what --label-noise looks with", fix="add --label-noise")
    if flags["label_noise"]:
        require_cleanlab()
    if write:
        written = clean(write_card(Path(datasets[0]), output))
        tell(f"zoo: wrote {written}: read it, and correct what is wrong")
    registry, console, settings = registry_with_warnings(), Console(), Settings(offline=offline)
    with quiet_stdout():
        examined = [each for name in datasets for each in auditing.examine_named(name, registry, console, settings)]
        if flags["label_noise"]:
            backbone = auditing.choose_backbone(
                flags["features"] or "", flags["weights_dir"], registry, console, settings
            )
            examined = [auditing.add_label_noise(each, backbone, console, settings) for each in examined]
        if fixed_card and len(examined) > 1:
            raise UsageError(f"{datasets[0]} means {len(examined)} datasets", fix="--fix is for one: name it")
        fixed = auditing.fix(examined[0], fixed_card, console, settings) if fixed_card else None
        if flags["html"]:
            write_page(auditing.to_page(examined), flags["html"])
            tell(f"zoo: wrote {clean(flags['html'])}")
    audits = [each.audit for each in examined]
    if as_json:
        document = {"schema": 1, "command": "audit", "datasets": [audited.describe() for audited in audits]}
        document |= {"fixed": auditing.describe_fixed(fixed)} if fixed else {}
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        click.echo("\n".join(line for audited in audits for line in auditing.to_lines(audited)))
        click.echo("\n".join(auditing.fixed_lines(fixed))) if fixed else None
    left = [fixed.audit] if fixed else audits
    return EXIT_NOTHING_RAN if any(audited.verdict == "refuse" for audited in left) else 0


@zoo.group()
def plugin() -> None:
    """See the plugins that are installed."""


@plugin.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def plugin_list(as_json: bool) -> None:
    """List the plugins, what each gives, and why a broken one is."""
    from zoo.catalog import list_plugins, to_lines
    from zoo.registry import open_registry

    items = list_plugins(open_registry())
    if as_json:
        click.echo(json.dumps({"schema": 1, "command": "plugin list", "plugins": items}, ensure_ascii=False))
    else:
        click.echo("\n".join(to_lines(items)))


@zoo.command()
@click.option("--results", type=PATH, default=Path("results"), help="The results folder.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def doctor(results: Path, as_json: bool) -> None:
    """Check the machine, versions, plugins, cache and results, and say what is wrong and how to mend it."""
    from zoo.catalog import to_text
    from zoo.diagnosis import examine
    from zoo.files import cache_root
    from zoo.progress import Console
    from zoo.registry import open_registry

    with Console().counting("comparing what is stored with its digests"):
        found = examine(open_registry(), cache_root(), results)
    click.echo(json.dumps({"schema": 1, "command": "doctor", **found}, indent=1) if as_json else to_text(found))


# --- the cache -------------------------------------------------------------------------------------------------------
@zoo.group()
def cache() -> None:
    """Show and clear what can be made or downloaded again."""


@cache.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def cache_list(as_json: bool) -> None:
    """List what the cache holds, how large it is and when it was last used."""
    from zoo.caches import describe_cache
    from zoo.catalog import to_lines
    from zoo.files import cache_root

    found = describe_cache(cache_root())
    if as_json:
        click.echo(json.dumps({"schema": 1, "command": "cache list", **found}, ensure_ascii=False))
        return
    click.echo("\n".join([*to_lines(found["entries"]), f"{clean(found['folder'])}: {found['gigabytes']:.2f} GB"]))
    click.echo(
        f"decoded images and features are kept to {found['limit_gigabytes']:g} GB, the least recently used go first"
    )


@cache.command("clear")
@click.argument("kinds", type=TEXT, nargs=-1)
@click.option("--older", type=Number(0), metavar="DAYS", help="Only what was not used for so many days.")
@click.option("--all", "everything", is_flag=True, help="Downloads too.")
def cache_clear(kinds: tuple[str, ...], older: float | None, everything: bool) -> None:
    """Remove what can be made again: of all KINDS, or of those named; downloads only where named or with --all."""
    from zoo.caches import choose_entries, remove
    from zoo.files import cache_root

    chosen = choose_entries(cache_root(), kinds, older_days=older, everything=everything)
    freed = remove(chosen)
    click.echo(f"{len(chosen)} entr{'y' if len(chosen) == 1 else 'ies'} removed, {freed / 1e9:.2f} GB")


# --- results ---------------------------------------------------------------------------------------------------------
@zoo.command()
@click.option("--results", "folders", type=PATH, multiple=True, help="Results folders, and bundles.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["terminal", "markdown", "csv", "json"]),
    default="terminal",
    show_default=True,
    help="What to write.",
)
@click.option("--output", type=FILE, help="A file to write instead of stdout.")
@click.option("--check", is_flag=True, help="Compare with --output instead of writing it; exit 3 where it is stale.")
@click.option(
    "--table", type=TEXT, metavar="NAME", help="With csv: the section of this name instead of the leaderboard."
)
@click.option("--prevalence", type=SHARE, metavar="P", help="PPV and NPV at this share of positives too: 0.02.")
@click.option("--sensitivity", type=SHARE, metavar="S", help="The threshold that reaches this sensitivity on val.")
@click.option("--specificity", type=SHARE, metavar="S", help="The threshold that reaches this specificity on val.")
@click.option("--ensembles", is_flag=True, help="Below each board the mean probability of every model's seeds.")
@click.option("--predictions", type=FILE, help="Write every test prediction to this CSV instead.")
@several("--by", metavar="COLUMN[:WIDTH],...", help="Scores by group: sex,scanner,age:10 (groups of ten years).")
def report(
    folders: tuple[Path, ...],
    form: str,
    output: Path | None,
    check: bool,
    table: str | None,
    predictions: Path | None,
    **asked: Any,
) -> int:
    """Build the leaderboard from stored results."""
    from zoo import report as reports
    from zoo.files import written_whole
    from zoo.leaderboard import build_leaderboard
    from zoo.registry import quiet_stdout

    if check and output is None:
        raise UsageError("--check compares with a file", fix="name it by --output")
    if table and form != "csv":
        raise UsageError("--table chooses what is written as csv", fix="add --format csv")
    if predictions:
        of_boards = {"output": output, "table": table, "format": form not in ("terminal", "csv"), **asked}
        refuse_ignored([f"--{name}" for name, given in of_boards.items() if given])
    options = options_from_flags(asked)
    registry = registry_with_warnings()
    with quiet_stdout():
        results = [r for r in read_shared(folders or (Path("results"),), registry) if has_readable_scores(r)]
        if predictions:
            return export_predictions(results, predictions)
        boards = build_leaderboard(results, registry.metrics, options)
    for line in tell_groupless(boards, options):
        tell(f"zoo: warning: {clean(line)}")
    if form == "terminal":
        text = reports.to_terminal(boards, width=terminal_width(), color=output is None and in_color())
    elif table:
        text = reports.section_to_csv(boards, table)
    else:
        text = {"markdown": reports.to_markdown, "csv": reports.to_csv, "json": reports.to_json}[form](boards)
    if output is None:
        click.echo(text, nl=False)
        return 0
    if check:
        stale = not output.is_file() or output.read_bytes() != text.encode()
        tell(f"{clean(output)}: {'stale: run zoo report again' if stale else 'up to date'}")
        return EXIT_SOME_FAILED if stale else 0
    try:
        with written_whole(output) as temporary:
            temporary.write_bytes(text.encode())
    except OSError as error:
        raise UsageError(f"--output {output}: {error.strerror}", fix="name a file that can be written") from error
    return 0


def refuse_ignored(flags: Sequence[str]) -> None:
    """Raise where flags of boards stand beside --predictions."""
    if flags:
        told = f"--predictions is written instead of a board: nothing would come of {', '.join(flags)}"
        raise UsageError(told, fix="call zoo report once for each")


def options_from_flags(asked: dict[str, Any]) -> ReportOptions:
    """What `zoo report` was asked for beside its defaults."""
    from zoo.scoring import Reach
    from zoo.sections import ReportOptions, parse_by

    wanted = [Reach(metric=name, least=asked[name]) for name in ("sensitivity", "specificity") if asked[name]]
    if len(wanted) > 1:
        raise UsageError("--sensitivity and --specificity: one threshold cannot reach both", fix="ask for one of them")
    return ReportOptions(
        prevalence=asked["prevalence"],
        reach=wanted[0] if wanted else None,
        by=parse_by(asked["by"]),
        ensembles=asked["ensembles"],
    )


def tell_groupless(boards: Sequence[Board], options: ReportOptions) -> Iterator[str]:
    """A line for each column of `--by` that makes no group on any board, with what the boards say of it."""
    tables = [table for board in boards for table in board.sections if table.name == "subgroups"]
    grouped = {row[table.columns.index("by")] for table in tables for row in table.rows}
    notes = list(dict.fromkeys(note for table in tables for note in table.notes))
    for by in options.by:
        if by.text not in grouped:
            own = [note.removeprefix(f"{by.text}: ") for note in notes if note.startswith(f"{by.text}: ")]
            yield f"--by {by.text}: no groups: {'; '.join(own or notes) or 'there is no board'}"


def export_predictions(results: Sequence[Result], path: Path) -> int:
    from zoo.exporting import write_predictions
    from zoo.files import written_whole
    from zoo.progress import Console

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


def has_readable_scores(result: Result) -> bool:
    """Whether the scores beside a result are whole; damaged ones are a warning, and `zoo score` makes them again."""
    from zoo.errors import ResultsError

    try:
        result.scores()
    except ResultsError as error:
        if error.code == "newer-schema":
            raise
        tell(f"zoo: warning: left out: {error}")
        return False
    return True


def read_shared(folders: Sequence[Path], registry: Registry) -> list[Any]:
    """The results of folders and of bundles; a bundle's rows are marked by what is known of them."""
    from zoo.bundles import is_bundle
    from zoo.progress import Console
    from zoo.verifying import load_bundle, mark_reproduced

    folders = list({path.resolve(): path for path in folders}.values())
    bundles = [path for path in folders if is_bundle(path)]
    plain = [path for path in folders if path not in bundles]
    own = read_results(plain) if plain else []
    for path in bundles:
        with Console().counting(f"verifying {path.name}", "runs") as progress:
            own += mark_reproduced(load_bundle(path, registry, progress), own)
    return own


def read_results(folders: Sequence[Path]) -> list[Any]:
    """Every readable result; a damaged one is a warning, none at all an error."""
    from zoo.errors import ResultsError
    from zoo.results import load_results

    found: list[Any] = []
    for folder in folders:
        if not folder.is_dir():
            raise ResultsError(f"{folder}: not a folder", fix="give one by --results, or run `zoo bench` first")
        results, damaged = load_results(folder)
        found += [result for result in results if result.id not in {other.id for other in found}]
        for line in damaged:
            tell(f"zoo: warning: left out: {clean(line)}")
    if not found:
        raise ResultsError(f"no results below {', '.join(map(str, folders))}", fix="run `zoo bench` first")
    return found


@zoo.command("compare")
@click.argument("models", type=TEXT, nargs=2, metavar="MODEL MODEL")
@click.option("--dataset", type=TEXT, metavar="NAME", help="Only the boards of this dataset.")
@click.option("--protocol", type=TEXT, metavar="NAME", help="Only the boards of this protocol.")
@click.option("--results", "folders", type=PATH, multiple=True, help="Results folders, and bundles.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def compare_(
    models: tuple[str, str], dataset: str | None, protocol: str | None, folders: tuple[Path, ...], as_json: bool
) -> None:
    """Test two models against each other on every board that holds both, and show where they disagree."""
    from zoo.leaderboard import build_leaderboard, compare_models, select_results
    from zoo.registry import quiet_stdout
    from zoo.report import pair_to_document, pair_to_terminal

    registry = registry_with_warnings()
    with quiet_stdout():
        stored = [r for r in read_shared(folders or (Path("results"),), registry) if has_readable_scores(r)]
        chosen = select_results(stored, dataset, protocol)
        # perf: the other metrics' intervals and the sections of a board are not asked for here
        primary = {r.details.get("primary_metric") for r in chosen}
        metrics = {name: spec for name, spec in registry.metrics.items() if name in primary}
        found = compare_models(build_leaderboard(chosen, metrics, sections=()), *models)
    if as_json:
        click.echo(json.dumps(pair_to_document(found), indent=1, allow_nan=False, ensure_ascii=False))
    else:
        click.echo(pair_to_terminal(found, width=terminal_width(), color=in_color()), nl=False)


@zoo.command("score")
@click.option("--results", type=PATH, default="results", show_default=True, help="Results folder.")
@several("--metrics", metavar="NAME,...", help="Metrics beside those scored before.")
def score_(results: Path, metrics: tuple[str, ...]) -> int:
    """Compute scores again from stored predictions; no GPU, no training."""
    from zoo.progress import Console
    from zoo.registry import quiet_stdout
    from zoo.rescoring import rescore

    registry = registry_with_warnings()
    names = [name for pattern in metrics for name in registry.match("metric", pattern)]
    stored = [result for result in read_results([results]) if result.ok and result.run["purpose"] != "tune"]
    with quiet_stdout(), Console().counting("scoring", "runs") as progress:
        failed = rescore(stored, names, registry, progress)
    click.echo(
        f"{len(stored)} runs scored" + (f", {failed} score{'s' * (failed != 1)} without a value" if failed else "")
    )
    return 0


@zoo.command()
@click.argument("output", type=PATH)
@click.option("--results", type=PATH, default="results", show_default=True, help="Results folder.")
@click.option("--key", type=FILE, help="The key of the pseudonyms (default: beside the results).")
@several("--metadata", metavar="COLUMN,...", help="Columns of metadata to share as they are; none without it.")
def bundle(output: Path, results: Path, key: Path | None, metadata: tuple[str, ...]) -> int:
    """Make OUTPUT, a folder or a .zip, of the results: what can be shared, under pseudonyms."""
    from zoo.bundles import is_bundle, make_bundle
    from zoo.progress import Console
    from zoo.pseudonyms import KEY_NAME, open_key
    from zoo.registry import quiet_stdout

    if is_bundle(results):
        raise UsageError(f"{results}: is a bundle already", fix="share it as it is")
    registry, stored = registry_with_warnings(), read_results([results])
    place = key or results.resolve().parent / KEY_NAME
    with quiet_stdout(), Console().counting("bundling", "runs") as progress:
        made = make_bundle(stored, results, output, open_key(place), registry, progress, metadata)
    for line in made.left_out:
        tell(f"zoo: left out: {clean(line)}")
    tell(f"zoo: names that go along: {clean(', '.join(made.names))}")
    where, kept = clean(made.path), clean(place)
    click.echo(f"{where}: {made.num_runs} runs; read it before you share it. The key stays here: {kept}")
    return 0


@zoo.command()
@click.argument("path", type=PATH, metavar="BUNDLE")
@several("--datasets", "-d", metavar="NAME|PATH,...", help="Datasets on this machine to compare with.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def verify(path: Path, datasets: tuple[str, ...], as_json: bool) -> int:
    """Compute every score of a bundle again, compare every hash; exit status 3 where anything differs."""
    from zoo.planning import open_named
    from zoo.progress import Console
    from zoo.registry import quiet_stdout
    from zoo.verifying import compare_data, describe_verification, open_bundle, to_lines
    from zoo.verifying import verify as verify_bundle

    registry = registry_with_warnings()
    with quiet_stdout():
        with Console().counting(f"verifying {path.name}", "runs") as progress:
            found = verify_bundle(open_bundle(path), path.stem, registry, progress)
        for name in datasets:
            for source in open_named(name, registry):
                compare_data(found, source)
    if as_json:
        click.echo(json.dumps(describe_verification(found, path), indent=1, allow_nan=False, ensure_ascii=False))
    else:
        click.echo("\n".join(to_lines(found)))
    return EXIT_SOME_FAILED if found.differences else 0


@zoo.command()
@click.argument("run_id", type=TEXT)
@click.option("--results", type=PATH, default="results", show_default=True, help="Results folder.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def why(run_id: str, results: Path, as_json: bool) -> None:
    """Tell, field by field, why a run is, or is not, the same as one already done."""
    from zoo.catalog import explain_run, to_text

    explained = explain_run(run_id, results)
    click.echo(json.dumps({"schema": 1, "command": "why", **explained}, indent=1) if as_json else to_text(explained))
