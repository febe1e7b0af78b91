"""Pixels of DICOM files, compared with pydicom's decoding and lookup tables; hostile files are refused."""

import io
import struct
import sys
import warnings
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pydicom
import pytest
from bad_sets import MAX_BYTES, measure
from dicom_files import ramp, write
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from zoo.errors import DataError
from zoo.images.codestreams import codestream_size
from zoo.images.formats import read_header, read_image, read_tag, read_values
from zoo.images.reading import Reading

FILES = Path(pydicom.__file__).parent / "data" / "test_files"
HU = Reading(levels=(-1024.0, -1024.0 + 65535), bits=16)


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def look_up_table(entries, start, bits, data):
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [entries, start, bits], np.asarray(data, "<u2").tobytes()
    return table


def refusal(path, frame=None, reading=HU):
    """The message for a file, from its header if that is enough."""
    with pytest.raises(DataError) as caught:
        read_header(path, reading)
        read_image(path, frame, reading)
    assert "\n" not in caught.value.line()
    assert Path(path).name in caught.value.message
    return caught.value.line()


# --- comparison with pydicom -----------------------------------------------------------------------------------------
DECODED = """
    CT_small MR_small MR_small_RLE MR_small_bigendian MR_small_implicit MR_small_expb MR_small_jp2klossless
    MR_small_jpeg_ls_lossless MR_small_padded 693_J2KI J2K_pixelrep_mismatch JPEG2000 examples_overlay
    JPEGLSNearLossless_08 JPEGLSNearLossless_16
"""
COLOR = """
    ExplVR_BigEnd GDCMJ2K_TextGBR SC_jpeg_no_color_transform SC_rgb_dcmtk_+eb+cr SC_rgb_dcmtk_+eb+cy+n1
    SC_rgb_dcmtk_+eb+cy+n2 SC_rgb_dcmtk_+eb+cy+s4 SC_rgb_gdcm_KY SC_rgb_jls_lossy_line SC_rgb_jpeg_dcmtk
    SC_rgb_jpeg_lossy_gdcm SC_rgb_rle SC_rgb_rle_16bit SC_rgb_small_odd SC_rgb_small_odd_big_endian
    SC_rgb_small_odd_jpeg SC_ybr_full_422_uncompressed examples_jpeg2k examples_rgb_color
"""


@pytest.mark.parametrize("name", DECODED.split())
def test_gray_values_match_pydicoms_rescaled_pixels(name):
    path = FILES / f"{name}.dcm"
    dataset = pydicom.dcmread(path)
    expected = apply_modality_lut(dataset.pixel_array, dataset)
    header = read_header(path)
    low, high = header.values
    assert (header.height, header.width, header.channels) == (*expected.shape, 1)
    assert low <= expected.min() <= expected.max() <= high
    assert (read_values(path) == expected).all()
    levels = read_image(path, reading=Reading(levels=(low, low + 65535), bits=16))
    assert levels.dtype == np.uint16
    assert (levels + low == expected).all()


@pytest.mark.parametrize("name", COLOR.split())
def test_color_matches_pydicoms_rgb_for_all_color_spaces_and_layouts(name):
    path = FILES / f"{name}.dcm"
    expected = pydicom.dcmread(path).pixel_array
    assert read_header(path).channels == 3
    assert (read_image(path) == expected).all()


def test_a_palette_becomes_its_colors():
    path = FILES / "examples_palette.dcm"
    dataset = pydicom.dcmread(path)
    pixels = read_image(path)
    assert (pixels == apply_color_lut(dataset.pixel_array, dataset)).all()
    assert read_header(path).values == (0, 65535)
    assert pixels.dtype == np.uint16


def test_frames_are_numbered_and_each_is_read_alone():
    path = FILES / "examples_ybr_color.dcm"
    expected = pydicom.dcmread(path).pixel_array
    assert read_header(path).frames == len(expected) == 30
    for frame in (0, 17, 29):
        assert (read_image(path, frame) == expected[frame]).all()
    assert "frame 30 of 30" in refusal(path, 30)
    assert "30 frames, expected one image" in refusal(path)


