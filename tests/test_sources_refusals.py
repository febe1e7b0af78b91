"""Errors name what exists and the fix: other formats, codecs, suffixes, encodings, repeated keys."""

import sys

import numpy as np
import pandas
import pytest
from dicom_files import ramp, write
from folders import card, images, open_source, table
from PIL import Image

from zoo.errors import DataError
from zoo.images.formats import read_image
from zoo.images.reading import damaged
from zoo.sources.opening import find_source
from zoo.sources.tables import read_table
from zoo.system.toml import parse_toml

NAMES = [f"{number:03d}.png" for number in range(12)]
ROWS = pandas.DataFrame({"image": NAMES, "label": ["a", "b"] * 6, "patient_id": [n // 2 for n in range(12)]})


def refused(root):
    with pytest.raises(DataError) as caught:
        find_source(root)
    return caught.value


# --- tables in other formats -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("suffix", "package"), [(".xlsx", "openpyxl"), (".parquet", "pyarrow")])
def test_a_spreadsheet_is_read_where_pandas_can(tmp_path, suffix, package):
    pytest.importorskip(package)
    images(tmp_path, *NAMES)
    path = tmp_path / f"labels{suffix}"
    ROWS.to_excel(path, index=False) if suffix == ".xlsx" else ROWS.to_parquet(path)
    spec, samples = open_source(tmp_path)
    assert (spec.labels, spec.patient, samples.table["patient"].nunique()) == (("a", "b"), "patient", 6)


@pytest.mark.parametrize(("suffix", "package"), [(".xlsx", "openpyxl"), (".parquet", "pyarrow")])
def test_a_spreadsheet_that_cannot_be_read_names_the_package(tmp_path, monkeypatch, suffix, package):
    for name in (package, "fastparquet"):
        monkeypatch.setitem(sys.modules, name, None)  # as where it is not installed
    images(tmp_path, *NAMES)
    (tmp_path / f"labels{suffix}").write_bytes(b"PK\3\4" + bytes(99))
    error = refused(tmp_path)
    assert f"labels{suffix}" in error.message and package in error.message


def test_a_csv_with_labels_takes_precedence_over_a_spreadsheet(tmp_path):
    images(tmp_path, *NAMES)
    table(tmp_path, "image,label", *(f"{name},{'ab'[n % 2]}" for n, name in enumerate(NAMES)))
    (tmp_path / "labels.xlsx").write_bytes(b"PK\3\4")
    assert "labels.xlsx not used: labels.csv has the labels" in open_source(tmp_path)[1].notes


@pytest.mark.parametrize(
    "name",
    ["labels.json", "labels.xls", "scans.tar", "more.zip", "all.h5", "labels.txt", "labels.csv.gz", "x/labels.csv"],
)
@pytest.mark.parametrize("with_images", [True, False])
def test_unread_files_are_named(tmp_path, name, with_images):
    images(tmp_path, *(NAMES if with_images else ()))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"{}")
    assert name in refused(tmp_path).message


def test_a_note_names_the_table_used_instead_of_a_spreadsheet(tmp_path):
    images(tmp_path, *NAMES)
    table(tmp_path, "image,age", *(f"{name},7" for name in NAMES), name="ages.csv")
    table(tmp_path, "image,label", *(f"{name},{'ab'[n % 2]}" for n, name in enumerate(NAMES)))
    (tmp_path / "more.xlsx").write_bytes(b"PK\3\4")
    assert "more.xlsx not used: labels.csv has the labels" in open_source(tmp_path)[1].notes


@pytest.mark.parametrize(
    ("encoding", "label", "line"), [("latin-1", "größe", "line 2"), ("utf-16-le", "size", "line 1")]
)
def test_a_table_in_another_encoding_below_a_folder_is_refused_with_a_fix(tmp_path, encoding, label, line):
    images(tmp_path, *NAMES)
    table(tmp_path, "image,label", *(f"{name},{label}{n % 2}" for n, name in enumerate(NAMES)), encoding=encoding)
    error = refused(tmp_path)
    assert f"labels.csv {line}" in error.message and "UTF-8" in error.fix


def test_paths_of_two_machines_are_refused_with_a_fix(tmp_path):
    images(tmp_path, *NAMES)
    roots = ("/home/ann/set", "C:\\data\\set")
    table(tmp_path, "image,label", *(f"{roots[n % 2]}/{name},{'ab'[n // 2 % 2]}" for n, name in enumerate(NAMES)))
    error = refused(tmp_path)
    assert "labels.csv: column 'image'" in error.message and "relative" in error.fix


# --- files of images -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("start", "kind", "suffix"),
    [
        (b"\0\0\0\x18ftypheic", "HEIC", ".heic"),
        (bytes(128) + b"DICM", "DICOM", ".dcm"),
        (b"PK\3\4", "a zip archive", ".zip"),
        (b"%PDF-1.4", "a PDF", ".pdf"),
    ],
)
def test_a_file_whose_content_does_not_match_its_suffix_is_reported(tmp_path, start, kind, suffix):
    (tmp_path / "a.png").write_bytes(start + bytes(300))
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / "a.png")
    assert kind in caught.value.message
    assert suffix in caught.value.fix and "copy it again" not in caught.value.fix


