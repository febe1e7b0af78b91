"""Read a DICOM file, or one frame of it: parse the header, decode the frame and map its values.

pydicom parses, decodes and applies lookup tables; this module checks what a hostile or damaged file declares.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError
from zoo.images.codestreams import codestream_size, wrong_in_jpeg
from zoo.images.elements import GRAY, KEPT_TAGS, OpenDicom, open_dicom, tag_text
from zoo.images.padding import darken_padding
from zoo.images.placement import Spacing, valid_spacing
from zoo.images.reading import AS_STORED, STRIP_ROWS, Header, Reading, check_size, to_levels

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


HEADER_VERSION = "3"  # raise it when `read_header` returns different facts about the same file
SUFFIXES = (".dcm", ".dicom", ".ima")
MAX_DICOM_FRAMES = 100_000
FRAGMENT_BYTES = 8  # the minimum of a compressed frame: the header of its item
# May differ between frames.
FRAME_GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence", "PixelMeasuresSequence")
COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
LOSSY = ("1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203")  # JPEG-LS, JPEG 2000, HTJ2K
OTHER_MODALITIES = {"RTDOSE": "radiotherapy dose", "SEG": "a segmentation"}


def read_header(path: Path, reading: Reading = AS_STORED) -> Header:
    """Size, frames, possible values and tags, without decoding pixels.

    A file that has no pixels by its kind (report, presentation state) has a Header of width 0.
    """
    with open_dicom(path) as file:
        dataset = file.dataset
        tags = {keyword: text for keyword in KEPT_TAGS if (text := tag_text(dataset, keyword))}
        modality, skip = tags.get("Modality", ""), skip_reason(file)
        if not file.element and skip:
            return Header(width=0, height=0, channels=1, modality=modality, skip=skip, tags=tags)
        check_layout(file)
        left, top, right, bottom = region_of(file, reading)
        views = [frame_view(file, frame) for frame in distinct_frames(file)]
        ranges = [value_range(file, view) for view in views]
        return Header(
            width=right - left,
            height=bottom - top,
            channels=1 if file.is_gray else 3,
            frames=file.frames if file.frames > 1 else None,
            bits=depth(file),
            values=(min(low for low, _, _ in ranges), max(high for _, high, _ in ranges)),
            step=min(step for _, _, step in ranges),
            modality=modality,
            is_rescaled=all(is_rescaled(file, view) for view in views),
            has_window=file.is_gray and all(has_window(view) for view in views),
            skip=skip,
            tags=tags,
        )


def read_frame(path: Path, frame: int | None = None, reading: Reading = AS_STORED) -> Array:
    """Pixels uint8 or uint16, (H, W) or (H, W, 3): black is zero, color is RGB, values are mapped by `reading`.

    With `window`, apply the file's own VOI LUT or window; with `levels`, map values to levels. Without either, values
    must already be levels. Raises DataError.
    """
    with open_dicom(path) as file:
        raw, view = decode_dicom(file, frame, reading)
        if not file.is_gray:
            colors = to_rgb(file, raw, view)
            if reading.window:
                reading = Reading(levels=(0, float(np.iinfo(colors.dtype).max)), bits=reading.bits)
            return to_levels(colors, reading)
        if reading.window:
            return in_strips(raw, partial(windowed_levels, file, view, reading))
        if reading.levels is None:
            return in_strips(raw, partial(stored_levels, file, view))
        return in_strips(raw, lambda part: to_levels(to_values(file, view, part), reading))


def read_values(path: Path, frame: int | None = None, reading: Reading = AS_STORED) -> Array:
    """Values in the file's units, rescaled, and inverted if the smallest value is white."""
    with open_dicom(path) as file:
        raw, view = decode_dicom(file, frame, reading)
        return to_values(file, view, raw) if file.is_gray else to_rgb(file, raw, view)


def read_spacing(path: Path, frame: int | None = None, reading: Reading = AS_STORED) -> Spacing | None:  # noqa: ARG001
    """PixelSpacing of a frame. ImagerPixelSpacing does not count: it is that of the detector, not of the patient."""
    with open_dicom(path, ("PixelSpacing",)) as file:
        try:
            return valid_spacing([float(number) for number in frame_view(file, frame or 0).get("PixelSpacing") or ()])
        except (TypeError, ValueError):
            return None