def test_deflated_files_and_files_without_a_preamble_are_read(tmp_path):
    dataset = pydicom.dcmread(FILES / "image_dfl.dcm")
    assert (read_image(FILES / "image_dfl.dcm") == dataset.pixel_array).all()
    for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian):
        pixels = ramp(np.dtype(">i2") if syntax == ExplicitVRBigEndian else np.int16)
        whole = write(tmp_path / "whole.dcm", pixels, syntax=syntax)
        data = whole.read_bytes()
        meta_length = struct.unpack("<L", data[140:144])[0]
        (tmp_path / "bare.dcm").write_bytes(data[144 + meta_length :])
        assert (read_values(tmp_path / "bare.dcm") == pixels).all()


# --- values ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("dtype", "elements", "values", "step"),
    [
        (np.uint8, {}, (0, 255), 1),
        (np.uint16, {"BitsStored": 12, "HighBit": 11}, (0, 4095), 1),
        (np.int16, {}, (-32768, 32767), 1),
        (np.uint16, {"BitsStored": 12, "HighBit": 11, "RescaleSlope": 1, "RescaleIntercept": -1024}, (-1024, 3071), 1),
        (np.uint8, {"RescaleSlope": -2, "RescaleIntercept": 10}, (-500, 10), 2),
        (np.uint8, {"RescaleSlope": "0.5", "RescaleIntercept": 0}, (0, 127.5), 0.5),
        (np.uint8, {"RescaleSlope": 2}, (0, 510), 2),
        (np.uint8, {"RescaleIntercept": -5}, (-5, 250), 1),
        (np.uint8, {"RescaleSlope": "", "RescaleIntercept": ""}, (0, 255), 1),
    ],
)
def test_the_possible_values_follow_from_the_header(tmp_path, dtype, elements, values, step):
    header = read_header(write(tmp_path / "a.dcm", ramp(dtype, 0), **elements))
    assert (header.values, header.step, header.bits) == (values, step, elements.get("BitsStored", 8 * dtype().itemsize))


@pytest.mark.parametrize(("elements", "first"), [({"RescaleSlope": 2}, [0, 80]), ({"RescaleIntercept": -5}, [-5, 35])])
def test_a_slope_or_an_intercept_alone_is_applied(tmp_path, elements, first):
    assert read_values(write(tmp_path / "a.dcm", ramp(np.uint8, 0), **elements))[0, :2].tolist() == first


@pytest.mark.parametrize("slope", [b"nan ", b"inf ", b"abc ", b"0.0 ", b"1\\2 "])
@pytest.mark.parametrize("beside", [{}, {"RescaleIntercept": 1}], ids=["alone", "both"])
def test_a_slope_that_is_zero_or_not_a_number_is_refused(tmp_path, slope, beside):
    path = write(tmp_path / "a.dcm", ramp(np.uint8, 0), RescaleSlope="1.25", **beside)
    data = path.read_bytes()
    assert data.count(b"1.25") == 1
    path.write_bytes(data.replace(b"1.25", slope))
    assert f"RescaleSlope {slope.decode().strip()}" in refusal(path)


def test_an_intercept_that_is_not_a_number_is_refused(tmp_path):
    path = write(tmp_path / "a.dcm", ramp(np.uint8, 0), RescaleSlope=1, RescaleIntercept="7.25")
    path.write_bytes(path.read_bytes().replace(b"7.25", b"nan "))
    assert "RescaleIntercept nan" in refusal(path)


def test_a_modality_lut_is_applied(tmp_path):
    lut = look_up_table(256, 0, 16, np.arange(256) * 7)
    lut.ModalityLUTType = "US"
    path = write(tmp_path / "a.dcm", ramp(np.uint8, 0), ModalityLUTSequence=[lut])
    dataset = pydicom.dcmread(path)
    assert (read_values(path) == apply_modality_lut(dataset.pixel_array, dataset)).all()
    assert read_header(path).values == (0, 65535)


