"""A card leaves labels of a multi-label dataset out by `ignore`."""

import numpy as np
import pytest
from folders import card, images, open_source, refusal, table

LISTS = 'table = "labels.csv"\njoin = {column = "file"}\nlabel = {column = "finding", separator = "|", none = "none"}\n'
COLUMNS = 'table = "labels.csv"\njoin = {column = "file"}\nlabel = {columns = ["mass", "air", "hernia"]}\n'


@pytest.fixture
def lists(tmp_path):
    images(tmp_path, "a.png", "b.png", "c.png", "d.png")
    table(tmp_path, "file,finding", "a.png,mass|hernia", "b.png,hernia", "c.png,air", "d.png,none")
    return tmp_path


@pytest.fixture
def columns(tmp_path):
    images(tmp_path, "a.png", "b.png", "c.png")
    table(tmp_path, "file,mass,air,hernia", "a.png,1,0,1", "b.png,0,,1", "c.png,1,1,0")
    return tmp_path


def read(folder, text):
    spec, samples = open_source(card(folder, text))
    return spec.labels, samples.targets.tolist(), samples.notes


def test_an_ignored_label_is_left_out_and_its_images_stay(lists):
    labels, targets, notes = read(lists, LISTS + 'ignore = ["hernia"]')
    assert labels == ("air", "mass") and targets == [[0, 1], [0, 0], [1, 0], [0, 0]]
    assert "labels left out: hernia (`ignore`)" in notes


def test_a_star_ignores_all_labels_that_the_card_does_not_name(lists):
    labels, targets, _ = read(lists, LISTS + 'labels = {mass = "Mass"}\nignore = ["*"]')
    assert labels == ("Mass",) and targets == [[1], [0], [0], [0]]


def test_ignored_columns_are_not_read(columns):
    labels, targets, _ = read(columns, COLUMNS + 'labels = ["air", "mass"]\nignore = ["hernia"]')
    assert labels == ("air", "mass")
    np.testing.assert_array_equal(targets, [[0, 1], [np.nan, 0], [1, 1]])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('ignore = ["hernai"]', "ignore: unknown label 'hernai'"),
        ('labels = ["mass", "air", "hernia"]\nignore = ["hernia"]', "'hernia' is in labels too"),
        ('ignore = ["mass", "air", "hernia"]', "ignore leaves no label"),
        ('ignore = ["*"]', "set `labels`"),
    ],
)
def test_a_wrong_ignore_is_refused(lists, line, said):
    card(lists, LISTS + line)
    assert said in refusal(lists)


def test_classes_cannot_be_ignored(tmp_path):
    images(tmp_path, "x/a.png", "y/b.png", "x/c.png", "y/d.png")
    card(tmp_path, 'images = "{label}/*.png"\nignore = ["x"]')
    assert "multilabel task only" in refusal(tmp_path)


def test_columns_of_an_npz_are_ignored_by_name(tmp_path):
    targets = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 1, 0]] * 3)
    np.savez(tmp_path / "set.npz", images=np.arange(12 * 64, dtype=np.uint8).reshape(12, 8, 8), labels=targets)
    text = 'root = "set.npz"\ntask = "multilabel"\nlabels = ["mass", "air", "hernia"]\n'
    labels, found, notes = read(tmp_path, text + 'ignore = ["air"]')
    assert labels == ("mass", "hernia") and found == targets[:, [0, 2]].tolist()
    assert "labels left out: air (`ignore`)" in notes
    card(tmp_path, text + 'ignore = ["fluid"]')
    assert "ignore: unknown label 'fluid'" in refusal(tmp_path)
