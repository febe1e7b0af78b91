"""Image files to what they say of themselves: read once, and remembered where reading them takes long."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from zoo.images.formats import has_tags, header_version, read_header, read_tag
from zoo.images.reading import AS_STORED, Header, Reading
from zoo.system.files import cache_root
from zoo.system.memo import FileMemo

MAX_LOOKED_AT = 2000  # headers, 0.05 ms each; of a larger set, as many evenly spread


class Headers:
    """Headers of the images of a folder, by name, as `reading` cuts volumes. Closed as a context, it keeps them."""

    def __init__(self, root: Path, reading: Reading = AS_STORED) -> None:
        self.root, self.reading = root, reading
        self.known: dict[str, Header] = {}
        self.memos: dict[str, FileMemo] = {}

    def __enter__(self) -> Headers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for memo in self.memos.values():
            memo.close()

    def __call__(self, image: str) -> Header:
        if image not in self.known:
            path = self.root / image
            version = header_version(path, self.reading)
            self.known[image] = self.remembered_header(path, version) if version else read_header(path, self.reading)
        return self.known[image]

    def remembered_header(self, path: Path, version: str) -> Header:
        axis = "" if self.reading.axis is None else f":axis{self.reading.axis}"
        crop = f":{self.reading.crop}" if self.reading.crop else ""
        fact = self.remembered(f"header:{version}{axis}{crop}", partial(find_header, self.reading), path)
        return Header(**{**fact, "values": tuple(fact["values"]), "blank": tuple(fact["blank"])})

    def tag(self, image: str, keyword: str) -> str:
        """The text of a DICOM tag, "" where the file has none."""
        tags = self(image).tags
        if keyword in tags:
            return tags[keyword]
        text: str = self.remembered(f"tag:1:{keyword}", partial(read_tag, keyword=keyword), self.root / image)
        return text

    def remembered(self, what: str, find: Callable[[Path], Any], path: Path) -> Any:
        if what not in self.memos:
            self.memos[what] = FileMemo(cache_root(), what=what, find=find)
        return self.memos[what](path)

    def tagged(self, images: Iterable[str]) -> dict[str, Header]:
        """The headers of the DICOM files among the images."""
        return {image: self(image) for image in images if has_tags(self.root / image)}

    def telling(self, images: tuple[str, ...]) -> dict[str, Header]:
        """The headers of all images that say more than a size: frames, values, tags."""
        return {image: self(image) for image in images if header_version(self.root / image, self.reading)}

    def looked_at(self, images: tuple[str, ...]) -> dict[str, Header]:
        """The telling headers, and those of the other images evenly spread over the set."""
        step = max(1, -(-len(images) // MAX_LOOKED_AT))
        return self.telling(images) | {image: self(image) for image in images[::step]}


def find_header(reading: Reading, path: Path) -> dict[str, Any]:
    return asdict(read_header(path, reading))