def test_white_is_the_highest_level_for_both_monochrome_interpretations(tmp_path):
    pixels = ramp(np.uint16, 0)
    plain = {"BitsStored": 12, "HighBit": 11}
    upright = write(tmp_path / "2.dcm", pixels, **plain)
    inverted = write(tmp_path / "1.dcm", 4095 - pixels, PhotometricInterpretation="MONOCHROME1", **plain)
    assert (read_image(inverted) == read_image(upright)).all()
    assert (read_values(inverted) == pixels).all()


def test_unused_high_bits_are_cleared(tmp_path):
    pixels = np.array([[0xF123, 0x0FFF]], np.uint16)  # the high bits used to hold overlays
    path = write(tmp_path / "a.dcm", pixels, BitsStored=12, HighBit=11)
    assert read_image(path).tolist() == [[0x123, 0xFFF]]


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
@pytest.mark.parametrize(("dtype", "expected"), [(np.uint16, [0x123, 0xFFF, 0]), (np.int16, [0x123, -1, 0])])
def test_unused_high_bits_are_cleared_in_a_codestream(tmp_path, syntax, dtype, expected):
    pixels = np.tile(np.array([0x8123, 0x0FFF, 0x8000], np.uint16).view(dtype), (64, 32))
    path = write(tmp_path / "a.dcm", pixels, compress=syntax)  # as 16 bits, so that the encoder keeps all of them
    dataset = pydicom.dcmread(path)
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.save_as(path)
    assert read_values(path)[0, :3].tolist() == expected


def test_coding_noise_above_white_is_white_in_a_lossy_codestream(tmp_path):
    pixels = np.tile(np.array([[4095, 4110, 0x8123]], np.uint16), (64, 32))
    path = write(tmp_path / "a.dcm", pixels, compress=JPEG2000Lossless)
    dataset = pydicom.dcmread(path)
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.file_meta.TransferSyntaxUID = JPEG2000  # may be lossless or lossy
    dataset.save_as(path)
    assert read_image(path)[0, :3].tolist() == [4095, 4095, 0x123]


def test_padding_of_an_inverted_file_is_black_as_in_an_upright_one(tmp_path):
    pixels = ramp(np.uint16, 400)
    pixels[:2] = 0
    plain = {"BitsStored": 12, "HighBit": 11, "PixelPaddingValue": 0}
    upright = write(tmp_path / "2.dcm", pixels, **plain)
    inverted = write(
        tmp_path / "1.dcm",
        np.where(pixels == 0, 0, 4095 - pixels).astype(np.uint16),
        PhotometricInterpretation="MONOCHROME1",
        WindowCenter=2048,
        WindowWidth=4096,
        **plain,
    )
    assert read_image(inverted).tolist() == pixels.tolist()
    assert read_image(upright).tolist() == pixels.tolist()
    shown = read_image(inverted, reading=Reading(window="dicom", bits=8))
    assert shown[:2].max() == 0 < shown[2:].min()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize(("value", "limit"), [(4000, 4095), (4095, 4000)])
def test_all_values_up_to_the_limit_are_padding(tmp_path, syntax, value, limit):
    pixels = np.array([[3999, 4000, 4050, 4095]], np.uint16)
    path = write(tmp_path / "a.dcm", pixels, syntax, PixelPaddingValue=value, PixelPaddingRangeLimit=limit)
    assert read_image(path).tolist() == [[3999, 0, 0, 0]]


def test_padding_below_all_tissue_of_a_ct_is_kept_and_above_it_takes_the_darkest_value(tmp_path):
    rescale = {"RescaleSlope": 1, "RescaleIntercept": -24}
    below = write(tmp_path / "b.dcm", np.array([[-2000, -1000, 0, 500]], np.int16), PixelPaddingValue=-2000, **rescale)
    above = write(tmp_path / "a.dcm", np.array([[32767, -1000, 0, 500]], np.int16), PixelPaddingValue=32767, **rescale)
    assert read_values(below).tolist() == [[-2024, -1024, -24, 476]]
    assert read_values(above).tolist() == [[-1024, -1024, -24, 476]]


