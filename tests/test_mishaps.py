"""Failures of the installed command: failing networks, refused datasets, and killed benches."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from warm import alive, descendants, wait_for

SETTINGS = ["--set", "image_size=16"]
SCRATCH = ["--protocol", "scratch", *SETTINGS, "--set", "steps=4"]
SPOILT = {  # what the message names
    "mislabeled": ("'mislabeled'", "s07", "label 2"),
    "unreadable": ("OSError: torn (zoo_tiny.py:",),
    "colorful": ("'colorful'", "s07", "3 channels"),
    "flat": ("'flat'", "s07", "uint8", "(16,)"),
    "empty": ("'empty'", "s07", "uint8", "(0, 16)"),
    "deeper": ("'deeper'", "s07", "uint16", "s00", "uint8"),
    "wordy": ("'wordy'", "s07", "str"),
    "quitting": ("SystemExit",),
}
LEAVING = {
    "leaves": "SystemExit: 0 (zoo_tiny.py:",
    "leaves_at_once": "SystemExit: 0 (",
    "interrupts": "KeyboardInterrupt",
}


def runs_of(document, model):
    return [run for run in document["runs"] if run["model"] == model]


# --- failures -------------------------------------------------------------------------------------------------
FAILURES = {  # status, and what the message names
    "raises": ("failed", ("ValueError: no such layer (zoo_tiny.py:",)),
    "unbuildable": ("failed", ("ValueError: cannot be built (zoo_tiny.py:",)),
    "wrong_shape": ("failed", ("'wrong_shape'", "(2, 3)", "(2, 2)")),
    "gives_nan": ("failed", ("nan", "step ")),
    "exits": ("crashed", ("exit status 7", "last words of a network")),
    "exits_politely": ("failed", ("SystemExit: 0",)),
    "segfaults": ("crashed", ("SIGSEGV",)),
    "eats_memory": ("oom", ("cannot have 1 EB",)),
    "hangs": ("timeout", ("8 s",)),
    "tiny_cnn": ("ok", ()),
    "shouts": ("ok", ()),
}


@pytest.fixture(scope="module")
def failures(bench, tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("failures")
    datasets = ",".join([str(tiny_data / "binary.npz"), "unopenable", str(tiny_data / "nowhere"), *SPOILT, *LEAVING])
    arguments = ["-m", ",".join(FAILURES), "-d", datasets, *SCRATCH, "--seeds", 1, "--run-timeout", 8]
    pids = folder / "pids"
    return *bench(*arguments, "--results", folder / "results", TINY_PIDS=str(pids)), pids


@pytest.mark.parametrize("model", FAILURES)
def test_each_failure_has_its_status_and_one_line(failures, model):
    (run,) = runs_of(failures[1], model)
    status, items = FAILURES[model]
    assert run["status"] == status
    assert (run["error"] is None) == (status == "ok")
    if status != "ok":
        assert all(item in run["error"]["message"] for item in items)
        assert "\n" not in run["error"]["message"]
        assert run["scores"] == {}


def test_with_failed_runs_the_status_is_3_and_the_others_finish(failures):
    status, document, stderr, _ = failures
    assert status == 3
    rows = {row["model"]: row for row in document["leaderboard"]}
    assert rows["tiny_cnn"]["value"] is not None and rows["thumbnails"]["value"] is not None
    assert (rows["raises"]["value"], rows["raises"]["reason"]) == (None, "no finished run")
    assert "Traceback" not in stderr


def test_unusable_datasets_are_refused_by_name(failures, tiny_data):
    refused = {item["dataset"]: item for item in failures[1]["refused"]}
    assert set(refused) == {"unopenable", str(tiny_data / "nowhere"), *SPOILT, *LEAVING}
    assert refused["unopenable"]["message"].startswith("KeyError: 'column 7' (zoo_tiny.py:")


@pytest.mark.parametrize("name", SPOILT)
def test_a_dataset_that_contradicts_its_spec_is_refused_with_the_image(failures, name):
    (refusal,) = [item for item in failures[1]["refused"] if item["dataset"] == name]
    assert all(item in refusal["message"] for item in SPOILT[name]) and "\n" not in refusal["message"]
    assert refusal["fix"]


@pytest.mark.parametrize("name", LEAVING)
def test_a_dataset_that_would_end_the_process_is_refused_and_the_others_run(failures, name):
    (refusal,) = [item for item in failures[1]["refused"] if item["dataset"] == name]
    assert refusal["message"].startswith(LEAVING[name]) and refusal["code"] == "dataset-failed"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_network_that_hangs_leaves_no_process_behind(failures):
    pids = [int(pid) for pid in failures[3].read_text().split()]
    assert len(pids) == 2
    assert not any(alive(pid) for pid in pids)


def test_if_all_datasets_are_refused_nothing_runs_and_the_status_is_4(bench, tiny_data, tmp_path):
    status, document, stderr = bench("-m", "tiny_cnn", "-d", tiny_data / "nowhere", *SCRATCH, "--results", tmp_path)
    assert status == 4
    assert document["runs"] == document["leaderboard"] == []
    assert document["refused"][0]["code"] == "data"
    assert str(tiny_data / "nowhere") in stderr


def test_datasets_that_are_too_small_are_refused_each_with_its_own_message(bench, tmp_path, golden):
    rng = np.random.default_rng(0)
    counts = {"one": {"a": 1}, "two": {"a": 1, "b": 1}, "five": {"a": 3, "b": 2}, "rare": {"a": 20, "b": 1}}
    for name, classes in counts.items():
        for label, count in classes.items():
            (tmp_path / name / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (16, 16), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / name / label / f"{label}{number}.png")
    names = ",".join(str(tmp_path / name) for name in counts)
    status, document, stderr = bench("-m", "tiny_cnn", "-d", names, *SCRATCH, "--results", tmp_path / "results")
    assert status == 4, stderr
    messages = {Path(item["dataset"]).name: f"{item['message']}; fix: {item['fix']}" for item in document["refused"]}
    assert set(messages) == set(counts)
    assert "1 image" in messages["one"]
    for name in ("two", "five", "rare"):
        assert ", ".join(f"{label}: {count}" for label, count in counts[name].items()) in messages[name]
    assert all(item["fix"] for item in document["refused"])
    assert "n_splits" not in stderr
    for name in counts:
        golden(messages[name])


def test_a_results_folder_that_is_a_file_gives_status_5_and_a_document(zoo, tiny_data, tmp_path):
    (tmp_path / "results").write_text("")
    done = zoo("bench", "-m", "tiny_cnn", "-d", tiny_data / "binary.npz", "--results", tmp_path / "results", "--json")
    assert done.returncode == 5
    document = json.loads(done.stdout)
    assert (document["schema"], document["command"]) == (1, "bench")
    assert document["error"]["code"] == "results-unusable"
    assert done.stderr.splitlines()[-1].startswith("zoo: error[results-unusable] ")


# --- weights that do not fit -----------------------------------------------------------------------------------------
def write_weights(path, **changes):
    """The weights of `tiny_pretrained` with changes; None removes a tensor."""
    import torch

    state = {"conv.weight": (8, 3, 3, 3), "conv.bias": (8,), "fc.weight": (10, 32), "fc.bias": (10,)} | changes
    torch.save({name: torch.zeros(shape) for name, shape in state.items() if shape is not None}, path)


MISFITS = {
    "keys": ({"conv.bias": None, "fc.bias": None, "extra": (1,)}, ("conv.bias", "fc.bias", "extra")),
    "shape": ({"fc.weight": (10, 31)}, ("fc.weight", "(10, 31)", "(10, 32)")),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_weights_that_do_not_fit_are_an_error_with_file_and_keys_before_any_run(zoo, tiny_data, tmp_path, kind):
    changes, items = MISFITS[kind]
    path = tmp_path / "weights" / "tiny_pretrained.pth"
    path.parent.mkdir()
    write_weights(path, **changes)
    arguments = ["-m", "tiny_cnn,tiny_pretrained", "-d", tiny_data / "binary.npz", *SETTINGS, "--json"]
    results = tmp_path / "results"
    done = zoo("bench", *arguments, "--weights-dir", path.parent, "--results", results)
    assert done.returncode == 2, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["message"].startswith(f"{path}: ") and all(item in error["message"] for item in items)
    assert error["code"] == "weights-misfit" and error["fix"]
    assert list(results.iterdir()) == []


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_files_that_are_no_weights_are_an_error_and_are_not_executed(zoo, tiny_data, tmp_path):
    import torch

    path = tmp_path / "weights" / "tiny_pretrained.pth"
    path.parent.mkdir()
    torch.save({"conv.weight": Bomb()}, path)
    arguments = ["-m", "tiny_pretrained", "-d", tiny_data / "binary.npz", *SETTINGS, "--weights-dir", path.parent]
    done = zoo("bench", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert f"{path}: cannot be read as weights" in done.stderr and "; fix: " in done.stderr
    assert not (tmp_path / "exploded").exists()


# --- stopped and killed ----------------------------------------------------------------------------------------------
def two_naps(tiny_data, results, steps):
    """A bench with two runs that sleep a tenth of a second in each step."""
    arguments = ["bench", "-m", "tiny_cnn,naps", "-d", tiny_data / "binary.npz", "--protocol", "scratch", *SETTINGS]
    return [*arguments, "--set", f"steps={steps}", "--seeds", "2", "--workers", "2", "--results", results]


linux = pytest.mark.skipif(sys.platform != "linux", reason="forks, looks into /proc, sends signals")


@linux
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow), (signal.SIGHUP, 129)],
)
def test_a_signal_ends_the_bench_cleanly(warm, tiny_data, tmp_path, number, status):
    bench = warm.start(*two_naps(tiny_data, tmp_path / "results", steps=5000))
    children = wait_for(lambda: len(pids := descendants(bench.pid)) == 2 and pids)
    time.sleep(1)
    began = time.monotonic()
    bench.kill(number)
    assert bench.wait() == status, bench.read_stderr()
    assert time.monotonic() - began < 10
    assert "finished runs are kept" in bench.read_stderr() and "Traceback" not in bench.read_stderr()
    assert not any(alive(pid) for pid in children)


@linux
def test_a_killed_bench_continues_where_it_was(warm, tiny_data, tmp_path):
    results = tmp_path / "results"
    arguments = two_naps(tiny_data, results, steps=40)
    bench = warm.start(*arguments)
    wait_for(lambda: list(results.glob("*/*/[!.]*/result.json")))
    children = descendants(bench.pid)
    os.killpg(bench.pid, signal.SIGKILL)
    assert bench.wait() == -signal.SIGKILL
    wait_for(lambda: not any(alive(pid) for pid in children), seconds=10)
    stamps = {path: path.stat().st_mtime_ns for path in results.glob("*/*/[!.]*/result.json")}
    assert 1 <= len(stamps) < 6
    status, _, stderr = warm.run(*arguments)
    assert status == 0, stderr
    assert f"6 runs, {len(stamps)} done already" in stderr
    assert len(list(results.glob("*/*/[!.]*/result.json"))) == 6
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


DAWDLER = """
import time
from functools import partial
from zoo import ModelSpec, hookimpl
from zoo_tiny import HEAD, build_failing


