"""The twelve MedMNIST+ sets: their cards, files that lie here already, and downloads from servers that misbehave."""

import hashlib
import http.server
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import zoo_medmnist
from zoo import BINARY, DataError, Samples, SamplesRequest
from zoo_medmnist import OfficialFile, open_official, register_datasets

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
SETS = {spec.name: spec for spec in register_datasets()}


@pytest.fixture(autouse=True)
def no_files_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDMNIST_ROOT", str(tmp_path / "medmnist"))


# --- cards -----------------------------------------------------------------------------------------------------------
def test_twelve_sets_come_in_four_sizes():
    names = [
        *("pathmnist", "chestmnist", "dermamnist", "octmnist", "pneumoniamnist", "retinamnist"),
        *("breastmnist", "bloodmnist", "tissuemnist", "organamnist", "organcmnist", "organsmnist"),
    ]
    published = {"breastmnist_official", "pneumoniamnist_official"}
    assert set(SETS) - published == {f"{name}{suffix}" for name in names for suffix in ("", "_64", "_128", "_224")}
    assert published < set(SETS)
    assert [SETS[f"breastmnist{suffix}"].image_size for suffix in ("", "_64", "_128", "_224")] == [28, 64, 128, 224]


@pytest.mark.parametrize("spec", SETS.values(), ids=list(SETS))
def test_a_card_is_complete_and_declares_unknown_patients(spec):
    (file_name, md5), *rest = spec.checksums.items()
    assert not rest
    assert file_name == f"{spec.name.removesuffix('_official')}.npz"
    assert len(md5) == 32
    assert spec.url == f"https://zenodo.org/records/10519652/files/{file_name}?download=1"
    assert spec.license in {"CC BY 4.0", "CC BY-NC 4.0"}
    assert spec.official_splits == ("train", "val", "test")
    assert spec.patient == "none: image level"
    assert spec.modality
    assert "doi:10.1038/s41597-022-01721-8" in spec.citation
    assert spec.task.targets.min_labels <= len(spec.labels) <= (spec.task.targets.max_labels or 99)
    assert pickle.loads(pickle.dumps(spec.samples)).args == spec.samples.args


def test_tasks_labels_and_positive_labels_are_the_published_ones():
    tasks = {name: SETS[name].task.name for name in SETS if "_" not in name}
    assert {name: task for name, task in tasks.items() if task != "multiclass"} == {
        "chestmnist": "multilabel",
        "pneumoniamnist": "binary",
        "breastmnist": "binary",
        "retinamnist": "ordinal",
    }
    assert len(SETS["chestmnist"].labels) == 14
    assert SETS["breastmnist"].labels.index(SETS["breastmnist"].positive) == 0
    assert SETS["pneumoniamnist"].labels.index(SETS["pneumoniamnist"].positive) == 1
    assert SETS["dermamnist"].license == "CC BY-NC 4.0"


def test_checksums_are_those_of_the_official_files():
    published = {
        "breastmnist": "750601b1f35ba3300ea97c75c52ff8f6",
        "pneumoniamnist": "28209eda62fecd6e6a2d98b1501bb15f",
        "retinamnist": "bd4c0672f1bba3e3a89f0e4e876791e4",
    }
    assert {name: SETS[name].checksums[f"{name}.npz"] for name in published} == published


def test_sets_that_name_left_and_right_declare_no_flip():
    for name, spec in SETS.items():
        if any("left" in label for label in spec.labels):
            assert spec.symmetries == (), name


