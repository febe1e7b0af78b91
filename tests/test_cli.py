"""The command line itself: exit statuses, errors of one line, help and completion."""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest

from zoo.cli import process
from zoo.cli.bench import BENCH_EXAMPLES, HEADINGS, bench_command, print_boards
from zoo.cli.commands import zoo as zoo_command
from zoo.cli.help import COMMAND_GROUPS
from zoo.leaderboard.boards import build_leaderboard
from zoo.leaderboard.subgroups import KEPT
from zoo.results.store import load_results
from zoo.specs.deviation import Deviation
from zoo.specs.hooks import KIND_OF
from zoo.specs.protocol import list_settings

HEAVY = ["torch", "torchvision", "timm", "sklearn", "scipy", "pandas", "rich", "pydantic"]


@pytest.fixture
def main(capsys, monkeypatch, tiny_site, tmp_path):
    """Run a command line as the installed command does, from an empty folder: `status`, `out`, `err`."""
    monkeypatch.syspath_prepend(str(tiny_site))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    before = signal.getsignal(signal.SIGTERM), signal.signal(signal.SIGINT, signal.default_int_handler)

    def run(*arguments):
        status = process.run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return SimpleNamespace(status=status, out=out, err=err)

    yield run
    for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("command", ["", *zoo_command.commands, "plugin list"])
def test_every_command_has_a_help_page(main, command):
    done = main(*command.split(), "--help")
    assert done.status == 0
    assert "Usage: zoo" in done.out and not done.err


def test_an_invalid_choice_lists_the_valid_ones_on_one_line(main):
    done = main("list")
    assert done.status == 2
    assert "Choose from: models, datasets" in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize(("command", "names"), [("", ["bench", "doctor"]), ("plugin", ["list"]), ("cache", ["clear"])])
def test_a_group_without_a_command_shows_its_help_and_is_status_2(main, command, names):
    done = main(*command.split())
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("Usage: zoo") and all(name in done.err for name in names)


def test_every_command_is_in_one_group_of_the_help_page():
    names = [name for group in COMMAND_GROUPS.values() for name in group]
    assert sorted(names) == sorted(zoo_command.commands)


def test_the_help_page_shows_whole_sentences_at_80_columns(main, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = main("--help").out
    words = " ".join(text.split())
    for command in zoo_command.commands.values():
        assert " ".join(command.help.split("\n\n")[0].split()) in words
    assert all(f"\n{heading}:\n" in text for heading in COMMAND_GROUPS)
    assert max(map(len, text.splitlines())) <= 92  # the examples are not wrapped


def test_the_help_of_bench_groups_every_flag_and_ends_with_examples(main, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = main("bench", "--help").out
    for param in bench_command.params:
        assert text.count(f" {max(param.opts, key=len)} ") >= 1, param.name
    headings = re.findall(r"^([A-Z][\w ]+):$", text, re.MULTILINE)
    assert headings == [*HEADINGS.values(), "Examples"]
    assert set(HEADINGS) <= {param.name for param in bench_command.params}


@pytest.mark.parametrize("line", BENCH_EXAMPLES)
def test_an_example_of_bench_can_be_typed(line):
    words = shlex.split(line.split("  ")[0])[2:]
    bench_command.make_context("bench", words)


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["."], "did you mean: zoo bench --datasets ."),
        (["data/images", "more/images"], "did you mean: zoo bench --datasets data/images,more/images"),
        (["resnet18"], "did you mean: zoo bench --datasets resnet18, or --models resnet18"),
        (["-m", "a", "my images"], "did you mean: zoo bench --datasets 'my images', or --models 'my images'"),
    ],
)
def test_an_argument_of_bench_without_a_flag_gets_one_suggested(main, words, fix):
    done = main("bench", *words)
    assert done.status == 2 and done.err.endswith(f"; fix: {fix}\n")


