"""`zoo audit --fix` writes a card without leaks and conflicts; `--write` writes the inferred card."""

import hashlib
import json
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from folders import SHARED
from PIL import Image

from zoo.auditing.audit import run_audit
from zoo.auditing.examine import FixedCard
from zoo.auditing.exclusions import choose_exclusions
from zoo.auditing.findings import Audit
from zoo.data.fingerprints import take_fingerprints
from zoo.data.opening import open_dataset
from zoo.data.splits import draw_split
from zoo.report.audit_text import fixed_lines
from zoo.sources.opening import find_source

RANDOM = np.random.default_rng(1)


def write_set(root, *, patients=None, counts=(("train", 80), ("val", 60), ("test", 60))):
    """Write class folders a and b with random images of 16 px, below the size for the near-duplicate check."""
    rows = ["image,patient"]
    for split, count in counts:
        for number in range(count):
            path = root / split / "ab"[number % 2] / f"{split}{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(RANDOM.integers(0, 256, (16, 16), dtype=np.uint8)).save(path)
            rows.append(f"{path.name},{(patients or {}).get(path.name, path.stem)}")
    if patients is not None:
        (root / "patients.csv").write_text("\n".join(rows))
    return root


def copy(root, original, *others):
    for other in others:
        (root / other).write_bytes((root / original).read_bytes())


def choose(root, cache):
    source = open_dataset(find_source(root), cache)
    return choose_exclusions(source, take_fingerprints(source, cache))


def content(root):
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in sorted(root.rglob("*")) if path.is_file()}


# --- exclusions ------------------------------------------------------------------------------------------------------
def test_copies_are_removed_from_train_before_val_and_val_before_test(tmp_path):
    root = write_set(tmp_path / "set")
    copy(root, "test/a/test0.png", "train/a/train0.png", "val/a/val0.png")
    copy(root, "val/a/val2.png", "train/a/train2.png")
    chosen = choose(root, tmp_path)
    assert chosen.sample_ids == {"train/a/train0.png", "val/a/val0.png", "train/a/train2.png"}
    assert len(chosen.notes) == 2 and "1 image of train and 1 image of val" in chosen.notes[0]


def test_all_images_of_a_test_patient_leave_train_and_val(tmp_path):
    root = write_set(
        tmp_path / "set", patients={"train0.png": "P", "train1.png": "P", "val3.png": "P", "test9.png": "P"}
    )
    assert choose(root, tmp_path).sample_ids == {"train/a/train0.png", "train/b/train1.png", "val/b/val3.png"}


def test_both_images_of_a_conflict_are_removed_also_from_test(tmp_path):
    root = write_set(tmp_path / "set")
    copy(root, "train/a/train0.png", "test/b/test1.png")
    copy(root, "train/a/train2.png", "train/b/train3.png")  # within a split
    chosen = choose(root, tmp_path)
    assert chosen.sample_ids == {
        *("train/a/train0.png", "test/b/test1.png"),
        *("train/a/train2.png", "train/b/train3.png"),
    }
    assert "4 images, 1 of them in test; " in chosen.notes[0]


def test_a_known_conflict_and_copies_within_a_split_stay(tmp_path):
    root = write_set(tmp_path / "set")
    copy(root, "test/a/test0.png", "test/b/test1.png", "test/a/test2.png")
    pairs = '[["test/a/test0.png", "test/b/test1.png"], ["test/a/test2.png", "test/b/test1.png"]]'
    (root / "dataset.toml").write_text(f"known_conflicts = {pairs}\n")
    assert not choose(root, tmp_path).sample_ids


# --- the command -----------------------------------------------------------------------------------------------------
def test_the_written_card_passes_and_the_data_are_unchanged(zoo, bench, tmp_path):
    root = write_set(tmp_path / "set", patients={"train5.png": "P", "test5.png": "P"})
    copy(root, "test/a/test0.png", "train/a/train0.png")
    copy(root, "train/a/train2.png", "test/b/test1.png")
    before = content(root)
    assert zoo("audit", root).returncode == 4
    done = zoo("audit", root, "--fix", tmp_path / "fixed.toml")
    assert done.returncode == 0, done.stderr
    assert content(root) == before
    card = tomllib.loads((tmp_path / "fixed.toml").read_text())
    assert card["drop"] == [
        *("test/b/test1.png", "train/a/train0.png", "train/a/train2.png", "train/b/train5.png"),
    ]
    assert (card["name"], card["root"]) == ("set-fixed", "set")
    assert f"zoo bench --datasets {tmp_path / 'fixed.toml'}" in done.stdout
    assert "4 images left out" in done.stdout and "set-fixed: ok" in done.stdout
    short = ("-m", "thumbnails", "--set", "image_size=16", "--set", "steps=2", "--seeds", "1")
    status, document, _ = bench("-d", tmp_path / "fixed.toml", *short, "--results", tmp_path / "results")
    assert status == 0 and {run["dataset"] for run in document["runs"]} == {"set-fixed"}


