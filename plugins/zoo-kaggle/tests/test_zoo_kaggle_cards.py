"""Every card against a small replica of its set: the real folders, names and columns around tiny images."""

import csv
import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, SecondaryCaptureImageStorage, generate_uid

from zoo import SamplesRequest
from zoo.data.fingerprints import take_fingerprints
from zoo.data.opening import open_dataset
from zoo.data.splits import draw_split
from zoo.errors import DataError
from zoo.sources.cards import read_card
from zoo.testing import check_dataset
from zoo_kaggle import CARDS, handle_of, register_datasets
from zoo_kaggle.fetching import page_of

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
SPECS = {spec.name: spec for spec in register_datasets()}
READY = {name: spec for name, spec in SPECS.items() if name != "kaggle"}


# --- replicas --------------------------------------------------------------------------------------------------------
def draw(root, *names, size=(12, 10)):
    """Tiny images with these names, no two alike."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(list(name.encode()))
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def write_csv(root, name, header, rows):
    with open(root / name, "w", newline="") as stream:
        csv.writer(stream).writerows([header.split(","), *rows])


def chest_xray_pneumonia(root):
    names = [f"train/NORMAL/{kind}-{number:04}-0001.jpeg" for kind in ("IM", "NORMAL2-IM") for number in (115, 117)]
    names += ["train/NORMAL/IM-0539-0001-0001.jpeg", "train/NORMAL/IM-0539-0001-0002.jpeg"]
    names += ["train/PNEUMONIA/person1_bacteria_1.jpeg", "train/PNEUMONIA/person1_bacteria_2.jpeg"]
    names += ["train/PNEUMONIA/person100_virus_184.jpeg"]
    names += [f"val/NORMAL/NORMAL2-IM-{number}-0001.jpeg" for number in range(1427, 1435)]
    names += [f"val/PNEUMONIA/person{number}_bacteria_{number * 2}.jpeg" for number in range(1946, 1954)]
    names += ["test/NORMAL/IM-0001-0001.jpeg", "test/NORMAL/NORMAL2-IM-0340-0001.jpeg"]
    names += ["test/PNEUMONIA/person1_virus_6.jpeg", "test/PNEUMONIA/person100_bacteria_475.jpeg"]
    draw(root, *(f"chest_xray/{name}" for name in names), *(f"chest_xray/chest_xray/{name}" for name in names))
    (root / "chest_xray/__MACOSX/train").mkdir(parents=True)
    (root / "chest_xray/__MACOSX/train/._person1_bacteria_1.jpeg").write_bytes(b"\0")
    (root / "chest_xray/train/.DS_Store").write_bytes(b"\0")


def brain_tumor_mri(root):
    for split, short in (("Training", "Tr"), ("Testing", "Te")):
        for label in ("glioma", "meningioma", "notumor", "pituitary"):
            draw(root, *(f"{split}/{label}/{short}-{label[:2]}_{number:04}.jpg" for number in (10, 11, 12)))


def brain_mri_yes_no(root):
    names = ["no/1 no.jpeg", "no/N1.JPG", "no/no 923.jpg", "yes/Y1.jpg", "yes/Y100.JPG", "yes/Y108.jpg"]
    draw(root, *names, *(f"brain_tumor_dataset/{name}" for name in names))


def ham10000(root):
    labels = ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]
    rows = []
    for number in range(28):
        image = f"ISIC_{24306 + number:07}"
        confirmed = "histo" if number % 7 == 4 else "follow_up"
        rows.append([f"HAM_{number // 2 % 7:07}", image, labels[number // 2 % 7], confirmed, "80.0", "male", "scalp"])
        draw(root, f"HAM10000_images_part_{1 + number // 14}/{image}.jpg")
    write_csv(root, "HAM10000_metadata.csv", "lesion_id,image_id,dx,dx_type,age,sex,localization", rows)
    write_csv(root, "hmnist_28_28_L.csv", "pixel0000,label", [["1", "2"]])


def isic2019(root):
    labels = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"]
    truth, facts = [], []
    for number in range(32):
        image = f"ISIC_{number:07}" + ("_downsampled" if number % 3 == 0 else "")
        truth.append([image, *("1.0" if number % 8 == index else "0.0" for index in range(9))])
        lesion = "" if number == 5 else f"BCN_{number % 16:07}"
        facts.append([image, "55.0", "anterior torso", lesion, "female"])
        draw(root, f"ISIC_2019_Training_Input/ISIC_2019_Training_Input/{image}.jpg")
    write_csv(root, "ISIC_2019_Training_GroundTruth.csv", ",".join(["image", *labels]), truth)
    write_csv(
        root, "ISIC_2019_Training_Metadata.csv", "image,age_approx,anatom_site_general,lesion_id,sex", facts[::-1]
    )


def siim_isic_melanoma(root):
    columns = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target"
    rows = []
    for number in range(36):
        image, ill = f"ISIC_{2637011 + number}", number % 4 == 0
        kind = ["melanoma", "malignant", "1"] if ill else ["unknown", "benign", "0"]
        rows.append([image, f"IP_{number // 3:07}", "male", "45.0", "head/neck", *kind])
        draw(root, f"jpeg/train/{image}.jpg", size=(64, 64))
    draw(root, "jpeg/test/ISIC_0052060.jpg", size=(64, 64))
    write_csv(root, "train.csv", columns, rows)
    write_csv(root, "test.csv", columns.partition(",diagnosis")[0], [["ISIC_0052060"] * 5])
    write_csv(root, "sample_submission.csv", "image_name,target", [["ISIC_0052060", "0"]])


def aptos2019(root):
    rows = [[f"{number:012x}", str(number % 5)] for number in range(10)]
    draw(root, *(f"train_images/{name}.png" for name, _ in rows), "test_images/0005cfc8afb6.png")
    write_csv(root, "train.csv", "id_code,diagnosis", rows)
    write_csv(root, "test.csv", "id_code", [["0005cfc8afb6"]])


def diabetic_retinopathy(root):
    rows = [[f"{number // 2}_{('left', 'right')[number % 2]}", str(number % 5)] for number in range(20, 40)]
    draw(root, *(f"train/{name}.jpeg" for name, _ in rows), "test/1_left.jpeg")
    write_csv(root, "trainLabels.csv", "image,level", rows)


def radiograph(path, pixels, **elements):
    """A file as RSNA's are: a JPEG of 8 bits that calls itself a secondary capture."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    facts = {"SOPClassUID": SecondaryCaptureImageStorage, "SOPInstanceUID": generate_uid(), "Modality": "CR"}
    facts |= {"ConversionType": "WSD", "BodyPartExamined": "CHEST", "PhotometricInterpretation": "MONOCHROME2"}
    facts |= {"Rows": len(pixels), "Columns": pixels.shape[1], "SamplesPerPixel": 1, "PixelRepresentation": 0}
    facts |= {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelData": encapsulate([stream.getvalue()])}
    for keyword, value in {**facts, **elements}.items():
        setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def rsna_pneumonia(root):
    rows, kinds = [], []
    for number in range(8):
        name = f"0004cfab-14fd-4e49-80ba-63a80b6bdd{number:02}"
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32), dtype=np.uint8)
        view = {"ViewPosition": "AP" if number % 2 else "PA", "PatientSex": "MF"[number // 2 % 2]}
        radiograph(root / "stage_2_train_images" / f"{name}.dcm", pixels, PatientID=name, **view)
        boxes = [["264.0", "152.0", "213.0", "379.0"], ["562.0", "152.0", "256.0", "453.0"]]
        rows += [[name, *box, "1"] for box in boxes] if number % 2 else [[name, "", "", "", "", "0"]]
        kinds += (
            [[name, "Lung Opacity"]] * 2
            if number % 2
            else [[name, ("Normal", "No Lung Opacity / Not Normal")[number // 4]]]
        )
    radiograph(
        root / "stage_2_test_images" / "0000a175-0e68-4ca4-b1af-167204a7e099.dcm", pixels[::-1].copy(), PatientID="x"
    )
    write_csv(root, "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", rows)
    write_csv(root, "stage_2_detailed_class_info.csv", "patientId,class", kinds)
    write_csv(root, "stage_2_sample_submission.csv", "patientId,PredictionString", [["0000a175", "0.5 0 0 100 100"]])


def pcam_kaggle(root):
    rows = [[f"{number:040x}", str(number % 2)] for number in range(8)]
    draw(root, *(f"train/{name}.tif" for name, _ in rows), f"test/{99:040x}.tif", size=(96, 96))
    write_csv(root, "train_labels.csv", "id,label", rows)
    write_csv(root, "sample_submission.csv", "id,label", [[f"{99:040x}", "0"]])


def busi(root):
    numbers = {"normal": (1, 2), "benign": (1, 4, 433), "malignant": (1, 145)}
    for label, found in numbers.items():
        for number in found:
            draw(root, *(f"Dataset_BUSI_with_GT/{label}/{label} ({number}){end}.png" for end in ("", "_mask")))
    draw(root, "Dataset_BUSI_with_GT/benign/benign (4)_mask_1.png")


def malaria_cells(root):
    names = [f"Parasitized/C33P1thinF_IMG_20150619_{n}a_cell_179.png" for n in (114756, 115740)]
    names += ["Parasitized/C100P61ThinF_IMG_20150918_144104_cell_162.png"]
    names += [f"Uninfected/{n}.png" for n in ("C1_thinF_IMG_2015_cell_9", "C33P1thinF_IMG_20150619_114756a_cell_1")]
    draw(root, *(f"cell_images/{name}" for name in names), *(f"cell_images/cell_images/{name}" for name in names))
    (root / "cell_images/Parasitized/Thumbs.db").write_bytes(b"\0")


def covid_radiography(root):
    for label in ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia"):
        for number in (1, 2):
            draw(root / "COVID-19_Radiography_Dataset", f"{label}/images/{label}-{number}.png")
            draw(root / "COVID-19_Radiography_Dataset", f"{label}/masks/{label}-{number}.png")
        (root / f"COVID-19_Radiography_Dataset/{label}.metadata.xlsx").write_bytes(b"PK")
    (root / "COVID-19_Radiography_Dataset/README.md.txt").write_text("read me")


# name: how it is laid out, images by label, patients (None: no key), official splits
REPLICAS = {
    "chest-xray-pneumonia": (chest_xray_pneumonia, {"normal": 16, "pneumonia": 13}, 27, ("train", "val", "test")),
    "brain-tumor-mri": (brain_tumor_mri, dict.fromkeys(READY["brain-tumor-mri"].labels, 6), None, ("train", "test")),
    "brain-mri-yes-no": (brain_mri_yes_no, {"no tumour": 3, "tumour": 3}, None, ()),
    "ham10000": (ham10000, dict.fromkeys(READY["ham10000"].labels, 4), 7, ()),
    "isic2019": (isic2019, dict.fromkeys(READY["isic2019"].labels, 4), 17, ()),
    "siim-isic-melanoma": (siim_isic_melanoma, {"benign": 27, "melanoma": 9}, 12, ()),
    "aptos2019": (aptos2019, dict.fromkeys(READY["aptos2019"].labels, 2), None, ()),
    "diabetic-retinopathy": (diabetic_retinopathy, dict.fromkeys(READY["diabetic-retinopathy"].labels, 4), 10, ()),
    "rsna-pneumonia": (rsna_pneumonia, {"no lung opacity": 4, "lung opacity": 4}, 8, ()),
    "pcam-kaggle": (pcam_kaggle, {"no tumour": 4, "tumour": 4}, None, ()),
    "busi": (busi, {"normal": 2, "benign": 3, "malignant": 2}, None, ()),
    "malaria-cells": (malaria_cells, {"uninfected": 2, "parasitized": 3}, 3, ()),
    "covid-radiography": (covid_radiography, dict.fromkeys(READY["covid-radiography"].labels, 2), None, ()),
}


@pytest.fixture
def replica(tmp_path, monkeypatch):
    """Lays a replica out where $ZOO_KAGGLE says; returns its folder."""

    def build(name):
        home = tmp_path / "kaggle"
        monkeypatch.setenv("ZOO_KAGGLE", str(home))
        root = home / next(card.stem for card in CARDS.glob("*.toml") if read_card(card).name == name)
        root.mkdir(parents=True)
        REPLICAS[name][0](root)
        return root

    return build


def opened(name, tmp_path):
    """The dataset as a bench opens it."""
    return open_dataset(SPECS[name], tmp_path / "cache", offline=True)


# --- cards -----------------------------------------------------------------------------------------------------------
def test_there_is_a_replica_for_every_card():
    assert set(REPLICAS) == set(READY)
    assert len(READY) >= 13


@pytest.mark.parametrize("card", sorted(CARDS.glob("*.toml")), ids=lambda card: card.stem)
def test_a_card_is_valid_complete_and_named_after_its_page(card):
    read = read_card(card)
    assert read.url == page_of(handle_of(card))
    for field in ("name", "title", "modality", "license", "citation", "task"):
        assert getattr(read, field), field
    assert read.known_issues
    assert read.patient or "{patient}" in read.images


def test_the_readme_lists_every_card():
    readme = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line.split("`")[3] for line in readme.splitlines() if line.startswith("| `")}
    assert rows == {read_card(card).name: handle_of(card) for card in CARDS.glob("*.toml")}


@pytest.mark.parametrize("name", REPLICAS)
def test_a_replica_is_read_as_expected(name, replica, tmp_path):
    replica(name)
    _, labels, num_patients, splits = REPLICAS[name]
    source = opened(name, tmp_path)
    targets = source.samples.targets
    assert {label: int((targets == index).sum()) for index, label in enumerate(source.spec.labels)} == labels
    assert (len(set(source.patients.tolist())) if source.has_patients else None) == num_patients
    assert source.spec.official_splits == splits
    assert all(source.samples.read(image).ndim in (2, 3) for image in source.samples.table["image"])


@pytest.mark.parametrize("name", REPLICAS)
def test_a_card_passes_the_conformance_kit(name, replica, tmp_path):
    replica(name)
    check_dataset(SPECS[name], tmp_path / "cache" / "datasets" / name)


@pytest.mark.integration
def test_listing_the_cards_imports_nothing_heavy():
    code = (
        "import sys, zoo_kaggle; zoo_kaggle.register_datasets();"
        "print({'torch', 'pandas', 'PIL', 'requests', 'pydantic', 'kagglehub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- what single cards are careful about -----------------------------------------------------------------------------
def test_children_of_kermany_with_one_number_and_two_diseases_are_two_patients(replica, tmp_path):
    replica("chest-xray-pneumonia")
    table = opened("chest-xray-pneumonia", tmp_path).samples.table
    assert table.groupby("patient")["split"].nunique().max() == 1
    of = dict(zip(table["image"].map(lambda image: image.rpartition("/")[2]), table["patient"], strict=True))
    assert of["person1_bacteria_1.jpeg"] == of["person1_bacteria_2.jpeg"] != of["person1_virus_6.jpeg"]
    assert of["IM-0539-0001-0001.jpeg"] == of["IM-0539-0001-0002.jpeg"] == "IM-0539"
    assert of["NORMAL2-IM-0117-0001.jpeg"] != of["IM-0117-0001.jpeg"]


@pytest.mark.integration
def test_the_val_of_kermany_is_redrawn_with_a_note(replica, tmp_path):
    replica("chest-xray-pneumonia")
    source = opened("chest-xray-pneumonia", tmp_path)
    split = draw_split(source)
    assert (split.folds[0] == "test").tolist() == (source.splits == "test").tolist()
    assert any("official val (16 images)" in note and "redrawn" in note for note in split.notes)


@pytest.mark.parametrize("name", ["chest-xray-pneumonia", "brain-mri-yes-no", "malaria-cells"])
def test_a_copy_of_a_folder_inside_itself_is_left_out_and_counted(name, replica, tmp_path):
    replica(name)
    source = opened(name, tmp_path)
    assert len(set(source.digests.tolist())) == len(source.digests)
    assert any(f"{len(source.digests)} images left out" in note for note in source.samples.notes)


@pytest.mark.parametrize("name", ["busi", "covid-radiography"])
def test_masks_are_not_images(name, replica, tmp_path):
    root = replica(name)
    assert len([path for path in root.rglob("*.png") if "mask" in path.as_posix()]) >= 7
    assert not [image for image in opened(name, tmp_path).samples.table["image"] if "mask" in image]


def test_columns_that_leak_the_label_are_not_in_the_table(replica, tmp_path):
    for name, hidden in (("ham10000", "dx_type"), ("siim-isic-melanoma", "benign_malignant")):
        replica(name)
        assert hidden not in opened(name, tmp_path).samples.table.columns


def test_both_eyes_of_a_patient_have_one_patient_and_their_own_grades(replica, tmp_path):
    replica("diabetic-retinopathy")
    table = opened("diabetic-retinopathy", tmp_path).samples.table
    assert table["patient"].value_counts().unique().tolist() == [2]
    assert SPECS["diabetic-retinopathy"].unit == "image"


def test_rows_of_several_boxes_are_one_image_and_boxes_are_hidden(replica, tmp_path):
    replica("rsna-pneumonia")
    source = opened("rsna-pneumonia", tmp_path)
    assert len(source.sample_ids) == 8
    assert any("4 rows of " in note and "repeat an image" in note for note in source.samples.notes)
    assert not {"x", "y", "width", "height", "class"} & set(source.samples.table.columns)


def test_rsna_radiographs_declared_as_captures_are_read_like_their_jpegs(replica, tmp_path):
    root = replica("rsna-pneumonia")
    samples = opened("rsna-pneumonia", tmp_path).samples
    assert any("all 8 images are secondary capture: they are read" in note for note in samples.notes)
    for image in samples.table["image"]:
        assert image.startswith("stage_2_train_images/")
        assert (samples.read(image) == pydicom.dcmread(root / image).pixel_array).all()


def test_the_view_that_reveals_bedside_images_is_metadata(replica, tmp_path):
    replica("rsna-pneumonia")
    source = opened("rsna-pneumonia", tmp_path)
    assert set(source.spec.metadata) == {"ViewPosition", "PatientSex"}
    views = dict(zip(source.samples.table["ViewPosition"], source.samples.targets, strict=True))
    assert views == {"AP": 1, "PA": 0}


def test_a_siim_image_of_two_patients_stays_in_one_split(replica, tmp_path):
    root = replica("siim-isic-melanoma") / "jpeg" / "train"
    twins = [root / f"ISIC_{number}.jpg" for number in (2637012, 2637017)]  # of two patients, both benign
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    photograph = Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC)
    for quality, twin in zip((95, 80), twins, strict=True):
        photograph.save(twin, quality=quality)  # as such copies are: not the same bytes
    source = opened("siim-isic-melanoma", tmp_path)
    split = draw_split(source, folds=3, fingerprints=take_fingerprints(source, tmp_path / "cache"))
    rows = [list(source.sample_ids).index(f"jpeg/train/{twin.name}") for twin in twins]
    assert all(fold[rows[0]] == fold[rows[1]] for fold in split.folds)
    apart = draw_split(source, folds=3)
    assert any(fold[rows[0]] != fold[rows[1]] for fold in apart.folds)  # their patients alone would part them


def test_isic_lesions_come_from_the_second_table_and_images_without_are_separate(replica, tmp_path):
    replica("isic2019")
    table = opened("isic2019", tmp_path).samples.table
    assert table["patient"].str.startswith("unknown").sum() == 1
    assert set(table["age_approx"]) == {"55.0"}


def test_packed_parts_of_archives_are_named(replica, tmp_path):
    root = replica("diabetic-retinopathy")
    for path in (root / "train").iterdir():
        path.unlink()
    for part in range(1, 6):
        (root / f"train.zip.00{part}").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"5 archives in .*train\.zip\.001"):
        SPECS["diabetic-retinopathy"].samples(SamplesRequest(folder=tmp_path / "datasets" / "x", offline=True))


@pytest.mark.skipif(not (SHARED / "ham10000_mel_nv").is_dir(), reason="no ../shared/data/ham10000_mel_nv here")
@pytest.mark.integration
def test_real_images_in_the_layout_of_ham10000_are_grouped_by_their_lesions(tmp_path, monkeypatch):
    root = tmp_path / "kaggle" / "skin-cancer-mnist-ham10000"
    part = root / "HAM10000_images_part_1"
    part.mkdir(parents=True)
    images = {path.stem: path for path in (SHARED / "ham10000_mel_nv").rglob("*.jpg")}
    for path in images.values():
        shutil.copy(path, part / path.name)
    header, *rows = (SHARED / "ham10000_mel_nv" / "HAM10000_metadata.csv").read_text().splitlines()
    column = header.split(",").index("image_id")
    # The file describes all 10,015 and writes diagnoses out; Kaggle's has their short names, as the folders here.
    facts = [row.split(",") for row in rows if row.split(",")[column] in images]
    kept = [",".join([lesion, image, images[image].parent.name, *more]) for lesion, image, _, *more in facts]
    (root / "HAM10000_metadata.csv").write_text("\n".join([header, *kept]) + "\n")
    monkeypatch.setenv("ZOO_KAGGLE", str(tmp_path / "kaggle"))
    source = opened("ham10000", tmp_path)
    assert (len(source.digests), len(set(source.patients.tolist()))) == (2000, 1563)
    split = draw_split(source)
    for fold in split.folds:
        parts = {part: set(source.patients[fold == part].tolist()) for part in ("train", "val", "test")}
        assert not parts["train"] & parts["test"]
        assert not parts["train"] & parts["val"]
