"""Bytes flipped and files cut below a results folder and in the cache: no wrong number is shown, nothing tears."""

import json
import random
import shutil
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="hundreds of commands, which must be forked")

ARGUMENTS = ["bench", "-m", "tiny_cnn,tiny_pretrained", "--protocol", "scratch", "--set", "image_size=16"]
OF_ITSELF = ("metric", "value", "low", "high", "seed_sd", "scores", "cost", "content_hash", "split_hash", "deviations")


@pytest.fixture(scope="module")
def whole(warm, tiny_data, tmp_path_factory):
    """A folder with the results and the cache of a bench, and what a report of it shows."""
    root = tmp_path_factory.mktemp("whole")
    status, _, said = run_bench(warm, tiny_data, root)
    assert status == 0, said
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
    status, out, said = warm.run("report", "--results", root / "results", "--format", "json", ZOO_CACHE=str(root / "c"))
    return status, rows(out) if status == 0 else {}, said


def rows(out):
    """The numbers of each row, by board and model; what a damaged run is not part of must not differ."""
    document = json.loads(out)
    return {(row["dataset"], row["model"]): row for row in document["leaderboard"]}


def own_numbers(row):
    """What a row says of its own runs; its rank follows from the others."""
    return {name: row[name] for name in OF_ITSELF}


def but_cost(shown):
    """Rows without what they cost: a run that is done again costs another time."""
    return {key: {k: v for k, v in row.items() if k != "cost"} for key, row in shown.items()}


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
    ("seed", "count"), [(0, 4), *(pytest.param(seed, 50, marks=pytest.mark.slow) for seed in range(1, 11))]
)
def test_whatever_is_damaged_no_wrong_number_is_shown_and_a_bench_makes_it_whole(
    seed, count, warm, tiny_data, whole, tmp_path
):
    source, expected = whole
    draw = random.Random(seed)
    for number in range(count):
        root = tmp_path / "root"
        shutil.copytree(source, root)
        where = draw.choice(["results", "results", "cache"])
        files = sorted(path for path in (root / where).rglob("*") if path.is_file() and path.suffix != ".lock")
        path = draw.choice(files)
        kind = damage(path, draw)
        told = f"{number}: {kind} of {path.relative_to(root)}"
        status, shown, said = report(warm, root)
        assert "Traceback" not in said and status in (0, 5), f"{told}: {said}"
        for key, row in shown.items():
            runs = set(row["runs"])
            if runs == set(expected[key]["runs"]):
                assert own_numbers(row) == own_numbers(expected[key]), told
            else:
                assert runs < set(expected[key]["runs"]) and path.parent.name in said, f"{told}: {said}"
        status, _, said = run_bench(warm, tiny_data, root)
        assert status == 0 and "Traceback" not in said, f"{told}: {said}"
        status, shown, said = report(warm, root)
        assert status == 0 and but_cost(shown) == but_cost(expected), f"{told}: {said}"
        shutil.rmtree(root)