@pytest.mark.parametrize("field", list_settings())
def test_a_protocol_field_typed_as_a_flag_of_bench_gets_set_suggested(main, field):
    if f"--{field}" in {flag for param in bench_command.params for flag in param.opts}:
        pytest.skip("a flag of its own")
    for words in ([f"--{field}", "3"], [f"--{field}=3"], ["--dry-run", f"--{field.replace('_', '-')}", "3"]):
        done = main("bench", *words)
        assert done.status == 2 and done.err.endswith(f"; fix: did you mean: zoo bench --set {field}=3\n")


def test_a_protocol_field_without_a_value_is_suggested_too(main):
    assert main("bench", "--epochs", "--dry-run").err.endswith("zoo bench --set epochs=VALUE\n")


# --- shell completion ------------------------------------------------------------------------------------------------
def complete(environment, line, **variables):
    """The completions of the last word of a line, as bash asks for them."""
    words = line.split(" ")
    asked = {"_ZOO_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    code = "from zoo.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(**asked, **variables), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [tuple(part.split(",", 1)) for part in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("line", "completion"),
    [
        ("zoo bench --models tiny_c", "tiny_cnn"),
        ("zoo bench -m start", "starter"),
        ("zoo bench --models resnet18,tiny_c", "resnet18,tiny_cnn"),
        ("zoo bench --datasets phan", "phantom"),
        ("zoo bench --metrics auro", "auroc"),
        ("zoo bench --protocol linear", "linear-probe"),
        ("zoo bench --suite quicks", "quickstart"),
        ("zoo bench --dry", "--dry-run"),
        ("zoo info models tiny_c", "tiny_cnn"),
        ("zoo list dat", "datasets"),
        ("zoo comp", "compare"),
    ],
)
def test_a_shell_completes_names(environment, line, completion):
    assert ("plain", completion) in complete(environment, line)


def test_a_path_is_completed_by_the_shell_if_no_dataset_fits(environment):
    assert complete(environment, "zoo bench --datasets ./im") == [("file", "./im")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_line_for_each_shell_prints_a_script(environment, shell):
    code = "from zoo.__main__ import main; main()"
    settings = environment(_ZOO_COMPLETE=f"{shell}_source")
    done = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True)
    assert done.returncode == 0 and "_ZOO_COMPLETE" in done.stdout


def test_completion_imports_nothing_heavy(environment):
    code = (
        "import sys; from zoo.cli.completion import complete_name\n"
        "assert complete_name('model', 'tiny_c')\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.stdout == "[]\n", done.stderr


def test_the_version_is_that_of_the_distribution(main):
    from importlib import metadata

    assert main("--version").out == f"zoo {metadata.version('zoo-bench')}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "item"),
    [
        ("bench -m tinny_cnn", "unknown-model", "'tiny_cnn'"),
        ("bench -d brestmnis -m tiny_cnn", "unknown-dataset", "'brestmnis'"),
        ("bench --protocol fintune", "unknown-protocol", "'finetune'"),
        ("bench --suite quickstrat", "unknown-suite", "'quickstart'"),
        ("bench --suite no.toml", "bad-suite", "no.toml"),
        ("bench --metrics aurok", "unknown-metric", "'aurok'"),
        ("bench --executor locl", "unknown-executor", "'local'"),
        ("bench --observers jsonll", "unknown-observer", "'jsonl'"),
        ("bench --set steps", "usage", "--set steps"),
        ("bench --set stepz=3", "usage", "'steps'"),
        ("bench --seeds none", "usage", "--seeds none"),
        ("bench --seeds 1,1", "usage", "[1, 1]"),
        ("bench --device gpu", "usage", "--device gpu"),
        ("bench --folds 0", "usage", "'--folds'"),
        ("bench --keep-weights some", "usage", "'some'"),
        ("bench --modles x", "usage", "'--modles'"),
        ("bench --datasets ,", "usage", "'--datasets'"),
        ("list modles", "usage", "'modles'"),
        ("info models tinny_cnn", "unknown-model", "'tiny_cnn'"),
        ("info suites quick", "unknown-suite", "'quick'"),
        ("bench --threads 5000", "usage", "5000"),
        ("bench --threads 99999999999999999999", "usage", "99999999999999999999"),
        ("bench --set image_size=1000000", "usage", "--set image_size=1000000"),
        ("report --predictions x --output y --ensembles", "usage", "--output, --ensembles"),
        ("report --predictions x --format markdown --by sex", "usage", "--format, --by"),
        ("report --check", "usage", "--output"),
        ("report --format docx", "usage", "'docx'"),
        ("report --sensitivity 0.9 --specificity 0.9", "usage", "--sensitivity and --specificity"),
        ("report --by age:-1", "usage", "age:-1"),
        ("report --prevalence 2", "usage", "'--prevalence'"),
        ("why abcdefgh", "unknown-run", "'abcdefgh'"),
        ("compare resnet18", "usage", "'models'"),
        ("bnech", "usage", "'bnech'"),
        ("score --metrics aurok", "unknown-metric", "'aurok'"),
    ],
)
def test_a_usage_error_is_one_line_and_status_2(main, request, arguments, code, item):
    done = main(*arguments.split())
    assert (done.status, done.out) == (2, "")
    line = done.err.splitlines()[-1]
    assert line.startswith(f"zoo: error[{code}] ") and done.err.count("zoo: ") == 1
    assert item in line
    if not re.search("`zoo (list|.*--help)", line):  # sentences that count installed plugins, or are click's
        request.getfixturevalue("golden")(line)


@pytest.mark.parametrize("arguments", ["bench -m tinny_cnn --json", "list modles --json", "why abcdefgh --json"])
def test_with_json_an_error_is_a_document_too(main, arguments):
    done = main(*arguments.split())
    document = json.loads(done.out)
    assert (done.status, document["schema"], document["command"]) == (2, 1, arguments.split()[0])
    assert set(document["error"]) == {"code", "message", "fix"}
    assert document["error"]["message"] in done.err


def test_a_subcommand_is_named_by_both_words(main):
    document = json.loads(main("plugin", "list", "--no-such-option", "--json").out)
    assert document["command"] == "plugin list"


def test_a_message_shows_control_characters_instead_of_sending_them(main):
    done = main("bench", "-m", "net\x1b[2J\u202e")
    assert done.status == 2
    assert "\x1b" not in done.err and "\u202e" not in done.err
    assert "\\x1b[2J" in done.err


def test_a_bug_is_a_traceback_that_asks_to_be_reported(main, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("zoo.report.catalog.list_items", fail)
    done = main("list", "models")
    assert done.status == 1
    assert "Traceback" in done.err and "this is a bug in zoo; please report it" in done.err


def test_an_error_of_data_outside_a_bench_is_status_4(main, tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK")
    done = main("info", "datasets", tmp_path / "x.npz")
    assert done.status == 4
    assert re.fullmatch(r"zoo: error\[npz\] \S+x\.npz: [^\n]+; fix: copy or download it again\n", done.err)


def test_interrupting_is_130_and_terminating_is_143(main, monkeypatch):
    monkeypatch.setattr("zoo.report.catalog.list_items", lambda *_: signal.raise_signal(signal.SIGINT))
    interrupted = main("list", "models")
    assert interrupted.status == 130
    monkeypatch.setattr("zoo.report.catalog.list_items", lambda *_: signal.raise_signal(signal.SIGTERM))
    terminated = main("list", "models")
    assert terminated.status == 143
    for done in (interrupted, terminated):
        assert "Traceback" not in done.err
    assert (interrupted.err.strip(), terminated.err.strip()) == ("zoo: stopped", "zoo: terminated")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_only_a_stopped_bench_says_that_it_can_be_continued(main, monkeypatch, number):
    def stop(*_, **__):
        signal.raise_signal(number)

    monkeypatch.setattr("zoo.runner.bench.bench", stop)
    monkeypatch.setattr("zoo.auditing.examine.examine_named", stop)
    assert "finished runs are kept, and the same command continues from there" in main("bench", "--offline").err
    assert "kept" not in main("audit", "x").err


# --- list, info, plugin, doctor --------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KIND_OF)
def test_list_json_is_the_document_of_the_contract(main, kind):
    document = json.loads(main("list", kind, "--json").out)
    assert (document["schema"], document["command"], document["kind"]) == (1, "list", kind)
    assert all(item["name"] for item in document["items"])


def test_list_shows_what_is_installed_and_what_matches(main):
    assert "tiny_cnn" in main("list", "models").out
    out = main("list", "models", "zoo-tiny:tiny_*").out
    assert [line.split()[0] for line in out.splitlines()] == ["name", "tiny_cnn", "tiny_pretrained"]
    assert main("list", "models", "no-such*").out == "no models match 'no-such*'\n"


@pytest.mark.integration
def test_info_and_plugin_list_and_doctor_give_json(main):
    info = json.loads(main("info", "models", "tiny_cnn", "--json").out)
    assert info["item"]["name"] == "tiny_cnn"
    plugins = json.loads(main("plugin", "list", "--json").out)
    (tiny,) = [plugin for plugin in plugins["plugins"] if plugin["name"] == "zoo-tiny"]
    assert (plugins["command"], tiny["version"], tiny["status"], tiny["reason"]) == ("plugin list", "1.0", "ok", None)
    doctor = json.loads(main("doctor", "--json").out)
    assert (doctor["schema"], doctor["command"]) == (1, "doctor")


# --- stored runs -----------------------------------------------------------------------------------------------------
@pytest.mark.integration
def test_list_runs_shows_each_stored_run_and_what_matches(main, store, tmp_path):
    first = store(tmp_path / "results", model="net", seed=0)
    store(tmp_path / "results", model="net", seed=10)
    store(tmp_path / "results", model="net", seed=2, status="oom")
    store(tmp_path / "results", model="other", dataset="rings")
    shared, header, *lines = main("list", "runs").out.splitlines()
    assert shared == "protocol scratch@1 · metric auroc · date 2025-01-01"
    assert header.split() == ["id", "dataset", "model", "seed", "status", "score"]
    assert [line.split()[1:4] for line in lines] == [
        ["dots", "net", "0"],
        ["dots", "net", "2"],
        ["dots", "net", "10"],
        ["rings", "other", "0"],
    ]
    auroc = f"{first.scores()['auroc'].value:.3f}".lstrip("0")
    assert lines[0].split() == [first.id[:8], "dots", "net", "0", "ok", auroc]
    assert lines[1].split()[4:] == ["oom", "-"]
    for pattern, count in (("rings", 1), ("ne?", 3), (first.id[:8], 1), ("oom", 1), ("scratch", 4)):
        assert len(main("list", "runs", pattern).out.splitlines()) == 2 + count
    assert main("list", "runs", "nothing").out == "no runs match 'nothing'\n"


def test_list_runs_gives_json(main, store, tmp_path):
    stored = store(tmp_path / "r", num_folds=2, fold=1)
    document = json.loads(main("list", "runs", "--results", "r", "--json").out)
    (item,) = document["items"]
    assert (document["command"], document["kind"], item["id"]) == ("list", "runs", stored.id)
    assert (item["fold"], item["metric"], item["score"]) == (1, "auroc", stored.scores()["auroc"].value)


def test_list_runs_without_a_results_folder_is_status_5(main):
    assert main("list", "runs", "--results", "nowhere").status == 5
    assert main("list", "models", "--results", "nowhere").status == 2


def test_info_shows_a_run_on_one_screen_and_with_full_everything(main, store, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    run = store(
        tmp_path / "results", facts={"known_issues": ["blurred"]}, deviations=(Deviation("image-size", (28, 32)),)
    )
    short = main("info", "runs", run.id[:8]).out
    assert len(short.splitlines()) <= 24
    score = run.scores()["auroc"]
    for text in (
        "net",
        "dots",
        "scratch@1",
        "random",
        f"[{score.low:.3f}".replace("0.", "."),
        "blurred",
        "image_size: 28",
    ):
        assert text in short
    full = main("info", "runs", run.id[:8], "--full").out
    assert len(full.splitlines()) > 150 and "formula:" in full
    assert main("info", "models", "tiny_cnn", "--full").status == 2


def test_info_shows_the_error_of_a_failed_run(main, store, tmp_path):
    run = store(tmp_path / "results", status="failed")
    out = main("info", "runs", run.id[:8]).out
    assert "failed" in out and "diverged: the loss is nan" in out and "scores" not in out


# --- report and score ------------------------------------------------------------------------------------------------
@pytest.mark.integration
def test_report_in_every_format(main, store, tmp_path):
    store(tmp_path / "results")
    assert "net" in main("report").out
    assert main("report", "--format", "markdown").out.startswith("## dots")
    assert main("report", "--format", "csv").out.startswith("dataset,task,")
    assert json.loads(main("report", "--format", "json").out)["leaderboard"][0]["model"] == "net"


def test_report_shows_operating_points_at_the_requested_target(main, store, tmp_path):
    store(tmp_path / "results")
    out = main("report", "--sensitivity", "0.9", "--prevalence", "0.02").out
    assert "the highest threshold with a sensitivity of at least 90 % on val" in out
    assert "PPV at 2 %" in out
    lines = main("report", "--format", "csv", "--table", "operating", "--specificity", "0.8").out.splitlines()
    assert "specificity on val" in lines[0] and lines[1].startswith("dots,")


@pytest.mark.integration
def test_report_shows_scores_by_group_also_of_a_bundle_with_the_column(main, store, tmp_path):
    store(tmp_path / "results", metadata={"sex": np.repeat(["F", "M"], 20), "age": np.arange(40).astype(str)})
    out = main("report", "--by", "sex,age:20").out
    assert "Subgroups" in out and "0 to <20" in out
    assert main("bundle", "out", "--metadata", "sex").status == 0
    assert main("verify", "out").status == 0
    told = main("report", "--results", "out", "--by", "sex", "--format", "csv", "--table", "subgroups").out
    assert [line.split(",")[5] for line in told.splitlines()[1:]] == ["F", "M"]
    store(tmp_path / "old")
    assert "run again with `zoo bench --fresh`" in main("report", "--results", "old", "--by", "sex").out


@pytest.mark.integration
def test_a_column_without_groups_is_a_warning_in_every_format(main, store, tmp_path):
    store(tmp_path / "results", metadata={"sex": np.repeat(["F", "M"], 20)})
    for form in ("csv", "json", "terminal"):
        done = main("report", "--by", "nope,sex", "--format", form)
        assert done.status == 0
        assert done.err == f"zoo: warning: --by nope: no groups: no such column. There are: sex; {KEPT}\n"
    store(tmp_path / "old", dataset="other")
    assert "run again with `zoo bench --fresh`" in main("report", "--results", "old", "--by", "x\x1b").err
    assert main("report", "--by", "sex", "--results", "results", "--results", "old").err == ""


def test_a_bench_ends_with_a_command_that_can_be_typed(store, tmp_path, capsys):
    store(tmp_path)
    boards = build_leaderboard(load_results(tmp_path)[0], {}, sections=())
    print_boards(boards, Path("r\nnew\x1b[31m line"))
    *_, more, where = capsys.readouterr().out.splitlines()
    assert more.endswith(r"zoo report --details --results 'r\x0anew\x1b[31m line'")
    assert where == r"Results are in r\x0anew\x1b[31m line."


@pytest.mark.integration
def test_report_check_returns_status_3_for_a_stale_file(main, store, tmp_path):
    store(tmp_path / "results", seed=0)
    arguments = ("report", "--output", "board.md", "--output", "board.json")
    assert main(*arguments).status == 0
    assert (tmp_path / "board.md").read_text() == main("report", "--format", "markdown").out
    assert (tmp_path / "board.json").read_text() == main("report", "--format", "json").out
    assert main(*arguments, "--check").status == 0
    store(tmp_path / "results", seed=1)
    stale = main(*arguments, "--check")
    assert stale.status == 3 and "board.md: stale" in stale.err and "board.json: stale" in stale.err
    assert main(*arguments).status == 0 and main(*arguments, "--check").status == 0


def test_report_of_a_missing_file_is_stale(main, store, tmp_path):
    store(tmp_path / "results")
    assert main("report", "--output", "none.txt", "--check").status == 3


def test_report_to_a_file_that_cannot_be_written_is_status_2(main, store, tmp_path):
    store(tmp_path / "results")
    (tmp_path / "file").write_text("")
    done = main("report", "--output", "file/board.md")
    assert done.status == 2 and done.err.startswith("zoo: error[usage] --output")


def test_several_results_folders_make_one_report(main, store, tmp_path):
    store(tmp_path / "a", model="one")
    store(tmp_path / "b", model="two")
    out = main("report", "--results", "a", "--results", "b", "--format", "csv").out
    assert {line.split(",")[4] for line in out.splitlines()[1:]} == {"one", "two"}


@pytest.mark.parametrize("command", ["report", "score"])
def test_no_results_are_status_5(main, tmp_path, command):
    assert main(command, "--results", "nowhere").status == 5
    (tmp_path / "empty").mkdir()
    done = main(command, "--results", "empty")
    assert done.status == 5 and "no results below empty; fix: run `zoo bench` first" in done.err


def test_a_newer_schema_is_status_5(main, store, tmp_path):
    path = store(tmp_path / "results").folder / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 4}))
    done = main("report")
    assert done.status == 5 and "upgrade zoo-bench" in done.err


def test_a_damaged_result_is_a_warning_and_the_others_are_shown(main, store, tmp_path):
    store(tmp_path / "results", model="good")
    (store(tmp_path / "results", model="bad").folder / "predictions.npz").write_bytes(b"PK")
    done = main("report")
    assert done.status == 0
    assert "good" in done.out and "bad" not in done.out
    assert done.err.startswith("zoo: warning: left out: ") and "changed after it was written" in done.err


def test_score_adds_a_metric(main, store, tmp_path):
    stored = store(tmp_path / "results")
    done = main("score", "--metrics", "mcc,brier")
    assert (done.status, done.out) == (0, "1 runs scored\n")
    assert {"mcc", "brier"} <= set(stored.scores())


@pytest.mark.integration
def test_a_bundle_is_made_verified_and_reported_and_a_forged_one_is_status_3(main, store, tmp_path):
    store(tmp_path / "results")
    assert main("bundle", "out").status == 0
    verified = main("verify", "out")
    assert verified.status == 0 and "no differences" in verified.out and "not detected: " in verified.out
    shown = main("report", "--results", "out", "--format", "markdown").out
    assert "net * (recomputed)" in shown.replace("\\", "")  # its label does not name its four steps: a deviation
    (scores,) = (tmp_path / "out").glob("*/*/*/scores.json")
    scores.write_text(scores.read_text().replace('"value": 0.', '"value": 0.9'))
    assert main("verify", "out").status == main("report", "--results", "out").status == 3
    assert main("verify", "results").status == 5


# --- as a process ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("arguments", ["--help", "bench --help", "list models", "list datasets --json", "plugin list"])
def test_help_and_lists_import_nothing_heavy(arguments, environment):
    code = (
        "import sys, zoo.cli.process\n"
        f"zoo.cli.process.run({arguments.split()!r})\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.stderr.splitlines()[-1] == "[]"


def test_help_is_there_before_numpy_would_be(environment):
    code = "import sys; from zoo.cli.process import run; run(['--help']); sys.exit('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT ends a process otherwise there")
def test_ctrl_c_while_zoo_is_imported_ends_it_without_a_word(environment):
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Finder:\n"
        "    def find_spec(name, *_):\n"
        "        if name == 'click': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder)\n"
        "from zoo.__main__ import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe's reader leaves differently there")
