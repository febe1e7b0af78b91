"""Datasets by name: local files, downloads by the real kagglehub from a local server, and refusals."""

import http.server
import io
import json
import sys
import threading
import zipfile
from dataclasses import replace

import pytest
from PIL import Image

from zoo import DataError, FetchRequest, SamplesRequest
from zoo.data.lookup import find_datasets
from zoo.errors import UsageError
from zoo.registry.finding import InstalledPlugin
from zoo.registry.loading import load_registry
from zoo.registry.lookup import Registry
from zoo.testing import check_dataset
from zoo_kaggle import FAMILY, find, register_datasets
from zoo_kaggle.fetching import check_handle

SPECS = {spec.name: spec for spec in register_datasets()}
FILES = [f"spots/{label}/{label}{number}.png" for label in ("clear", "spot") for number in range(6)]


def pixels(number):
    stream = io.BytesIO()
    Image.new("L", (8, 8), 5 * number).save(stream, "PNG")
    return stream.getvalue()


def write_folder(folder):
    for number, name in enumerate(FILES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(pixels(number))
    return folder


def zipped():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number, name in enumerate(FILES):
            archive.writestr(name, pixels(number))
    return stream.getvalue()


@pytest.fixture(autouse=True)
def nothing_of_this_machine(tmp_path, monkeypatch):
    """No credentials, no cache, and no way to kaggle.com."""
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "ZOO_KAGGLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


def resolve(tmp_path, name, **changes):
    """The spec that `--datasets NAME` resolves to."""
    return find(FetchRequest(name=name, folder=tmp_path / "cache" / "datasets", **changes))


def refusal(tmp_path, name, **changes):
    with pytest.raises(DataError) as caught:
        resolve(tmp_path, name, **changes)
    line = caught.value.line()
    assert "\n" not in line
    return line


# --- names -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "handle",
    ["me/set", "https://www.kaggle.com/datasets/me/set", "kaggle.com/me/set", "www.kaggle.com/datasets/me/set/"],
)
def test_the_address_of_a_page_names_its_dataset(handle):
    assert check_handle(handle) == "me/set"
    assert check_handle("https://www.kaggle.com/competitions/aptos2019-blindness-detection") in SPECS["aptos2019"].url


@pytest.mark.parametrize("handle", ["", "/", "../up", "a/../b", "me/set/versions/3", "a b", "~/x", "a\nb"])
def test_an_invalid_name_is_refused_with_the_valid_forms(tmp_path, handle):
    line = refusal(tmp_path, f"kaggle:{handle}")
    assert line.startswith("zoo: error[data] kaggle:")
    assert "kaggle:owner/name or kaggle:competition" in line


def test_a_dataset_with_a_card_has_it_under_its_name_and_its_handle(tmp_path):
    named = {
        "kaggle:paultimothymooney/chest-xray-pneumonia": "chest-xray-pneumonia",
        "kaggle:PaulTimothyMooney/Chest-Xray-Pneumonia": "chest-xray-pneumonia",
        "kaggle:aptos2019-blindness-detection": "aptos2019",
    }
    for handle, name in named.items():
        spec = resolve(tmp_path, handle, offline=True)
        assert replace(spec, samples=str) == replace(SPECS[name], samples=str)


def test_a_prefixed_name_takes_precedence_over_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(write_folder(tmp_path))
    (tmp_path / "kaggle:me").mkdir()
    write_folder(tmp_path / "kaggle:me" / "set")
    registry = Registry(datasets={"kaggle": FAMILY})
    with pytest.raises(DataError) as caught:
        find_datasets("kaggle:me/set", registry, tmp_path / "cache", offline=True)
    assert caught.value.code == "kaggle"
    write_folder(tmp_path / "cache" / "datasets" / "kaggle" / "me--set")
    (spec,) = find_datasets("kaggle:me/set", registry, tmp_path / "cache", offline=True)
    assert (spec.name, spec.labels) == ("me--set", ("clear", "spot"))


def test_without_the_plugin_the_prefix_names_it(tmp_path):
    with pytest.raises(UsageError, match="pip install zoo-kaggle"):
        find_datasets("kaggle:me/set", Registry(), tmp_path)
    broken = load_registry([InstalledPlugin(name="zoo-kaggle", load=lambda: 1 / 0)])
    with pytest.raises(Exception, match="zoo-kaggle is broken: ZeroDivisionError"):
        find_datasets("kaggle:me/set", broken, tmp_path)


def test_a_glob_over_datasets_leaves_the_family_out(tmp_path):
    registry = Registry(datasets={"kaggle": FAMILY, "kaggle-x": SPECS["busi"]})
    assert find_datasets("kaggle*", registry, tmp_path) == [SPECS["busi"]]


