"""A card without its data: the listed fields, refused ones, and the places where the data are searched."""

import pickle
import zipfile

import pytest
from folders import card, images

from zoo import DataError, SamplesRequest, card_dataset
from zoo.data.opening import open_dataset
from zoo.sources.synopsis import read_synopsis

CARD = """
task = "binary"
labels = {neg = "clear", pos = "spot"}
label = {positive = "spot"}
images = "{label}/*.png"
url = "https://example.org/dots"
"""


def dots(root):
    return images(root, "neg/a.png", "neg/b.png", "pos/c.png", "pos/d.png")


@pytest.fixture(autouse=True)
def no_data_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("ZOO_DATA", raising=False)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


def described(tmp_path, text):
    """A card in its own folder, without data."""
    folder = tmp_path / "zoo_dots"
    folder.mkdir()
    return card(folder, text) / "dataset.toml"


def opened(spec, tmp_path):
    return open_dataset(pickle.loads(pickle.dumps(spec)), tmp_path / "cache")


# --- listed ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ('task = "multiclass"\nlabels = ["a", "b", "c"]', ("a", "b", "c")),
        ('task = "binary"\nlabels = {0 = "no", 1 = "yes", 2 = "yes"}', ("no", "yes")),
        ('task = "multilabel"\nlabel = {columns = ["mass", "air"]}', ("mass", "air")),
        ('task = "ordinal"\nlabel = {column = "EF", bins = [0, 40, 100], names = ["low", "high"]}', ("low", "high")),
        ('task = "regression"\nlabel = {column = "age"}', ("age",)),
    ],
)
def test_labels_are_available_without_the_data(tmp_path, text, labels):
    assert read_synopsis(described(tmp_path, text)).labels == labels


def test_a_card_without_name_is_named_after_its_package_or_file(tmp_path):
    path = described(tmp_path, CARD)
    assert read_synopsis(path).name == "dots"
    assert read_synopsis(path.rename(path.with_name("spots.toml"))).name == "spots"


def test_all_mistakes_in_listed_fields_are_reported_at_once(tmp_path):
    with pytest.raises(DataError) as caught:
        read_synopsis(described(tmp_path, 'task = "binry"\nlabels = 3\ntitle = ["x"]\nsymmetries = "hflip"'))
    for part in ("4 mistakes", "Did you mean 'binary'", "labels: required", "title: expected text", "symmetries: "):
        assert part in caught.value.line()


# --- opened ----------------------------------------------------------------------------------------------------------
def test_the_files_complete_the_card_when_it_is_opened(tmp_path):
    images(tmp_path / "data", "train/neg/a.png", "train/pos/b.png", "test/neg/c.png", "test/pos/d.png")
    text = CARD.replace("{label}/*", "{split}/{label}/*") + f'root = "{(tmp_path / "data").as_posix()}"'
    spec = card_dataset(described(tmp_path, text))
    assert spec.official_splits == ()
    source = opened(spec, tmp_path)
    assert source.spec.official_splits == ("train", "test")
    assert source.spec.channels == 1
    assert source.spec.positive == "spot"


@pytest.mark.parametrize("root", ["../data", "$DOTS/data", "~/data"])
def test_root_is_relative_to_the_card_and_expands_variables_and_the_home(tmp_path, monkeypatch, root):
    for name in ("DOTS", "HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    dots(tmp_path / "data")
    spec = card_dataset(described(tmp_path, f'{CARD}\nroot = "{root}"'))
    assert len(opened(spec, tmp_path).digests) == 4


def test_the_roots_folder_comes_before_zoo_data_and_that_before_zoos_own(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "mine"))
    spec = card_dataset(described(tmp_path, f'{CARD}\nroot = "../data"'))
    for folder, number in ((tmp_path / "cache/datasets/dots", 4), (tmp_path / "mine/dots", 5), (tmp_path / "data", 6)):
        images(dots(folder), *(f"pos/more{each}.png" for each in range(number - 4)))
        assert len(opened(spec, tmp_path).digests) == number


def test_a_zip_of_the_name_replaces_the_folder(tmp_path):
    dots(tmp_path / "data")
    (tmp_path / "cache" / "datasets").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "cache/datasets/dots.zip", "w") as archive:
        for path in sorted((tmp_path / "data").rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path / "data"))
    assert len(opened(card_dataset(described(tmp_path, CARD)), tmp_path).digests) == 4


def test_an_error_for_missing_data_names_every_place_and_the_url(tmp_path):
    spec = card_dataset(described(tmp_path, f'{CARD}\nroot = "../data"'))
    with pytest.raises(DataError) as caught:
        spec.samples(SamplesRequest(folder=tmp_path / "own"))
    line = caught.value.line()
    assert "\n" not in line
    for part in (str(tmp_path / "own"), "data.zip beside it", "download them from https://example.org/dots"):
        assert part in line


def test_labels_that_differ_from_the_data_are_refused(tmp_path):
    dots(tmp_path / "cache" / "datasets" / "dots")
    text = 'task = "regression"\nlabel = {column = "age"}\ntable = "x.csv"\njoin = {column = "f"}'
    (tmp_path / "cache/datasets/dots/x.csv").write_text("f,age\na,x\nb,1\nc,2\nd,3\n")
    with pytest.raises(DataError, match="'x' is not a number"):
        opened(card_dataset(described(tmp_path, text)), tmp_path)
    (tmp_path / "zoo_dots" / "dataset.toml").write_text(CARD.replace("neg =", "none ="))
    with pytest.raises(DataError, match="unknown label 'neg'"):
        opened(card_dataset(tmp_path / "zoo_dots" / "dataset.toml"), tmp_path)


def test_a_mistake_in_other_fields_is_reported_when_the_dataset_is_opened(tmp_path):
    dots(tmp_path / "cache" / "datasets" / "dots")
    with pytest.raises(DataError, match=r"imges: unknown key\. Did you mean 'images'"):
        opened(card_dataset(described(tmp_path, f'{CARD}\nimges = "x"')), tmp_path)


def test_a_function_may_provide_the_data(tmp_path):
    spec = card_dataset(described(tmp_path, CARD), folder=bring, name="renamed")
    source = opened(spec, tmp_path)
    assert source.spec.name == "renamed"
    assert len(source.digests) == 4


def bring(request):
    assert request.folder.name == "renamed"
    return dots(request.folder.parent / "brought")
