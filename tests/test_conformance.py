"""Each check of the conformance kit: valid specs pass all, and a spec built to fail a check fails it and no other."""

import json
import os
import re
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import nonconforming as specs
import pytest
import torch

from zoo.conformance.catalogue import CHECKS, checks_of
from zoo.conformance.checking import CheckedSpec, Inapplicable
from zoo.errors import UsageError
from zoo.leaderboard.sections import SECTIONS
from zoo.specs.executor import ExecutorSpec
from zoo.specs.hooks import KINDS
from zoo.specs.model import Weights
from zoo.system.machine import can_fork
from zoo.system.workers import execute
from zoo.testing import parametrize_with_checks

IN_OTHER_PROCESSES = {"light-import", "spawn", "reader-process"}
QUICK = {
    "model": (specs.GOOD_MODELS, specs.BAD_MODELS),
    "metric": (specs.GOOD_METRICS, specs.BAD_METRICS),
    "dataset": (specs.GOOD_DATASETS, specs.BAD_DATASETS),
    "protocol": (specs.GOOD_PROTOCOLS, specs.BAD_PROTOCOLS),
    "task": (specs.GOOD_TASKS, specs.BAD_TASKS),
    "estimator": (specs.GOOD_ESTIMATORS, specs.BAD_ESTIMATORS),
    "observer": (specs.GOOD_OBSERVERS, specs.BAD_OBSERVERS),
    "loss": (specs.GOOD_LOSSES, specs.BAD_LOSSES),
    "sampling": (specs.GOOD_SAMPLINGS, specs.BAD_SAMPLINGS),
    "transform": (specs.GOOD_TRANSFORMS, specs.BAD_TRANSFORMS),
    "reader": (specs.GOOD_READERS, specs.BAD_READERS),
    "suite": (specs.GOOD_SUITES, specs.BAD_SUITES),
    "section": (specs.GOOD_SECTIONS, specs.BAD_SECTIONS),
}
SCALE_PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
EXECUTORS = (specs.GOOD_EXECUTORS, specs.BAD_EXECUTORS)
needs_fork = pytest.mark.skipif(not can_fork(), reason="the works of these tests are local functions: they need fork")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dots")
    (folder / "dots.txt").write_text("dots\n")
    (folder / "example.dots").write_text("0123456789")
    return folder


def failures(spec, folder=None, ids=None):
    """The ids of the checks that a spec fails, with the reasons."""
    failed = {}
    for check in checks_of(CheckedSpec(spec=spec).kind):
        if check.id not in ids if ids else check.id in IN_OTHER_PROCESSES:
            continue
        try:
            check.run(CheckedSpec(spec=spec, folder=folder))
        except Inapplicable:
            continue
        except AssertionError as error:
            failed[check.id] = str(error)
    return failed


@pytest.mark.integration
@pytest.mark.parametrize(
    "spec", [pytest.param(s, id=f"{kind}, {name}") for kind, (good, _) in QUICK.items() for name, s in good.items()]
)
def test_a_valid_spec_passes_every_check(spec, data):
    assert failures(spec, data) == {}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("spec", "name"), [pytest.param(s, name, id=name) for _, bad in QUICK.values() for name, s in bad.items()]
)
def test_a_spec_built_to_fail_a_check_fails_it_and_no_other(spec, name, data):
    assert list(failures(spec, data)) == [name]


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("spec", SECTIONS, ids=lambda spec: spec.name)
def test_the_sections_of_the_core_pass_every_check(spec):
    assert failures(spec) == {}


def test_looking_for_copies_holds_few_images_in_memory(data):
    alive = most = 0

    def end():
        nonlocal alive
        alive -= 1

    def read(image):
        nonlocal alive, most
        pixels = specs.read_dot(image)
        weakref.finalize(pixels, end)
        alive += 1
        most = max(most, alive)
        return pixels

    assert failures(specs.dots(read=read), data, ids={"dataset-copies"}) == {}
    assert 0 < most <= 2


@pytest.mark.integration
@needs_fork
def test_the_local_executor_passes_every_check():
    assert failures(specs.GOOD_EXECUTORS["local"]) == {}


@pytest.mark.integration
@needs_fork
def test_a_remote_executor_gets_a_folder():
    def execute_remotely(works, carry_out, *, folder, **options):
        folder.mkdir()
        return execute(works, carry_out, **options)

    spec = ExecutorSpec(name="remote", execute=execute_remotely, remote=True)
    assert failures(spec, ids={"executor-works", "executor-fail-fast"}) == {}


