"""Stacks of images that a TIFF stores in a single page.

ImageJ writes a single page for a stack larger than 4 GB, tifffile with `truncate`, and MetaMorph for every stack;
ImageDepth (SGI) is the number of planes of a page. Reading only the page gives the first image, without an error.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

DESCRIPTION, SAMPLES_PER_PIXEL, IMAGE_DEPTH, METAMORPH_PLANES = 270, 277, 32997, 33629


def declared_planes(tiff: Any) -> int:
    """The number of images that the first page of a `tifffile.TiffFile` declares, including itself."""
    page = tiff.pages[0]
    planes = page.tags[METAMORPH_PLANES].count if METAMORPH_PLANES in page.tags else 1
    num_values = page.imagewidth * page.imagelength * page.samplesperpixel
    return int(max(planes, page.imagedepth, planes_in_description(page.description, num_values)))


def planes_in_directory(tags: ImageFileDirectory_v2, width: int, height: int) -> int:
    """`declared_planes` for a page that Pillow has opened, without reading it again."""
    planes, depth = tags.get(METAMORPH_PLANES, ()), int(tags.get(IMAGE_DEPTH, 1))
    num_values = width * height * int(tags.get(SAMPLES_PER_PIXEL, 1))
    described = planes_in_description(str(tags.get(DESCRIPTION, "")), num_values)
    return max(len(planes) if isinstance(planes, tuple) else 1, depth, described)


def planes_in_description(description: str, num_values: int) -> int:
    """The number of images that an ImageDescription of ImageJ or tifffile declares; one image has `num_values`."""
    if description.startswith("ImageJ="):
        images = re.search(r"^images=(\d+)\s*$", description, re.MULTILINE)
        return int(images[1]) if images else 1
    if not description.startswith('{"shape"'):
        return 1
    try:
        shape = json.loads(description)["shape"]
        return max(1, int(math.prod(shape)) // num_values)
    except (ValueError, TypeError):  # not JSON, but a text with the same beginning
        return 1
