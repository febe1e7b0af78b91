"""The guarantees of docs/reliability.md, each tested through the command line."""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from warm import alive, descendants, wait_for

from zoo.results.store import find_result_folders, load_result

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, looks into /proc, sends signals")

SCRATCH = ["--protocol", "scratch", "--set", "image_size=16"]
DONE = re.compile(r"^\[\d+ of \d+\] binary (\S+) seed (\d+): (?!FAILED)", re.MULTILINE)  # runs reported done


def grid(tiny_data, results, *, model="tiny_cnn", seeds=10, steps=4, workers=2):
    """A bench of `seeds` runs of a model and two of the baselines. perf: all metrics cost a quarter of a bench."""
    arguments = ["bench", "-m", model, "-d", tiny_data / "binary.npz", *SCRATCH, "--set", f"steps={steps}"]
    return [*arguments, "--seeds", seeds, "--workers", workers, "--results", results, "--metrics", "auroc"]


def stored(results):
    """All predictions and scores by model and seed. An incomplete folder is an error."""
    found = {}
    for folder in find_result_folders(results):
        result = load_result(folder)
        if result.ok:
            predictions = {
                split: (part.sample_ids.tolist(), part.probabilities) for split, part in result.predictions().items()
            }
            scores = json.loads((folder / "scores.json").read_text())
            found[result.run["shown"], str(result.run["seed"])] = predictions, scores
    return found


def assert_same(found, expected):
    assert set(found) <= set(expected)
    for key, (predictions, scores) in found.items():
        for split, (sample_ids, probabilities) in predictions.items():
            assert sample_ids == expected[key][0][split][0]
            np.testing.assert_array_equal(probabilities, expected[key][0][split][1])
        assert scores == expected[key][1]


def acknowledged(stderr):
    """Model and seed of each run that a bench reported done."""
    return set(DONE.findall(stderr))


def left_over(results):
    return list(Path(results).rglob(".*"))


# --- killed ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kills", "seeds"), [(2, 2), pytest.param(100, 10, marks=pytest.mark.slow)])
def test_a_bench_killed_at_random_moments_gives_the_same_results(warm, tiny_data, tmp_path, kills, seeds):
    begun = time.monotonic()
    status, _, stderr = warm.run(*grid(tiny_data, tmp_path / "whole", seeds=seeds))
    seconds = time.monotonic() - begun
    expected = stored(tmp_path / "whole")
    assert (status, len(expected), len(acknowledged(stderr))) == (0, seeds + 2, seeds + 2)
    draw, folders, reported = random.Random(kills), [tmp_path / "0"], set()
    for number in range(kills):
        bench = warm.start(*grid(tiny_data, folders[-1], seeds=seeds))
        time.sleep(draw.uniform(0, seconds) if number else 0)  # the first one before its folder exists
        bench.kill()
        status = bench.wait()
        assert status in (-signal.SIGKILL, 0), bench.read_stderr()
        reported |= acknowledged(bench.read_stderr())
        found = stored(folders[-1])
        assert_same(found, expected)
        assert reported <= set(found), "a run that was reported done is missing"
        if len(found) == len(expected):
            folders.append(tmp_path / str(number + 1))
            reported = set()
    for folder in folders:
        assert warm.run(*grid(tiny_data, folder, seeds=seeds))[0] == 0
        assert_same(stored(folder), expected)
        assert len(stored(folder)) == len(expected)
        assert left_over(folder) == []


