"""Volumes with labels instead of masks: reading, the cube that each is fitted into, and a board with its bundle."""

import json
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pandas
import pytest
import torch
from folders import open_source

from zoo import BINARY, REGRESSION
from zoo.auditing.external import match_datasets
from zoo.data.cube_pixels import open_cubes
from zoo.data.dataset import Resolution, cache_decoded, describe_fold, open_fold
from zoo.data.opening import open_dataset
from zoo.data.splits import draw_split
from zoo.data.volume_cubes import CUBES_FILE, GRIDS_FILE, Cube, DecodedCubes, decode_cube, decode_cubes, fit_volume
from zoo.errors import DataError, UsageError
from zoo.models.weights import RANDOM
from zoo.registry.lookup import ModelChoice
from zoo.registry.opening import open_registry
from zoo.results.store import load_results
from zoo.runner.choices import check_choices
from zoo.runner.grid import Machine, PlannedModel, plan_run
from zoo.specs.choice import Choice
from zoo.specs.protocol import PROTOCOLS, QUICK3D, SVM
from zoo.specs.transform import TransformSpec
from zoo.system.machine import seed_children
from zoo.trained.card import read_model_card
from zoo.trained.classifying_volumes import fit_into_cube
from zoo.trained.volume_inputs import NewVolume, read_new_volume
from zoo.training.fitting import USES
from zoo.training.volume_batches import CubeBatches

CARD = """
dims = 3
images = "scans/*.nii.gz"
table = "labels.csv"
label = {column = "finding", positive = "ball"}
patient = {column = "patient"}
join = {column = "file"}
"""
SPACING = (1.0, 1.5, 2.0)


def write_set(root, count=48, modality="", seed=0):
    """Ragged volumes of 24 patients, half of them with a bright ball; a table has their labels."""
    random, rows = np.random.default_rng(seed), []
    for number in range(count):
        shape = random.integers(10, 16, 3)
        values = random.normal(100, 10, shape).astype(np.float32)
        if number % 2:
            values[3:7, 3:7, 3:7] += 80
        path = root / "scans" / f"scan_{number:03}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(values, np.diag([*SPACING, 1.0])), path)
        rows.append({"file": path.name, "finding": ["clear", "ball"][number % 2], "patient": f"p{number % 24}"})
    pandas.DataFrame(rows).to_csv(root / "labels.csv", index=False)
    (root / "dataset.toml").write_text(f'modality = "{modality}"\n' + CARD)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("scans"))