@pytest.mark.integration
def test_listing_the_sets_imports_nothing_heavy():
    code = (
        "import sys, zoo_medmnist; zoo_medmnist.register_datasets();"
        "print({'torch', 'pandas', 'PIL', 'requests'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- files on this machine -------------------------------------------------------------------------------------------
@pytest.fixture
def file(tmp_path) -> OfficialFile:
    """A file of 3 MB in the layout of the collection, as if it were official; its bytes lie in `published.npz`."""
    path = tmp_path / "published.npz"
    pixels = np.random.default_rng(3).integers(0, 256, (20, 400, 400), dtype=np.uint8)
    labels = (np.arange(20)[:, None] % 2).astype(np.uint8)
    cut = {"train": slice(0, 12), "val": slice(12, 16), "test": slice(16, 20)}
    np.savez(
        path, **{f"{s}_images": pixels[c] for s, c in cut.items()}, **{f"{s}_labels": labels[c] for s, c in cut.items()}
    )
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    return OfficialFile(name="tiny.npz", url="http://127.0.0.1:9/tiny.npz", md5=md5, task=BINARY, labels=("no", "yes"))


def published(tmp_path: Path) -> bytes:
    return (tmp_path / "published.npz").read_bytes()


def request(tmp_path: Path, **changes) -> SamplesRequest:
    return SamplesRequest(folder=tmp_path / "own", **changes)


def put(folder: Path, data: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.npz").write_bytes(data)
    return folder / "tiny.npz"


def check_tiny(samples: Samples) -> None:
    assert samples.table["split"].value_counts().to_dict() == {"train": 12, "val": 4, "test": 4}
    assert samples.targets.tolist() == [0, 1] * 10
    assert samples.read("val/3").shape == (400, 400)


@pytest.mark.parametrize("folder", ["own", "medmnist"])
def test_a_file_in_zoos_or_the_packages_folder_is_used_without_network(tmp_path, file, folder):
    path = put(tmp_path / folder, published(tmp_path))
    samples = open_official(file, request(tmp_path, offline=True))
    check_tiny(samples)
    assert samples.files == (path,)
    assert samples.notes == ()


def test_the_packages_default_folder_is_in_the_home(tmp_path, file, monkeypatch):
    monkeypatch.delenv("MEDMNIST_ROOT")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    path = put(tmp_path / ".medmnist", published(tmp_path))
    assert open_official(file, request(tmp_path, offline=True)).files == (path,)


def test_an_unofficial_file_is_used_with_a_note(tmp_path, file):
    other = replace(file, md5="0" * 32)
    put(tmp_path / "own", published(tmp_path))
    (note,) = open_official(other, request(tmp_path, offline=True)).notes
    assert "tiny.npz is not the official file: its md5 is not 0000" in note


def test_the_official_file_is_preferred_to_another_of_its_name(tmp_path, file):
    put(tmp_path / "own", b"something else")
    path = put(tmp_path / "medmnist", published(tmp_path))
    samples = open_official(file, request(tmp_path, offline=True))
    assert (samples.files, samples.notes) == ((path,), ())


def test_a_missing_file_offline_is_named_with_its_url_and_place(tmp_path, file):
    with pytest.raises(DataError) as caught:
        open_official(file, request(tmp_path, offline=True))
    for part in ("tiny.npz", file.url, str(tmp_path / "own"), str(tmp_path / "medmnist")):
        assert part in caught.value.line()
    assert "\n" not in caught.value.line()


# --- download --------------------------------------------------------------------------------------------------------
@contextmanager
def server(data: bytes, how: str = "well") -> Iterator[tuple[str, list[str]]]:
    """A server of one file, its URL and the Range headers it was sent. `how`: well, cut (half of it, then hangs up),
    wrong (other bytes), deaf (ignores ranges), missing (404)."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers.get("Range", ""))
            if how == "missing":
                self.send_error(404)
                return
            start = int(asked[-1].removeprefix("bytes=").rstrip("-") or 0) if asked[-1] and how != "deaf" else 0
            if start >= len(data):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            body = bytes(byte ^ 1 for byte in data) if how == "wrong" else data
            self.wfile.write(body[start : len(data) // 2] if how == "cut" else body[start:])

        def log_message(self, *arguments):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}/tiny.npz", asked
    finally:
        running.shutdown()
        running.server_close()
        thread.join()


def test_a_download_is_complete_and_is_not_repeated(tmp_path, file):
    steps: list[tuple[int, int | None]] = []
    data = published(tmp_path)
    with server(data) as (url, asked):
        here = replace(file, url=url)
        check_tiny(open_official(here, request(tmp_path, progress=lambda done, total: steps.append((done, total)))))
        check_tiny(open_official(here, request(tmp_path)))
        assert asked == [""]
    assert steps[-1] == (len(data), len(data))
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["tiny.npz"]


def test_an_interrupted_download_leaves_no_file_and_the_next_one_is_complete(tmp_path, file):
    data = published(tmp_path)
    with server(data, "cut") as (url, _), pytest.raises(DataError, match=r"tiny\.npz"):
        open_official(replace(file, url=url), request(tmp_path))
    assert not (tmp_path / "own" / "tiny.npz").exists()
    kept = (tmp_path / "own" / "tiny.npz.part").stat().st_size
    assert 0 < kept <= len(data) // 2
    with server(data) as (url, _):  # at another address: tests/test_downloads.py goes on at the same one
        check_tiny(open_official(replace(file, url=url), request(tmp_path)))


def test_a_server_without_ranges_sends_the_whole_file_again(tmp_path, file):
    data = published(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "tiny.npz.part").write_bytes(data[:1000])
    with server(data, "deaf") as (url, _):
        check_tiny(open_official(replace(file, url=url), request(tmp_path)))
    assert (tmp_path / "own" / "tiny.npz").read_bytes() == data


def test_other_bytes_than_the_official_ones_are_refused_and_not_kept(tmp_path, file):
    with server(published(tmp_path), "wrong") as (url, _), pytest.raises(DataError, match=f"expected md5 {file.md5}"):
        open_official(replace(file, url=url), request(tmp_path))
    assert list((tmp_path / "own").iterdir()) == []


@pytest.mark.parametrize("how", ["missing", "refused"])
def test_a_failing_server_is_one_line_with_the_url_and_the_place(tmp_path, file, how):
    with server(b"", how) as (url, _):
        address = url if how == "missing" else file.url  # nobody listens on port 9
        with pytest.raises(DataError) as caught:
            open_official(replace(file, url=address), request(tmp_path))
    assert address in caught.value.line()
    assert str(tmp_path / "own" / "tiny.npz") in caught.value.line()
    assert "\n" not in caught.value.line()


# --- real files ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["breastmnist_official", "pneumoniamnist_official", "retinamnist"])
def test_official_files_fit_their_cards(name, tmp_path, monkeypatch):
    plain = name.removesuffix("_official")
    if not (SHARED / f"{plain}.npz").exists():
        pytest.skip(f"{plain}.npz is not in ../shared/data")
    monkeypatch.setenv("MEDMNIST_ROOT", str(SHARED))
    spec = SETS[name]
    samples = spec.samples(request(tmp_path, offline=True))
    facts = json.loads((Path(zoo_medmnist.__file__).parent / "facts.json").read_text(encoding="utf-8"))["sets"][plain]
    assert samples.table["split"].value_counts().to_dict() == facts["num_images"]
    assert samples.notes == ()
    assert set(samples.targets.tolist()) == set(range(len(spec.labels)))
    assert samples.read("test/0").shape == ((28, 28, 3) if spec.channels == 3 else (28, 28))


def test_breastmnists_known_issue_is_true(tmp_path, monkeypatch):
    if not (SHARED / "breastmnist.npz").exists():
        pytest.skip("breastmnist.npz is not in ../shared/data")
    monkeypatch.setenv("MEDMNIST_ROOT", str(SHARED))
    samples = SETS["breastmnist_official"].samples(request(tmp_path, offline=True))
    target = dict(zip(samples.table["sample_id"], samples.targets.tolist(), strict=True))
    np.testing.assert_array_equal(samples.read("train/115"), samples.read("test/76"))
    assert target["train/115"] != target["test/76"]
    assert "train[115] and test[76]" in SETS["breastmnist"].known_issues[0]


@pytest.mark.parametrize(("name", "count"), [("breastmnist", 1), ("pneumoniamnist", 10)])
def test_images_left_out_of_train_are_byte_for_byte_in_a_later_split(name, count, tmp_path, monkeypatch):
    if not (SHARED / f"{name}.npz").exists():
        pytest.skip(f"{name}.npz is not in ../shared/data")
    monkeypatch.setenv("MEDMNIST_ROOT", str(SHARED))
    whole = SETS[f"{name}_official"].samples(request(tmp_path, offline=True))
    corrected = SETS[name].samples(request(tmp_path, offline=True))
    dropped = set(whole.table["sample_id"]) - set(corrected.table["sample_id"])
    later = whole.table.loc[whole.table["split"] != "train", "image"]
    seen = {whole.read(image).tobytes() for image in later}
    assert len(dropped) == count and all(whole.read(image).tobytes() in seen for image in dropped)
    kept = corrected.table.loc[corrected.table["split"] == "train", "image"]
    assert not seen & {corrected.read(image).tobytes() for image in kept}
    assert f"{count} image{'s' * (count > 1)} of train left out" in corrected.notes[0]