def test_the_workers_of_a_killed_bench_end(warm, tiny_data, tmp_path):
    pids = tmp_path / "pids"
    bench = warm.start(*grid(tiny_data, tmp_path / "r", model="hangs", seeds=2), TINY_PIDS=str(pids))
    wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 4)
    workers = [int(pid) for pid in pids.read_text().split()][::2]
    bench.kill()
    bench.wait()
    wait_for(lambda: not any(map(alive, workers)), seconds=10)
    assert not descendants(bench.pid)
    for pid in map(int, pids.read_text().split()):  # processes that a worker started are orphans now
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("number", "status", "apart"),
    [
        pytest.param(signal.SIGINT, 130, "0", id="interrupted"),
        pytest.param(signal.SIGTERM, 143, "1", id="terminated, with a child in a session of its own"),
        pytest.param(signal.SIGINT, 130, "1", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, "0", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_bench_leaves_no_process_within_ten_seconds(warm, tiny_data, tmp_path, number, status, apart):
    pids = tmp_path / "pids"
    arguments = grid(tiny_data, tmp_path / "r", model="hangs", seeds=2)
    bench = warm.start(*arguments, TINY_PIDS=str(pids), TINY_APART=apart)
    wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 4)
    below = descendants(bench.pid)
    assert set(map(int, pids.read_text().split())) <= set(below)
    begun = time.monotonic()
    bench.kill(number)
    assert bench.wait() == status, bench.read_stderr()
    assert time.monotonic() - begun < 10
    assert not any(map(alive, below))
    assert left_over(tmp_path / "r") == []


def test_a_second_interrupt_ends_a_bench_immediately(warm, tiny_data, tmp_path):
    pids = tmp_path / "pids"
    bench = warm.start(*grid(tiny_data, tmp_path / "r", model="sleeps", seeds=2), TINY_PIDS=str(pids))
    wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    below = descendants(bench.pid)
    assert set(map(int, pids.read_text().split())) <= set(below)
    bench.kill(signal.SIGINT)
    time.sleep(0.5)
    assert alive(bench.pid)  # still waiting for two steps of a minute each
    begun = time.monotonic()
    bench.kill(signal.SIGINT)
    assert bench.wait() == 130, bench.read_stderr()
    assert time.monotonic() - begun < 20  # a step takes a minute
    assert not any(map(alive, below))
    assert "Traceback" not in bench.read_stderr()


# --- done is durable -------------------------------------------------------------------------------------------------
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_run_is_reported_done_after_its_files_rename_and_folder_are_synced(command, environment, tiny_data, tmp_path):
    log, results = tmp_path / "calls", tmp_path / "results"
    traced = ["strace", "-f", "-y", "-s", "200", "-o", log, "-e", "trace=fsync,rename,renameat,renameat2,write"]
    subprocess.run(
        [*map(str, traced), *command, *map(str, grid(tiny_data, results, seeds=1, workers=1))],
        env=environment(),
        check=True,
        capture_output=True,
    )
    calls = log.read_text(errors="replace").splitlines()
    positions = [number for number, call in enumerate(calls) if re.search(r'write\(2<.*"\[\d of 3\] binary', call)]
    assert len(positions) == 3
    start = 0
    for number in positions:
        before, start = calls[start:number], number
        renamed = [
            n for n, call in enumerate(before) if "rename" in call and f"{results}/binary" in call.split(" = ")[0]
        ]
        renamed = [
            n for n in renamed if re.search(r'\.tmp", .*"[^"]*/[^./"][^/"]*"', before[n]) and ".json" not in before[n]
        ]
        (at,) = renamed
        temporary = re.search(r'"([^"]*\.tmp)"', before[at])[1]
        synced = [re.search(r"fsync\(\d+<([^>]*)>", call) for call in before[:at]]
        synced = {match[1] for match in synced if match}
        assert {f"{temporary}/{name}" for name in ("result.json", "scores.json", "predictions.npz")} <= synced
        assert temporary in synced
        after = [re.search(r"fsync\(\d+<([^>]*)>", call) for call in before[at:]]
        assert str(Path(temporary).parent) in {match[1] for match in after if match}


FSYNCED = ("predictions.npz", "history.jsonl", ".tmp", "tiny_cnn.random")
FAULTY_DISK = """
import os
real = os.fsync

def fsync(descriptor):
    path = os.readlink(f"/proc/self/fd/{descriptor}")
    if os.path.basename(path).endswith(os.environ["FAULT"]):
        number = int(os.environ["ERRNO"])
        raise OSError(number, os.strerror(number), path)
    return real(descriptor)

os.fsync = fsync
"""


@pytest.mark.parametrize(
    ("number", "fault"),
    [
        (errno.EIO, "predictions.npz"),
        (errno.EIO, ".tmp"),
        (errno.ENOSPC, "history.jsonl"),
        *(pytest.param(errno.EIO, fault, marks=pytest.mark.slow) for fault in ("history.jsonl", "tiny_cnn.random")),
        *(pytest.param(errno.ENOSPC, fault, marks=pytest.mark.slow) for fault in FSYNCED if fault != "history.jsonl"),
    ],
)
def test_a_run_whose_files_cannot_be_synced_is_not_reported_done(warm, tiny_data, tmp_path, fault, number):
    results = tmp_path / "results"
    arguments = grid(tiny_data, results, seeds=1, workers=1)
    status, _, stderr = warm.run(*arguments, first=FAULTY_DISK, FAULT=fault, ERRNO=str(number))
    assert status == 5, stderr
    assert os.strerror(number) in stderr and "; fix: " in stderr and "Traceback" not in stderr
    assert ("tiny_cnn", "0") not in acknowledged(stderr)
    assert left_over(results) == []
    assert warm.run(*arguments)[0] == 0
    assert len(stored(results)) == 3


# --- a disk that is full, or read-only -------------------------------------------------------------------------------
ENTER = """
import ctypes
folder = os.getcwd()
namespaces = [os.open(f"/proc/{pid}/ns/{{kind}}", os.O_RDONLY) for kind in ("user", "mnt")]
for namespace in namespaces:
    assert ctypes.CDLL(None).setns(namespace, 0) == 0
os.chdir(folder)
"""


class Namespace:
    """Starts commands in a mount namespace of its own, where a user may mount disks."""

    def __init__(self, warm):
        self.warm = warm
        command = ["unshare", "--map-root-user", "--mount", "sh"]
        self.holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, *arguments, **environment):
        return self.warm.start(*arguments, first=ENTER.format(pid=self.holder.pid), **environment)

    def run(self, *arguments, **environment):
        return self.warm.run(*arguments, first=ENTER.format(pid=self.holder.pid), **environment)

    def shell(self, command):
        self.holder.stdin.write(f"{command} && echo done || echo failed\n")
        self.holder.stdin.flush()
        assert self.holder.stdout.readline() == "done\n", command


