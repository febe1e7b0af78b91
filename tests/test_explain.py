"""`zoo explain`: maps of the bench's models, and one line for what cannot be explained."""

import json

import numpy as np
import pytest
from dicom_files import write
from html_pages import Page
from PIL import Image

from zoo.results.store import load_results

pytestmark = pytest.mark.integration

SETS = ("folders", "multilabel", "ordinal", "regression")


@pytest.fixture(scope="module")
def trained(zoo, tiny_data, tmp_path_factory):
    """Results of several tasks by fine-tuning, and of one by a vote of neighbors."""
    folder = tmp_path_factory.mktemp("explained")
    common = ("--models", "tiny_cnn", "--weights", "none", "--seeds", "1", "--results", folder)
    data = ",".join(str(tiny_data / name) for name in SETS)
    budget = ("--protocol", "quick", "--set", "steps=6", "--set", "rounds=1", "--set", "image_size=32")
    for rest in ((data, *budget), (tiny_data / "folders", "--protocol", "knn", "--set", "image_size=32")):
        done = zoo("bench", *common, "--datasets", *rest)
        assert done.returncode == 0, done.stderr
    return folder


QUICK = "tiny_cnn/quick@2+image_size=32+rounds=1+steps=6"


@pytest.fixture
def explain(zoo, trained, tmp_path):
    """Run `zoo explain`; return its process and, if it wrote one, the folder with its document."""
    output = tmp_path / "maps"

    def run(model, *arguments):
        done = zoo("explain", model, *arguments, "-o", output, "--results", trained)
        path = output / "maps.json"
        return done, json.loads(path.read_text()) if path.exists() else None

    return run


@pytest.fixture(scope="module")
def some(tiny_data):
    return sorted((tiny_data / "folders" / "test").rglob("*.png"))[:12]


@pytest.fixture(scope="module")
def explained(zoo, trained, some, tmp_path_factory):
    """What the command says about some images, the folder it writes and its document."""
    folder = tmp_path_factory.mktemp("some") / "maps"
    done = zoo("explain", f"folders/{QUICK}", *some, "-o", folder, "--results", trained)
    assert done.returncode == 0, done.stderr
    return done.stderr, folder, json.loads((folder / "maps.json").read_text())


# --- what is explained -----------------------------------------------------------------------------------------------
def test_each_image_has_a_picture_a_map_and_its_answer(explained, some):
    said, folder, document = explained
    assert [row["image"] for row in document["images"]] == [str(path) for path in some]
    first = document["images"][0]
    assert (first["layer"], first["grid"], first["method"]) == ("pool", 2, "grad-cam")
    assert first["decided"] is True and first["label"] in ("clear", "nodule") and 0 < first["probability"] < 1
    height, width = np.asarray(Image.open(some[0])).shape[:2]
    stored = Image.open(folder / first["map"])
    assert stored.mode == "I;16" and max(stored.size) == 32
    assert stored.size[0] / stored.size[1] == pytest.approx(width / height, abs=0.1)
    assert np.asarray(stored).max() in (0, 65535)
    assert Image.open(folder / first["overlay"]).mode == "RGB"
    assert all("not a medical device" in Image.open(path).text["Disclaimer"] for path in folder.glob("*.png"))
    assert "not a medical device" in said and "not a medical device" in document["notice"]


def test_the_page_is_one_file_with_the_numbers(explained):
    _, folder, document = explained
    page = Page((folder / "index.html").read_text())
    assert len(page.all("img")) == 12 and all(each["src"].startswith("data:") for each in page.all("img"))
    assert all(sentence in page.text for sentence in document["statements"])
    assert "not a medical device" in page.text


def test_numbers_stand_beside_those_of_the_center(explained):
    _, _, document = explained
    numbers = document["numbers"]
    assert numbers["maps"] == 12 and numbers["num_layers"] == 2
    for name in ("insertion", "deletion"):
        comparison = numbers["comparisons"][name]
        sign = -1 if name == "deletion" else 1
        assert comparison["better"] == pytest.approx(sign * (comparison["map"] - comparison["center"]))
    assert numbers["comparisons"]["pointing"] is None
    assert document["statements"][-2].startswith("No masks")