def test_the_prefix_alone_is_refused_with_the_valid_forms(tmp_path):
    with pytest.raises(DataError, match="kaggle:owner/name"):
        FAMILY.samples(SamplesRequest(folder=tmp_path))


# --- on this machine -------------------------------------------------------------------------------------------------
def data_folder(tmp_path):
    return tmp_path / "cache" / "datasets" / "kaggle"


@pytest.mark.parametrize("name", ["me--set", "set"])
@pytest.mark.parametrize("where", ["data", "ZOO_KAGGLE"])
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_a_local_folder_or_zip_is_used_without_network(tmp_path, monkeypatch, name, where, packed):
    home = data_folder(tmp_path) if where == "data" else tmp_path / "elsewhere"
    monkeypatch.setenv("ZOO_KAGGLE", str(tmp_path / "elsewhere"))
    home.mkdir(parents=True)
    if packed:
        (home / f"{name}.zip").write_bytes(zipped())
    else:
        write_folder(home / name)
    spec = resolve(tmp_path, "kaggle:me/set", offline=True)
    assert (spec.name, spec.title, spec.url) == ("me--set", "me/set", "https://www.kaggle.com/datasets/me/set")
    check_it(spec, tmp_path)


def check_it(spec, tmp_path):
    samples = spec.samples(SamplesRequest(folder=tmp_path / "cache" / "datasets" / spec.name, offline=True))
    assert sorted(samples.targets.tolist()) == [0] * 6 + [1] * 6
    assert len({samples.read(image).tobytes() for image in samples.table["image"]}) == 12


def test_the_newest_complete_version_in_kagglehubs_cache_is_used(tmp_path):
    hub = tmp_path / "hub" / "datasets" / "me" / "set"
    for version in (2, 9, 10):
        write_folder(hub / "versions" / str(version))
        (hub / f"{version}.complete").touch()
    (hub / "versions" / "11").mkdir()  # cut off: no mark
    write_folder(tmp_path / "hub" / "competitions" / "comp")
    assert "hub/datasets/me/set/versions/10" in str(resolve(tmp_path, "kaggle:me/set", offline=True).samples)
    assert "not on this machine" in refusal(tmp_path, "kaggle:comp", offline=True)
    (tmp_path / "hub" / "competitions" / "comp.complete").touch()
    check_it(resolve(tmp_path, "kaggle:comp", offline=True), tmp_path)


def test_a_card_finds_its_images_below_one_more_folder_and_without_its_own(tmp_path):
    for name, root in (("within", "archive/Dataset_BUSI_with_GT"), ("bare", "Dataset_BUSI_with_GT")):
        home = tmp_path / name
        for number, label in enumerate(("normal", "benign", "benign", "malignant", "malignant", "normal")):
            place = home / "breast-ultrasound-images-dataset" / root / label
            place.mkdir(parents=True, exist_ok=True)
            shift = {2: "433", 3: "145"}.get(number, str(number))
            (place / f"{label} ({shift}).png").write_bytes(pixels(number))
            (place / f"{label} ({shift})_mask.png").write_bytes(pixels(30 + number))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ZOO_KAGGLE", str(home))
            check_dataset(SPECS["busi"], tmp_path / "cache" / "datasets" / "busi")


def test_a_folder_with_other_names_than_those_of_the_card_is_refused_with_the_pattern(tmp_path):
    write_folder(data_folder(tmp_path) / "breast-ultrasound-images-dataset")
    with pytest.raises(DataError, match=r"kaggle:aryashah2k/breast-ultrasound-images-dataset: .*'Dataset_BUSI_with_GT"):
        SPECS["busi"].samples(SamplesRequest(folder=tmp_path / "cache" / "datasets" / "busi", offline=True))


def test_a_login_page_saved_as_the_zip_is_recognized(tmp_path):
    data_folder(tmp_path).mkdir(parents=True)
    (data_folder(tmp_path) / "me--set.zip").write_text("<!DOCTYPE html><title>Login | Kaggle</title>")
    assert "a web page, not an archive" in refusal(tmp_path, "kaggle:me/set", offline=True)


def test_missing_files_offline_name_the_page_and_the_place_of_the_zip(tmp_path):
    line = refusal(tmp_path, "kaggle:me/set", offline=True)
    assert "error[kaggle]" in line
    assert "--offline" in line
    assert str(data_folder(tmp_path) / "me--set.zip") in line
    assert "https://www.kaggle.com/datasets/me/set" in line