@pytest.fixture(scope="module")
def namespace(warm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("namespace")
    probe = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(folder)], capture_output=True)
    if probe.returncode:
        pytest.skip("users cannot mount disks on this machine")
    namespace = Namespace(warm)
    yield namespace
    namespace.holder.kill()
    namespace.holder.communicate()


@pytest.fixture
def disk(namespace, tmp_path):
    """Mount a disk of some size, and return its folder in the namespace, and its path in this process."""

    def mount(size):
        folder = tmp_path / "disk"
        folder.mkdir()
        namespace.shell(f"mount -t tmpfs -o size={size} none {folder}")
        return folder, Path(f"/proc/{namespace.holder.pid}/root{folder}")

    return mount


def room(folder):
    statistics = os.statvfs(folder)
    return statistics.f_bavail * statistics.f_frsize


def test_a_full_disk_ends_a_bench_within_ten_seconds_and_it_continues_later(namespace, disk, tiny_data):
    folder, seen = disk("200k")
    arguments = [*grid(tiny_data, folder / "results", workers=1), "--keep-weights", "all"]
    bench = namespace.start(*arguments)
    wait_for(lambda: not alive(bench.pid) or room(seen) < 24_000, seconds=120)  # too little for one more run
    begun = time.monotonic()
    assert bench.wait() == 5, bench.read_stderr()
    assert time.monotonic() - begun < 10
    stderr = bench.read_stderr()
    assert "error[results-unusable] results folder " in stderr and "No space left on device; fix: " in stderr
    done = acknowledged(stderr)
    assert 1 <= len(done) < 12
    found = stored(seen / "results")
    assert done <= set(found)
    namespace.shell(f"mount -o remount,size=20m {folder}")
    status, _, stderr = namespace.run(*arguments)
    assert status == 0, stderr
    assert f"12 runs, {len(found)} done already" in stderr
    whole = stored(seen / "results")
    assert len(whole) == 12
    assert_same(found, whole)
    assert left_over(seen / "results") == []


SIZES = range(16, 416, 20)  # kB: from less than one run takes to more than all do


