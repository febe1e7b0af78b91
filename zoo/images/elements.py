"""Parse the elements of a DICOM file up to its pixel data."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

from zoo.errors import DataError, nearest
from zoo.images.reading import MAX_BYTES, check_regular, damaged

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MARK = b"DICM"  # at byte 128
MAX_DICOM_HEADER_BYTES = 64 << 20  # before the pixels of a deflated file; real files have less than 1 MB
UNDEFINED_LENGTH = 0xFFFFFFFF
PIXEL_ELEMENTS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
GRAY = ("MONOCHROME1", "MONOCHROME2")

# The tags of a Header, which is cached on disk: no names, dates of birth or free text.
KEPT_TAGS = tuple(
    "PatientID StudyInstanceUID SeriesInstanceUID SOPInstanceUID SOPClassUID AccessionNumber StudyID "  # noqa: SIM905
    "InstanceNumber Modality ImageType Manufacturer ManufacturerModelName StationName BodyPartExamined ViewPosition "
    "Laterality ImageLaterality PatientSex PatientAge PhotometricInterpretation BurnedInAnnotation".split()
)
PIXEL_TAGS = tuple(
    "SamplesPerPixel PlanarConfiguration NumberOfFrames Rows Columns BitsAllocated BitsStored "  # noqa: SIM905
    "HighBit PixelRepresentation RescaleSlope RescaleIntercept ModalityLUTSequence WindowCenter WindowWidth "
    "VOILUTFunction VOILUTSequence RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor "
    "BluePaletteColorLookupTableDescriptor RedPaletteColorLookupTableData GreenPaletteColorLookupTableData "
    "BluePaletteColorLookupTableData SegmentedRedPaletteColorLookupTableData "
    "SegmentedGreenPaletteColorLookupTableData SegmentedBluePaletteColorLookupTableData "
    "SequenceOfUltrasoundRegions SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence "
    "ExtendedOffsetTable ExtendedOffsetTableLengths PixelPaddingValue PixelPaddingRangeLimit FloatPixelPaddingValue "
    "FloatPixelPaddingRangeLimit DoubleFloatPixelPaddingValue DoubleFloatPixelPaddingRangeLimit".split()
)


@dataclass(frozen=True, eq=False)
class OpenDicom:
    """A DICOM file parsed up to its pixel data."""

    path: Path
    stream: IO[bytes]
    dataset: Dataset
    element: str  # keyword of the pixel data element; "" if there is none
    start: int  # offset of its value in the stream
    length: int | None  # in bytes; None if undefined, for encapsulated pixel data

    @property
    def frames(self) -> int:
        return int(self.dataset.get("NumberOfFrames") or 1)

    @property
    def photometric(self) -> str:
        return str(self.dataset.get("PhotometricInterpretation", ""))

    @property
    def bits_stored(self) -> int:
        """Bits of a stored value: BitsStored, or BitsAllocated if it is missing."""
        return int(self.dataset.get("BitsStored") or self.dataset.BitsAllocated)

    @property
    def is_gray(self) -> bool:
        return self.photometric in GRAY


def has_dicom_prefix(path: Path) -> bool:
    """Whether a file has the DICOM prefix at byte 128."""
    try:
        with open(path, "rb") as stream:
            return stream.read(132)[128:] == MARK
    except OSError:
        return False


def read_dicom_tag(path: Path, keyword: str) -> str:
    """The text of one top-level element, or "". For tags that are not in a Header."""
    from pydicom.datadict import keyword_dict

    if keyword not in keyword_dict:
        raise DataError(f"DICOM has no tag {keyword!r}. {nearest(keyword, keyword_dict)}".rstrip())
    with open_dicom(path, (keyword,)) as file:
        return tag_text(file.dataset, keyword)


@contextmanager
def open_dicom(path: Path, tags: tuple[str, ...] = ()) -> Iterator[OpenDicom]:
    """Yield the file parsed up to its pixel data. Any error in the block becomes a DataError that names the file."""
    check_regular(path)
    silence_pydicom()
    try:
        with open(path, "rb") as source:
            yield parse(path, plain_stream(path, source), tags)
    except DataError:
        raise
    except Exception as error:  # pydicom and its decoders raise many kinds of errors for a damaged file
        raise damaged(path, error) from error


@cache
def silence_pydicom() -> None:
    """Hide pydicom's warnings about errors that it corrects, one per file; the relevant ones are checked here."""
    import logging
    import warnings

    warnings.filterwarnings("ignore", module=r"pydicom\b")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def plain_stream(path: Path, source: IO[bytes]) -> IO[bytes]:
    """The file with a preamble and a transfer syntax, and inflated, so that pydicom can read it frame by frame."""
    from pydicom.filereader import _read_file_meta_info, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

    start = source.read(132)
    if start[128:] != MARK and start[:2] not in (b"\x02\x00", b"\x08\x00", b"\x00\x08"):
        raise DataError(f"{path}: not DICOM: no {MARK.decode()} at byte 128", fix="leave it out", code="image-unknown")
    source.seek(0)
    read_preamble(source, force=True)
    meta = _read_file_meta_info(source)
    syntax = meta.get("TransferSyntaxUID")
    if syntax == DeflatedExplicitVRLittleEndian:
        return with_meta(ExplicitVRLittleEndian, inflate(path, source))
    if not syntax or start[128:] != MARK:
        body = source.read(MAX_BYTES + MAX_DICOM_HEADER_BYTES)
        return with_meta(syntax or guess_syntax(body), body)
    source.seek(0)
    return source


def inflate(path: Path, source: IO[bytes]) -> bytes:
    limit = MAX_BYTES + MAX_DICOM_HEADER_BYTES
    data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(source.read(limit), limit + 1)
    if len(data) > limit:
        raise DataError(f"{path}: more than {limit >> 20} MB when inflated", fix="leave it out")
    return data


def guess_syntax(body: bytes) -> str:
    """The native transfer syntax of elements without file meta information."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if not body[4:6].isalpha():
        return str(ImplicitVRLittleEndian)
    return str(ExplicitVRBigEndian if body[:1] == b"\x00" else ExplicitVRLittleEndian)


def with_meta(syntax: str, body: bytes) -> io.BytesIO:
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    element = struct.pack("<HH2sH", 2, 0x10, b"UI", len(uid)) + uid
    length = struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(element))
    return io.BytesIO(bytes(128) + MARK + length + element + body)


def parse(path: Path, stream: IO[bytes], tags: tuple[str, ...]) -> OpenDicom:
    from pydicom import dcmread

    dataset = dcmread(stream, stop_before_pixels=True, specific_tags=[*KEPT_TAGS, *PIXEL_TAGS, *tags])
    little = bool(dataset.original_encoding[1])
    order, start = "<" if little else ">", stream.tell()
    head = stream.read(12)
    if len(head) < 8:
        return OpenDicom(path, stream, dataset, "", start, 0)
    group, number = struct.unpack(f"{order}HH", head[:4])
    implicit = bool(dataset.original_encoding[0])
    (length,) = struct.unpack(f"{order}L", head[4:8] if implicit else head[8:12].ljust(4, b"\0"))
    element = PIXEL_ELEMENTS.get(group << 16 | number, "")
    defined = None if length == UNDEFINED_LENGTH else length
    return OpenDicom(path, stream, dataset, element, start + (8 if implicit else 12), defined)


def tag_text(dataset: Dataset, keyword: str) -> str:
    from pydicom.multival import MultiValue

    value = dataset.get(keyword)
    if value is None:
        return ""
    texts = value if isinstance(value, MultiValue) else [value]
    return "\\".join(str(text).strip("\0 ") for text in texts)