@pytest.mark.parametrize("name", ["ordinal", "regression", "multilabel"])
def test_every_task_is_explained(explain, tiny_data, name):
    images = sorted((tiny_data / name).rglob("*.png"))[:4]
    done, document = explain(f"{name}/{QUICK}", *images)
    assert done.returncode == 0, done.stderr
    rows = document["images"]
    assert {row["image"] for row in rows} == {str(path) for path in images}
    if name == "regression":
        assert {row["label"] for row in rows} == {"age"} and all("value" in row for row in rows)
        assert "insertion" not in document["numbers"]["comparisons"]
    else:
        assert all(0 <= row["probability"] <= 1 for row in rows)


def test_a_requested_label_is_explained_in_every_image(explain, some):
    _, document = explain(f"folders/{QUICK}", *some, "--label", "nodule")
    assert {row["label"] for row in document["images"]} == {"nodule"}
    assert {row["decided"] for row in document["images"]} <= {True, False}


def test_without_images_test_images_are_explained_as_the_bench_answered_them(explain, trained, tiny_data):
    done, document = explain(f"folders/{QUICK}", "--data", tiny_data / "folders")
    assert done.returncode == 0, done.stderr
    (run,) = [r for r in load_results(trained)[0] if r.id == document["run"]]
    test, labels = run.predictions()["test"], ("clear", "nodule")
    stored = dict(zip(test.sample_ids.tolist(), test.probabilities, strict=True))
    assert len(document["images"]) == 24
    for row in document["images"]:
        assert row["probability"] == pytest.approx(stored[row["image"]][labels.index(row["label"])], abs=1e-6)


# --- masks -----------------------------------------------------------------------------------------------------------
def write_masks(folder, images, size=None, rows=(0, 0.5)):
    """Masks of some rows, as shares of the height."""
    folder.mkdir()
    for path in images:
        shape = size or np.asarray(Image.open(path)).shape[:2]
        mask = np.zeros(shape, np.uint8)
        mask[slice(*(round(shape[0] * share) for share in rows))] = 255
        Image.fromarray(mask).save(folder / f"{path.stem}.png")
    return folder


def test_masks_by_stem_give_the_pointing_game(explain, some, tmp_path):
    _, document = explain(f"folders/{QUICK}", *some, "--masks", write_masks(tmp_path / "masks", some[:10]))
    located = [row for row in document["images"] if "pointing" in row]
    assert len(located) == 10
    assert all(row["center_mass"] == pytest.approx(0.5, abs=0.02) for row in located)
    assert document["numbers"]["comparisons"]["pointing"]["images"] == 10


def test_maps_of_a_network_that_has_not_learned_are_flagged(explain, some, tmp_path):
    masks = write_masks(tmp_path / "masks", some, rows=(0.4, 0.6))  # where the center is
    done, document = explain(f"folders/{QUICK}", *some, "--masks", masks)
    assert document["numbers"]["comparisons"]["pointing"]["center"] == 1
    assert document["statements"][0].startswith("The maps do not beat the center of the image")
    assert document["statements"][0] in done.stderr


def test_masks_that_fit_no_image_are_refused(explain, some, tmp_path):
    small = explain(f"folders/{QUICK}", some[0], "--masks", write_masks(tmp_path / "small", some[:1], (5, 5)))
    assert small[0].returncode == 4 and "error[masks]" in small[0].stderr and "5 x 5 pixels" in small[0].stderr
    other = explain(f"folders/{QUICK}", some[0], "--masks", write_masks(tmp_path / "other", some[1:2]))
    assert other[0].returncode == 2 and "no mask has the stem of an image" in other[0].stderr


# --- what cannot be explained ----------------------------------------------------------------------------------------
def test_what_predict_refuses_is_refused_by_name_and_the_rest_is_explained(explain, some, tmp_path):
    (tmp_path / "cut.png").write_bytes(some[0].read_bytes()[:60])
    Image.fromarray(np.zeros((1, 1), np.uint8)).save(tmp_path / "dot.png")
    done, document = explain(f"folders/{QUICK}", some[0], tmp_path / "cut.png", tmp_path / "dot.png")
    assert done.returncode == 3
    status = {row["image"].rpartition("/")[2]: row["status"] for row in document["images"]}
    assert status == {some[0].name: "ok", "cut.png": "refused", "dot.png": "ok"}
    dot = document["images"][2]
    assert "other image size" in dot["outside"]


