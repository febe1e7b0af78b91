"""One dataset in the terms of another: labels by name or as said, channels and levels as its models expect."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from zoo.audit.external import describe_external, find_levels, match_datasets, match_labels, open_external, read_gray
from zoo.data.dataset import describe_fold, open_fold
from zoo.data.decoded import cache_images
from zoo.data.fingerprints import take_fingerprints
from zoo.data.opening import open_dataset
from zoo.data.splits import draw_split
from zoo.errors import DataError, UsageError
from zoo.sources.opening import find_source


def write(root, labels, *, splits=("train", "val", "test"), count=6, seed=0, bits=8, colour=False):
    """`count` noisy images a split and label, in class folders; without splits in folders of labels alone."""
    random = np.random.default_rng(seed)
    for split in splits or ("",):
        for label in labels:
            folder = root / split / label
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                shape = (16, 16, 3) if colour else (16, 16)
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
def test_labels_of_one_name_match_whatever_their_case_and_hyphens(trained, tmp_path):
    found = matched(trained, write(tmp_path / "b", ("Pneu-monia", "NORMAL"), splits=()))
    assert found.labels == {"NORMAL": "normal", "Pneu-monia": "pneumonia"}
    targets = dict(zip(found.source.sample_ids, found.source.samples.targets, strict=True))
    assert targets["NORMAL/0.png"] == 0 and targets["Pneu-monia/0.png"] == 1


def test_labels_can_be_mapped_and_several_can_mean_one(trained, tmp_path):
    tested = write(tmp_path / "b", ("bacterial", "viral", "normal", "covid"), splits=())
    found = matched(trained, tested, {"bacterial": "pneumonia", "viral": "pneumonia"})
    assert np.bincount(found.source.samples.targets).tolist() == [6, 12]
    assert found.left_out == {"covid": 6}
    assert found.notes == ("without a counterpart in a, left out: 'covid' (6 images)",)


def test_a_label_mapped_to_nothing_is_left_out_though_its_name_matches(trained, tmp_path):
    found = matched(trained, write(tmp_path / "b", ("normal", "pneumonia"), splits=()), {"normal": ""})
    assert found.left_out == {"normal": 6} and set(found.source.samples.targets) == {1}


def test_a_card_can_say_what_its_labels_are_called_elsewhere(trained, tmp_path):
    tested = write(tmp_path / "b", ("viral", "normal"), splits=())
    (tested / "dataset.toml").write_text('images = "{label}/*.png"\nlabel_map = {viral = "pneumonia"}\n')
    assert matched(trained, tested).labels == {"normal": "normal", "viral": "pneumonia"}


def test_a_card_that_maps_a_label_it_does_not_have_is_refused(tmp_path):
    tested = write(tmp_path / "b", ("viral", "normal"), splits=())
    (tested / "dataset.toml").write_text('images = "{label}/*.png"\nlabel_map = {vral = "pneumonia"}\n')
    with pytest.raises(DataError, match="label_map: unknown label 'vral'; the labels are normal, viral"):
        find_source(tested)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"virl": "pneumonia"}, "'b' has no label 'virl'; fix: Did you mean 'viral'"),
        ({"viral": "pneumona"}, "'a' has no label 'pneumona'; fix: Did you mean 'pneumonia'"),
    ],
)
def test_a_map_of_labels_that_are_not_there_is_an_error_of_usage(trained, tmp_path, given, said):
    with pytest.raises(UsageError) as caught:
        matched(trained, write(tmp_path / "b", ("viral", "normal"), splits=()), given)
    assert said in str(caught.value)


def test_without_a_label_in_common_nothing_can_be_tested(trained, tmp_path):
    with pytest.raises(DataError, match="no image of 'b' has a label of 'a': it has cat, dog") as caught:
        matched(trained, write(tmp_path / "b", ("cat", "dog"), splits=()))
    assert caught.value.code == "no-label-in-common"


def test_tasks_that_ask_different_questions_do_not_match(trained, tiny_data):
    source, fingerprints = opened(tiny_data / "regression")
    with pytest.raises(DataError, match="'a' is binary, 'regression' is regression"):
        match_datasets(opened(trained)[0], source, fingerprints, {}, name="regression")


def test_of_several_labels_an_image_may_have_the_unknown_stay_unknown(tmp_path, tiny_data):
    for name in ("multilabel", "other"):
        shutil.copytree(tiny_data / "multilabel", tmp_path / name)
    table = tmp_path / "other" / "table.csv"
    table.write_text(table.read_text().replace("file,mass,fluid,air", "file,Mass,gas,fluids"))
    card = tmp_path / "other" / "dataset.toml"
    card.write_text(card.read_text().replace('"mass", "fluid", "air"', '"Mass", "gas", "fluids"'))
    found = matched(tmp_path / "multilabel", tmp_path / "other", {"fluids": "fluid", "gas": "fluid"})
    theirs = opened(tmp_path / "other")[0].samples.targets[found.rows]
    mass, fluid, air = found.source.samples.targets.T
    np.testing.assert_array_equal(mass, theirs[:, 0])
    assert np.isnan(air).all()
    for gas, fluids, joined in zip(theirs[:, 1], theirs[:, 2], fluid, strict=True):
        known = [value for value in (gas, fluids) if not np.isnan(value)]
        expected = 1.0 if 1.0 in known else 0.0 if len(known) == 2 else np.nan
        np.testing.assert_equal(joined, expected)
    assert not np.isnan(found.source.samples.targets).all(axis=1).any()


def test_a_number_matches_a_number_of_the_same_name(tmp_path, tiny_data):
    shutil.copytree(tiny_data / "regression", tmp_path / "other")
    assert len(matched(tiny_data / "regression", tmp_path / "other").rows) == 160
    table, card = tmp_path / "other" / "table.csv", tmp_path / "other" / "dataset.toml"
    table.write_text(table.read_text().replace("age", "weight"))
    card.write_text(card.read_text().replace("age", "weight"))
    with pytest.raises(DataError, match="no image of 'other' has a label of 'regression'"):
        matched(tiny_data / "regression", tmp_path / "other")


# --- images ----------------------------------------------------------------------------------------------------------
def test_all_images_are_tested_on_or_those_of_the_official_test_split_alone(trained, tmp_path):
    tested = write(tmp_path / "b", ("normal", "pneumonia"))
    assert len(matched(trained, tested).rows) == 36
    alone = matched(trained, tested, name="b:test")
    assert {name.split("/")[0] for name in alone.source.sample_ids} == {"test"} and len(alone.rows) == 12
    with pytest.raises(DataError, match="'c' has no official test split; fix: leave :test out"):
        matched(trained, write(tmp_path / "c", ("normal", "pneumonia"), splits=()), name="c:test")


def test_what_is_tested_on_is_another_thing_where_an_image_or_the_map_changes(trained, tmp_path):
    tested = write(tmp_path / "b", ("viral", "normal"), splits=())
    one = matched(trained, tested, {"viral": "pneumonia"})
    assert matched(trained, tested, {"viral": "pneumonia"}).hash == one.hash
    assert matched(trained, tested, {"viral": "pneumonia", "normal": "pneumonia"}).hash != one.hash
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tested / "viral" / "0.png")
    assert matched(trained, tested, {"viral": "pneumonia"}).hash != one.hash


def as_datasets(trained, tested, size=16):
    """Both as a run opens them, decoded: trained, tested, and the facts of the board."""
    source, fingerprints = opened(trained)
    split = draw_split(source, None, fingerprints)
    images = cache_images(source, size, trained.parent / "cache")
    own = open_fold(source, split, 0, images)
    external = match_datasets(source, *opened(tested), {}, name=tested.name)
    other = open_external(external, own, cache_images(external.source, size, trained.parent / "cache"))
    return own, other, describe_external(external, other, own, describe_fold(own, source, split)), external


def test_colour_is_made_gray_for_models_of_gray_images(trained, tmp_path):
    tested = write(tmp_path / "b", ("normal", "pneumonia"), splits=(), colour=True)
    _, other, facts, _ = as_datasets(trained, tested)
    decoded = np.load(other.images)
    expected = np.asarray(Image.open(tested / other.sample_ids[0]).convert("L")).astype(int)
    assert decoded.shape == (12, 16, 16, 1)
    assert np.abs(decoded[0, :, :, 0] - expected).max() <= 1
    assert any("in colour" in note and "made gray" in note for note in facts["notes"])


def test_gray_is_repeated_for_models_of_colour_images(tmp_path):
    trained = write(tmp_path / "a", ("normal", "pneumonia"), colour=True)
    _, other, facts, _ = as_datasets(trained, write(tmp_path / "b", ("normal", "pneumonia"), splits=()))
    decoded = np.load(other.images)
    assert decoded.shape[3] == 3 and (decoded == decoded[..., :1]).all()
    assert any("repeated to three channels" in note for note in facts["notes"])


def test_levels_of_as_many_bits_are_those_of_train(tmp_path):
    trained = write(tmp_path / "a", ("normal", "pneumonia"), bits=16)
    own, other, facts, _ = as_datasets(
        trained, write(tmp_path / "b", ("normal", "pneumonia"), splits=(), bits=16, seed=5)
    )
    assert other.intensity == own.intensity and not any("-bit" in note for note in facts["notes"])


@pytest.mark.parametrize(("bits", "levels"), [((8, 16), None), ((16, 8), (0.0, 255.0))])
def test_levels_of_other_bits_are_its_own_and_said(tmp_path, bits, levels):
    trained = write(tmp_path / "a", ("normal", "pneumonia"), bits=bits[0])
    tested = write(tmp_path / "b", ("normal", "pneumonia"), splits=(), bits=bits[1])
    _, other, facts, _ = as_datasets(trained, tested)
    if levels is None:
        levels = tuple(np.percentile(np.load(other.images), [0.1, 99.9]).tolist())
    assert other.intensity == pytest.approx(levels)
    assert any(f"{bits[1]}-bit images, a's are {bits[0]}-bit" in note for note in facts["notes"])


def test_the_levels_of_a_card_are_used_where_depths_differ(tmp_path):
    trained = write(tmp_path / "a", ("normal", "pneumonia"))
    own, _, _, external = as_datasets(trained, write(tmp_path / "b", ("normal", "pneumonia"), splits=(), bits=16))
    declared = replace(
        external, source=replace(external.source, spec=replace(external.source.spec, intensity=(5, 900)))
    )
    images = cache_images(external.source, 16, tmp_path / "cache")
    assert find_levels(declared, own, images)[0] == (5, 900)


def test_sixteen_bits_of_colour_stay_sixteen_bits_in_gray():
    colour = np.full((2, 2, 3), 4000, np.uint16)
    gray = read_gray(lambda image: colour, "x")
    assert gray.dtype == np.uint16 and (gray == 4000).all()


def test_a_board_is_told_both_sets(trained, tmp_path):
    own, other, facts, external = as_datasets(
        trained, write(tmp_path / "b", ("Normal", "pneumonia", "covid"), splits=())
    )
    assert (other.split_of == "test").all() and other.labels == own.labels == ("normal", "pneumonia")
    assert facts["splits"]["train"]["images"] == len(own.index("train"))
    assert facts["splits"]["test"] == {"images": 12, "patients": 12, "labels": {"normal": 6, "pneumonia": 6}}
    assert facts["external"]["left_out"] == {"covid": 6}
    assert facts["external"]["test_hash"] == external.hash
    assert "b: without a counterpart in a, left out: 'covid' (6 images)" in facts["notes"]


def test_a_regression_is_told_in_the_units_of_train(tmp_path, tiny_data):
    shutil.copytree(tiny_data / "regression", tmp_path / "b")
    shutil.copytree(tiny_data / "regression", tmp_path / "a")
    own, other, _, _ = as_datasets(tmp_path / "a", tmp_path / "b")
    assert other.target_scale == own.target_scale != (0.0, 1.0)


def test_labels_match_by_their_exact_name_before_one_that_is_nearly_the_same(trained, tmp_path):
    source = opened(trained)[0]
    twins = replace(source, spec=replace(source.spec, labels=("a b", "a-b")))
    assert match_labels(twins, twins, {}) == {"a b": "a b", "a-b": "a-b"}
