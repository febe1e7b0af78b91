"""Build the layouts of docs/your-own-data.md, small; run as a program, write their trees and outputs into the page.

In the page a comment `<!-- shape: NAME -->` begins a shape. Of the fenced blocks below it, up to the next heading, the
first without a language is the tree, one called toml is its `dataset.toml`, and one that begins with `task:` is the
output of `zoo info datasets`; tree and output are optional. Prose and cards are written by hand.
"""

import contextlib
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from dicom_files import write as write_dicom
from folders import table
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage, DigitalXRayImageStorageForPresentation, UltrasoundMultiFrameImageStorage

from zoo.sources.listing import natural_key

PAGE = Path(__file__).resolve().parents[1] / "docs" / "your-own-data.md"
SHOWN = ("task", "labels", "positive", "patient", "unit", "metadata", "official_splits", "images", "patients")
SHOWN += ("split", "channels", "notes")
PEOPLE = range(1, 31)
BUILDERS: dict[str, Callable[[Path], None]] = {}


def shape(build: Callable[[Path], None]) -> Callable[[Path], None]:
    BUILDERS[build.__name__.replace("_", "-")] = build
    return build


# --- files -----------------------------------------------------------------------------------------------------------
def noise(name: str, shape: tuple[int, ...] = (24, 24), most: int = 256) -> np.ndarray:
    return (
        np.random.default_rng(list(name.encode()))
        .integers(0, most, shape)
        .astype(np.uint16 if most > 256 else np.uint8)
    )