# --- downloads -------------------------------------------------------------------------------------------------------
@pytest.fixture
def kaggle(monkeypatch):
    """A local server in the place of Kaggle for the real kagglehub; `status` and `body` make it misbehave."""
    pytest.importorskip("kagglehub", reason="kagglehub, the extra `download`, is not installed")
    from kagglehub import clients
    from kagglesdk import kaggle_env

    # perf: the name of the client is made of the sources of all callers, which takes longer than a test
    monkeypatch.setattr(clients, "get_user_agent", lambda: "zoo")

    class Kaggle(http.server.ThreadingHTTPServer):
        status, body, requested = 200, zipped(), None

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.server.requested.append(self.path.rpartition("/")[2])
            body = self.server.body
            if self.server.status != 200:
                body = json.dumps({"error": "no", "code": self.server.status}).encode()
            elif not self.path.endswith(("DownloadDataset", "DownloadDataFiles")):
                body = json.dumps({"currentVersionNumber": 3}).encode()
            self.send_response(self.server.status)
            self.send_header("Content-Type", "application/json" if body[:1] == b"{" else "application/zip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            self.do_POST()

        def log_message(self, *arguments):
            pass

    server = Kaggle(("127.0.0.1", 0), Handler)
    server.requested = []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, endpoint)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def credentials(monkeypatch):
    monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
    monkeypatch.setenv("KAGGLE_KEY", "secret")


def test_a_dataset_is_downloaded_once_into_kagglehubs_cache(tmp_path, kaggle, capfd):
    check_it(resolve(tmp_path, "kaggle:me/set"), tmp_path)
    assert kaggle.requested == ["GetDataset", "DownloadDataset"]
    assert len(list((tmp_path / "hub" / "datasets" / "me" / "set" / "versions" / "3").rglob("*.png"))) == 12
    check_it(resolve(tmp_path, "kaggle:me/set", offline=True), tmp_path)
    assert len(kaggle.requested) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "100%" in printed.err


def test_a_competition_is_downloaded_with_credentials(tmp_path, kaggle, credentials):
    check_it(resolve(tmp_path, "kaggle:comp"), tmp_path)
    assert kaggle.requested == ["DownloadDataFiles"]


def test_a_dataset_with_a_card_is_downloaded_when_opened_and_not_when_listed(tmp_path, kaggle):
    spec = resolve(tmp_path, "kaggle:aryashah2k/breast-ultrasound-images-dataset")
    assert kaggle.requested == []
    with pytest.raises(DataError, match="Dataset_BUSI_with_GT"):  # the server's images are of another set
        spec.samples(SamplesRequest(folder=tmp_path / "cache" / "datasets" / "busi"))
    assert kaggle.requested == ["GetDataset", "DownloadDataset"]


def test_a_competition_without_credentials_names_the_page_of_tokens(tmp_path, kaggle):
    line = refusal(tmp_path, "kaggle:comp")
    assert "https://www.kaggle.com/settings" in line
    assert str(data_folder(tmp_path) / "comp.zip") in line
    assert kaggle.requested == []


@pytest.mark.parametrize(
    ("status", "name", "fix"),
    [
        (401, "kaggle:me/set", "https://www.kaggle.com/settings"),
        (403, "kaggle:me/set", "https://www.kaggle.com/settings"),
        (403, "kaggle:comp", "https://www.kaggle.com/competitions/comp/rules"),
        (404, "kaggle:me/set", "https://www.kaggle.com/datasets/me/set"),
        (404, "kaggle:comp", "https://www.kaggle.com/competitions/comp"),
        (500, "kaggle:me/set", "run again"),
    ],
)
def test_a_refusal_by_kaggle_is_one_line_with_the_fix(tmp_path, kaggle, credentials, status, name, fix):
    kaggle.status = status
    line = refusal(tmp_path, name)
    assert name in line
    assert fix in line.partition("fix: ")[2]


def test_a_download_that_is_not_an_archive_is_one_line_and_is_not_kept(tmp_path, kaggle):
    kaggle.body = b"not a zip"
    assert "ValueError" in refusal(tmp_path, "kaggle:me/set")
    assert "not on this machine" in refusal(tmp_path, "kaggle:me/set", offline=True)


def test_unreadable_credentials_are_one_line(tmp_path, kaggle):
    (tmp_path / "no-credentials").mkdir()
    (tmp_path / "no-credentials" / "kaggle.json").write_text("{")
    assert "Invalid Kaggle credentials file" in refusal(tmp_path, "kaggle:me/set")


def test_an_unreachable_server_is_one_line(tmp_path, kaggle):
    kaggle.shutdown()
    kaggle.server_close()
    line = refusal(tmp_path, "kaggle:me/set")
    assert "error[kaggle]" in line
    assert str(data_folder(tmp_path) / "me--set.zip") in line


def test_without_kagglehub_the_extra_and_the_place_of_the_zip_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    line = refusal(tmp_path, "kaggle:me/set")
    assert "pip install 'zoo-kaggle[download]'" in line
    assert str(data_folder(tmp_path) / "me--set.zip") in line
