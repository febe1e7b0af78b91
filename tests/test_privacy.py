"""A bundle of DICOM files contains none of their identifiers, in any encoding or file."""

import getpass
import io
import platform
import zipfile

import numpy as np
import pytest
from dicom_files import write

PERSONS = {
    "PatientName": "Zuckerkandl^Emil",
    "PatientID": "MRN-4711-{number}",
    "PatientBirthDate": "19491001",
    "AccessionNumber": "ACC9988{number}",
    "InstitutionName": "Allgemeines Krankenhaus",
    "ReferringPhysicianName": "Billroth^Theodor",
    "StudyInstanceUID": "1.2.826.0.1.{number}.4242",
    "DeviceSerialNumber": "SER-55-77",
    "StationName": "CTAWP4711",
    "StudyDescription": "Thorax Zuckerkandl",
    "PatientSex": "F",
    "PatientAge": "063Y",
}
SECRETS = [
    *("Zuckerkandl", "Emil", "MRN-4711", "19491001", "ACC9988", "Krankenhaus", "Billroth", "1.2.826.0.1", "SER-55"),
    *("CTAWP4711", "Thorax", "station_three", "scan-of-"),
]


@pytest.fixture(scope="module")
def bundles(zoo, tmp_path_factory):
    """Bundles (folder and zip) of a bench on DICOM files in a folder named after a ward."""
    root = tmp_path_factory.mktemp("station_three")
    random = np.random.default_rng(0)
    for number in range(60):
        sick = number % 2
        pixels = (random.normal(100 + 60 * sick, 30, (16, 16))).astype(np.int16)
        tags = {key: value.format(number=number // 3) for key, value in PERSONS.items()}
        write(root / "ct" / ("sick" if sick else "well") / f"scan-of-Emil-{number}.dcm", pixels, **tags)
    words = ["-m", "tiny_cnn", "-d", root / "ct", "--protocol", "scratch", "--set", "image_size=16", "--set", "steps=3"]
    done = zoo("bench", *words, "--seeds", 1, "--folds", 2, "--results", root / "results", cwd=root)
    assert done.returncode == 0, done.stderr
    for output in ("out", "out.zip"):
        made = zoo("bundle", root / output, "--results", root / "results", cwd=root)
        assert made.returncode == 0, made.stderr
    return root / "out", root / "out.zip"


def contents(path):
    """Return the bytes of every file in a folder or zip by name, including files in nested archives."""
    if path.is_dir():
        files = {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    else:
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
            files["comments"] = archive.comment + b"".join(each.comment + each.extra for each in archive.infolist())
    for name, data in list(files.items()):
        if name.endswith(".npz"):
            with zipfile.ZipFile(io.BytesIO(data)) as inner:
                files |= {f"{name}/{part}": inner.read(part) for part in inner.namelist()}
    return files


@pytest.mark.parametrize("form", [0, 1], ids=["folder", "zip"])
def test_no_identifier_of_a_person_place_or_machine_is_in_a_bundle(bundles, form):
    files = contents(bundles[form])
    assert sum(name.endswith("predictions.npz") for name in files) >= 2
    secrets = [*SECRETS, str(bundles[form].parent)]
    secrets += [name for name in (getpass.getuser(), platform.node()) if len(name) > 4]  # "root" is a word, too
    for secret in secrets:
        for encoding in ("utf-8", "utf-16-le", "utf-32-le"):
            pattern = secret.lower().encode(encoding)
            for name, data in files.items():
                assert pattern not in name.lower().encode(encoding), f"{secret} in the name {name}"
                assert pattern not in data.lower(), f"{secret} in {name}"


def test_the_original_results_contain_ids(bundles):
    stored = contents(bundles[0].parent / "results")
    assert any("MRN-4711".encode("utf-32-le") in data or b"MRN-4711" in data for data in stored.values())