def draw(root: Path, *names: str) -> None:
    """Small gray images, all different."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(name)).save(root / name)


def dicom(path: Path, **elements: object) -> None:
    pixels = elements.pop("pixels", noise(path.name + str(elements), (24, 24), 4096))
    kind = {"SOPClassUID": DigitalXRayImageStorageForPresentation, "Modality": "DX"}
    window = {"BitsStored": 12, "HighBit": 11, "WindowCenter": 2048, "WindowWidth": 4096}
    write_dicom(path, pixels, **(window if pixels.dtype == np.uint16 else {}), **{**kind, **elements})


def nifti(path: Path, dtype: type = np.int16) -> None:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(noise(path.name, (12, 12, 8), 900).astype(dtype), np.eye(4)), path)


def video(path: Path, frames: int = 24) -> None:
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg" if path.suffix == ".avi" else "libx264", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuvj420p" if path.suffix == ".avi" else "yuv420p"
        for frame in noise(path.name, (frames, 32, 32)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())


# --- class folders ---------------------------------------------------------------------------------------------------
@shape
def class_folders(root):
    draw(
        root,
        *(
            f"{label}/{n:03}.png"
            for label, start in (("benign", 1), ("malignant", 21))
            for n in range(start, start + 20)
        ),
    )


@shape
def split_folders(root):
    for split, count in (("train", 60), ("val", 30), ("test", 20)):
        draw(root, *(f"{split}/{label}/{split}_{n:03}.png" for label in ("normal", "pneumonia") for n in range(count)))


@shape
def patient_folders_below_classes(root):
    for label, people in (("benign", range(1, 9)), ("malignant", range(9, 17))):
        draw(root, *(f"{label}/P{person:02}/{n}.png" for person in people for n in range(1, 4)))


@shape
def class_folders_and_a_table(root):
    images = [f"{label}/{label[0]}{n:02}.png" for label in ("melanoma", "naevus") for n in range(1, 21)]
    draw(root, *images)
    rows = [f"{Path(name).stem},L{n // 2:02},{30 + n % 50}" for n, name in enumerate(images)]
    table(root, "image_id,lesion_id,age", *rows, name="metadata.csv")


# --- tables ----------------------------------------------------------------------------------------------------------
def photographs(root, count=30, suffix=".jpg"):
    draw(root, *(f"images/{n:03}{suffix}" for n in range(1, count + 1)))
    return range(1, count + 1)


@shape
def table_of_names(root):
    rows = [
        f"images/{n:03}.jpg,{('melanoma', 'naevus', 'keratosis')[n % 3]},P{(n + 1) // 2:02},F"
        for n in photographs(root)
    ]
    table(root, "image,diagnosis,patient_id,sex", *rows)


@shape
def table_of_integers(root):
    table(root, "image,label", *(f"{n:03}.jpg,{n % 4 if n % 5 else 0}" for n in photographs(root)))


@shape
def table_of_columns(root):
    kinds = ("MEL", "NV", "BCC")
    rows = [f"{n:03},{','.join(str(float(kinds[n % 3] == kind)) for kind in kinds)}" for n in photographs(root)]
    table(root, f"image,{','.join(kinds)}", *rows)


@shape
def table_of_lists(root):
    findings = ("No Finding", "Effusion", "Effusion|Mass", "Mass", "No Finding")
    rows = [f"{n:03}.png,{findings[n % 5]},{(n + 1) // 2}" for n in photographs(root, suffix=".png")]
    table(root, "Image Index,Finding Labels,Patient ID", *rows)


@shape
def table_of_boxes(root):
    rows = []
    for n in photographs(root):
        boxes = ["264,152,213,379", "562,152,256,453"] if n % 2 else [",,,"]
        rows += [f"{n:03},{box},{n % 2}" for box in boxes]
    table(root, "patientId,x,y,width,height,Target", *rows)


@shape
def table_of_grades(root):
    table(
        root,
        "image,level",
        *(f"{n // 2}_{('left', 'right')[n % 2]},{n // 12}" for n in range(2, 60)),
        name="grades.csv",
    )
    draw(root, *(f"train/{n // 2}_{('left', 'right')[n % 2]}.png" for n in range(2, 60)))


@shape
def table_of_numbers(root):
    rows = [f"{n:03}.jpg,{20 + (n * 37 % 97) / 2:.1f}" for n in photographs(root)]
    table(root, "image,ejection_fraction", *rows)


@shape
def names_by_pattern(root):
    for n in range(1, 31):
        draw(root, f"site_{n % 2 + 1}/scan_{n:03}_T1.png", f"site_{n % 2 + 1}/scan_{n:03}_T2.png")
    table(root, "number,outcome", *(f"{n:03},{('stable', 'worse')[n % 2]}" for n in range(1, 31)))


@shape
def patient_in_the_name(root):
    draw(root, *(f"{('benign', 'malignant')[n // 2 % 2]}/SOB_P{n // 2:02}_{n:03}.png" for n in range(40)))


@shape
def patient_absent(root):
    class_folders(root)


@shape
def folder_a_patient(root):
    draw(root, *(f"P{person:03}/{view}.png" for person in PEOPLE for view in ("axial", "coronal")))
    table(root, "patient,diagnosis,age", *(f"P{n:03},{('ill', 'well')[n % 2]},{40 + n}" for n in PEOPLE))


@shape
def second_table(root):
    for n in photographs(root):
        assert n
    table(root, "image,dx", *(f"{n:03},{('mel', 'nv')[n % 2]}" for n in range(1, 31)), name="truth.csv")
    table(root, "image,lesion_id,site", *(f"{n:03},L{n // 2:02},back" for n in range(30, 0, -1)), name="facts.csv")


@shape
def split_column(root):
    rows = [f"{n:03},{('no', 'yes')[n % 2]},{'AAAABBCC'[n // 16]}" for n in photographs(root, 128 - 1)]
    table(root, "image,label,fold", *rows)


@shape
def split_lists(root):
    rows = [f"{n:03}.jpg,{('no', 'yes')[n % 2]},{n // 3}" for n in photographs(root, 60)]
    table(root, "file,finding,patient", *rows)
    for name, numbers in (("train_val_list.txt", range(1, 45)), ("test_list.txt", range(45, 61))):
        (root / name).write_text("".join(f"{n:03}.jpg\n" for n in numbers))


@shape
def masks(root):
    for label, count in (("benign", 16), ("malignant", 14)):
        draw(root, *(f"{label}/{label} ({n}){end}.png" for n in range(1, count) for end in ("", "_mask")))
    draw(root, "benign/benign (3)_mask_1.png")


# --- DICOM -----------------------------------------------------------------------------------------------------------
@shape
def dicom_folders(root):
    for n in PEOPLE:
        for view in ("PA", "LL"):
            facts = {"PatientID": f"H{n:04}", "ViewPosition": view, "StationName": f"XR{n % 3}"}
            dicom(root / ("normal", "pneumonia")[n % 2] / f"{n:04}_{view}.dcm", **facts)


@shape
def dicom_by_name(root):
    for n in PEOPLE:
        dicom(root / "scans" / f"{n:08}.dcm", PatientID=f"H{n // 2:04}")
    table(root, "file,finding", *(f"{n:08},{('no', 'yes')[n % 2]}" for n in PEOPLE))


@shape
def dicom_by_tag(root):
    for n in PEOPLE:
        for view in range(2):
            facts = {"PatientID": f"H{n:04}", "AccessionNumber": f"A{n + 7000}", "InstanceNumber": view + 1}
            dicom(root / f"PA{n:06}" / "ST000000" / "SE000000" / f"IM{view:06}", **facts)
        write_dicom(root / f"PA{n:06}/ST000000/SE000001/IM000000", SOPClassUID=BasicTextSRStorage, Modality="SR")
    (root / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    table(root, "exam,finding", *(f"A{n + 7000},{('no', 'yes')[n % 2]}" for n in PEOPLE), name="reports.csv")


def ultrasound(root, frames):
    region = Dataset()
    region.RegionSpatialFormat, region.RegionLocationMinX0, region.RegionLocationMinY0 = 1, 4, 8
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 27, 31
    for n in PEOPLE:
        facts = {"SOPClassUID": UltrasoundMultiFrameImageStorage, "Modality": "US", "PatientID": f"U{n:03}"}
        pixels = noise(f"{n}", (frames, 32, 32, 3))
        dicom(
            root / ("benign", "malignant")[n % 2] / f"{n:03}.dcm",
            pixels=pixels,
            SequenceOfUltrasoundRegions=[region],
            **facts,
        )


@shape
def dicom_of_several_frames(root):
    ultrasound(root, 24)


@shape
def ultrasound_region(root):
    ultrasound(root, 2)


# --- volumes ---------------------------------------------------------------------------------------------------------
@shape
def nifti_and_a_table(root):
    for n in PEOPLE:
        nifti(root / "imagesTr" / f"case_{n:03}.nii.gz")
        nifti(root / "labelsTr" / f"case_{n:03}.nii.gz", np.uint8)
    table(root, "case,diagnosis", *(f"case_{n:03},{('control', 'tumour')[n % 2]}" for n in PEOPLE))


@shape
def nifti_in_bids(root):
    for n in PEOPLE:
        nifti(root / f"sub-{n:02}" / "anat" / f"sub-{n:02}_T1w.nii.gz")
    rows = [f"sub-{n:02}\t{40 + n}\t{'MF'[n % 3 % 2]}\t{('control', 'stroke')[n % 2]}" for n in PEOPLE]
    table(root, "participant_id\tage\tsex\tgroup", *rows, name="participants.tsv")


@shape
def tiff_stacks(root):
    import tifffile

    for n in PEOPLE:
        path = root / ("healthy", "treated")[n % 2] / f"stack{n:02}.tif"
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(path, noise(path.name, (6, 24, 24), 4096), photometric="minisblack")


@shape
def npy_volumes(root):
    for n in PEOPLE:
        path = root / ("healthy", "treated")[n % 2] / f"{n:02}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, noise(path.name, (6, 24, 24), 4096))


# --- clips -----------------------------------------------------------------------------------------------------------
@shape
def videos(root):
    for n in PEOPLE:
        video(root / "Videos" / f"0X{n:04}.avi")
    rows = [f"0X{n:04},{30 + n * 37 % 45}.5,{('TRAIN', 'TRAIN', 'VAL', 'TEST')[n % 4]}" for n in PEOPLE]
    table(root, "FileName,EF,Split", *rows, name="FileList.csv")


@shape
def videos_in_class_folders(root):
    for n in PEOPLE:
        video(root / ("covid", "regular")[n % 2] / f"{n:02}.mp4")


@shape
def frames_and_a_table(root):
    for n in PEOPLE:
        draw(root, *(f"frames/clip{n:02}/{frame:03}.jpg" for frame in range(12)))
    table(root, "clip,patient,label", *(f"clip{n:02},P{n // 2:02},{('neg', 'pos')[n // 2 % 2]}" for n in PEOPLE))


@shape
def frames_in_class_folders(root):
    for n in PEOPLE:
        draw(root, *(f"{('normal', 'polyp')[n % 2]}/clip{n:02}/{frame:03}.jpg" for frame in range(12)))


# --- other packages --------------------------------------------------------------------------------------------------
@shape
def npz(root):
    rng = np.random.default_rng(0)
    splits = {"train": 60, "val": 60, "test": 30}
    arrays = {f"{name}_images": rng.integers(0, 256, (count, 28, 28), dtype=np.uint8) for name, count in splits.items()}
    arrays |= {f"{name}_labels": np.arange(count)[:, None] % 2 for name, count in splits.items()}
    np.savez(root.with_suffix(".npz"), **arrays)


@shape
def npz_and_a_card(root):
    npz(root / "scans")


@shape
def hugging_face(root):
    import json

    for split, count in (("train", 60), ("validation", 60), ("test", 30)):
        draw(root, *(f"{split}/{n:03}.png" for n in range(count)))
        lines = [
            json.dumps({"file_name": f"{n:03}.png", "label": ("benign", "malignant")[n % 2]}) for n in range(count)
        ]
        (root / split / "metadata.jsonl").write_text("\n".join(lines) + "\n")


@shape
def archive(root):
    class_folders(root)
    shutil.make_archive(str(root), "zip", root.parent, root.name)
    shutil.rmtree(root)


# --- what the page shows of them -------------------------------------------------------------------------------------
def build(name: str, parent: Path, card: str = "") -> Path:
    """Build a dataset with its card, and return its folder or file."""
    root = parent / name
    root.mkdir(parents=True)
    BUILDERS[name](root)
    if card:
        (root / "dataset.toml").write_text(card)
    for suffix in (".zip", ".npz"):
        if root.with_suffix(suffix).exists():
            return root.with_suffix(suffix)
    return root


def tree(root: Path, is_card: bool) -> str:
    """List the files of a dataset, the first of many similar ones, and tables with their first rows."""
    if root.is_file():
        return root.name
    lines = [f"{root.name}/dataset.toml"] if is_card else []
    for path in sorted(root.iterdir()):
        if path.is_file() and path.name != "dataset.toml":
            lines.append(f"{root.name}/{path.name}")
            if path.suffix in (".csv", ".tsv", ".txt"):
                rows = path.read_text().splitlines()
                lines += [f"    {row.replace(chr(9), '  ')}" for row in rows[:3]] + ["    ..."]
    lines += files_below(root, root)
    return "\n".join(lines)


def files_below(root: Path, folder: Path) -> Iterator[str]:
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    for number, path in enumerate(folders):
        if number == 2 and len(folders) > 4:
            yield f"{root.name}/{path.parent.relative_to(root).as_posix()}/...".replace("/./", "/")
            return
        files = sorted((each.name for each in path.iterdir() if each.is_file()), key=natural_key)
        shown = f"{root.name}/{path.relative_to(root).as_posix()}/"
        if files:
            yield shown + (", ".join(files) if len(files) < 4 else f"{files[0]}, {files[1]}, ... {files[-1]}")
        yield from files_below(root, path)


def printed(path: Path) -> str:
    """Return the output of `zoo info datasets` without the lines that the page leaves out."""
    from zoo.cli.process import run

    out, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(told):
        status = run(["info", "datasets", str(path), "--sheet", str(path.with_name("sheet.png"))])
    assert status == 0, told.getvalue()
    kept, keep = [], False
    for line in out.getvalue().splitlines():
        if re.match(r"\w+:", line):
            keep = line.partition(":")[0] in SHOWN
        if keep:
            kept.append(line)
    return "\n".join(kept)


# --- the page --------------------------------------------------------------------------------------------------------
SECTION = re.compile(r"<!-- shape: ([a-z-]+) -->\n(.*?)(?=^#|<!-- shape|\Z)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def sections(page: str) -> dict[str, str]:
    return {found[1]: found[2] for found in SECTION.finditer(page)}


def blocks(section: str) -> tuple[str, str, str]:
    """Return tree, card and output of a section; "" for missing ones."""
    found = [(language, text) for language, text in BLOCK.findall(section)]
    plain = [text for language, text in found if not language]
    card = next((text for language, text in found if language == "toml"), "")
    shown = next((text for text in plain if text.startswith("task:")), "")
    return next((text for text in plain if text != shown), ""), card, shown


def rewrite(section: str, name: str, parent: Path) -> str:
    old_tree, card, old_print = blocks(section)
    path = build(name, parent, card)
    if old_tree:
        section = section.replace(f"```\n{old_tree}```", f"```\n{tree(path, bool(card))}\n```", 1)
    return section.replace(f"```\n{old_print}```", f"```\n{printed(path)}\n```", 1) if old_print else section


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ZOO_CACHE"] = f"{folder}/cache"
        wanted = sys.argv[1:] or list(sections(page))
        for name in wanted:
            section = sections(page)[name]
            page = page.replace(section, rewrite(section, name, Path(folder)))
            print(name)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