def test_a_padding_value_written_with_the_other_sign_is_the_same_bits(tmp_path):
    path = write(
        tmp_path / "a.dcm", np.array([[63536, 24, 1000, 2024]], np.uint16), RescaleSlope=1, RescaleIntercept=-1024
    )
    dataset = pydicom.dcmread(path)
    dataset.add_new("PixelPaddingValue", "SS", -2000)
    dataset.save_as(path)
    assert read_values(path).tolist() == [[-1024, -1000, -24, 1000]]


def test_padding_is_dark_if_a_slope_or_a_lookup_table_reverses_values(tmp_path):
    pixels = np.array([[0, 100, 200, 255]], np.uint8)
    slope = write(tmp_path / "s.dcm", pixels, PixelPaddingValue=0, RescaleSlope=-1, RescaleIntercept=255)
    assert read_image(slope).tolist() == [[0, 155, 55, 0]]
    lut = look_up_table(256, 0, 8, 255 - np.arange(256))
    table = write(tmp_path / "t.dcm", pixels, PixelPaddingValue=0, VOILUTSequence=[lut])
    assert read_image(table, reading=Reading(window="dicom")).tolist() == [[0, 155, 55, 0]]


def test_an_image_of_padding_alone_is_black(tmp_path):
    white = {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 0}
    assert read_image(write(tmp_path / "a.dcm", np.zeros((2, 2), np.uint8), **white)).max() == 0


@pytest.mark.parametrize("padding", [-9999.0, 9999.0, np.nan])
def test_padding_of_floating_point_pixels_is_not_brighter_than_tissue(tmp_path, padding):
    values = np.array([[padding, 0.5, 0.75, 1.0]], np.float32)
    path = write(tmp_path / "a.dcm", ramp(np.uint16, 0, (1, 4)), PixelData=None, FloatPixelData=values.tobytes())
    dataset = pydicom.dcmread(path)
    dataset.BitsAllocated, dataset.FloatPixelPaddingValue = 32, float(padding)
    del dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
    dataset.save_as(path)
    assert read_values(path).tolist() == [[min(0.5, -9999.0 if padding < 0 else 0.5), 0.5, 0.75, 1.0]]


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_the_declared_window_matches_pydicom(tmp_path, photometric, function):
    path = write(
        tmp_path / "a.dcm",
        ramp(np.int16),
        PhotometricInterpretation=photometric,
        BitsStored=13,
        HighBit=12,
        RescaleSlope=1,
        RescaleIntercept=-24,
        WindowCenter=[40, 500],
        WindowWidth=[400, 1500],
        VOILUTFunction=function,
    )
    dataset = pydicom.dcmread(path)
    shown = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    expected = (shown - (-4096 - 24)) / 8191
    expected = 1 - expected if photometric == "MONOCHROME1" else expected
    assert read_header(path).has_window
    assert (read_image(path, reading=Reading(window="dicom", bits=16)) == np.rint(expected * 65535)).all()
    assert (read_image(path, reading=Reading(window="dicom", bits=8)) == np.rint(expected * 255)).all()


def test_a_voi_lut_matches_pydicom_and_takes_precedence_over_a_window(tmp_path):
    lut = look_up_table(256, 100, 12, 4095 - np.arange(256))
    path = write(tmp_path / "a.dcm", ramp(np.uint16, 0), VOILUTSequence=[lut], WindowCenter=1, WindowWidth=2)
    dataset = pydicom.dcmread(path)
    expected = apply_voi_lut(dataset.pixel_array, dataset)
    assert (read_image(path, reading=Reading(window="dicom", bits=16)) == np.rint(expected / 4095 * 65535)).all()


