"""Cards that zoo writes: a guessed card that gives the same samples, and one that leaves images out."""

import shutil
import tomllib

import numpy as np
import pytest
from documented_shapes import PAGE, blocks, build, sections
from folders import card, images, open_source, table
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from zoo.data.opening import open_dataset
from zoo.errors import UsageError
from zoo.sources.opening import find_source, write_card, write_card_without
from zoo.sources.writing import leave_out, to_toml


def class_folders(root):
    return images(
        root, *(f"{split}/{label}/{n} é.png" for split in ("train", "test") for label in "ab" for n in range(9))
    )


def nested_table(root):
    names = [f"inner/images_1/p{n}.png" for n in range(12)]
    images(root, *names)
    rows = [f"p{n}.png,{'benign' if n % 2 else 'malignant'},P{n // 3},{n},{20 + n}" for n in range(12)]
    return table(root / "inner", 'image,diagnosis,patient_id,"a ""b""",age', *rows)


def grades(root):
    images(root, *(f"{n}.png" for n in range(12)))
    return table(root, "id_code,diagnosis", *(f"{n},{n % 4}" for n in range(12)))


def one_hot(root):
    images(root, *(f"{n}.png" for n in range(9)))
    return table(
        root, "image,MEL,NV,BKL,AK", *(f"{n},{n % 3 == 0:d},{n % 3 == 1:d},{n % 3 == 2:d},0" for n in range(9))
    )


def quantities(root):
    images(root, *(f"{n}.png" for n in range(30)))
    return table(root, "image,target", *(f"{n},{n / 7:.3f}" for n in range(30)))


def eyes(root):
    images(root, *(f"{n // 2}_{'left' if n % 2 else 'right'}.png" for n in range(12)))
    return table(root, "image,level", *(f"{n // 2}_{'left' if n % 2 else 'right'},{n % 3}" for n in range(12)))


def scans(root):
    """DICOM files joined by a tag, with the patient in another; both are guessed."""
    root.mkdir()
    rows = ["uid,finding"]
    for number in range(10):
        scan = Dataset()
        scan.file_meta = FileMetaDataset()
        scan.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        scan.SOPClassUID, scan.SOPInstanceUID, scan.Modality = CTImageStorage, f"1.2.3.{number}", "CT"
        scan.PatientID, scan.SamplesPerPixel, scan.PhotometricInterpretation = f"P{number // 2}", 1, "MONOCHROME2"
        scan.Rows = scan.Columns = 8
        scan.BitsAllocated, scan.BitsStored, scan.HighBit, scan.PixelRepresentation = 16, 12, 11, 0
        scan.PixelData = np.arange(64, dtype=np.uint16).tobytes()
        scan.save_as(root / f"{number}.dcm", enforce_file_format=True)
        rows.append(f"1.2.3.{number},{'yes' if number // 2 % 2 else 'no'}")
    return table(root, *rows)


SHAPES = {shape.__name__: shape for shape in (class_folders, nested_table, grades, one_hot, quantities, eyes, scans)}
DOCUMENTED = {name: blocks(section)[1] for name, section in sections(PAGE.read_text(encoding="utf-8")).items()}
WITHOUT_CARD = [
    *SHAPES,
    *(pytest.param(name, marks=pytest.mark.integration) for name, own in DOCUMENTED.items() if not own),
]


def make(name, folder):
    """A dataset of this module or of docs/your-own-data.md, with its card, if any."""
    return SHAPES[name](folder / "My Set") if name in SHAPES else build(name, folder, DOCUMENTED[name])


def assert_equal_sets(path, written, cache):
    """Assert equal samples, cards and hashes, so that runs on one are runs on both."""
    one, two = (open_dataset(find_source(each), cache) for each in (path, written))
    assert one.samples.table.equals(two.samples.table)
    assert np.array_equal(one.samples.targets, two.samples.targets, equal_nan=one.samples.targets.dtype.kind == "f")
    for name in (
        "name",
        "title",
        "task",
        "labels",
        "positive",
        "patient",
        "unit",
        "metadata",
        "channels",
        "image_size",
    ):
        assert getattr(one.spec, name) == getattr(two.spec, name), name
    assert one.content_hash == two.content_hash
    assert (one.patients == two.patients).all() and (one.splits == two.splits).all()