@pytest.mark.parametrize("size", [pytest.param(s, marks=pytest.mark.slow) for s in SIZES])
def test_on_a_disk_of_any_size_a_bench_ends_soon_keeps_reported_runs_and_continues(namespace, disk, tiny_data, size):
    folder, seen = disk(f"{size}k")
    arguments = [*grid(tiny_data, folder / "results"), "--keep-weights", "all"]
    status, _, stderr = namespace.run(*arguments)
    assert "Traceback" not in stderr, stderr
    assert status == 0 or (status == 5 and "No space left on device" in stderr and "; fix: " in stderr), stderr
    done, found = acknowledged(stderr), stored(seen / "results")
    assert done <= set(found)
    namespace.shell(f"mount -o remount,size=20m {folder}")
    status, _, stderr = namespace.run(*arguments)
    assert status == 0, stderr
    whole = stored(seen / "results")
    assert len(whole) == 12
    assert_same(found, whole)
    assert left_over(seen / "results") == []


def test_a_bench_goes_on_without_its_terminal_or_reader(warm, tiny_data, tmp_path):
    gone = "import os, sys; read, write = os.pipe(); os.close(read); sys.stderr = open(write, 'w')"
    full = "import sys; sys.stderr = open('/dev/full', 'w')"
    for number, first in enumerate((gone, full)):
        arguments = grid(tiny_data, tmp_path / str(number), seeds=1)
        assert warm.run(*arguments, first=first)[0] == 0
        assert len(stored(tmp_path / str(number))) == 3
    assert warm.run("list", "nothing", first=full)[0] == 2


def test_a_pipe_in_the_cache_does_not_block(warm, tmp_path):
    (tmp_path / "plugins").mkdir()
    os.mkfifo(tmp_path / "plugins" / "tried.json")
    assert warm.run("list", "metrics", seconds=30, ZOO_CACHE=str(tmp_path))[0] == 0


def test_images_removed_during_a_bench_give_one_line_per_run(warm, tiny_data, tmp_path):
    cache, pids = tmp_path / "cache", tmp_path / "pids"
    arguments = grid(tiny_data, tmp_path / "r", model="sleeps,tiny_cnn", seeds=1, workers=1)
    bench = warm.start(*arguments, "--run-timeout", 3, ZOO_CACHE=str(cache), TINY_PIDS=str(pids))
    wait_for(pids.exists)
    shutil.rmtree(cache / "images")
    assert bench.wait() == 3
    assert re.search(r"images\.npy: .*; fix: ", bench.read_stderr())
    assert "Traceback" not in bench.read_stderr()


LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"


@pytest.mark.parametrize(("size", "code"), [(1_000, "results-unusable"), (20_000, "no-room")])
def test_a_file_size_limit_ends_a_bench_with_one_line_and_it_continues_later(warm, tiny_data, tmp_path, size, code):
    arguments, cache = grid(tiny_data, tmp_path / "results", seeds=1), str(tmp_path / "cache")
    status, _, stderr = warm.run(*arguments, first=LIMITED.format(size=size), ZOO_CACHE=cache)
    assert status == 5 and "Traceback" not in stderr, stderr
    assert re.search(rf"^zoo: error\[{code}\] .*File too large; fix: ", stderr, re.MULTILINE), stderr
    status, _, stderr = warm.run(*arguments, ZOO_CACHE=cache)
    assert status == 0, stderr
    assert len(stored(tmp_path / "results")) == 3
    assert left_over(tmp_path / "results") == []


@pytest.mark.parametrize("words", [("--help",), ("list", "models"), ("report", "--format", "json")])
def test_output_that_cannot_be_written_is_one_line_and_status_5(warm, tiny_data, tmp_path, words):
    if words[0] == "report":
        assert warm.run(*grid(tiny_data, tmp_path / "results", seeds=1))[0] == 0
        words = (*words, "--results", tmp_path / "results")
    status, _, stderr = warm.run(*words, first="os.dup2(os.open('/dev/full', os.O_WRONLY), 1)")
    assert (status, stderr.count("\n")) == (5, 1), stderr
    assert "No space left on device" in stderr and "; fix: " in stderr