def test_a_voi_lut_of_eight_bits_and_many_entries_does_not_wrap_around(tmp_path):
    lut = look_up_table(4096, 0, 8, np.arange(4096) // 16)
    path = write(tmp_path / "a.dcm", ramp(np.uint16, 0), VOILUTSequence=[lut])
    assert (read_image(path, reading=Reading(window="dicom")) == ramp(np.uint16, 0) // 16).all()


def test_an_enhanced_file_has_a_rescale_and_a_window_of_each_frame(tmp_path):
    def group(intercept, centre):
        item, values, window = Dataset(), Dataset(), Dataset()
        values.RescaleSlope, values.RescaleIntercept = 1, intercept
        window.WindowCenter, window.WindowWidth = centre, 500
        item.PixelValueTransformationSequence, item.FrameVOILUTSequence = [values], [window]
        return item

    pixels = np.stack([ramp(np.uint16, 0), ramp(np.uint16, 100)])
    groups = [group(-1000, 0), group(-500, 500)]
    path = write(tmp_path / "a.dcm", pixels, BitsStored=12, HighBit=11, PerFrameFunctionalGroupsSequence=groups)
    header = read_header(path)
    assert (header.frames, header.values, header.has_window) == (2, (-1000, 3595), True)
    assert (read_values(path, 0) == pixels[0] - 1000.0).all()
    assert (read_values(path, 1) == pixels[1] - 500.0).all()


def test_floating_point_pixels_are_read_with_an_unbounded_range(tmp_path):
    values = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)
    path = write(tmp_path / "a.dcm", ramp(np.uint16, 0), PixelData=None, FloatPixelData=values.tobytes())
    dataset = pydicom.dcmread(path)
    dataset.BitsAllocated = 32
    del dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
    dataset.save_as(path)
    assert read_header(path).values == (float("-inf"), float("inf"))
    assert read_header(path).step == 0
    assert (read_values(path) == values).all()


def test_the_crop_is_the_box_around_the_regions_of_tissue(tmp_path):
    def region(left, top, right, bottom, spatial=1):
        item = Dataset()
        item.RegionSpatialFormat = spatial
        item.RegionLocationMinX0, item.RegionLocationMinY0 = left, top
        item.RegionLocationMaxX1, item.RegionLocationMaxY1 = right, bottom
        return item

    pixels = ramp(np.uint8, 0, (10, 12))
    regions = [region(2, 3, 5, 8), region(4, 2, 7, 6), region(0, 9, 11, 9, spatial=3)]
    path = write(tmp_path / "a.dcm", pixels, SequenceOfUltrasoundRegions=regions)
    crop = Reading(crop="ultrasound-region")
    assert (read_image(path, reading=crop) == pixels[2:9, 2:8]).all()
    assert (read_header(path, crop).width, read_header(path, crop).height) == (6, 7)
    assert "SequenceOfUltrasoundRegions" in refusal(write(tmp_path / "b.dcm", pixels), reading=crop)


# --- tags ------------------------------------------------------------------------------------------------------------
def test_a_tag_of_a_file_that_is_not_dicom_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"a\.png: not DICOM.*'PatientID'"):
        read_tag(tmp_path / "a.png", "PatientID")


def test_headers_keep_identifiers_but_no_names_and_other_tags_can_be_read(tmp_path):
    path = write(
        tmp_path / "a.dcm", ramp(), PatientID="P1", PatientName="Doe^Jane", ImageType=["ORIGINAL", "PRIMARY"], KVP="120"
    )
    tags = read_header(path).tags
    assert tags["PatientID"] == "P1"
    assert tags["ImageType"] == "ORIGINAL\\PRIMARY"
    assert "Jane" not in str(tags)
    assert (read_tag(path, "KVP"), read_tag(path, "SliceThickness")) == ("120", "")
    with pytest.raises(DataError, match="Did you mean 'PatientID'"):
        read_tag(path, "PatientId")


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({}, ""),
        ({"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, ""),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "secondary capture"),
        ({"SOPClassUID": pydicom.uid.SecondaryCaptureImageStorage}, "secondary capture"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"Modality": "SEG"}, "a segmentation"),
    ],
)
def test_files_that_are_not_patient_images_are_marked(tmp_path, elements, expected):
    assert read_header(write(tmp_path / "a.dcm", ramp(), **elements)).skip == expected