@pytest.mark.parametrize("shape", WITHOUT_CARD)
def test_a_written_card_reads_the_same_samples_in_any_folder(shape, tmp_path):
    root = make(shape, tmp_path)
    elsewhere = write_card(root, tmp_path / "other" / "card.toml")
    assert_equal_sets(root, elsewhere, tmp_path / "cache")
    before = open_source(root)[1].table
    beside = write_card(root)
    assert beside == (root / "dataset.toml" if root.is_dir() else root.with_suffix(".toml"))
    assert open_source(root)[1].table.equals(before)
    assert_equal_sets(elsewhere, beside, tmp_path / "cache")


def test_written_cards_of_a_table_an_archive_and_arrays_read_the_same_samples(tmp_path):
    root = nested_table(tmp_path / "set")
    assert_equal_sets(root / "labels.csv", write_card(root / "labels.csv", tmp_path / "table.toml"), tmp_path / "cache")

    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "set")
    written = write_card(tmp_path / "packed.zip")
    assert written == tmp_path / "packed.toml"
    assert tomllib.loads(written.read_text())["root"] == "packed.zip/inner"
    assert_equal_sets(tmp_path / "packed.zip", written, tmp_path / "cache")

    arrays = {f"{s}_images": np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8) for s in ("train", "test")}
    np.savez(tmp_path / "a.npz", **arrays, train_labels=np.arange(20) % 3, test_labels=np.arange(20) % 3)
    written = write_card(tmp_path / "a.npz")
    assert written == tmp_path / "a.toml"
    assert_equal_sets(tmp_path / "a.npz", written, tmp_path / "cache")


def test_a_written_card_contains_every_guess_and_examples_for_unknown_keys(tmp_path):
    text = write_card(grades(tmp_path / "set")).read_text()
    assert tomllib.loads(text)["task"] == "ordinal"
    assert '# license = "CC BY 4.0"' in text
    assert "# patient = " in text and "a patient may be in two splits" in text
    text = write_card(class_folders(tmp_path / "folders")).read_text()
    assert "# split = " not in text and tomllib.loads(text)["images"] == "{split}/{label}/**/*"
    text = write_card(scans(tmp_path / "scans")).read_text()
    assert tomllib.loads(text)["join"] == {"column": "uid", "tag": "SOPInstanceUID"}
    assert tomllib.loads(text)["patient"] == {"tag": "PatientID"}
    text = write_card(eyes(tmp_path / "eyes")).read_text()
    assert "# guessed: patient read from the file names (a left and a right eye" in text


def test_no_card_is_overwritten_and_none_is_written_for_a_set_that_has_one(tmp_path):
    root = class_folders(tmp_path / "set")
    written = write_card(root).read_text()
    with pytest.raises(UsageError, match="exists already"):
        write_card(root)
    with pytest.raises(UsageError, match=r"already has a card, dataset\.toml"):
        write_card(root, tmp_path / "other.toml")
    with pytest.raises(UsageError, match=r"must end in \.toml"):
        write_card(root, tmp_path / "other.txt")
    assert (root / "dataset.toml").read_text() == written
    assert not (tmp_path / "other.toml").exists()


def test_a_folder_that_cannot_be_written_to_is_one_line_that_names_the_flag(tmp_path):
    root = class_folders(tmp_path / "set")
    with pytest.raises(UsageError, match=r"--output FILE"):
        write_card(root, root / "train" / "a" / "0 é.png" / "x.toml")  # below a file, as root may write anywhere


# --- cards that leave images out -------------------------------------------------------------------------------------
def left(path):
    return set(open_source(path)[1].table["sample_id"])


def test_leaving_images_out_keeps_the_card_as_its_author_wrote_it(tmp_path):
    root = class_folders(tmp_path / "set")
    own = '# ours\nname = "skin"\ndrop = [\n  "train/a/0 é.png",  # blurred\n]\n\n[label]\npositive = "b"\n'
    card(root, own)
    spec, samples = open_source(root)
    gone = {"train/b/1 é.png", "train/b/2 é.png"}
    target = write_card_without(spec, samples, gone, tmp_path / "fixed.toml")
    text = target.read_text()
    assert "# ours" in text and '[label]\npositive = "b"' in text and "blurred" not in text
    assert open_source(target)[0].name == "skin-fixed"
    assert left(target) == left(root) - gone
    assert (root / "dataset.toml").read_text() == own


