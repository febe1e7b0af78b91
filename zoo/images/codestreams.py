"""Check the headers of JPEG, JPEG-LS and JPEG 2000 codestreams before decoding."""

import struct


def wrong_in_jpeg(data: bytes) -> str:
    """Describe the first error of a JPEG before its first scan, or "". gdcm 3.2 aborts where libjpeg only warns."""
    at, has_frame = 2, False
    if data[:2] != b"\xff\xd8":
        return f"begins with {data[:4]!r}"
    while at + 4 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF or not marker:
            return f"has no marker at byte {at}"
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers without a segment
            at += 2
            continue
        if marker == 0xDA:
            return "" if has_frame else "has a scan and no frame"
        end = at + 2 + int(struct.unpack(">H", data[at + 2 : at + 4])[0])
        body = data[at + 4 : end]
        if marker == 0xE0 and body[:5] == b"JFIF\0" and body[5:6] != b"\1":
            return f"is JFIF of version {body[5:6].hex()}"
        if marker == 0xEE and body[:5] == b"Adobe" and body[11:12] not in (b"\0", b"\1", b"\2"):
            return f"has the Adobe color transform {body[11:12].hex()}"
        if is_frame_marker(marker):
            bits = body[0] if body else 0
            if bits not in (range(2, 17) if marker == 0xC3 else (8, 12)):
                return f"has samples of {bits} bits"
            has_frame = True
        at = end
    return "ends before its first scan"


def is_frame_marker(marker: int) -> bool:
    return marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC))


def codestream_size(data: bytes) -> tuple[int, int] | None:
    """The width and height that a JPEG, JPEG-LS or JPEG 2000 codestream declares, or None."""
    if (at := data.find(b"\xff\x4f\xff\x51", 0, 4096)) >= 0 and len(data) >= at + 24:  # JPEG 2000: SOC, SIZ
        right, bottom, left, top = struct.unpack(">4L", data[at + 8 : at + 24])
        return right - left, bottom - top
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif is_frame_marker(marker):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        else:
            at += 2 + int(struct.unpack(">H", data[at + 2 : at + 4])[0])
    return None