@pytest.mark.parametrize("name", ["reportsi", "rtplan", "rtstruct", "test-SR", "waveform_ecg"])
def test_objects_without_pixels_are_distinguished_from_images_with_missing_pixels(name, tmp_path):
    header = read_header(FILES / f"{name}.dcm")
    assert header.width == 0
    assert header.skip.startswith("no pixels (")
    assert "contains no pixels" in refusal(write(tmp_path / "a.dcm"))


# --- damaged and hostile ---------------------------------------------------------------------------------------------
def test_too_few_pixels_and_truncated_files_are_detected_from_the_header(tmp_path):
    assert "8130 bytes of pixels, expected 8192 for 64 x 64" in refusal(FILES / "MR_truncated.dcm")
    pixels = ramp(np.uint16, 0)
    assert "64 bytes of pixels, expected 128 for 8 x 8 pixels" in refusal(
        write(tmp_path / "few.dcm", pixels, PixelData=bytes(64))
    )
    three = write(tmp_path / "three.dcm", pixels, NumberOfFrames=3)
    assert "expected 384 for 8 x 8 pixels in 3 frames" in refusal(three)
    whole = write(tmp_path / "whole.dcm", pixels)
    for size in (0, 100, 132, 200, 300, whole.stat().st_size - 1):
        (tmp_path / "cut.dcm").write_bytes(whole.read_bytes()[:size])
        assert refusal(tmp_path / "cut.dcm")


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"Rows": 65535, "Columns": 65535}, "65535 x 65535 is more than"),
        ({"NumberOfFrames": 2_000_000_000}, "2000000000 frames"),
        ({"NumberOfFrames": 90_000}, "in 90000 frames"),
        ({"NumberOfFrames": -1}, "-1 frames"),
        ({"Rows": 0}, "8 x 0 pixels"),
        ({"BitsStored": 17}, "BitsStored 17 of BitsAllocated 16"),
        ({"BitsAllocated": 7, "BitsStored": 7}, "BitsAllocated 7"),
        ({"SamplesPerPixel": 3}, "3 samples per pixel"),
        ({"PhotometricInterpretation": "HSV"}, "'HSV', expected one of MONOCHROME1"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "RescaleSlope 0"),
    ],
)
def test_invalid_layouts_are_refused_from_the_header(tmp_path, elements, expected):
    line = refusal(write(tmp_path / "a.dcm", ramp(np.uint16, 0), **elements))
    assert expected in line and "; fix: " in line


def test_nan_and_infinite_values_are_refused(tmp_path):
    values = np.full((8, 8), np.nan, np.float32)
    path = write(tmp_path / "a.dcm", ramp(np.uint16, 0), PixelData=None, BitsAllocated=32, BitsStored=32, HighBit=31)
    dataset = pydicom.dcmread(path)
    dataset.FloatPixelData = values.tobytes()
    dataset.save_as(path)
    assert "NaN or infinite values" in refusal(path)
    dataset.FloatPixelData, dataset.PhotometricInterpretation = np.ones_like(values).tobytes(), "MONOCHROME1"
    dataset.save_as(path)
    assert "MONOCHROME1 with floating-point values" in refusal(path)


def test_colors_of_32_bits_are_refused(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint32)
    assert "colors are uint32, expected 8 or 16 bits" in refusal(write(tmp_path / "a.dcm", pixels))


def test_values_that_are_not_levels_need_a_mapping(tmp_path):
    path = write(tmp_path / "a.dcm", ramp())
    assert "values -32768 to 32767 are not levels" in refusal(path, reading=Reading())


def test_a_missing_window_is_refused(tmp_path):
    path = write(tmp_path / "a.dcm", ramp())
    assert "has no window and no VOI LUT" in refusal(path, reading=Reading(window="dicom", bits=16))


