"""Read image headers once, and keep those that are slow to read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from zoo.images.formats import has_tags, header_version, read_header, read_tag
from zoo.images.reading import AS_STORED, Header, Reading
from zoo.images.text_headers import stored_files
from zoo.system.files import cache_root
from zoo.system.memo import FileMemo

MAX_SAMPLED = 2000  # headers read (0.05 ms each), evenly spread over a larger set


class Headers:
    """Headers of the images of a folder by name, with volumes cut as `reading` defines.

    Use it as a context manager, which stores the slow ones on exit.
    """

    def __init__(self, root: Path, reading: Reading = AS_STORED) -> None:
        self.root, self.reading = root, reading
        self.headers: dict[str, Header] = {}
        self.memos: dict[str, FileMemo] = {}

    def __enter__(self) -> Headers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for memo in self.memos.values():
            memo.close()

    def __call__(self, image: str) -> Header:
        if image not in self.headers:
            path = self.root / image
            version = header_version(path, self.reading)
            self.headers[image] = self.remembered_header(path, version) if version else read_header(path, self.reading)
        return self.headers[image]

    def remembered_header(self, path: Path, version: str) -> Header:
        axis = "" if self.reading.axis is None else f":axis{self.reading.axis}"
        crop = f":{self.reading.crop}" if self.reading.crop else ""
        fact = self.remembered(f"header:{version}{axis}{crop}", partial(find_header, self.reading), path)
        return Header(**{**fact, "values": tuple(fact["values"]), "blank": tuple(fact["blank"])})

    def tag(self, image: str, keyword: str) -> str:
        """Return the text of a DICOM tag, "" if the file does not have it."""
        tags = self(image).tags
        if keyword in tags:
            return tags[keyword]
        text: str = self.remembered(f"tag:1:{keyword}", partial(read_tag, keyword=keyword), self.root / image)
        return text

    def remembered(self, what: str, find: Callable[[Path], Any], path: Path) -> Any:
        if what not in self.memos:
            self.memos[what] = FileMemo(cache_root(), what=what, find=find, files_of=stored_files)
        return self.memos[what](path)

    def tagged(self, images: Iterable[str]) -> dict[str, Header]:
        """Return the headers of the DICOM files among the images."""
        return {image: self(image) for image in images if has_tags(self.root / image)}

    def detailed(self, images: tuple[str, ...]) -> dict[str, Header]:
        """Return the headers with more than a size: frames, values or tags."""
        return {image: self(image) for image in images if header_version(self.root / image, self.reading)}

    def sample(self, images: tuple[str, ...]) -> dict[str, Header]:
        """Return all detailed headers, and those of at most MAX_SAMPLED images evenly spread over the set."""
        step = max(1, -(-len(images) // MAX_SAMPLED))
        return self.detailed(images) | {image: self(image) for image in images[::step]}


def find_header(reading: Reading, path: Path) -> dict[str, Any]:
    return asdict(read_header(path, reading))