def dawdle(logits):
    time.sleep(12)
    return logits


@hookimpl
def register_models():
    return [ModelSpec(name="dawdles", build=partial(build_failing, fail=dawdle), imports=("takes_long",), **HEAD)]
"""


@pytest.mark.slow  # test_progress.py has the same with a clock of its own
def test_without_a_terminal_there_is_output_every_ten_seconds(command, environment, install, tiny_data, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    install(site, "zoo-dawdler", DAWDLER)
    (site / "takes_long.py").write_text("import time\ntime.sleep(12)\n")
    arguments = [
        "-m",
        "dawdles",
        "-d",
        tiny_data / "binary.npz",
        "--protocol",
        "scratch",
        *SETTINGS,
        "--set",
        "steps=1",
    ]
    process = subprocess.Popen(
        [*command, "bench", *map(str, arguments), "--seeds", "1", "--workers", "1", "--results", str(tmp_path / "r")],
        env=environment(site),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    times, lines = [time.monotonic()], []
    for line in process.stderr:
        times.append(time.monotonic())
        lines.append(line)
    times.append(time.monotonic())
    assert process.wait() == 0, lines
    assert max(later - sooner for sooner, later in itertools.pairwise(times)) <= 10, lines
    assert any(line.startswith("importing what the runs need: ") for line in lines)
    assert any(line.startswith("run 1 of 3: binary dawdles seed 0 starting, ") for line in lines)


@pytest.mark.slow  # test_progress.py has the same with a clock of its own
@pytest.mark.skipif(sys.platform == "win32", reason="no pty there")
def test_on_a_terminal_a_line_shows_the_number_of_the_run(command, environment, tiny_data, tmp_path):
    import pty

    ours, theirs = pty.openpty()
    arguments = ["-m", "naps", "-d", tiny_data / "binary.npz", "--protocol", "scratch", *SETTINGS, "--set", "steps=20"]
    process = subprocess.Popen(
        [*command, "bench", *map(str, arguments), "--seeds", "1", "--results", str(tmp_path)],
        env=environment(TERM="xterm", NO_COLOR="1"),
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    output = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        output += part
    os.close(ours)
    assert process.wait(60) == 0
    text = output.decode()
    assert "run 1 of 3" in text and "run 3 of 3" in text
    assert "step " in text and "/20" in text and "loss " in text and "val " in text
    assert "[3 of 3] binary " in text