# --- header ----------------------------------------------------------------------------------------------------------
def skip_reason(file: OpenDicom) -> str:
    """The kind of a file that is not an image from a scanner ("localizer"), else ""."""
    from pydicom.uid import UID

    dataset = file.dataset
    sop_class = UID(tag_text(dataset, "SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID", ""))
    image_type = [part.upper() for part in tag_text(dataset, "ImageType").split("\\")]
    if not file.element:
        should_have_pixels = "Image Storage" in sop_class.name or dataset.get("Rows")
        return "" if should_have_pixels or not sop_class else f"no pixels ({sop_class.name})"
    if any("LOCALIZER" in part for part in image_type):
        return "localizer"
    # The second value SECONDARY of ImageType is not enough: images computed from others have it, too.
    if "Secondary Capture" in sop_class.name or any(part.startswith("SCREEN") for part in image_type):
        return "secondary capture"
    return OTHER_MODALITIES.get(tag_text(dataset, "Modality"), "")


def check_layout(file: OpenDicom) -> None:
    """Raise DataError for invalid sizes and depths and for encodings without a decoder, before decoding."""
    dataset, path = file.dataset, file.path
    if not file.element:
        raise DataError(f"{path}: contains no pixels", fix="copy it again, or leave it out", code="image")
    rows, columns, frames = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0), file.frames
    if rows < 1 or columns < 1 or not 1 <= frames <= MAX_DICOM_FRAMES:
        raise DataError(f"{path}: {columns} x {rows} pixels in {frames} frames", fix="leave it out", code="image")
    samples, allocated = int(dataset.get("SamplesPerPixel") or 1), int(dataset.get("BitsAllocated") or 0)
    if file.photometric not in (*GRAY, *COLOR):
        supported = ", ".join((*GRAY, *COLOR))
        raise DataError(
            f"{path}: PhotometricInterpretation {file.photometric!r}, expected one of {supported}",
            fix="convert it to one of these, or leave it out",
        )
    expected = 1 if file.is_gray or file.photometric == "PALETTE COLOR" else 3
    if samples != expected:
        raise DataError(
            f"{path}: {samples} samples per pixel, expected {expected} for {file.photometric}",
            fix="copy it again, or leave it out",
        )
    stored = int(dataset.get("BitsStored") or allocated)
    if allocated not in (1, 8, 16, 32, 64) or not 1 <= stored <= allocated:
        raise DataError(
            f"{path}: BitsStored {stored} of BitsAllocated {allocated}", fix="copy it again, or leave it out"
        )
    check_size(path, columns, rows, samples, allocated)
    syntax = dataset.file_meta.TransferSyntaxUID
    check_decoder(path, syntax)
    size = file.stream.seek(0, io.SEEK_END) - file.start
    if syntax.is_compressed:
        needed = FRAGMENT_BYTES * frames
    else:
        needed = math.ceil(rows * columns * samples * frames * allocated / 8)
        needed = needed // 3 * 2 if file.photometric == "YBR_FULL_422" else needed
    if (stored_size := min(size, size if file.length is None else file.length)) < needed:
        least = "at least " if syntax.is_compressed else ""
        what = f"{columns} x {rows} pixels" + (f" in {frames} frames" if frames > 1 else "")
        raise DataError(
            f"{path}: {stored_size} bytes of pixels, expected {least}{needed} for {what}",
            fix="copy it again, or leave it out",
            code="image",
        )


def check_decoder(path: Path, syntax: Any) -> None:
    from pydicom.pixels import get_decoder

    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError as error:
        raise DataError(
            f"{path}: no decoder for its transfer syntax, {syntax.name} ({syntax})",
            fix="convert it to Explicit VR Little Endian",
            code="codec",
        ) from error
    if not available:
        raise DataError(
            f"{path}: no decoder is installed for its transfer syntax, {syntax.name} ({syntax})",
            fix="pip install 'zoo-bench[codecs]'",
            code="codec",
        )


def depth(file: OpenDicom) -> int:
    if file.photometric == "PALETTE COLOR":
        return int(file.dataset.RedPaletteColorLookupTableDescriptor[2])
    return file.bits_stored


def stored_range(file: OpenDicom) -> tuple[float, float]:
    bits = depth(file)
    if file.dataset.get("PixelRepresentation") == 1:
        return -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1
    return 0.0, 2.0**bits - 1


