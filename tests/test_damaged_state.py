"""Flipped bytes and truncated files in the results folder and the cache give no wrong number and no traceback."""

import json
import random
import shutil
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="hundreds of commands, which must be forked")

ARGUMENTS = ["bench", "-m", "tiny_cnn,tiny_pretrained", "--protocol", "scratch", "--set", "image_size=16"]
ARGUMENTS += ["--metrics", "auroc"]  # perf: all metrics cost a third of each command
OF_ITSELF = ("metric", "value", "low", "high", "seed_sd", "scores", "cost", "content_hash", "split_hash", "deviations")


@pytest.fixture(scope="module")
def whole(warm, tiny_data, tmp_path_factory):
    """A folder with the results and the cache of a bench, and the numbers of its report."""
    root = tmp_path_factory.mktemp("whole")
    status, _, stderr = run_bench(warm, tiny_data, root)
    assert status == 0, stderr
    return root, report(warm, root)[1]


def run_bench(warm, tiny_data, root):
    arguments = [
        *ARGUMENTS,
        "--set",
        "steps=4",
        "--seeds",
        2,
        "-d",
        tiny_data / "folders",
        "--results",
        root / "results",
    ]
    return warm.run(*arguments, ZOO_CACHE=str(root / "cache"))


def report(warm, root):
    status, out, stderr = warm.run(
        "report", "--results", root / "results", "--format", "json", ZOO_CACHE=str(root / "c")
    )
    return status, rows(out) if status == 0 else {}, stderr


def rows(out):
    """The numbers of each row, by board and model; rows without a damaged run must not change."""
    document = json.loads(out)
    return {(row["dataset"], row["model"]): row for row in document["leaderboard"]}


def own_numbers(row):
    """The numbers of a row that depend on its own runs only, unlike its rank."""
    return {name: row[name] for name in OF_ITSELF}


def but_cost(reported):
    """Rows without their cost, which differs for a repeated run."""
    return {key: {k: v for k, v in row.items() if k != "cost"} for key, row in reported.items()}


def damage(path, draw):
    content = bytearray(path.read_bytes())
    kind = draw.choice(["flip", "flip", "flip", "cut", "empty", "zeros"])
    if not content or kind == "empty":
        path.write_bytes(b"")
    elif kind == "flip":
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
    elif kind == "cut":
        path.write_bytes(content[: draw.randrange(len(content))])
    else:
        start = draw.randrange(len(content))
        content[start : start + 64] = bytes(min(64, len(content) - start))
        path.write_bytes(content)
    return kind


@pytest.mark.parametrize(
    ("seed", "count"), [(0, 2), *(pytest.param(seed, 50, marks=pytest.mark.slow) for seed in range(1, 11))]
)
def test_damage_shows_no_wrong_number_and_a_bench_repairs_it(seed, count, warm, tiny_data, whole, tmp_path):
    source, expected = whole
    draw = random.Random(seed)
    for number in range(count):
        root = tmp_path / "root"
        shutil.copytree(source, root)
        where = draw.choice(["results", "results", "cache"])
        files = sorted(path for path in (root / where).rglob("*") if path.is_file() and path.suffix != ".lock")
        path = draw.choice(files)
        kind = damage(path, draw)
        change = f"{number}: {kind} of {path.relative_to(root)}"
        status, reported, stderr = report(warm, root)
        assert "Traceback" not in stderr and status in (0, 5), f"{change}: {stderr}"
        for key, row in reported.items():
            runs = set(row["runs"])
            if runs == set(expected[key]["runs"]):
                assert own_numbers(row) == own_numbers(expected[key]), change
            else:
                assert runs < set(expected[key]["runs"]) and path.parent.name in stderr, f"{change}: {stderr}"
        status, _, stderr = run_bench(warm, tiny_data, root)
        assert status == 0 and "Traceback" not in stderr, f"{change}: {stderr}"
        status, reported, stderr = report(warm, root)
        assert status == 0 and but_cost(reported) == but_cost(expected), f"{change}: {stderr}"
        shutil.rmtree(root)