def test_an_existing_folder_is_not_overwritten(explain, some, tmp_path):
    (tmp_path / "maps").mkdir()
    done, _ = explain(f"folders/{QUICK}", some[0])
    assert done.returncode == 2 and "exists already" in done.stderr


@pytest.mark.parametrize("flags", [(), ("--keep-names",)])
def test_names_of_patients_are_kept_only_on_request(explain, some, tmp_path, flags):
    path = tmp_path / "scan.dcm"
    uid = "1.2.826.0.1.4242"
    write(path, np.asarray(Image.open(some[0])), PatientName="Doe^Jane", PatientID="4711", SeriesInstanceUID=uid)
    done, document = explain(f"folders/{QUICK}", path, *flags)
    assert done.returncode == 0, done.stderr
    assert document["images"][0].get("PatientName") == ("Doe^Jane" if flags else None)
    written = b"".join(each.read_bytes() for each in (tmp_path / "maps").iterdir())
    assert {value in written for value in (b"Doe", uid.encode())} == {bool(flags)}
    assert document["images"][0].get("PatientID") == ("4711" if flags else None)


def test_slices_of_one_patient_count_as_one_patient(explain, some, tmp_path):
    paths = [tmp_path / "scans" / f"{number}.dcm" for number in range(12)]
    for number, path in enumerate(paths):
        write(path, np.asarray(Image.open(some[number])), PatientID=f"P{number % 2}")
    done, document = explain(f"folders/{QUICK}", tmp_path / "scans")
    assert done.returncode == 0, done.stderr
    insertion = document["numbers"]["comparisons"]["insertion"]
    assert (insertion["images"], insertion["patients"], insertion["beats_center"]) == (12, 2, None)
    assert "Too few patients" in done.stderr and "P1" not in json.dumps(document)


def test_with_folds_one_model_is_explained_and_named(zoo, tiny_data, tmp_path):
    common = ("--results", tmp_path / "results")
    done = zoo(
        *("bench", "--models", "tiny_cnn", "--weights", "none", "--datasets", tiny_data / "patients", "--folds", "2"),
        *("--protocol", "quick", "--set", "steps=2", "--set", "rounds=1", "--set", "image_size=32", "--seeds", "1"),
        *("--metrics", "auroc", *common),
    )
    assert done.returncode == 0, done.stderr
    images = sorted((tiny_data / "patients").rglob("*.png"))[:2]
    done = zoo("explain", "patients/tiny_cnn", *images, "-o", tmp_path / "maps", *common)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "maps" / "maps.json").read_text())
    named = f"{document['run'][:8]}, seed 0, fold {document['fold'] + 1} of 2"
    assert named in done.stderr and named in Page((tmp_path / "maps" / "index.html").read_text()).text


def test_only_refused_images_exit_4(explain, tmp_path):
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n")
    done, document = explain(f"folders/{QUICK}", tmp_path / "cut.png")
    assert done.returncode == 4 and document["numbers"]["maps"] == 0


@pytest.mark.parametrize(
    ("model", "arguments", "status", "expected"),
    [
        ("folders/constant", (), 2, "error[unknown-model]"),
        (f"folders/{QUICK}", ("--label", "tumor"), 2, "error[unknown-label]"),
        (f"folders/{QUICK}", (), 2, "error[no-dataset]"),
        ("folders/tiny_cnn/knn@1+image_size=32", ("--data", "folders"), 3, "error[no-map]"),
    ],
)
def test_what_cannot_be_explained_is_one_line(explain, tiny_data, model, arguments, status, expected):
    paths = [tiny_data / each if each == "folders" else each for each in arguments]
    done, document = explain(model, *paths)
    assert done.returncode == status and document is None
    assert expected in done.stderr and "Traceback" not in done.stderr


def test_integrated_gradients_of_a_vote_of_neighbors_are_one_line(explain, some):
    pytest.importorskip("captum")
    done, document = explain("folders/tiny_cnn/knn@1+image_size=32", some[0], "--method", "integrated-gradients")
    assert done.returncode == 3 and document is None
    assert "error[no-map]" in done.stderr and "Traceback" not in done.stderr