@pytest.fixture(scope="module")
def source(folder, tmp_path_factory):
    spec, _ = open_source(folder)
    return open_dataset(spec, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def fold(source, tmp_path_factory):
    cubes = cache_decoded(source, Resolution(12, None), tmp_path_factory.mktemp("decoded"))
    return open_fold(source, draw_split(source), 0, cubes, patch=12)


def open_pixels_of(fold):
    return open_cubes(fold.decoded, fold.volumes.window, "cpu")


# --- reading ---------------------------------------------------------------------------------------------------------
def test_volumes_with_labels_of_a_table_are_a_set_of_volumes(source):
    spec, samples = source.spec, source.samples
    assert (spec.task, spec.dims, spec.channels) == (BINARY, 3, 1)
    assert len(samples.table) == 48 and len(set(source.patients)) == 24
    image = samples.table["image"][0]
    assert samples.volumes(image).ndim == 3 and samples.spacing(image) == SPACING
    assert samples.read(image).ndim == 2  # a slice stands for the volume where it is shown


def test_numbers_of_volumes_are_a_regression(tmp_path):
    root = write_set(tmp_path, count=6)
    pandas.read_csv(root / "labels.csv").assign(finding=np.linspace(1.5, 9.25, 6)).to_csv(root / "labels.csv")
    (root / "dataset.toml").write_text('task = "regression"' + CARD.replace(', positive = "ball"', ""))
    spec, samples = open_source(root)
    assert (spec.task, spec.dims) == (REGRESSION, 3)
    assert samples.targets[0] == 1.5


# --- the cube --------------------------------------------------------------------------------------------------------
def test_a_volume_keeps_its_proportions_in_mm_and_is_centered():
    fitted = fit_volume(np.ones((10, 10, 10, 1), np.float32), (1.0, 1.0, 2.0), Cube(20, None))
    inside = np.argwhere(fitted[..., 0] > 0)
    assert fitted.shape == (20, 20, 20, 1)
    assert inside.min(axis=0).tolist() == [5, 5, 0] and inside.max(axis=0).tolist() == [14, 14, 19]


def test_without_spacing_voxels_are_taken_as_cubes():
    fitted = fit_volume(np.ones((4, 8, 8, 2), np.float32), None, Cube(8, 1.0))
    assert (fitted != 0).sum() == 4 * 8 * 8 * 2


def test_a_voxel_is_not_lost_where_a_volume_becomes_smaller():
    volume = np.zeros((32, 32, 32, 1), np.float32)
    volume[13, 14, 15] = 512.0
    fitted = fit_volume(volume, None, Cube(4, None))
    assert fitted.sum() == pytest.approx(1.0, rel=0.01)  # the mean of 512 voxels


def test_with_a_spacing_of_the_protocol_what_is_beyond_the_cube_is_cut_off():
    volume = np.arange(10, dtype=np.float32)[:, None, None, None] * np.ones((1, 10, 10, 1), np.float32)
    fitted = fit_volume(volume, (1.0, 1.0, 1.0), Cube(4, 1.0))
    assert fitted[:, 0, 0, 0].tolist() == [3.0, 4.0, 5.0, 6.0]


def test_the_spacing_of_a_protocol_may_be_an_integer(source, monkeypatch):
    monkeypatch.setattr("zoo.data.dataset.cache_cubes", lambda source, cube, cache, progress: cube)
    assert cache_decoded(source, Resolution(12, 2), None) == Cube(12, 2)


def test_decoded_volumes_are_standardized_by_their_own_values(source, fold):
    values = source.samples.volumes(source.samples.table["image"][5])
    assert fold.decoded.columns["mean"][5] == pytest.approx(values.mean(), rel=1e-4)
    assert fold.decoded.spacings[5] == SPACING
    pixels = open_pixels_of(fold)
    volumes = pixels.normalize(pixels.batch(torch.tensor([5, 6])))
    assert volumes.shape == (2, 1, 12, 12, 12) and not pixels.clipped
    inside = volumes[0][volumes[0] != 0]
    assert abs(inside.mean()) < 0.2 and 0.5 < inside.std() < 1.2


def test_every_volume_is_decoded_once_and_those_of_unknown_spacing_are_a_note_of_the_result(source, tmp_path):
    decoded, first = [], source.samples.table["image"][0]
    samples = replace(
        source.samples,
        volumes=lambda image: decoded.append(image) or source.samples.volumes(image),
        spacing=lambda image: None if image == first else SPACING,
    )
    opened, split = replace(source, samples=samples), draw_split(source)
    cubes = cache_decoded(opened, Resolution(12, 2.0), tmp_path)
    assert sorted(decoded) == sorted(samples.table["image"])
    notes = describe_fold(open_fold(opened, split, 0, cubes, patch=12), opened, split)["notes"]
    assert any(
        "the size of the voxels of 1 of 48 volumes is unknown: they are taken as cubes" in note for note in notes
    )


def test_a_volume_is_decoded_into_its_cube_without_a_copy_of_it_in_64_bits():
    values = np.zeros((512, 64, 64), np.int16)
    values[::2] = 1
    samples = SimpleNamespace(table={"image": pandas.Series(["a"])}, volumes=lambda image: values, spacing=None)
    tracemalloc.start()
    decoded = decode_cube(SimpleNamespace(samples=samples, sample_ids=["a"]), Cube(16, None), 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert decoded.mean == decoded.std == 0.5 and peak < 0.75 * 8 * values.size


def test_only_the_cubes_in_work_are_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.data.volume_cubes.num_cores", lambda: 2)
    names = [str(number) for number in range(64)]
    values = np.arange(64.0).reshape(4, 4, 4)
    samples = SimpleNamespace(table={"image": pandas.Series(names)}, volumes=lambda image: values, spacing=None)
    tracemalloc.start()
    decode_cubes(SimpleNamespace(samples=samples, sample_ids=names), Cube(32, None), tmp_path, None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * (tmp_path / CUBES_FILE).stat().st_size


@pytest.mark.parametrize("spacing", [None, 2.0])
def test_a_new_volume_is_read_as_the_bench_decoded_those_of_training(source, folder, tmp_path, spacing):
    decoded = DecodedCubes(cache_decoded(source, Resolution(12, spacing), tmp_path))
    facts = {"patch": [12] * 3, "spacing": spacing and [spacing] * 3, "in_mm": True, "sides": [[1] * 3, [99] * 3]}
    card = SimpleNamespace(volumes=facts, channels=1)
    voxels = np.load(decoded.path, mmap_mode="r")
    for row in (0, 7):
        path = folder / source.sample_ids[row]
        cube = fit_into_cube(card, read_new_volume(NewVolume(name=path.name, files=(path,)), card))
        np.testing.assert_array_equal(cube.voxels, voxels[row])
        for name in ("mean", "std", "shape", "spacing"):
            np.testing.assert_array_equal(getattr(cube, name), decoded.columns[name][row])


def test_a_window_of_ct_comes_from_the_voxels_of_train(tmp_path):
    opened = open_dataset(open_source(write_set(tmp_path / "ct", modality="CT"))[0], tmp_path / "cache")
    cubes = cache_decoded(opened, Resolution(12, None), tmp_path / "cache")
    fold = open_fold(opened, draw_split(opened), 0, cubes, patch=12)
    low, high = fold.volumes.window
    assert 70 < low < 90 and 150 < high < 200
    volumes = open_pixels_of(fold).batch(torch.arange(8))
    assert volumes.min() >= -2 and volumes.max() == 2


# --- training and testing --------------------------------------------------------------------------------------------
def test_a_window_is_measured_at_all_places_of_the_cubes(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.data.volume_cubes.MAX_WINDOW_VOXELS", 32)  # every fourth voxel of two cubes
    np.save(tmp_path / CUBES_FILE, np.broadcast_to(np.arange(1, 5, dtype=np.float16)[:, None], (2, 4, 4, 4, 1)))
    np.savez(tmp_path / GRIDS_FILE, mean=np.zeros((2, 1)), std=np.ones((2, 1)))
    low, high = DecodedCubes(tmp_path / CUBES_FILE).measure_window(np.ones(2, bool))
    assert (low, high) == (1.0, 4.0)


def test_an_interrupted_training_draws_the_same_volumes(fold):
    protocol = replace(QUICK3D, augmentation="one-of")
    half = Choice(spec=TransformSpec(name="half", augment=lambda images, draws: images / 2, dims=(3,)), plugin="odd")
    first, second, plain = (
        CubeBatches(fold, open_pixels_of(fold), protocol, seed_children(0, *USES), {"transforms": transforms})
        for transforms in ((half,), (half,), ())
    )
    state = first.state()
    planned = first.plan(3)
    second.restore(state)
    again = second.plan(3)
    for name, tensor in planned.tensors().items():
        assert torch.equal(tensor, again.tensors()[name])
    one = first.unpack({name: tensor[0] for name, tensor in planned.tensors().items()})
    volumes, targets = first.compute(one)
    assert volumes.shape == (8, 1, 12, 12, 12)
    unchanged, _ = plain.compute(one)
    lowest = unchanged.amin(dim=(1, 2, 3, 4), keepdim=True)
    torch.testing.assert_close(volumes - lowest, (unchanged - lowest) / 2, atol=1e-5, rtol=0)
    assert torch.equal(targets, torch.from_numpy(fold.targets)[one.rows])


def plan_on(source, model, protocol=QUICK3D):
    spec = open_registry().find("model", model)
    machine = Machine(device_kind="cpu", threads=1, precision="fp32")
    choice = ModelChoice(name=model, shown=model, spec=spec, weights=None)
    planned = PlannedModel(choice=choice, weights=RANDOM, protocol=protocol, seeds=(0,), machine=machine)
    return plan_run(planned, source, draw_split(source), 0, 0, "auroc")


@pytest.mark.integration
def test_a_model_of_images_is_refused_with_the_two_ways_on(source):
    with pytest.raises(UsageError) as caught:
        plan_on(source, "zoo-torchvision:resnet18")
    assert caught.value.code == "wrong-dims"
    assert "resnet18_3d" in caught.value.fix and "dims = 2" in caught.value.fix


def test_mixup_is_refused_for_volumes(source):
    with pytest.raises(UsageError) as caught:
        check_choices(replace(QUICK3D, mixup=0.2), {}, source)
    assert caught.value.code == "wrong-dims"


def test_requested_protocols_have_a_recipe_for_volumes():
    by_name = {protocol.name: protocol for protocol in PROTOCOLS}
    for requested in ("finetune", "scratch", "quick", "linear-probe", "knn"):
        assert by_name[BINARY.recipe(requested, 3)].dims == 3
        assert by_name[BINARY.recipe(requested, 2)].dims == 2


def test_models_of_volumes_are_not_tested_on_images(source):
    images = replace(source, spec=replace(source.spec, dims=2, name="images"))
    with pytest.raises(DataError) as caught:
        match_datasets(source, images, None, {}, name="images")
    assert caught.value.code == "wrong-dims"


PLUGIN = """
from zoo import ModelSpec, hookimpl


def build(request):
    from torch import nn

    return nn.Sequential(
        nn.Conv3d(request.channels, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.AdaptiveMaxPool3d(2),
        nn.Flatten(), nn.Linear(64, request.num_outputs),
    )


@hookimpl
def register_models():
    return [ModelSpec(name="small_3d", build=build, dims=(3,), channels=1, mean=(0.0,), std=(1.0,), classifier="5")]
"""


def zoo(*command, cwd):
    done = subprocess.run([sys.executable, "-m", "zoo", *command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """A folder with the results of a bench, and the board that it printed."""
    place = tmp_path_factory.mktemp("trained")
    (place / "small.py").write_text(PLUGIN)
    other = write_set(place / "other", count=24, seed=1)
    options = ["--protocol", "quick", "--weights", "none", "--seeds", "2", "--folds", "1", "--set", "steps=60"]
    options += ["--set", "image_size=12"]
    command = ["bench", "-d", str(folder), "-m", "small_3d", "--plugin", "small.py", "--test-on", str(other)]
    command += ["--keep-weights", "all", "--offline", "--distinct-patients"]
    return place, zoo(*command, *options, cwd=place).stdout


@pytest.mark.integration
@pytest.mark.slow
def test_volumes_with_labels_get_a_board_an_external_board_and_a_bundle(trained):
    place, board = trained
    assert "quick3d@" in board and "thumbnails" in board and "constant" in board
    zoo("report", "--predictions", "out.csv", cwd=place)
    assert len(pandas.read_csv(place / "out.csv")) > 0
    zoo("bundle", "shared.zip", cwd=place)
    zoo("verify", "shared.zip", cwd=place)


def small_runs(place, tested_on=""):
    return [
        each
        for each in load_results(place / "results")[0]
        if each.run["shown"] == "small_3d" and each.run["tested_on"] == tested_on
    ]


def predicted(main, place, *command, results="results"):
    """The answers of `zoo predict`, which succeeds, with the probability of a ball."""
    status, _, err = main("predict", *command, *options_in(place, results), "-o", "answers.csv")
    assert status == 0, err
    return pandas.read_csv("answers.csv")


def options_in(place, results="results"):
    return "--plugin", place / "small.py", "--results", place / results


@pytest.mark.integration
@pytest.mark.slow
def test_new_volumes_get_the_answers_of_the_bench(main, trained, folder):
    place, _ = trained
    for tested_on, root in (("", folder), ("other", place / "other")):
        runs = small_runs(place, tested_on)
        stored = [each.predictions()["test"] for each in runs]
        answers = predicted(main, place, f"{folder.name}/small_3d", *[root / name for name in stored[0].sample_ids])
        mean = np.mean([each.probabilities for each in stored], axis=0)
        assert (answers.status == "ok").all() and len(runs) == 2
        np.testing.assert_allclose(answers["probability: ball"], mean[:, 0], atol=1e-4)
        assert answers.distance.notna().all()


@pytest.mark.integration
@pytest.mark.slow
def test_what_training_would_refuse_is_refused_and_not_explained(main, trained, folder, tmp_path):
    place, _ = trained
    new = tmp_path / "new"
    new.mkdir()
    values = np.zeros((12, 12, 12), np.float32)
    np.save(new / "unsized.npy", values)
    nibabel.save(nibabel.Nifti1Image(np.stack([values, values], -1), np.eye(4)), new / "two.nii.gz")
    nibabel.save(nibabel.Nifti1Image(values, np.diag([9.0, 9.0, 9.0, 1.0])), new / "huge.nii.gz")
    command = [f"{folder.name}/small_3d", new, *options_in(place)]
    assert main("predict", *command, "-o", "new.csv")[0] == 3
    answers = pandas.read_csv("new.csv", index_col="image").rename(index=lambda name: Path(name).name)
    assert answers.status.to_dict() == {"unsized.npy": "refused", "two.nii.gz": "refused", "huge.nii.gz": "ok"}
    assert "unknown" in answers.problem["unsized.npy"] and "2 channels" in answers.problem["two.nii.gz"]
    assert "other image size" in answers.outside["huge.nii.gz"]
    status, _, err = main("explain", *command, "-o", "maps")
    assert status == 3 and err.count("zoo: refused: ") == 2 and "1 maps by" in err


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("target", ["torch-export", "hub-folder", "onnx"])
def test_models_of_whole_volumes_are_exported_and_predict_the_same(main, trained, folder, target):
    if target == "onnx":
        pytest.importorskip("onnxscript")
    place, _ = trained
    status, _, err = main("export", f"{folder.name}/small_3d", "--to", target, "-o", target, *options_in(place))
    assert status == 0, err
    parity = json.loads((Path(target) / "parity.json").read_text())
    assert parity["images"] == 2 and parity["largest_difference"] <= 1e-3
    assert parity["input"]["shape"] == ["batch", 1, 12, 12, 12] and "cut off" in parity["input"]["padding"]
    if target == "hub-folder":
        assert "a cube of 12 x 12 x 12 voxels" in (Path(target) / "README.md").read_text()
        (run,) = [each for each in small_runs(place) if each.id == read_model_card(Path(target)).run]
        test = run.predictions()["test"]
        answers = predicted(main, place, target, *[folder / name for name in test.sample_ids])
        np.testing.assert_allclose(answers["probability: ball"], test.probabilities[:, 0], atol=1e-4)


@pytest.mark.integration
@pytest.mark.slow
def test_heads_on_frozen_features_of_volumes_are_trained_kept_and_predict_the_same(main, trained, folder):
    place, _ = trained
    options = ["--protocol", "linear-probe,knn", "--set", "image_size=12", "--weights", "none", "--seeds", "1"]
    options += ["--folds", "1", "--results", "frozen"]
    zoo("bench", "-d", str(folder), "-m", "small_3d", "--plugin", "small.py", *options, "--offline", cwd=place)
    runs = [each for each in load_results(place / "frozen")[0] if each.run["shown"] == "small_3d"]
    assert {each.run["protocol"]["name"] for each in runs} == {"linear-probe3d", "knn3d"}
    for run in runs:
        test = run.predictions()["test"]
        paths = [folder / name for name in test.sample_ids]
        answers = predicted(main, place, run.id[:8], *paths, results="frozen")
        np.testing.assert_allclose(answers["probability: ball"], test.probabilities[:, 0], atol=1e-4)


@pytest.mark.integration
def test_a_protocol_of_images_is_refused_before_anything_is_trained(source):
    with pytest.raises(UsageError) as caught:
        plan_on(source, "zoo-torchvision:resnet18_3d", SVM)
    assert caught.value.code == "wrong-dims" and "linear-probe or knn" in caught.value.fix