@pytest.mark.slow
@pytest.mark.integration
def test_the_engine_in_the_docs_passes_every_check():
    (code,) = re.findall(r"```python\n(.*?)```", SCALE_PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names = {}
    exec(code, names)
    assert failures(names["register_executors"]()[0]) == {}


@pytest.mark.integration
@needs_fork
@pytest.mark.parametrize("name", specs.BAD_EXECUTORS)
def test_an_executor_built_to_fail_a_check_fails_it(name, monkeypatch):
    monkeypatch.setattr("zoo.conformance.executor_claims.HANG_SECONDS", 6.0)
    monkeypatch.setattr("zoo.conformance.executor_claims.GONE_SECONDS", 1.0)
    assert list(failures(specs.BAD_EXECUTORS[name], ids={name})) == [name]


@pytest.mark.slow
@pytest.mark.integration
@needs_fork
@pytest.mark.parametrize("name", specs.BAD_EXECUTORS)
def test_an_executor_built_to_fail_a_check_fails_no_other(name, monkeypatch):
    monkeypatch.setattr("zoo.conformance.executor_claims.HANG_SECONDS", 6.0)
    monkeypatch.setattr("zoo.conformance.executor_claims.GONE_SECONDS", 1.0)
    assert list(failures(specs.BAD_EXECUTORS[name])) == [name]


def test_every_check_has_a_spec_that_fails_it():
    ids = {check.id for checks in CHECKS.values() for check in checks} - IN_OTHER_PROCESSES
    assert ids == {name for _, bad in (*QUICK.values(), EXECUTORS) for name in bad}


def test_the_weights_that_are_checked_may_be_in_a_folder_of_the_author(tmp_path, monkeypatch):
    spec = replace(specs.TINY, weights=(Weights(tag="mine"),))
    (check,) = [check for check in checks_of("model") if check.id == "model-weights"]
    with pytest.raises(Inapplicable, match=r"\$ZOO_WEIGHTS"):
        check.run(CheckedSpec(spec=spec))
    torch.save(specs.Tiny().state_dict(), tmp_path / f"{spec.name}.mine.pth")
    monkeypatch.setenv("ZOO_WEIGHTS", str(tmp_path))
    with pytest.raises(AssertionError, match=r"the values in \S+.mine.pth do not reach"):
        check.run(CheckedSpec(spec=spec))


def test_ids_are_unique():
    ids = [check.id for kind in CHECKS for check in checks_of(kind) if check.id not in IN_OTHER_PROCESSES]
    assert len(ids) == len(set(ids))


# --- checks in other processes ---------------------------------------------------------------------------------------
@pytest.mark.integration
def test_a_heavy_import_is_named_with_the_line_that_leads_to_it(tmp_path, monkeypatch):
    (tmp_path / "kit_heavy.py").write_text("import os\nimport kit_between\n")
    (tmp_path / "kit_between.py").write_text("import pandas\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (check,) = [check for check in checks_of("model") if check.id == "light-import"]
    with pytest.raises(AssertionError, match=r"importing kit_heavy imports pandas, at kit_heavy.py:2"):
        check.run(CheckedSpec(spec=specs.TINY, module="kit_heavy"))


@pytest.mark.integration
def test_a_function_that_another_process_cannot_load_fails_spawn():
    spec = replace(specs.TINY, build=lambda request: specs.Tiny())
    assert list(failures(spec, ids={"spawn"})) == ["spawn"]
    assert failures(specs.TINY, ids={"spawn"}) == {}


READ_IF_OPENED = """
OPENED = []

def read(path):
    import numpy as np
    return np.frombuffer(path.read_bytes(), np.uint8).reshape(2, 5)

def read_if_opened(path):
    assert OPENED
    return read(path)
"""


@pytest.mark.integration
def test_a_reader_that_needs_this_process_fails_in_another_one(data, tmp_path, monkeypatch):
    (tmp_path / "kit_opened.py").write_text(READ_IF_OPENED)
    monkeypatch.syspath_prepend(str(tmp_path))
    import kit_opened

    (check,) = [check for check in checks_of("reader") if check.id == "reader-process"]
    spec = replace(specs.DOTS_IN_TEXT, spacing=None)
    check.run(CheckedSpec(spec=replace(spec, read=kit_opened.read), folder=data))
    kit_opened.OPENED.append("here only")
    with pytest.raises(AssertionError, match=r"another process cannot read example\.dots: AssertionError"):
        check.run(CheckedSpec(spec=replace(spec, read=kit_opened.read_if_opened), folder=data))


def test_without_files_a_reader_is_not_checked(tmp_path):
    for check in checks_of("reader"):
        if check.id not in {"reader-fields", "light-import", "spawn"}:
            for folder in (None, tmp_path):
                with pytest.raises(Inapplicable, match=r"\.dots files"):
                    check.run(CheckedSpec(spec=specs.DOTS_IN_TEXT, folder=folder))


# --- in tests --------------------------------------------------------------------------------------------------------
def test_an_expected_failure_with_an_unknown_id_is_an_error():
    with pytest.raises(UsageError, match="no check 'model-blak'; fix: Did you mean 'model-black'"):
        parametrize_with_checks([specs.TINY], expected_failures={"model-blak": "it divides by its contrast"})


EXPECTING = """
import nonconforming as specs
from zoo.testing import parametrize_with_checks

SPECS = [specs.BAD_METRICS["metric-stand-in"]]

@parametrize_with_checks(SPECS)
def test_expecting_nothing(spec, check):  # one fails, one passes
    check(spec)

@parametrize_with_checks(SPECS, expected_failures={"metric-stand-in": "known"})
def test_expecting_the_failure(spec, check):  # one is expected, one passes
    check(spec)

@parametrize_with_checks(SPECS, expected_failures={"metric-stand-in": "known", "metric-order": "wrong"})
def test_expecting_too_much(spec, check):  # one is expected, one passes unexpectedly and so fails
    check(spec)
"""


@pytest.mark.integration
def test_expected_failures_are_strict(tmp_path):
    (tmp_path / "test_kit.py").write_text(EXPECTING)
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "stand-in or metric-order", "test_kit.py"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert "2 failed, 2 passed" in done.stdout and "2 xfailed" in done.stdout, done.stdout + done.stderr
    assert "[XPASS(strict)] wrong" in done.stdout


# --- zoo plugin check ------------------------------------------------------------------------------------------------
HOSTILE = """
import os, time
from zoo import MetricSpec, hookimpl

def accuracy(request):
    return float((request.decisions == request.targets).mean())

def hang(request):
    time.sleep(600)

def abort(request):
    os.abort()

@hookimpl
def register_metrics():
    return [MetricSpec(name="hostile", tasks=("binary",), compute=accuracy, note=hang, counts=abort)]
"""


def test_a_check_that_hangs_or_aborts_fails_alone(zoo, tmp_path):
    file = tmp_path / "kit_hostile.py"
    file.write_text(HOSTILE)
    done = zoo("plugin", "check", "kit-hostile", "--plugin", file, "--timeout", "20", "--json", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    checks = json.loads(done.stdout)["checks"]
    failed = {check["check"]: check["ended"] for check in checks if check["outcome"] == "failed"}
    assert failed == {"metric-note": "timeout", "metric-counts": "crashed"}
    assert sum(check["outcome"] == "passed" for check in checks) > 8


def test_a_broken_plugin_fails_to_load_and_the_markdown_says_why(zoo, tmp_path):
    file = tmp_path / "kit_broken.py"
    file.write_text("import no_such_library\n")
    done = zoo("plugin", "check", "kit-broken", "--plugin", file, "--markdown", cwd=tmp_path)
    assert done.returncode == 3
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("| kit-broken")]
    assert "`loads`" in row and "failed: ModuleNotFoundError" in row


def test_an_unknown_plugin_is_an_error(zoo, tmp_path):
    done = zoo("plugin", "check", "zoo-tinny", cwd=tmp_path)
    assert done.returncode == 2 and "error[unknown-plugin]" in done.stderr and "zoo-tiny" in done.stderr


def test_the_page_on_plugins_lists_every_check():
    page = (Path(__file__).parents[1] / "docs" / "write-a-plugin.md").read_text(encoding="utf-8")
    table = page.partition("<!-- checks -->\n")[2].partition("\n\n")[0].splitlines()[2:]
    checks = {check.id: check.claim for kind in KINDS for check in checks_of(kind)}
    assert table == [f"| `{name}` | {claim} |" for name, claim in checks.items()], "run `python docs/make_reference.py`"