def test_a_reader_that_leaves_is_no_error(command, environment):
    process = subprocess.Popen(
        [*command, "list", "models"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    process.stdout.close()
    stderr = process.stderr.read().decode()
    assert "Traceback" not in stderr and "BrokenPipe" not in stderr
    assert process.wait(30) in {0, 1}


def test_a_character_outside_the_output_encoding_does_not_end_the_command(store, tmp_path, command, environment):
    store(tmp_path / "results", facts={"labels": ["clear", "\U0001fac1"], "splits": LUNGS})
    done = subprocess.run(
        [*command, "report", "--details"],
        capture_output=True,
        cwd=tmp_path,
        env=environment(PYTHONIOENCODING="cp1252"),
    )
    assert done.returncode == 0, done.stderr
    assert b"\\U0001fac1" in done.stdout


LUNGS = {
    name: {"images": 40, "patients": 40, "labels": {"clear": 20, "\U0001fac1": 20}} for name in ("train", "val", "test")
}


@pytest.mark.skipif(sys.platform == "win32", reason="no pty there")
@pytest.mark.parametrize(("no_color", "colored"), [("", True), pytest.param("1", False, marks=pytest.mark.slow)])
def test_color_is_for_terminals_and_only_without_no_color(store, tmp_path, command, environment, no_color, colored):
    import pty

    store(tmp_path / "results")
    ours, theirs = pty.openpty()
    variables = environment(NO_COLOR=no_color, TERM="xterm-256color")
    process = subprocess.Popen([*command, "report"], stdout=theirs, stderr=theirs, cwd=tmp_path, env=variables)
    os.close(theirs)
    shown = read_all(ours)
    assert process.wait(60) == 0
    assert "net" in shown
    assert ("\x1b[" in shown) is colored


def read_all(descriptor):
    data = b""
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # Linux: the other end is closed
            part = b""
        if not part:
            os.close(descriptor)
            return data.decode()
        data += part


# --- what a shell, a disk and a plugin may do ------------------------------------------------------------------------
@pytest.mark.skipif(sys.platform == "win32", reason="a shell's redirections")
@pytest.mark.parametrize(
    "line", ["{zoo} list models >&-", "{zoo} list models resnet18 2>&-", "{zoo} list datasets >&- 2>&-"]
)
def test_closed_streams_are_no_error(line, command, environment):
    words = " ".join(map(shlex.quote, command))
    done = subprocess.run(line.format(zoo=words), shell=True, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


DRY = ("-m", "tiny_cnn", "-d", "./binary.npz", "--dry-run", "--offline")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", "--prevalence", "nan"], "nan"),
        (["bench", "--run-timeout", "nan"], "nan"),
        (["bench", "--seeds", "99999999999999999999"], "expected at most 10000"),
        (["bench", "--seeds", "1000000000"], "expected at most 10000"),
        (["bench", "--seeds", "1,99999999999999999999"], "each below 2**63"),
        (["bench", "-m", "hf-hub:", "--offline"], "fix: hf-hub:owner/name"),
        (["bench", *DRY, "--label-map", "a=b"], "--label-map needs --test-on"),
        (["bench", *DRY, "--distinct-patients"], "--distinct-patients needs --test-on"),
        (["bench", "--label-map", "c=a,c=b", "--dry-run"], "--label-map: c is mapped to both a and b"),
        (["report", "--predictions", "-"], "write ./- for a file named -"),
    ],
)
def test_absurd_values_are_one_line_and_status_2(zoo, tiny_data, tmp_path, words, said):
    shutil.copy(tiny_data / "binary.npz", tmp_path)
    done = zoo(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and "; fix: " in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def leaf_params(group=zoo_command):
    """Every option and argument of every command, flags left out."""
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from leaf_params(command)
        else:
            yield from (param for param in command.params if not getattr(param, "is_flag", False))


def test_no_option_takes_an_empty_text():
    taken = []
    for param in leaf_params():
        with contextlib.suppress(click.BadParameter):
            taken.append(f"{param.name}: {param.type.convert('', param, None)!r}")
    assert not taken


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", "--output", ""], "'--output': expected a path, got none"),
        (["report", "--predictions", "."], "'--predictions': File '.' is a directory"),
        (["audit", "data", "--html", ""], "'--html': expected a path, got none"),
        (["info", "datasets", "data", "--sheet", ""], "'--sheet': expected a path, got none"),
        (["bench", "--suite", ""], "'--suite': expected a text, got none"),
        (["bench", "--seeds", " "], "'--seeds': expected a text, got none"),
        (["report", "--format", "csv", "--table", ""], "'--table': expected a text, got none"),
        (["bench", "-d", "data", "-d", ""], "expected a text, got none"),
    ],
)
def test_an_empty_path_or_text_is_a_usage_error(main, words, said):
    done = main(*words)
    assert (done.status, done.out) == (2, "") and said in done.err and "Traceback" not in done.err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders there")
