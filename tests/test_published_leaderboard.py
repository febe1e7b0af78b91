"""The published leaderboard: its bundles verify, its pages are built from them, and nothing in it is private."""

import re
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from zoo.registry.opening import open_registry
from zoo.results.bundles import MANIFEST, bundle_name
from zoo.results.verifying import open_bundle, verify
from zoo.runner.suites import load_suite
from zoo.sources.archives import unpack
from zoo.sources.cards import read_card
from zoo.system.files import hash_file

FOLDER = Path(__file__).resolve().parents[1] / "leaderboard"
BUNDLES = sorted((FOLDER / "results").iterdir())
PAGES = [FOLDER / "README.md", FOLDER / "index.html"]
# Absolute paths, and names of machines; a `/` after a letter or digit is a fraction, a unit or a URL.
PRIVATE = re.compile(rb"(?<![\w.:/<])/(work|tmp|home|root|Users|mnt|data|var)/|[A-Z]:\\Users|\blocalhost\b")

by_bundle = pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.name)


def read_files(path: Path, folder: Path) -> dict[str, bytes]:
    """The files of a bundle, those inside each `predictions.npz` included, by name."""
    files = {}
    for file in sorted(unpack(path, folder / "bundle").rglob("*.*")):
        if file.suffix == ".npz":
            with zipfile.ZipFile(file) as archive:
                files |= {f"{file}/{name}": archive.read(name) for name in archive.namelist()}
        elif file.is_file():
            files[str(file)] = file.read_bytes()
    return files


def test_the_folder_stays_small():
    sizes = [path.stat().st_size for path in FOLDER.rglob("*.*") if path.parent in (FOLDER, FOLDER / "results")]
    # The predictions of 62 runs on 14 labels do not compress below 1.4 MB.
    assert max(sizes) < 1.5 * 2**20 and sum(sizes) < 5.5 * 2**20


@pytest.mark.integration
@by_bundle
def test_a_bundle_is_a_plain_archive_without_images_weights_or_private_names(path, tmp_path):
    assert zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
    files = read_files(path, tmp_path)
    assert {name.rpartition("/")[2].rpartition(".")[2] for name in files} <= {"json", "jsonl", "npy"}
    # numpy writes text as UTF-32
    assert not [name for name, content in files.items() if PRIVATE.search(content.replace(b"\0", b""))]


@pytest.mark.integration
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_shows_the_present_bundles_and_nothing_private(page, tmp_path):
    content = page.read_bytes()
    assert not PRIVATE.search(content)
    text = content.decode().replace("\\_", "_")
    for path in BUNDLES:
        digest = hash_file(unpack(path, tmp_path / path.name) / MANIFEST)
        assert f"{bundle_name(path)} {digest[:8]}" in text, "stale: run `make leaderboard`"


@pytest.mark.slow
@by_bundle
def test_a_bundle_verifies_without_its_data(path):
    outcome = verify(open_bundle(path), bundle_name(path), open_registry(), lambda done, total: None)
    assert not outcome.differences and not outcome.not_recomputed
    assert outcome.num_scores


@pytest.mark.parametrize("path", sorted((FOLDER / "suites").iterdir()), ids=lambda path: path.name)
def test_a_suite_can_be_read_and_names_data_of_the_leaderboard(path):
    for name in load_suite(str(path)).datasets:
        assert not name.endswith(".toml") or (FOLDER.parent / name).is_file()


@pytest.mark.parametrize("path", sorted((FOLDER / "datasets").iterdir()), ids=lambda path: path.name)
def test_a_card_of_a_dataset_is_valid_and_has_a_license(path):
    assert read_card(path).license


@pytest.mark.parametrize("path", sorted((FOLDER / "weights").glob("*.toml")), ids=lambda path: path.name)
def test_a_card_of_weights_declares_normalization_license_and_pretraining(path):
    assert set(tomllib.loads(path.read_text())) == {"mean", "std", "license", "pretraining"}
