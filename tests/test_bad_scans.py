"""Datasets with one bad DICOM file, volume, video or folder of frames, as tests/test_bad_images.py for images."""

import gzip
import io
import os

import av
import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
from bad_sets import MAX_BYTES, MAX_SECONDS, bench_all, look_at_each, refused_by
from dicom_files import write as write_dicom
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEG2000Lossless, JPEGLosslessSV1

from zoo.data.opening import open_dataset
from zoo.sources.opening import find_source

RANDOM = np.random.default_rng(17)
NUM_FILES = 8  # good files beside the bad one
HTML = b"<!DOCTYPE html><html><body>Please log in</body></html>"
HTJ2K, MPEG4 = "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.102"
posix = pytest.mark.skipif(os.name != "posix", reason="wait4 and memory")


# --- good files ------------------------------------------------------------------------------------------------------
def scan(path, **elements):
    return write_dicom(path, RANDOM.integers(-500, 500, (32, 32)).astype(np.int16), **elements)


def volume(path, shape=(12, 12, 6), dtype=np.int16, change=None):
    values = RANDOM.integers(0, 900, shape).astype(dtype)
    if change is not None:
        values[1, 1, 1] = change
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    return path


def array(path, shape=(6, 12, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, RANDOM.integers(0, 900, shape).astype(np.uint16))
    return path


def stack(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, RANDOM.integers(0, 900, (6, 24, 24)).astype(np.uint16), photometric="minisblack")
    return path


def video(path, frames=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg" if path.suffix == ".avi" else "mpeg4", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuvj420p" if path.suffix == ".avi" else "yuv420p"
        for frame in RANDOM.integers(0, 255, (frames, 32, 32), dtype=np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())
    return path


def folder_of_frames(path):
    path.mkdir(parents=True)
    for number in range(4):
        Image.fromarray(RANDOM.integers(0, 256, (16, 16), dtype=np.uint8)).save(path / f"{number}.png")
    return path


# suffix of a good file -> how it is made, what the card says
KINDS = {
    ".dcm": (scan, ""),
    ".nii.gz": (volume, ""),
    ".nii": (volume, ""),
    ".npy": (array, "slices = {axis = 0}"),
    ".tif": (stack, "slices = {axis = 0}"),
    ".avi": (video, ""),
    ".mp4": (video, ""),
    "": (folder_of_frames, "frames = {every = 1}"),
}


# --- bad files -------------------------------------------------------------------------------------------------------
def cut(make, share=0.5):
    def bad(path):
        data = make(path).read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return bad


def holding(data):
    return lambda path: path.write_bytes(data)


def dicom(**elements):
    return lambda path: scan(path, **elements)


def packed(path, syntax):
    """Write a file with a transfer syntax and invalid pixel data."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    scan(path, file_meta=meta, PixelData=encapsulate([bytes(64)]))


def packed_garbage(path):
    """Write the start of a JPEG without a marker after it, for which gdcm ends the process."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = JPEGLosslessSV1
    scan(path, file_meta=meta, PixelData=encapsulate([b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(range(64))]))


def packed_smaller(path):
    """Write a header of 32 x 64 pixels with a codestream of 32 x 32."""
    dataset = pydicom.dcmread(scan(path, compress=JPEG2000Lossless))
    dataset.Rows = 64
    dataset.save_as(path)


def nifti_header(path, shape):
    """Write a header that declares a shape, followed by one kilobyte."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header["dim"][: len(shape) + 1] = (len(shape), *shape)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    data = header.binaryblock + bytes(4 + 1024)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def nifti_of(**fields):
    """A function that writes a volume with changed header fields."""

    def bad(path):
        data = bytearray(volume(path).read_bytes())
        header = nibabel.Nifti1Header(bytes(data[:348]))
        for name, value in fields.items():
            header[name] = value
        path.write_bytes(header.binaryblock + data[348:])

    return bad


def npy_header(path, shape, descr="<u2"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    path.write_bytes(stream.getvalue() + bytes(1024))


def objects(path):
    np.save(path, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)


def pages_of_two_sizes(path):
    with tifffile.TiffWriter(path) as writer:
        for size in (24, 24, 12):
            writer.write(RANDOM.integers(0, 900, (size, size)).astype(np.uint16), photometric="minisblack")


def no_frames(path):
    """Write a video with a complete header that ends before its first frame."""
    data = video(path, frames=1).read_bytes()
    path.write_bytes(data[: data.index(b"movi") + 4])


def frames_of_two_sizes(path):
    folder_of_frames(path)
    Image.fromarray(RANDOM.integers(0, 256, (48, 32), dtype=np.uint8)).save(path / "3.png")


def broken_frame(path):
    folder_of_frames(path)
    (path / "3.png").write_bytes((path / "2.png").read_bytes()[:60])


# name of the dataset -> suffix, function that writes the bad file, part of the message
FILES = {
    "dicom_no_pixels": (".dcm", dicom(PixelData=None), "contains no pixels"),
    "dicom_few_pixels": (".dcm", dicom(PixelData=bytes(100)), "100 bytes of pixels, expected 2048 for 32 x 32 pixels"),
    "dicom_cut": (".dcm", cut(scan, 0.7), "bytes of pixels, expected 2048 for 32 x 32 pixels"),
    "dicom_cut_early": (".dcm", cut(scan, 0.2), "x.dcm"),
    "dicom_wide": (".dcm", dicom(Rows=65535, Columns=65535), "65535 x 65535 is more than 89 megapixels"),
    "dicom_flat": (".dcm", dicom(Rows=0), "32 x 0 pixels"),
    "dicom_long": (".dcm", dicom(NumberOfFrames=2**31 - 1), "32 x 32 pixels in 2147483647 frames"),
    "dicom_frames": (".dcm", dicom(NumberOfFrames=90_000), "expected 184320000 for 32 x 32 pixels in 90000 frames"),
    "dicom_depth": (".dcm", dicom(BitsStored=20), "BitsStored 20 of BitsAllocated 16"),
    "dicom_color": (".dcm", dicom(PhotometricInterpretation="CIELAB"), "PhotometricInterpretation 'CIELAB'"),
    "dicom_syntax": (".dcm", lambda p: packed(p, MPEG4), "no decoder for its transfer syntax, MPEG-4"),
    "dicom_codestream": (".dcm", packed_smaller, "its header declares 32 x 64"),
    "dicom_jpeg": (".dcm", packed_garbage, "its JPEG has no marker at byte 20"),
    "dicom_slope": (".dcm", dicom(RescaleSlope=0), "RescaleSlope 0"),
    "dicom_html": (".dcm", holding(HTML), "not DICOM"),
    "dicom_empty": (".dcm", holding(b""), "the file is empty"),
    "nifti_cut": (".nii", cut(volume), "the file ends early"),
    "nifti_gz_cut": (".nii.gz", cut(volume), "x.nii.gz"),
    "nifti_huge": (".nii", lambda p: nifti_header(p, (30_000, 30_000, 30_000)), "the file ends early"),
    "nifti_gz_huge": (".nii.gz", lambda p: nifti_header(p, (30_000, 30_000, 30_000)), "the file ends early"),
    "nifti_nan": (".nii.gz", lambda p: volume(p, dtype=np.float32, change=np.nan), "in slice 1 are NaN or infinite"),
    "nifti_four": (".nii.gz", lambda p: volume(p, (12, 12, 6, 3)), "expected a volume with 3 axes"),
    "nifti_type": (".nii", nifti_of(datatype=999), "data code 999 not recognized"),
    "nifti_offset": (".nii", nifti_of(vox_offset=3), "vox offset 3 too low"),
    "nifti_axes": (".nii", nifti_of(dim=[9, 8, 8, 4, 1, 1, 1, 1]), "cannot be decoded"),
    "nifti_html": (".nii.gz", holding(HTML), "it is a web page"),
    "npy_objects": (".npy", objects, "contains Python objects, which could run code when read"),
    "npy_pickle": (
        ".npy",
        holding(b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x05hello\x94."),
        "a Python pickle",
    ),
    "npy_huge": (".npy", lambda p: npy_header(p, (5_000, 1_000, 1_000_000)), "x.npy"),
    "npy_flat": (".npy", lambda p: array(p, (0, 64)), "an array of shape (0, 64) is empty"),
    "npy_thin": (".npy", lambda p: array(p, (64, 0)), "an array of shape (64, 0) is empty"),
    "npy_none": (".npy", lambda p: array(p, (0, 64, 3)), "an array of shape (0, 64, 3) is empty"),
    "npy_complex": (
        ".npy",
        lambda p: np.save(p, np.ones((6, 12, 12), complex)),
        "an array of complex128, expected integers",
    ),
    "npy_text": (".npy", lambda p: np.save(p, np.full((12, 12), "abc")), "an array of <U3, expected integers"),
    "npy_four": (".npy", lambda p: array(p, (6, 12, 12, 5)), "expected a volume with 3 axes"),
    "npy_cut": (".npy", cut(array), "x.npy"),
    "tiff_cut": (".tif", cut(stack), "the page after page 0 is at byte"),
    "tiff_cut_late": (".tif", cut(stack, 0.98), "cannot be decoded"),
    "tiff_sizes": (".tif", pages_of_two_sizes, "page 2 is uint16 (12, 12), page 0 is uint16 (24, 24)"),
    "video_cut": (".avi", cut(video), "declares 8 frames, but ends after"),
    "video_mp4_cut": (".mp4", cut(video), "x.mp4"),
    "video_html": (".mp4", holding(HTML), "cannot be decoded"),
    "video_none": (".avi", no_frames, "contains no frame"),
    "frames_sizes": ("", frames_of_two_sizes, "32 x 48 pixels, but a/x/0.png of the same clip has 16 x 16"),
    "frames_broken": ("", broken_frame, "3.png: cannot be decoded"),
}


def good_folder(root, suffix):
    """Write two classes of good files of one kind, with their card."""
    make, card = KINDS[suffix]
    for number in range(NUM_FILES):
        make(root / "ab"[number % 2] / f"{number}{suffix}")
    (root / "dataset.toml").write_text(f"{card}\n")
    return root


@pytest.fixture(scope="module")
def bad_sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("bad")
    for name, (suffix, make, _) in FILES.items():
        make(good_folder(root / name, suffix) / "a" / f"x{suffix}")
    return root


@pytest.mark.parametrize("suffix", KINDS, ids=lambda suffix: suffix or "frames")
def test_the_good_files_alone_are_read(suffix, tmp_path):
    source = open_dataset(find_source(good_folder(tmp_path / "set", suffix)), tmp_path)
    assert len(source.sample_ids) >= NUM_FILES
    assert all(source.samples.read(image).size >= 144 for image in source.samples.table["image"])


def only_line(output):
    """The only line that is not progress, which appears on a slow machine."""
    (line,) = [line for line in output.splitlines() if not line.startswith(("reading ", "decoding "))]
    assert line.startswith("zoo: error[")
    return line


# --- in zoo info -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def looked_at(bad_sets, environment):
    paths = [bad_sets / name for name in FILES]
    looks = look_at_each(paths[0], paths, environment())
    assert "Warning" not in looks.stderr
    return looks


@posix
@pytest.mark.parametrize("name", FILES)
def test_info_names_the_bad_file_on_one_line_quickly(looked_at, name):
    status, output, seconds = looked_at.document[name]
    assert status == 4
    line = only_line(output)
    assert FILES[name][2] in line and "a/x" in line and "; fix: " in line
    assert "Traceback" not in output and "\x1b" not in output
    assert seconds < MAX_SECONDS


@posix
def test_info_takes_little_memory_whatever_the_files_declare(looked_at):
    assert looked_at.peak < MAX_BYTES


@pytest.mark.parametrize("name", ["dicom_jpeg", "nifti_type", "nifti_offset", "nifti_axes"])
def test_the_output_of_decoders_is_not_printed(bad_sets, zoo, name):
    done = zoo("info", "datasets", bad_sets / name)
    assert done.returncode == 4
    assert FILES[name][2] in only_line(done.stderr)


def test_a_missing_decoder_is_named_with_the_package_to_install(tmp_path, zoo):
    """The codecs cannot be imported, as if they were not installed."""
    root = good_folder(tmp_path / "set", ".dcm")
    packed(root / "a" / "x.dcm", HTJ2K)
    site = tmp_path / "site"
    site.mkdir()
    for module in ("gdcm", "pylibjpeg", "openjpeg", "libjpeg", "rle", "jpeg_ls"):
        (site / f"{module}.py").write_text("raise ImportError('not installed')\n")
    done = zoo("info", "datasets", root, sites=[site])
    assert done.returncode == 4
    line = only_line(done.stderr)
    assert "a/x.dcm: no decoder is installed for its transfer syntax, High-Throughput JPEG 2000" in line
    assert "pip install 'zoo-bench[codecs]'" in line


# --- in zoo bench ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def benched(bad_sets, command, environment, tiny_data, tmp_path_factory):
    bad = [bad_sets / name for name in FILES]
    return bench_all(command, tiny_data / "binary.npz", bad, environment(), tmp_path_factory.mktemp("bench"))


@posix
def test_bench_refuses_each_bad_scan_by_its_file_and_runs_the_other_dataset(benched):
    document, refused = benched.document, refused_by(benched)
    assert set(refused) == set(FILES)
    for name, message in refused.items():
        assert FILES[name][2] in message and "a/x" in message and "\n" not in message
    assert {run["dataset"] for run in document["runs"] if run["status"] == "ok"} == {"binary"}


@posix
def test_bench_takes_little_memory_and_time_for_bad_files(benched):
    assert benched.peak < MAX_BYTES
    assert benched.seconds < MAX_SECONDS * len(FILES)