@pytest.mark.parametrize(
    "error",
    [
        ValueError("COMPRESSION.ZSTD requires the 'imagecodecs' package"),
        ImportError("x"),
        OSError("decoder jpeg2k not available"),
    ],
)
def test_a_missing_codec_is_not_reported_as_damage(tmp_path, error):
    Image.new("L", (8, 8)).save(tmp_path / "a.tif")
    assert "install the codec" in damaged(tmp_path / "a.tif", error).fix


def test_damage_under_an_unusual_suffix_is_reported_as_damage(tmp_path):
    Image.new("L", (64, 64)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / "a.png")
    assert "copy it again" in damaged(tmp_path / "a.png", OSError("image file is truncated")).fix


@pytest.mark.parametrize("name", ["a.bmp", "a.webp"])
def test_a_damaged_jpeg_that_pillow_opens_by_content_is_reported_as_damage(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    (tmp_path / name).write_bytes((tmp_path / "a.jpg").read_bytes()[:1000])
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / name)
    assert "copy it again" in caught.value.fix


@pytest.mark.parametrize("name", ["a", "1.2.840.1", "a.dc3"])
def test_a_damaged_dicom_that_is_read_by_content_is_reported_as_damage(tmp_path, name):
    data = write(tmp_path / "x.dcm", ramp()).read_bytes()
    (tmp_path / name).write_bytes(data[:142])  # within the first element, which pydicom then refuses
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / name)
    assert "copy it again" in caught.value.fix


# --- text ------------------------------------------------------------------------------------------------------------
def test_a_table_and_a_card_that_are_not_utf_8_are_refused_with_a_fix(tmp_path):
    images(tmp_path, *NAMES)
    (tmp_path / "labels.csv").write_bytes("image,label\n000.png,Übel\n".encode("latin-1"))
    with pytest.raises(DataError) as caught:
        read_table(tmp_path / "labels.csv")
    assert "UTF-8" in caught.value.fix
    (tmp_path / "dataset.toml").write_bytes('title = "Übel"\n'.encode("latin-1"))
    assert "UTF-8" in refused(tmp_path).fix


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("a = 1\nb = 2\na = 3", "'a'", (1, 3)),  # without a line end, which the parser gives no line of
        ("a = 1\n\na = 3\n", "'a'", (1, 3)),
        ('[label]\ncolumn = "x"\n[label]\ncolumn = "y"\n', "'label'", (1, 3)),
        ('[label]\ncolumn = "x"\ncolumn = "y"', "'label.column'", (2, 3)),
    ],
)
def test_a_repeated_key_is_reported_with_both_lines(text, key, lines):
    with pytest.raises(ValueError, match=key) as caught:
        parse_toml(text)
    assert f"line {lines[1]}" in str(caught.value) and f"line {lines[0]}" in str(caught.value)


def test_a_repeated_key_of_a_card_is_reported_with_its_line(tmp_path, golden):
    images(tmp_path, "a/1.png", "b/1.png")
    golden(refused(card(tmp_path, 'name = "a"\nname = "b"')).message, "dataset.toml", "line 2", "'name'", "line 1")
