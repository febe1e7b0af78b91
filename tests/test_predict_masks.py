"""Masks of new images: `zoo predict` with a model of masks."""

import csv
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_segmentation import squares

import zoo
from zoo.errors import UsageError
from zoo.images.label_maps import read_label_map
from zoo.report.map_statements import NO_EVIDENCE
from zoo.report.new_masks import MaskWriter, count_labels, relative_stem
from zoo.results.store import load_results
from zoo.trained.segmenting import mean_output

BENCH = "--models unet2d --protocol quick --set steps=2 --set batch_size=4 --seeds 0,1 --weights none --folds 1"
BENCH += " --keep-weights all"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images of 40 by 48 pixels with their masks."""
    return squares(tmp_path_factory.mktemp("predict_masks") / "squares", count=32, patients=32)


def train(output_of, data, name, *words):
    """The results of two seeds."""
    output_of("bench", "--datasets", data, *BENCH.split(), *words, "--results", data.parent / name)
    return data.parent / name


@pytest.fixture(scope="module")
def trained(output_of, data):
    return train(output_of, data, "whole")


@pytest.fixture(scope="module")
def trained_on_patches(output_of, data):
    return train(output_of, data, "patches", "--set", "patch=32")


def lines_of(folder):
    with open(Path(folder) / "masks.csv", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["trained", pytest.param("trained_on_patches", marks=pytest.mark.slow)])
def test_the_masks_of_a_run_are_those_that_its_bench_stored(main, data, kind, request):
    trained = request.getfixturevalue(kind)
    result = next(each for each in load_results(trained)[0] if each.run["shown"] == "unet2d" and each.run["seed"] == 1)
    status, _, err = main("predict", result.id[:8], data / "images", "--results", trained, "-o", "masks")
    assert status == 0, err
    test = result.predictions()["test"]
    for row, sample_id in enumerate(test.sample_ids):
        written = read_label_map(Path("masks") / Path(sample_id).name).labels
        np.testing.assert_array_equal(written, test.label_maps[row])
    lines = {Path(line["image"]).name: line for line in lines_of("masks")}
    assert len(lines) == 32
    image = Path(test.sample_ids[0]).name
    assert int(lines[image]["pixels: foreground"]) == np.count_nonzero(test.label_maps[0])
    opened = zoo.load_model(result.id[:8], results=trained, device="cpu")
    (answer,) = opened.segment(data / "images" / image)
    np.testing.assert_array_equal(answer.mask, test.label_maps[0])
    with pytest.raises(UsageError, match="predicts masks"):
        opened.predict(data / "images" / image)
    texts = Image.open(Path("masks") / image).text
    assert texts["Labels"] == "1 = foreground" and "not a medical device" in texts["Disclaimer"]


@pytest.mark.integration
def test_images_that_training_would_refuse_are_refused_and_the_others_predicted(main, data, trained, tmp_path):
    new = tmp_path / "new"
    new.mkdir()
    pixels = np.asarray(Image.open(next((data / "images").iterdir())))
    Image.fromarray(pixels).save(new / "a.png")
    Image.fromarray(np.repeat(pixels, 3, axis=1)).save(new / "wide.png")
    Image.fromarray(pixels.astype(np.uint16)).save(new / "deep.png")
    (new / "damaged.png").write_bytes((new / "a.png").read_bytes()[:200])
    status, _, err = main("predict", "squares/unet2d", new, "--results", trained, "-o", "masks")
    assert status == 3 and "2 predicted by 2 models" in err
    lines = {Path(line["image"]).name: line for line in lines_of("masks")}
    assert {name: line["status"] for name, line in lines.items()} == {
        "a.png": "ok",
        "damaged.png": "refused",
        "deep.png": "refused",
        "wide.png": "ok",
    }
    assert Image.open("masks/wide.png").size == (120, 48) and lines["wide.png"]["outside"] == "other image size"
    assert lines["deep.png"]["mask"] == lines["deep.png"]["pixels: foreground"] == ""
    assert sorted(path.name for path in Path("masks").iterdir()) == ["a.png", "masks.csv", "wide.png"]


@pytest.mark.integration
def test_masks_need_a_new_folder(main, data, trained, golden):
    words = ("predict", "squares/unet2d", data / "images", "--results", trained)
    status, out, err = main(*words)
    assert (status, out) == (2, "")
    golden(err.splitlines()[-1])
    Path("masks").mkdir()
    status, out, err = main(*words, "-o", "masks")
    assert (status, out) == (2, "")
    golden(err.splitlines()[-1])


@pytest.mark.integration
@pytest.mark.slow
def test_a_network_of_patches_is_explained_without_evidence(main, data, trained_on_patches):
    status, _, err = main("explain", "squares/unet2d", data / "images", "--results", trained_on_patches, "-o", "out")
    assert status == 0 and "32 masks and 0 maps" in err and NO_EVIDENCE in err
    document = json.loads(Path("out/maps.json").read_text())
    assert document["statements"] == [NO_EVIDENCE] and document["layer"] is None
    assert {tuple(row["uncertainty"]) for row in document["images"]} == {("entropy", "disagreement")}


@pytest.mark.integration
@pytest.mark.slow
def test_an_exported_network_of_masks_gives_the_same_labels(main, trained):
    pytest.importorskip("onnxscript")
    status, out, err = main("export", "squares/unet2d", "--to", "onnx", "--results", trained, "-o", "exported")
    assert status == 0 and "0 decisions flip" in out, err


def test_the_seeds_decide_by_their_mean_probability():
    sure, unsure = torch.tensor([[[0.0]], [[5.0]]]), torch.tensor([[[1.0]], [[0.0]]])
    assert mean_output([sure]) is sure
    assert mean_output([sure, unsure, unsure]).argmax() == 1


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("new/sub/a.nii.gz", "sub/a"),
        ("new/scan.dcm#12", "scan_12"),
        ("single.png", "single"),
        ("far/away/b.jpg", "b"),
        ("set.npz/test/3", "test/3"),
        ("set.npz/../../3", "3"),
    ],
)
def test_a_mask_has_the_path_of_its_image_below_the_input(name, stem):
    assert relative_stem(name, [Path("new"), Path("single.png"), Path("far/away/b.jpg"), Path("set.npz")]) == stem


@pytest.mark.parametrize("shape", [(30, 40), (64, 256, 256)])
def test_labels_are_counted_without_a_larger_copy_of_the_mask(shape):
    mask = np.random.default_rng(0).integers(0, 3, shape, dtype=np.uint8)
    tracemalloc.start()
    counts = count_labels(mask, 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts == [(mask == label).sum() for label in (1, 2, 3, 4)]
    assert peak < mask.nbytes or mask.ndim == 2


def test_masks_of_one_name_are_numbered(tmp_path):
    writer = MaskWriter(None, None, tmp_path, [Path("new")])
    names = ("new/a.png", "new/a.jpg", "new/A.bmp")  # `A.png` would replace `a.png` on macOS and Windows
    assert [writer.choose_file(name, ".png") for name in names] == ["a.png", "a-2.png", "A-3.png"]