def value_range(file: OpenDicom, view: Dataset) -> tuple[float, float, float]:
    """The smallest and largest possible value of a frame, and the smallest difference between two values."""
    if file.element != "PixelData":
        return -math.inf, math.inf, 0.0
    low, high = stored_range(file)
    if not file.is_gray:
        return low, high, 1.0
    if view.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** int(view.ModalityLUTSequence[0].LUTDescriptor[2]) - 1, 1.0
    if "RescaleSlope" not in view or "RescaleIntercept" not in view:
        return low, high, 1.0
    slope, intercept = float(view.RescaleSlope), float(view.RescaleIntercept)
    ends = sorted((low * slope + intercept, high * slope + intercept))
    return ends[0], ends[1], abs(slope)


def is_rescaled(file: OpenDicom, view: Dataset) -> bool:
    """Whether values differ from the stored ones. A slope of 1 and an intercept of 0 change nothing."""
    return bool(view.get("ModalityLUTSequence")) or value_range(file, view) != (*stored_range(file), 1.0)


def has_window(view: Dataset) -> bool:
    if view.get("VOILUTSequence"):
        return all(keyword in view.VOILUTSequence[0] for keyword in ("LUTDescriptor", "LUTData"))
    center, width = first(view.get("WindowCenter")), first(view.get("WindowWidth"))
    if center is None or width is None:
        return False
    linear = str(view.get("VOILUTFunction") or "LINEAR").upper() == "LINEAR"
    return math.isfinite(float(center)) and float(width) >= (1 if linear else 1e-9)


def first(value: Any) -> Any:
    """The first of several values: a file may have several windows, and the first is the default."""
    from pydicom.multival import MultiValue

    return (value[0] if len(value) else None) if isinstance(value, MultiValue) else value


def distinct_frames(file: OpenDicom) -> range:
    return range(file.frames if file.dataset.get("PerFrameFunctionalGroupsSequence") else 1)


def frame_view(file: OpenDicom, frame: int) -> Dataset:
    """The dataset of one frame, with its functional groups merged into the top level."""
    from pydicom.dataset import Dataset

    shared = file.dataset.get("SharedFunctionalGroupsSequence") or []
    each = file.dataset.get("PerFrameFunctionalGroupsSequence") or []
    if not shared and not each:
        return with_rescaling(file, file.dataset)
    view = Dataset()
    view.update(file.dataset)
    view.file_meta = file.dataset.file_meta
    for item in (*shared[:1], *each[frame : frame + 1]):
        for keyword in FRAME_GROUPS:
            for group in (item.get(keyword) or [])[:1]:
                view.update(group)
    return with_rescaling(file, view)


def with_rescaling(file: OpenDicom, view: Dataset) -> Dataset:
    """Check slope and intercept. If one is missing, set it to 1 or 0, because pydicom would ignore the other."""
    texts = {keyword: raw_text(view, keyword) for keyword in ("RescaleSlope", "RescaleIntercept")}
    if not any(keyword in view for keyword in texts) or not file.is_gray or view.get("ModalityLUTSequence"):
        return view
    try:
        slope, intercept = float(texts["RescaleSlope"] or 1), float(texts["RescaleIntercept"] or 0)
    except ValueError:
        slope = intercept = math.nan
    if not slope or not math.isfinite(slope) or not math.isfinite(intercept):
        raise DataError(
            f"{file.path}: invalid {', '.join(f'{keyword} {text}' for keyword, text in texts.items() if text)}",
            fix="correct its rescaling, or leave it out",
            code="image",
        )
    if not all(texts.values()):
        view.RescaleSlope, view.RescaleIntercept = slope, intercept
    return view


def raw_text(view: Dataset, keyword: str) -> str:
    """The unparsed text of an element, valid or not; "" if it is missing or blank."""
    value = view.get_item(keyword).value if keyword in view else None
    text = value.decode("latin-1") if isinstance(value, bytes) else "" if value is None else str(value)
    return text.strip("\0 ")


