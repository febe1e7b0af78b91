"""Matching an external test set to a training set: labels, channels and levels."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from test_segmentation import squares

from zoo.auditing.external import (
    describe_external,
    find_levels,
    keep,
    match_datasets,
    match_labels,
    open_external,
    read_gray,
    require_inputs,
)
from zoo.data.dataset import describe_fold, open_fold
from zoo.data.decoded import cache_images
from zoo.data.fingerprints import take_fingerprints
from zoo.data.opening import open_dataset
from zoo.data.splits import draw_split
from zoo.errors import DataError, UsageError
from zoo.sources.opening import find_source


def write(root, labels, *, splits=("train", "val", "test"), count=6, seed=0, bits=8, color=False):
    """Write `count` random images per split and label in class folders."""
    random = np.random.default_rng(seed)
    for split in splits or ("",):
        for label in labels:
            folder = root / split / label
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                shape = (16, 16, 3) if color else (16, 16)
                levels = random.integers(0, 4096 if bits == 16 else 256, shape)
                Image.fromarray(levels.astype(np.uint16 if bits == 16 else np.uint8)).save(folder / f"{number}.png")
    return root


def opened(root):
    source = open_dataset(find_source(root), root.parent / "cache", offline=True)
    return source, take_fingerprints(source, root.parent / "cache")


def matched(trained, tested, label_map=(), name=None):
    source, fingerprints = opened(tested)
    return match_datasets(opened(trained)[0], source, fingerprints, dict(label_map), name=name or tested.name)


@pytest.fixture
def trained(tmp_path):
    return write(tmp_path / "a", ("normal", "pneumonia"))


# --- labels ----------------------------------------------------------------------------------------------------------
def test_labels_match_regardless_of_case_and_hyphens(trained, tmp_path):
    external = matched(trained, write(tmp_path / "b", ("Pneu-monia", "NORMAL"), splits=()))
    assert external.labels == {"NORMAL": "normal", "Pneu-monia": "pneumonia"}
    targets = dict(zip(external.source.sample_ids, external.source.samples.targets, strict=True))
    assert targets["NORMAL/0.png"] == 0 and targets["Pneu-monia/0.png"] == 1


def test_several_labels_can_be_mapped_to_one(trained, tmp_path):
    tested = write(tmp_path / "b", ("bacterial", "viral", "normal", "covid"), splits=())
    external = matched(trained, tested, {"bacterial": "pneumonia", "viral": "pneumonia"})
    assert np.bincount(external.source.samples.targets).tolist() == [6, 12]
    assert external.left_out == {"covid": 6}
    assert external.notes == ("without a counterpart in a, left out: 'covid' (6 images)",)


def test_a_label_mapped_to_nothing_is_left_out(trained, tmp_path):
    external = matched(trained, write(tmp_path / "b", ("normal", "pneumonia"), splits=()), {"normal": ""})
    assert external.left_out == {"normal": 6} and set(external.source.samples.targets) == {1}


def test_the_label_map_of_a_card_is_used(trained, tmp_path):
    tested = write(tmp_path / "b", ("viral", "normal"), splits=())
    (tested / "dataset.toml").write_text('images = "{label}/*.png"\nlabel_map = {viral = "pneumonia"}\n')
    assert matched(trained, tested).labels == {"normal": "normal", "viral": "pneumonia"}


def test_a_card_that_maps_an_unknown_label_is_refused(tmp_path):
    tested = write(tmp_path / "b", ("viral", "normal"), splits=())
    (tested / "dataset.toml").write_text('images = "{label}/*.png"\nlabel_map = {vral = "pneumonia"}\n')
    with pytest.raises(DataError) as caught:
        find_source(tested)
    assert "label_map" in caught.value.message and "'vral'" in caught.value.message


@pytest.mark.parametrize(
    ("label_map", "label", "suggestion"),
    [({"virl": "pneumonia"}, "'virl'", "'viral'"), ({"viral": "pneumona"}, "'pneumona'", "'pneumonia'")],
)
def test_a_label_map_with_an_unknown_label_is_a_usage_error(trained, tmp_path, label_map, label, suggestion):
    with pytest.raises(UsageError) as caught:
        matched(trained, write(tmp_path / "b", ("viral", "normal"), splits=()), label_map)
    assert label in caught.value.message and suggestion in caught.value.fix


def test_no_label_in_common_is_an_error(trained, tmp_path, golden):
    with pytest.raises(DataError) as caught:
        matched(trained, write(tmp_path / "b", ("cat", "dog"), splits=()))
    assert caught.value.code == "no-label-in-common"
    golden(caught.value)


def test_different_tasks_are_an_error(trained, tiny_data):
    source, fingerprints = opened(tiny_data / "regression")
    with pytest.raises(DataError) as caught:
        match_datasets(opened(trained)[0], source, fingerprints, {}, name="regression")
    assert caught.value.code == "wrong-task"


def test_unknown_multilabel_targets_stay_unknown(tmp_path, tiny_data):
    for name in ("multilabel", "other"):
        shutil.copytree(tiny_data / "multilabel", tmp_path / name)
    table = tmp_path / "other" / "table.csv"
    table.write_text(table.read_text().replace("file,mass,fluid,air", "file,Mass,gas,fluids"))
    card = tmp_path / "other" / "dataset.toml"
    card.write_text(card.read_text().replace('"mass", "fluid", "air"', '"Mass", "gas", "fluids"'))
    external = matched(tmp_path / "multilabel", tmp_path / "other", {"fluids": "fluid", "gas": "fluid"})
    theirs = opened(tmp_path / "other")[0].samples.targets[external.rows]
    mass, fluid, air = external.source.samples.targets.T
    np.testing.assert_array_equal(mass, theirs[:, 0])
    assert np.isnan(air).all()
    for gas, fluids, joined in zip(theirs[:, 1], theirs[:, 2], fluid, strict=True):
        known = [value for value in (gas, fluids) if not np.isnan(value)]
        expected = 1.0 if 1.0 in known else 0.0 if len(known) == 2 else np.nan
        np.testing.assert_equal(joined, expected)
    assert not np.isnan(external.source.samples.targets).all(axis=1).any()


def test_a_number_matches_a_number_of_the_same_name(tmp_path, tiny_data):
    shutil.copytree(tiny_data / "regression", tmp_path / "other")
    assert len(matched(tiny_data / "regression", tmp_path / "other").rows) == 160
    table, card = tmp_path / "other" / "table.csv", tmp_path / "other" / "dataset.toml"
    table.write_text(table.read_text().replace("age", "weight"))
    card.write_text(card.read_text().replace("age", "weight"))
    with pytest.raises(DataError, match="'other'") as caught:
        matched(tiny_data / "regression", tmp_path / "other")
    assert caught.value.code == "no-label-in-common"


# --- images ----------------------------------------------------------------------------------------------------------
def test_the_test_suffix_selects_the_official_test_split(trained, tmp_path):
    tested = write(tmp_path / "b", ("normal", "pneumonia"))
    assert len(matched(trained, tested).rows) == 36
    alone = matched(trained, tested, name="b:test")
    assert {name.split("/")[0] for name in alone.source.sample_ids} == {"test"} and len(alone.rows) == 12
    with pytest.raises(DataError, match="'c': no official test split"):
        matched(trained, write(tmp_path / "c", ("normal", "pneumonia"), splits=()), name="c:test")


def test_the_hash_depends_on_images_and_label_map(trained, tmp_path):
    tested = write(tmp_path / "b", ("viral", "normal"), splits=())
    one = matched(trained, tested, {"viral": "pneumonia"})
    assert matched(trained, tested, {"viral": "pneumonia"}).hash == one.hash
    assert matched(trained, tested, {"viral": "pneumonia", "normal": "pneumonia"}).hash != one.hash
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tested / "viral" / "0.png")
    assert matched(trained, tested, {"viral": "pneumonia"}).hash != one.hash


def test_the_hash_depends_on_the_tolerance_of_the_tested_card(trained, tmp_path):
    tested, fingerprints = opened(write(tmp_path / "b", ("normal", "pneumonia")))
    hashes = {
        match_datasets(opened(trained)[0], replace(tested, spec=spec), fingerprints, {}, name="b").hash
        for spec in (tested.spec, *(replace(tested.spec, tolerance_mm=mm) for mm in (1.0, 2.0)))
    }
    assert len(hashes) == 3


def with_columns(source, inputs=(), **columns):
    """The dataset with columns in its table, and with those that models may take beside the image."""
    samples = replace(source.samples, table=source.samples.table.assign(**columns))
    return replace(source, spec=replace(source.spec, inputs=inputs), samples=samples)


def test_the_hash_depends_on_the_second_input_also_after_leaks_were_dropped(trained, tmp_path):
    source, (tested, fingerprints) = opened(trained)[0], opened(write(tmp_path / "b", ("normal", "pneumonia")))
    externals = [
        match_datasets(with_columns(source, inputs), with_columns(tested, age=age), fingerprints, {}, name="b")
        for inputs, age in (((), "50"), ((), "60"), (("age",), "50"), (("age",), "60"))
    ]
    assert len({external.hash for external in externals}) == 3
    assert len({keep(external, external.rows > 0, "one less").hash for external in externals}) == 3


def test_the_second_input_of_another_dataset_is_coded_by_train(trained, tmp_path):
    source, fingerprints = opened(trained)
    split = draw_split(source, None, fingerprints)
    images = cache_images(source, 16, tmp_path / "cache")
    source = with_columns(source, ("age", "sex"), age=np.arange(36).astype(str), sex=["F", "M"] * 18)
    own = open_fold(source, split, 0, images)
    tested, fingerprints = opened(write(tmp_path / "b", ("pneumonia", "other"), seed=1))
    ages = np.array(["", *map(str, range(100, 135))])
    tested = with_columns(tested, sex=["M", "X"] * 18, age=ages)  # in another order, with an unknown sex and age
    external = match_datasets(source, tested, fingerprints, {}, name="b")
    other = open_external(external, own, cache_images(external.source, 16, tmp_path / "cache"))
    train = np.flatnonzero(own.split_of == "train").astype(float)
    age = np.array([np.nan if text == "" else float(text) for text in ages[external.rows]])
    coded = other.coding.encode(other.inputs)
    np.testing.assert_allclose(coded[:, 0], np.nan_to_num((age - train.mean()) / train.std()), rtol=1e-6)
    np.testing.assert_array_equal(coded[:, 1], np.isnan(age))
    sexes = np.array(["M", "X"] * 18)[external.rows]
    np.testing.assert_array_equal(coded[:, 2:], np.stack([sexes == text for text in ("F", "M", "X")], axis=1))


def test_another_dataset_without_a_column_of_the_second_input_is_refused(trained, tmp_path):
    source, tested = opened(trained)[0], opened(write(tmp_path / "b", ("normal", "pneumonia")))[0]
    require_inputs(source, tested)
    require_inputs(with_columns(source, ("age",)), with_columns(tested, age=""))
    with pytest.raises(DataError, match="'b': no column 'age'") as caught:
        require_inputs(with_columns(source, ("age",)), with_columns(tested, Age="50"))
    assert caught.value.code == "inputs" and "'Age'" in caught.value.fix


def test_inputs_that_cannot_be_coded_do_not_matter_to_models_of_images(trained, tmp_path):
    source, fingerprints = opened(trained)
    split = draw_split(source, None, fingerprints)
    images = cache_images(source, 16, tmp_path / "cache")
    names = np.array([f"text {number}" for number in range(len(source.sample_ids))])
    own = replace(open_fold(source, split, 0, images), inputs={"name": names})
    external = match_datasets(source, *opened(write(tmp_path / "b", ("normal", "pneumonia"))), {}, name="b")
    other = open_external(external, own, cache_images(external.source, 16, tmp_path / "cache"))
    assert other.coded_as is own


def as_datasets(trained, tested, size=16):
    """Decode both datasets as a run does; return training set, test set, the facts of the board, and the match."""
    source, fingerprints = opened(trained)
    split = draw_split(source, None, fingerprints)
    images = cache_images(source, size, trained.parent / "cache")
    own = open_fold(source, split, 0, images)
    external = match_datasets(source, *opened(tested), {}, name=tested.name)
    other = open_external(external, own, cache_images(external.source, size, trained.parent / "cache"))
    return own, other, describe_external(external, other, own, describe_fold(own, source, split)), external


@pytest.mark.integration
def test_color_is_converted_to_gray_for_models_of_gray_images(trained, tmp_path):
    tested = write(tmp_path / "b", ("normal", "pneumonia"), splits=(), color=True)
    _, other, facts, _ = as_datasets(trained, tested)
    decoded = np.load(other.images)
    expected = np.asarray(Image.open(tested / other.sample_ids[0]).convert("L")).astype(int)
    assert decoded.shape == (12, 16, 16, 1)
    assert np.abs(decoded[0, :, :, 0] - expected).max() <= 1
    assert any("converted to gray" in note for note in facts["notes"])


def test_gray_is_repeated_for_models_of_color_images(tmp_path):
    trained = write(tmp_path / "a", ("normal", "pneumonia"), color=True)
    _, other, facts, _ = as_datasets(trained, write(tmp_path / "b", ("normal", "pneumonia"), splits=()))
    decoded = np.load(other.images)
    assert decoded.shape[3] == 3 and (decoded == decoded[..., :1]).all()
    assert any("repeated to three channels" in note for note in facts["notes"])


def test_equal_bit_depths_use_the_levels_of_train(tmp_path):
    trained = write(tmp_path / "a", ("normal", "pneumonia"), bits=16)
    own, other, facts, _ = as_datasets(
        trained, write(tmp_path / "b", ("normal", "pneumonia"), splits=(), bits=16, seed=5)
    )
    assert other.intensity == own.intensity and not any("-bit" in note for note in facts["notes"])


@pytest.mark.parametrize(("bits", "levels"), [((8, 16), None), ((16, 8), (0.0, 255.0))])
def test_different_bit_depths_use_the_test_sets_own_levels_with_a_note(tmp_path, bits, levels):
    trained = write(tmp_path / "a", ("normal", "pneumonia"), bits=bits[0])
    tested = write(tmp_path / "b", ("normal", "pneumonia"), splits=(), bits=bits[1])
    _, other, facts, _ = as_datasets(trained, tested)
    if levels is None:
        levels = tuple(np.percentile(np.load(other.images), [0.1, 99.9]).tolist())
    assert other.intensity == pytest.approx(levels)
    assert any(f"{bits[1]}-bit images, a's are {bits[0]}-bit" in note for note in facts["notes"])


def test_the_levels_of_a_card_are_used_if_bit_depths_differ(tmp_path):
    trained = write(tmp_path / "a", ("normal", "pneumonia"))
    own, _, _, external = as_datasets(trained, write(tmp_path / "b", ("normal", "pneumonia"), splits=(), bits=16))
    declared = replace(
        external, source=replace(external.source, spec=replace(external.source.spec, intensity=(5, 900)))
    )
    images = cache_images(external.source, 16, tmp_path / "cache")
    assert find_levels(declared, own, images)[0] == (5, 900)


def test_conversion_to_gray_keeps_16_bits():
    color = np.full((2, 2, 3), 4000, np.uint16)
    gray = read_gray(lambda image: color, "x")
    assert gray.dtype == np.uint16 and (gray == 4000).all()


def test_the_facts_of_a_board_describe_both_datasets(trained, tmp_path):
    own, other, facts, external = as_datasets(
        trained, write(tmp_path / "b", ("Normal", "pneumonia", "covid"), splits=())
    )
    assert (other.split_of == "test").all() and other.labels == own.labels == ("normal", "pneumonia")
    assert facts["splits"]["train"]["images"] == len(own.index("train"))
    assert facts["splits"]["test"] == {"images": 12, "patients": 12, "labels": {"normal": 6, "pneumonia": 6}}
    assert facts["external"]["left_out"] == {"covid": 6}
    assert facts["external"]["test_hash"] == external.hash
    assert "b: without a counterpart in a, left out: 'covid' (6 images)" in facts["notes"]


def test_regression_targets_keep_the_scale_of_train(tmp_path, tiny_data):
    shutil.copytree(tiny_data / "regression", tmp_path / "b")
    shutil.copytree(tiny_data / "regression", tmp_path / "a")
    own, other, _, _ = as_datasets(tmp_path / "a", tmp_path / "b")
    assert other.target_scale == own.target_scale != (0.0, 1.0)


def test_exact_label_names_match_before_similar_ones(trained, tmp_path):
    source = opened(trained)[0]
    twins = replace(source, spec=replace(source.spec, labels=("a b", "a-b")))
    assert match_labels(twins, twins, {}) == {"a b": "a b", "a-b": "a-b"}


def test_all_images_of_a_set_of_masks_without_splits_are_tested_at_their_own_size(tmp_path):
    _, other, facts, external = as_datasets(squares(tmp_path / "a"), squares(tmp_path / "b", count=12, side=40))
    assert other.split_of.tolist() == ["test"] * 12 and facts["splits"]["test"]["images"] == 12
    masks = [external.source.samples.masks(image) for image in external.source.samples.table["image"]]
    assert {mask.shape for mask in masks} == {(40, 32)}
    for row, mask in enumerate(masks):
        np.testing.assert_array_equal(other.label_maps[row], mask)