def test_a_color_image_in_a_windowed_dataset_keeps_its_colors(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    path = write(tmp_path / "a.dcm", pixels)
    assert (read_image(path, None, Reading(window="dicom", bits=16)) == pixels.astype(np.uint16) * 257).all()


def test_regions_outside_of_the_image_are_refused(tmp_path):
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 100, 100
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 120, 120
    path = write(tmp_path / "a.dcm", ramp(np.uint16, 0), SequenceOfUltrasoundRegions=[region])
    assert "its ultrasound regions are outside" in refusal(path, reading=Reading(crop="ultrasound-region"))


def test_a_deflate_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.images.elements.MAX_BYTES", 1000)
    monkeypatch.setattr("zoo.images.elements.MAX_DICOM_HEADER_BYTES", 1000)
    path = write(tmp_path / "a.dcm", np.zeros((64, 64), np.uint16), DeflatedExplicitVRLittleEndian)
    assert "more than 0 MB when inflated" in refusal(path)


def test_frames_of_an_extended_offset_table_are_decoded(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4096, (3, 16, 16)).astype(np.uint16)
    path = write(tmp_path / "a.dcm", pixels)
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless, encapsulate_ext=True)
    dataset.save_as(path)
    assert "ExtendedOffsetTable" in pydicom.dcmread(path)
    for frame in range(3):
        assert (read_image(path, frame, Reading()) == pixels[frame]).all()


def test_a_file_that_is_not_dicom_is_reported(tmp_path):
    for name, data in {"text": b"hello", "page": b"<html></html>" * 50, "zeros": bytes(4000)}.items():
        (tmp_path / f"{name}.dcm").write_bytes(data)
        assert "not DICOM" in refusal(tmp_path / f"{name}.dcm")
    (tmp_path / "marked.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 500)
    assert refusal(tmp_path / "marked.dcm")
    (tmp_path / "folder.dcm").mkdir()
    assert "not a regular file" in refusal(tmp_path / "folder.dcm")


def test_a_transfer_syntax_without_a_decoder_is_named_with_the_package_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "video.dcm", ramp())
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(100)])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path)
    assert "MPEG2 Main Profile / Main Level (1.2.840.10008.1.2.4.100)" in refusal(path)
    decoder = pydicom.pixels.get_decoder(JPEG2000Lossless)
    monkeypatch.setattr(decoder, "_available", {})
    line = refusal(FILES / "MR_small_jp2klossless.dcm")
    assert "JPEG 2000 Image Compression (Lossless Only) (1.2.840.10008.1.2.4.90)" in line
    assert "pip install 'zoo-bench[codecs]'" in line


def test_a_refusal_of_all_decoders_is_one_line_with_their_reasons():
    line = refusal(FILES / "JPGExtended.dcm")
    assert "cannot be decoded as JPEG Extended" in line
    assert "12-bit" in line


def test_messages_of_decoders_are_reported_without_python_internals(tmp_path):
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = JPEG2000Lossless
    packed = pydicom.encaps.encapsulate([bytes(range(64))])
    line = refusal(write(tmp_path / "a.dcm", ramp(np.uint8, 0), file_meta=meta, PixelData=packed))
    assert "gdcm: returns no image" in line and "pillow: cannot identify image file" in line
    assert "0x" not in line and "NoneType" not in line


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda jpeg: bytes(64), "begins with b'\\x00\\x00\\x00\\x00'"),
        (lambda jpeg: jpeg[:2] + b"\xff\xe0\0\x10JFIF" + bytes(range(64)), "has no marker at byte 20"),
        (lambda jpeg: jpeg[:11] + b"\7" + jpeg[12:], "is JFIF of version 07"),
        (lambda jpeg: jpeg.replace(b"\xff\xda", b"\xff\0"), "has no marker at byte"),
        (lambda jpeg: jpeg.replace(b"\xff\xda", b"\0\0"), "has no marker at byte"),
        (lambda jpeg: jpeg.replace(b"\xff\xc0", b"\xff\xe5"), "has a scan and no frame"),
        (lambda jpeg: jpeg.replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc0\0\x0b\x51"), "has samples of 81 bits"),
        (lambda jpeg: jpeg[:2] + b"\xff\xee\0\x0eAdobe\0\0\0\0\0\0\x09" + jpeg[2:], "color transform 09"),
        (lambda jpeg: jpeg[:100], "ends before its first scan"),
    ],
)
def test_a_jpeg_with_a_damaged_header_is_not_passed_to_gdcm(tmp_path, damage, expected):
    stream, meta = io.BytesIO(), pydicom.dataset.FileMetaDataset()
    PIL.Image.fromarray(ramp(np.uint8, 0)).save(stream, "JPEG")
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    packed = partial(write, tmp_path / "a.dcm", ramp(np.uint8, 0), file_meta=meta)
    assert read_image(packed(PixelData=pydicom.encaps.encapsulate([stream.getvalue()]))).shape == (8, 8)
    path = packed(PixelData=pydicom.encaps.encapsulate([damage(stream.getvalue())]))
    assert expected in refusal(path)