@pytest.mark.parametrize("words", [["audit", "--html"], ["info", "datasets", "--sheet"]])
def test_what_is_no_file_is_not_replaced_by_one(zoo, tiny_data, tmp_path, words):
    os.mkfifo(tmp_path / "pipe")
    done = zoo(*words[:-1], tiny_data / "folders", words[-1], tmp_path / "pipe")
    assert done.returncode == 2 and "Not a regular file; fix: " in done.stderr, done.stderr
    assert (tmp_path / "pipe").is_fifo()


def test_a_cache_that_is_a_file_is_reported_by_every_command_that_needs_it(zoo, tiny_data, tmp_path):
    (tmp_path / "cache").write_text("")
    for words in (["info", "datasets"], ["audit"]):
        done = zoo(*words, tiny_data / "folders", ZOO_CACHE=str(tmp_path / "cache"))
        assert done.returncode == 2 and "error[cache-unusable]" in done.stderr, done.stderr


@pytest.mark.integration
def test_a_folder_that_was_removed_is_one_line(tmp_path):
    code = "import os, sys; os.rmdir(os.getcwd()); from zoo.cli.process import run; os._exit(run(sys.argv[1:]))"
    told = "zoo: error[usage] the working folder was removed; fix: cd to an existing folder\n"
    for words, status in ((["doctor"], 2), (["bench", "--dry-run"], 2), (["list", "metrics"], 0)):
        (tmp_path / "gone").mkdir()
        python = [sys.executable, "-c", code, *words]
        done = subprocess.run(python, cwd=tmp_path / "gone", capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (status, told if status else "")


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_a_limit_on_memory_is_one_line(command, environment, tiny_data, tmp_path):
    line = " ".join(["ulimit -v 1500000;", *map(shlex.quote, command), "bench -m tiny_cnn --offline -d"])
    done = subprocess.run(
        f"{line} {shlex.quote(str(tiny_data / 'binary.npz'))}",
        shell=True,
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (2, 3), done.stderr
    assert "Traceback" not in done.stderr and "; fix: " in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["../x", ".", "./resnet18", ""])
def test_a_name_that_begins_with_a_dot_is_shown_in_full(zoo, tmp_path, name):
    done = zoo("bench", "-m", name or ",", "--dry-run", "--offline", cwd=tmp_path)
    assert done.returncode == 2 and "unknown model ''" not in done.stderr, done.stderr