def region_of(file: OpenDicom, reading: Reading) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the region to read: the whole image, or the box around the ultrasound regions.

    If there are regions of two-dimensional tissue images, only these count.
    """
    rows, columns = int(file.dataset.Rows), int(file.dataset.Columns)
    if not reading.crop:
        return 0, 0, columns, rows
    regions = list(file.dataset.get("SequenceOfUltrasoundRegions") or [])
    regions = [region for region in regions if region.get("RegionSpatialFormat") == 1] or regions
    if not regions:
        raise DataError(
            f"{file.path}: has no SequenceOfUltrasoundRegions to crop to",
            fix="exclude it, or remove `crop` from dataset.toml",
        )
    left = max(0, min(int(region.RegionLocationMinX0) for region in regions))
    top = max(0, min(int(region.RegionLocationMinY0) for region in regions))
    right = min(columns, max(int(region.RegionLocationMaxX1) for region in regions) + 1)
    bottom = min(rows, max(int(region.RegionLocationMaxY1) for region in regions) + 1)
    if left >= right or top >= bottom:
        raise DataError(
            f"{file.path}: its ultrasound regions are outside its {columns} x {rows} pixels",
            fix="remove `crop` from dataset.toml, or leave the file out",
        )
    return left, top, right, bottom


# --- pixels ----------------------------------------------------------------------------------------------------------
def decode_dicom(file: OpenDicom, frame: int | None, reading: Reading) -> tuple[Array, Dataset]:
    """The stored values of one frame, cropped, and the dataset of this frame. Other frames are not decoded."""
    check_layout(file)
    if frame is None and file.frames > 1:
        raise DataError(f"{file.path}: {file.frames} frames, expected one image", code="image")
    if frame is not None and frame >= file.frames:
        raise DataError(
            f"{file.path}: frame {frame} of {file.frames}, counted from 0",
            fix="use an existing frame",
            code="image",
        )
    if file.dataset.file_meta.TransferSyntaxUID.is_compressed:
        check_codestream(file, frame or 0)
    raw = decode_stored(file, frame or 0)
    rows, columns = int(file.dataset.Rows), int(file.dataset.Columns)
    if raw.shape[:2] != (rows, columns):
        raise DataError(
            f"{file.path}: {raw.shape[1]} x {raw.shape[0]} pixels, but its header declares {columns} x {rows}",
            fix="copy it again, or leave it out",
        )
    view = frame_view(file, frame or 0)
    raw = darken_padding(file, view, raw, partial(displayed_values, file, view, reading))
    left, top, right, bottom = region_of(file, reading)
    return raw[top:bottom, left:right], view


def displayed_values(file: OpenDicom, view: Dataset, reading: Reading, ends: Array) -> Array:
    """Map two stored values, (1, 2), to displayed ones, to compare which is darker."""
    if reading.window and has_window(view):
        levels = windowed_levels(file, view, reading, ends)
        if levels[0, 0] != levels[0, 1]:
            return levels
    return to_values(file, view, ends)


def decode_stored(file: OpenDicom, frame: int) -> Array:
    from pydicom.pixels import pixel_array

    try:
        return keep_stored_bits(file, pixel_array(file.stream, index=frame))
    except RuntimeError as error:  # its message has a heading, then one line per decoder
        reasons = "; ".join(plain_reason(line) for line in str(error).splitlines()[1:]) or str(error)
        syntax = file.dataset.file_meta.TransferSyntaxUID
        raise DataError(
            f"{file.path}: cannot be decoded as {syntax.name} ({syntax}): {reasons}",
            fix="convert it to Explicit VR Little Endian, or leave it out",
            code="codec",
        ) from error


def keep_stored_bits(file: OpenDicom, raw: Array) -> Array:
    """Clear the bits above BitsStored, which old scanners used for overlays, and extend the sign of signed values.

    pydicom does so for native and RLE files, but not for a codestream with a greater precision than BitsStored.
    """
    stored = file.bits_stored
    if raw.dtype.kind not in "iu" or stored >= raw.dtype.itemsize * 8:
        return raw
    is_signed = file.dataset.get("PixelRepresentation") == 1
    low, high = (-(1 << stored - 1), (1 << stored - 1) - 1) if is_signed else (0, (1 << stored) - 1)
    if raw.min() >= low and raw.max() <= high:
        return raw
    values = raw.astype(np.int64)
    if file.dataset.file_meta.TransferSyntaxUID in LOSSY:  # white plus coding noise is white, not an overlay
        tolerance = (high - low + 1) // 16
        clipped = values.clip(low, high)
        values = np.where(abs(values - clipped) <= tolerance, clipped, values)
    values = ((values - low) & ((1 << stored) - 1)) + low
    return values.astype(raw.dtype)


def plain_reason(line: str) -> str:
    """The message of a decoder without its internal details."""
    line = re.sub(r"\s*<[\w.]+ object at 0x[0-9a-f]+>", "", line.strip())
    return line.replace("'NoneType' object has no attribute 'encode'", "returns no image")


def check_codestream(file: OpenDicom, frame: int) -> None:
    """Raise DataError for an embedded codestream whose size differs from the header, or whose header is damaged.

    A decoder would allocate the declared size. gdcm, the only decoder of some kinds, ends the process for a damaged
    header.
    """
    from pydicom.encaps import get_frame
    from pydicom.uid import JPEGTransferSyntaxes

    file.stream.seek(file.start)
    dataset = file.dataset
    offsets = None
    if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    data = get_frame(file.stream, frame, number_of_frames=file.frames, extended_offsets=offsets)
    if dataset.file_meta.TransferSyntaxUID in JPEGTransferSyntaxes and (wrong := wrong_in_jpeg(data)):
        raise DataError(f"{file.path}: its JPEG {wrong}", fix="copy it again, or leave it out", code="image")
    size = codestream_size(data)
    if size and size != (dataset.Columns, dataset.Rows):
        raise DataError(
            f"{file.path}: its codestream has {size[0]} x {size[1]} pixels, "
            f"but its header declares {dataset.Columns} x {dataset.Rows}",
            fix="copy it again, or leave it out",
            code="image",
        )


def to_rgb(file: OpenDicom, raw: Array, view: Dataset) -> Array:
    """Convert to RGB, uint8 or uint16. pydicom has already converted YBR and joined the planes."""
    from pydicom.pixels import apply_color_lut

    colors = apply_color_lut(raw, view) if file.photometric == "PALETTE COLOR" else raw
    if colors.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{file.path}: colors are {colors.dtype}, expected 8 or 16 bits", code="image")
    return np.ascontiguousarray(colors[..., :3])


def to_values(file: OpenDicom, view: Dataset, raw: Array) -> Array:
    """Apply the rescaling or modality LUT, and invert MONOCHROME1 within its possible range."""
    from pydicom.pixels import apply_modality_lut

    values: Array = apply_modality_lut(raw, view)
    if file.element != "PixelData" and not np.isfinite(values).all():
        raise DataError(f"{file.path}: contains NaN or infinite values", fix="leave it out", code="image")
    if file.photometric == "MONOCHROME1":
        low, high, _ = value_range(file, view)
        if not math.isfinite(low):
            raise DataError(
                f"{file.path}: MONOCHROME1 with floating-point values",
                fix="convert it to MONOCHROME2, or leave it out",
                code="image",
            )
        values = low + high - values
    return values


def stored_levels(file: OpenDicom, view: Dataset, part: Array) -> Array:
    low, high, step = value_range(file, view)
    if low < 0 or high > 65535 or step != 1 or low % 1:
        raise DataError(
            f"{file.path}: values {low:g} to {high:g} are not levels of 8 or 16 bits",
            fix="open it as part of a dataset, which maps all files in the same way",
            code="not-levels",
        )
    return to_values(file, view, part).astype(np.uint8 if high <= 255 else np.uint16)


def windowed_levels(file: OpenDicom, view: Dataset, reading: Reading, part: Array) -> Array:
    """Map values to levels by the file's own VOI LUT or window."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    if not has_window(view):
        raise DataError(f"{file.path}: has no window and no VOI LUT", fix="set intensity.levels in dataset.toml")
    values: Array = apply_modality_lut(part, view)
    if view.get("VOILUTSequence"):
        values, low, high = apply_lookup(view, values)
    else:
        low, high, _ = value_range(file, view)
        values = apply_voi_lut(values, view)
    if file.photometric == "MONOCHROME1":
        values = low + high - values
    return to_levels(values, Reading(levels=(low, high), bits=reading.bits))