def test_a_codestream_larger_than_its_header_is_not_decoded(tmp_path):
    dataset = pydicom.dcmread(FILES / "MR_small_jp2klossless.dcm")
    dataset.Rows = dataset.Columns = 32
    dataset.save_as(tmp_path / "a.dcm")
    assert "64 x 64 pixels, but its header declares 32 x 32" in refusal(tmp_path / "a.dcm", reading=Reading(window=""))
    for name in ("SC_rgb_jpeg_dcmtk", "JPEGLSNearLossless_08", "693_J2KI"):
        dataset = pydicom.dcmread(FILES / f"{name}.dcm")
        (data,) = pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)
        assert codestream_size(data) == (dataset.Columns, dataset.Rows)


HOSTILE = """
import resource, sys
from pathlib import Path
from zoo.errors import DataError
from zoo.images.formats import read_header, read_image
resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
for path in sorted(Path(sys.argv[1]).glob("*.dcm")):
    try:
        read_header(path)
        read_image(path)
        print("read", path.name)
    except DataError as error:
        print(error.line())
"""


@pytest.mark.integration
def test_bombs_and_deep_nesting_take_little_memory_and_time(tmp_path):
    inside = write(tmp_path / "inside", ramp(np.uint16, 0))
    meta_end = 144 + struct.unpack("<L", inside.read_bytes()[140:144])[0]
    deflater = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = inside.read_bytes()[meta_end:]
    private = struct.pack("<HH2sHL", 0x6001, 0x1000, b"OB", 0, 2_000_000_000)
    bomb = deflater.compress(head[:-140] + private) + b"".join(deflater.compress(bytes(1 << 20)) for _ in range(330))
    uid = DeflatedExplicitVRLittleEndian.encode()
    uid += b"\0" * (len(uid) % 2)
    element = struct.pack("<HH2sH", 2, 0x10, b"UI", len(uid)) + uid
    meta = bytes(128) + b"DICM" + struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(element)) + element
    (tmp_path / "deflated.dcm").write_bytes(meta + bomb + deflater.flush())
    explicit = inside.read_bytes()[:meta_end]
    sequence = struct.pack("<HH2sHL", 0x0029, 0x1010, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    (tmp_path / "nest.dcm").write_bytes(explicit + sequence * 20_000)
    huge = struct.pack("<HH2sHL", 0x0009, 0x1010, b"OB", 0, 0xFFFFFFF0)
    (tmp_path / "length.dcm").write_bytes(explicit + huge + bytes(1000))
    rle = write(tmp_path / "rle.dcm", ramp(np.uint8, 0))
    dataset = pydicom.dcmread(rle)
    dataset.compress(RLELossless)
    dataset.NumberOfFrames = 99_999
    dataset.save_as(rle)
    inside.unlink()
    done = measure([sys.executable, "-c", HOSTILE, tmp_path], timeout=60)
    lines = done.stdout.splitlines()
    expected = {
        "deflated.dcm": "more than 292 MB when inflated",
        "length.dcm": "contains no pixels",
        "nest.dcm": "recursion",
        "rle.dcm": "at least 799992 for 8 x 8 pixels in 99999 frames",
    }
    assert len(lines) == 4, done.stderr
    assert all(name in line and what in line for line, (name, what) in zip(lines, expected.items(), strict=True))
    assert done.peak < MAX_BYTES