def test_a_model_without_weights_is_one_line(zoo, trained, some, tmp_path):
    import shutil

    shutil.copytree(next(trained.glob("folders/tiny_cnn*/quick*")), tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    done = zoo("explain", tmp_path / "run", some[0], "-o", tmp_path / "maps")
    assert done.returncode == 5 and "error[no-weights]" in done.stderr
    assert not (tmp_path / "maps").exists()


# --- captum ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["integrated-gradients", "occlusion"])
def test_captum_methods_explain_the_input_itself(explain, some, method):
    pytest.importorskip("captum")
    done, document = explain(f"folders/{QUICK}", *some[:2], "--method", method)
    assert done.returncode == 0, done.stderr
    assert {(row["method"], row["layer"]) for row in document["images"]} == {(method, None)}
    assert all(row["maximum"] > 0 for row in document["images"])


def test_a_vote_of_neighbors_is_explained_by_occlusion(explain, some):
    pytest.importorskip("captum")
    done, document = explain("folders/tiny_cnn/knn@1+image_size=32", *some[:2], "--method", "occlusion")
    assert done.returncode == 0, done.stderr
    assert len(document["images"]) == 2


# --- on the page of a board ------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def page(zoo, tiny_data, tmp_path_factory):
    """The page of a board with a kept model and one without weights, on images that may be shared."""
    import shutil

    root = tmp_path_factory.mktemp("page")
    shutil.copytree(tiny_data / "ordinal", root / "ordinal")
    with open(root / "ordinal" / "dataset.toml", "a", encoding="utf-8") as card:
        card.write("share_images = true\n")
    quick = ("--protocol", "quick", "--set", "steps=6", "--set", "rounds=1", "--set", "image_size=32", "--seeds", "1")
    common = ("--datasets", root / "ordinal", "--weights", "none", "--results", root / "results", *quick)
    for model, keep in (("tiny_cnn", "best"), ("tiny_pretrained", "none")):
        done = zoo("bench", "--models", model, "--keep-weights", keep, *common)
        assert done.returncode == 0, done.stderr
    command = ("report", "--results", root / "results", "--format", "html", "--data", root / "ordinal")
    done = zoo(*command, "--explain", "--output", root / "board.html")
    assert done.returncode == 0, done.stderr
    return (root / "board.html").read_text(encoding="utf-8")


def test_a_page_shows_maps_of_kept_models_and_says_why_there_are_none_of_others(page):
    shown = Page(page)
    maps = [each for each in shown.all("img") if each["alt"].startswith("where the evidence for")]
    assert 3 <= len(maps) <= 6 and all(each["src"].startswith("data:image/jpeg") for each in maps)
    assert "seed 0: Grad-CAM of pool, 2 x 2 positions" in shown.text
    assert shown.text.count("layer pool, seed 0") == len(maps)
    assert "No masks: whether the maps show the findings was not tested." in shown.text
    assert "No maps of tiny_pretrained: no weights of its runs are kept here" in shown.text


def test_explain_needs_a_page_with_images(zoo, trained):
    assert zoo("report", "--results", trained, "--explain").returncode == 2
    assert zoo("report", "--results", trained, "--explain", "--no-images", "--format", "html").returncode == 2


# --- a network that has learned --------------------------------------------------------------------------------------
@pytest.mark.slow
def test_maps_of_a_trained_resnet_beat_the_center_on_phantom(zoo, tmp_path):
    """72 steps at 64 pixels with a small stem, so a map of 8 x 8 positions: under four minutes of a processor."""
    done = zoo(
        *("bench", "--models", "zoo-timm:resnet18", "--weights", "none", "--datasets", "phantom", "--seeds", "1"),
        *("--protocol", "quick", "--set", "stem=small", "--set", "steps=72", "--set", "rounds=2"),
        *("--results", tmp_path / "results"),
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    done = zoo("explain", "phantom/resnet18", "-o", tmp_path / "maps", "--results", tmp_path / "results", timeout=1800)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "maps" / "maps.json").read_text())["numbers"]
    assert numbers["comparisons"]["pointing"]["beats_center"] is True
    assert numbers["comparisons"]["mass"]["beats_center"] is True
    assert numbers["survives_randomization"] is False