def apply_lookup(view: Dataset, values: Array) -> tuple[Array, float, float]:
    """Apply a VOI LUT; return the values and the range of its output.

    pydicom indexes with the dtype of the LUT's output: an 8-bit LUT with 4096 entries would wrap around. Therefore
    the indices are clipped to the table, and it is declared as 16-bit.
    """
    from copy import deepcopy

    from pydicom.dataset import Dataset
    from pydicom.pixels import apply_voi

    lut = Dataset()
    lut.file_meta = view.file_meta
    lut.VOILUTSequence = deepcopy(view.VOILUTSequence)[:1]
    entries, start, bits = (int(number) for number in lut.VOILUTSequence[0].LUTDescriptor)
    lut.VOILUTSequence[0].LUTDescriptor = [entries, start, 16]
    inside = np.clip(np.rint(values), start, start + (entries or 65536) - 1).astype(np.int64)
    return apply_voi(inside, lut), 0.0, 2.0**bits - 1


def in_strips(raw: Array, work: Callable[[Array], Array]) -> Array:
    """Apply `work` to strips of rows, because it needs eight bytes per value."""
    strips = [work(raw[row : row + STRIP_ROWS]) for row in range(0, len(raw), STRIP_ROWS)]
    return np.ascontiguousarray(np.concatenate(strips))