@pytest.mark.parametrize(
    "shape", [*SHAPES, *(pytest.param(name, marks=pytest.mark.integration) for name in DOCUMENTED)]
)
def test_a_written_or_guessed_card_is_written_without_dropped_images(shape, tmp_path):
    root = make(shape, tmp_path)
    before = [path for path in root.rglob("*") if root.is_dir()]
    spec, samples = open_source(root)
    gone = set(samples.table["sample_id"].iloc[[1, 4]])
    target = write_card_without(spec, samples, gone, tmp_path / "fixed.toml")
    wholes = {name.partition("#")[0] for name in gone}  # a volume goes with all its slices
    assert left(target) == {name for name in left(root) if name.partition("#")[0] not in wholes}
    assert [path for path in root.rglob("*") if root.is_dir()] == before


def test_the_card_of_arrays_drops_rows(tmp_path):
    arrays = {f"{s}_images": np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8) for s in ("train", "test")}
    np.savez(tmp_path / "a.npz", **arrays, train_labels=np.arange(20) % 2, test_labels=np.arange(20) % 2)
    spec, samples = open_source(tmp_path / "a.npz")
    target = write_card_without(spec, samples, {"train/3", "test/0"}, tmp_path / "fixed.toml")
    fixed, others = open_source(target)
    assert set(samples.table["sample_id"]) - set(others.table["sample_id"]) == {"train/3", "test/0"}
    assert others.targets.tolist() == [
        t for i, t in zip(samples.table["sample_id"], samples.targets, strict=True) if i in left(target)
    ]
    assert (fixed.task, fixed.labels, fixed.official_splits) == (spec.task, spec.labels, spec.official_splits)
    # again, from the card just written
    again = write_card_without(fixed, others, {"train/5"}, tmp_path / "again.toml")
    assert left(again) == left(target) - {"train/5"}


def test_a_card_of_arrays_refuses_keys_of_files(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.arange(4) % 2)
    (tmp_path / "x.toml").write_text('root = "a.npz"\nlabels = ["no", "yes"]\nlabel = {positive = "yes"}\n')
    assert find_source(tmp_path / "x.toml").positive == "yes"
    (tmp_path / "x.toml").write_text('root = "a.npz"\ntable = "t.csv"\nlabel = {column = "x"}\ndrop = ["images/9"]\n')
    with pytest.raises(Exception, match=r"2 mistakes: table: does not apply to a \.npz.*label\.column: does not apply"):
        find_source(tmp_path / "x.toml")
    (tmp_path / "x.toml").write_text('root = "a.npz"\ndrop = ["images/9"]\n')
    with pytest.raises(Exception, match=r"drop\.0: unknown image 'images/9'"):
        find_source(tmp_path / "x.toml")


def test_a_frame_is_dropped_with_its_whole_clip_including_unread_frames(tmp_path):
    names = [f"{label}/{clip}/{frame}.png" for label in "ab" for clip in ("c1", "c10", "c2") for frame in range(6)]
    root = card(images(tmp_path / "set", *names), 'images = "{label}/*/*.png"\nframes = {every = 3}\n')
    spec, samples = open_source(root)
    target = write_card_without(spec, samples, {"a/c1#3"}, tmp_path / "fixed.toml")
    assert left(root) - left(target) == {"a/c1#0", "a/c1#3"}
    assert tomllib.loads(target.read_text())["drop"] == [f"a/c1/{frame}.png" for frame in range(6)]


def test_only_comments_are_lost_if_keys_cannot_be_cut_out_of_a_card():
    text = 'description = """\ndrop = 1\n"""\n# lost\ndrop = ["a"]\n'
    assert tomllib.loads(leave_out(text, {"drop": ["b"]}, ["said"])) == {"description": "drop = 1\n", "drop": ["b"]}
    text = '# kept\n"drop" = [ # x\n "]",\n]\n[label]\ndrop = 3\n'
    changed = leave_out(text, {"drop": ["b"]}, [])
    assert tomllib.loads(changed) == {"drop": ["b"], "label": {"drop": 3}} and "# kept" in changed


@pytest.mark.parametrize(
    "value", ['a "b" \\ \t \x7f é 🩻', 3, -0.5, 1e-7, float("inf"), True, [], ["x"] * 40, {"a b": {"c": [1, 2]}}]
)
def test_written_toml_is_read_back(value):
    assert tomllib.loads(f"x = {to_toml(value)}") == {"x": value}
