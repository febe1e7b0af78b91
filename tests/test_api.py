"""zoo from Python: the same results as the command, and light to import."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from dicom_files import write
from PIL import Image

import zoo
from zoo.errors import UsageError

pytestmark = pytest.mark.integration

# SIGINT may be ignored where the tests run (nohup), and a child inherits that.
SCRIPT = """
import signal, sys, zoo
signal.signal(signal.SIGINT, signal.default_int_handler)
board = zoo.bench(
    models=["zoo-timm:resnet10t", "zoo-timm:mobilenetv3_small_050"], datasets=[sys.argv[1]], protocol="quick", seeds=2,
    weights="none", settings={"steps": int(sys.argv[3]), "rounds": 1, "image_size": 32}, results=sys.argv[2], workers=1,
)
print(repr(board))
board.to_pandas().to_csv(sys.argv[2] + "/board.csv")
"""


def start(data, results, steps):
    """Start a bench in a Python process of its own."""
    words = [sys.executable, "-c", SCRIPT, str(data), str(results), str(steps)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.fixture(scope="module")
def results(tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    process = start(tiny_data / "folders", folder, 2)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    assert out.startswith("<Leaderboard of 6 runs: folders>")
    return folder


@pytest.fixture
def run_zoo(request):
    return request.getfixturevalue("zoo")


def test_import_is_light():
    code = "import sys, zoo; zoo.bench; print([n for n in ('torch', 'pandas', 'numpy', 'scipy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_board_is_that_of_the_command(run_zoo, results):
    board = zoo.load_results(results)
    assert board.write("csv") == run_zoo("report", "--results", results, "--format", "csv").stdout
    assert set(board.to_pandas()["dataset"]) == {"folders"}
    assert board.failed == []


def test_two_models_are_compared_as_the_command_does(run_zoo, results):
    compared = zoo.load_results(results).compare("resnet10t", "mobilenetv3_small_050").to_dict()
    done = run_zoo("compare", "resnet10t", "mobilenetv3_small_050", "--json", "--results", results)
    assert json.loads(json.dumps(compared)) == json.loads(done.stdout)


def test_a_notebook_shows_the_page_in_a_frame(results, tmp_path):
    board = zoo.load_results(results)
    page = board.save_html(tmp_path / "board.html").read_text()
    assert page.startswith("<!doctype html>")
    assert board._repr_html_().startswith("<iframe")
    assert "<script" not in board._repr_html_()  # escaped: it runs inside the frame only


def test_a_loaded_model_predicts_as_the_command_does(run_zoo, results, tiny_data):
    model = zoo.load_model("folders/resnet10t", results=results, device="cpu")
    images = tiny_data / "folders" / "test"
    frame = model.predict(images)
    lines = run_zoo("predict", "folders/resnet10t", images, "--results", results).stdout.splitlines()
    assert len(frame) == len(lines) - 1
    assert f"{frame['probability: nodule'][0]!r}".split("(")[-1].rstrip(")") in lines[1]


def test_a_loaded_model_explains_as_the_command_does(run_zoo, results, tiny_data, tmp_path):
    images = sorted((tiny_data / "folders" / "test").rglob("*.png"))[:2]
    model = zoo.load_model("folders/resnet10t", results=results, device="cpu")
    document = model.explain(images, tmp_path / "python")
    done = run_zoo("explain", "folders/resnet10t", *images, "-o", tmp_path / "command", "--results", results)
    assert done.returncode == 0, done.stderr
    expected = json.loads((tmp_path / "command" / "maps.json").read_text())
    assert document["statements"] == expected["statements"]
    for ours, theirs in zip(document["images"], expected["images"], strict=True):
        assert ours == {
            **theirs,
            **{name: pytest.approx(theirs[name], rel=1e-3) for name in ("probability", "maximum")},
        }
    assert (
        document["images"][0]["grid"] == 2
    )  # at 32 pixels the last layer has one position, the one before it has 2 x 2


def test_options_of_explain_are_those_of_the_command(results, tiny_data, tmp_path):
    pytest.importorskip("captum")
    (tmp_path / "masks").mkdir()
    path, pixels = tmp_path / "scan.dcm", next((tiny_data / "folders" / "test").rglob("*.png"))
    write(path, np.asarray(Image.open(pixels)), PatientID="4711")
    mask = np.zeros(np.asarray(Image.open(pixels)).shape, np.uint8)
    mask[:9] = 255
    Image.fromarray(mask).save(tmp_path / "masks" / "scan.png")
    options = {"method": "occlusion", "label": "nodule", "masks": tmp_path / "masks", "keep_names": True}
    document = zoo.explain("folders/resnet10t", path, tmp_path / "maps", results=results, device="cpu", **options)
    (row,) = document["images"]
    assert (row["method"], row["label"], row["PatientID"]) == ("occlusion", "nodule", "4711") and "pointing" in row
    with pytest.raises(UsageError, match="unknown method"):
        zoo.explain("folders/resnet10t", path, tmp_path / "other", results=results, device="cpu", method="lime")


def test_names_are_in_a_frame_only_on_request(results, tiny_data, tmp_path):
    pixels = np.asarray(Image.open(next((tiny_data / "folders" / "test").rglob("*.png"))))
    path = write(tmp_path / "scan.dcm", pixels, PatientID="4711")
    model = zoo.load_model("folders/resnet10t", results=results, device="cpu")
    assert model.predict(path, keep_names=True)["PatientID"].tolist() == ["4711"]
    assert "PatientID" not in model.predict(path)


def test_an_audit_gives_a_verdict(tiny_data):
    assert zoo.audit(tiny_data / "folders")["verdict"] in ("ok", "warn")


def test_an_opened_dataset_gives_images(tiny_data):
    dataset = zoo.open_dataset(tiny_data / "folders")
    image = dataset.samples.table["image"].iloc[0]
    assert dataset.samples.read(image).ndim == 2


def test_an_unknown_option_lists_the_options():
    with pytest.raises(UsageError) as caught:
        zoo.bench(models="resnet18", datasets="breastmnist", epochs=3)
    assert "'epochs'" in caught.value.message
    assert "protocol" in caught.value.fix


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_an_interrupted_bench_returns_the_finished_runs(tiny_data, tmp_path):
    process = start(tiny_data / "folders", tmp_path, 300)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("folders/*/*/result.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert "<Leaderboard of" in out, err
    assert not out.startswith("<Leaderboard of 6 runs")


def test_a_board_is_text_in_a_notebook_too(results):
    code = (
        "import builtins, sys, zoo\n"
        "class ZMQInteractiveShell: pass\n"  # by which rich recognizes a notebook
        "builtins.get_ipython = ZMQInteractiveShell\n"
        "print(len(str(zoo.load_results(sys.argv[1]))))"
    )
    done = subprocess.run([sys.executable, "-c", code, results], capture_output=True, text=True, timeout=120)
    assert int(done.stdout) > 500, done.stderr