def test_a_full_disk_for_the_cache_is_reported_and_crashes_no_process(namespace, disk, tiny_data, tmp_path):
    folder, seen = disk("200k")  # the images at 64 pixels take 640
    arguments = [*grid(tiny_data, tmp_path / "r", seeds=1), "--set", "image_size=64"]
    status, _, stderr = namespace.run(*arguments, ZOO_CACHE=str(folder / "cache"))
    assert status == 5, stderr
    assert re.search(r"zoo: error\[no-room\] .*images.npy: No space left on device; fix: ", stderr), stderr
    assert list((seen / "cache" / "images").iterdir()) == []


def test_a_read_only_results_folder_is_an_error_at_the_start_and_can_be_reported(namespace, disk, tiny_data):
    folder, _ = disk("20m")
    results = folder / "results"
    assert namespace.run(*grid(tiny_data, results, seeds=1))[0] == 0
    namespace.shell(f"mount -o remount,ro {folder}")
    begun = time.monotonic()
    status, _, stderr = namespace.run(*grid(tiny_data, results, seeds=2))
    assert (status, time.monotonic() - begun < 10) == (5, True)
    assert "error[results-unusable]" in stderr and "Read-only file system; fix: " in stderr
    assert "baselines, " not in stderr
    status, report, _ = namespace.run("report", "--results", results)
    assert status == 0 and "tiny_cnn" in report


# --- several benches on one folder -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "seeds",
    [
        ["0,1", "1,2", "0,2"],
        pytest.param(
            ["0,1,2", "1,2,3", "2,3,4", "3,4,5", "0,2,4", "1,3,5", "0,5", "0,1,2,3,4,5"], marks=pytest.mark.slow
        ),
    ],
    ids=len,
)
def test_benches_with_overlapping_grids_execute_each_run_once(warm, tiny_data, tmp_path, seeds):
    trainings, results = tmp_path / "trainings", tmp_path / "results"
    num_seeds = len(set(",".join(seeds).split(",")))
    arguments = [grid(tiny_data, results, model="noted", seeds=chosen, workers=1) for chosen in seeds]
    benches = [warm.start(*each, TINY_TRAININGS=str(trainings)) for each in arguments]
    assert [bench.wait() for bench in benches] == [0] * len(seeds), "\n".join(bench.read_stderr() for bench in benches)
    assert len(trainings.read_text().split()) == num_seeds
    assert len(stored(results)) == num_seeds + 2
    assert left_over(results) == []
    for bench, chosen in zip(benches, seeds, strict=True):
        assert {seed for model, seed in acknowledged(bench.read_stderr()) if model == "noted"} <= set(chosen.split(","))


@pytest.mark.parametrize("year", [1970, 2099])
def test_the_run_of_a_dead_bench_is_taken_over_at_any_clock_time(warm, tiny_data, tmp_path, year):
    results = tmp_path / "results"
    arguments = grid(tiny_data, results, model="naps", seeds=1, steps=30)  # three seconds
    first = warm.start(*arguments)
    wait_for(lambda: "[2 of 3]" in first.read_stderr())
    (lock,) = results.glob("binary/naps.random/.*.lock")
    for pid in (first.pid, *descendants(first.pid)):  # stop it, so that it cannot end before it is killed
        os.kill(pid, signal.SIGSTOP)
    os.utime(lock, (0, (year - 1970) * 365.25 * 24 * 3600))
    second = warm.start(*arguments)
    wait_for(lambda: "waiting for 1 run of another bench" in second.read_stderr())
    first.kill()
    assert second.wait() == 0, second.read_stderr()
    assert acknowledged(second.read_stderr()) >= {("naps", "0")}
    assert len(stored(results)) == 3
    assert left_over(results) == []


def test_a_bench_waits_for_the_run_of_another_and_uses_its_result(warm, tiny_data, tmp_path):
    results = tmp_path / "results"
    arguments = grid(tiny_data, results, model="naps", seeds=1, steps=30)
    first = warm.start(*arguments)
    wait_for(lambda: list(results.glob("binary/naps.random/.*.lock")))
    second = warm.start(*arguments)
    assert (first.wait(), second.wait()) == (0, 0), second.read_stderr()
    line = re.compile(r"naps seed 0: (.*?)(;|$)", re.MULTILINE)
    assert line.search(first.read_stderr())[1] == line.search(second.read_stderr())[1]
    assert len(stored(results)) == 3