def test_an_existing_card_is_copied_with_its_comments_and_not_overwritten(zoo, tmp_path):
    root = write_set(tmp_path / "set")
    copy(root, "test/a/test0.png", "train/a/train0.png")
    own = '# from ward 7\nname = "ward"\nlicense = "CC0"\n'
    (root / "dataset.toml").write_text(own)
    done = zoo("audit", root, "--fix", root / "dataset.toml")
    assert done.returncode == 2 and "exists already and is not overwritten" in done.stderr
    assert zoo("audit", root, "--fix", tmp_path / "fixed.toml").returncode == 0
    text = (tmp_path / "fixed.toml").read_text()
    assert "# from ward 7" in text and tomllib.loads(text)["license"] == "CC0"
    assert (root / "dataset.toml").read_text() == own


def test_no_card_is_written_for_a_clean_dataset(zoo, tmp_path):
    root = write_set(tmp_path / "set")
    done = zoo("audit", root, "--fix", tmp_path / "fixed.toml")
    assert done.returncode == 0 and "nothing to leave out: no card was written" in done.stdout
    assert not (tmp_path / "fixed.toml").exists()


def test_an_unreadable_dataset_is_a_one_line_error(zoo, tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK")
    done = zoo("audit", tmp_path / "x.npz", "--fix", tmp_path / "fixed.toml")
    assert done.returncode == 4 and "cannot be opened" in done.stderr and "Traceback" not in done.stderr
    done = zoo("audit", tmp_path, tmp_path, "--fix", tmp_path / "fixed.toml")
    assert done.returncode == 2 and "--fix and --write take one dataset" in done.stderr


def test_the_suggested_command_quotes_the_path_of_the_card():
    passed = Audit(dataset="set", findings=())
    nothing = SimpleNamespace(notes=(), sample_ids=())
    lines = fixed_lines(FixedCard(path=Path("my data\x1b/fixed.toml"), exclusions=nothing, audit=passed))
    assert lines[-1] == "next: zoo bench --datasets 'my data\\x1b/fixed.toml'"
    assert not any("\x1b" in line for line in lines)


def test_json_lists_the_images_left_out(zoo, tmp_path):
    root = write_set(tmp_path / "set")
    copy(root, "test/a/test0.png", "train/a/train0.png")
    fixed = json.loads(zoo("audit", root, "--fix", tmp_path / "fixed.toml", "--json").stdout)["fixed"]
    assert fixed["left_out"] == ["train/a/train0.png"]
    assert (fixed["path"], fixed["audit"]["verdict"]) == (str(tmp_path / "fixed.toml"), "ok")


def test_write_puts_a_card_beside_the_data_or_at_output(zoo, tmp_path):
    root = write_set(tmp_path / "set")
    done = zoo("audit", root, "--write", "--output", tmp_path / "card.toml")
    assert done.returncode == 0 and f"wrote {tmp_path / 'card.toml'}" in done.stderr
    assert not (root / "dataset.toml").exists()
    assert zoo("audit", root, "--write").returncode == 0
    assert tomllib.loads((root / "dataset.toml").read_text())["labels"] == ["a", "b"]
    done = zoo("audit", root, "--write")
    assert done.returncode == 2 and "exists already" in done.stderr
    assert zoo("audit", root, "--output", tmp_path / "x.toml").returncode == 2


# --- a real set ------------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("name", ["breastmnist.npz", "pneumoniamnist.npz", "nih1000"])
def test_real_datasets_pass_after_fix(name, zoo, tmp_path):
    path: Path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is not in ../shared/data")
    assert zoo("audit", path).returncode == 4
    done = zoo("audit", path, "--fix", tmp_path / "fixed.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    source = open_dataset(find_source(tmp_path / "fixed.toml"), tmp_path)
    fingerprints = take_fingerprints(source, tmp_path)
    assert run_audit(source, draw_split(source, fingerprints=fingerprints), fingerprints).verdict != "refuse"
