"""Image files to what they say of themselves: read once, and remembered where reading them takes long."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from zoo.files import FileMemo, cache_root
from zoo.images import AS_STORED, Header, Reading, header_version, read_header

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
            self.known[image] = self.remembered(path, version) if version else read_header(path, self.reading)
        return self.known[image]

    def remembered(self, path: Path, version: str) -> Header:
        if version not in self.memos:
            axis = "" if self.reading.axis is None else f":axis{self.reading.axis}"
            find = partial(find_header, self.reading)
            self.memos[version] = FileMemo(cache_root(), what=f"header:{version}{axis}", find=find)
        fact = self.memos[version](path)
        return Header(**{**fact, "values": tuple(fact["values"]), "blank": tuple(fact["blank"])})

    def telling(self, images: tuple[str, ...]) -> dict[str, Header]:
        """The headers of all images that say more than a size: frames, values, tags."""
        return {image: self(image) for image in images if header_version(self.root / image, self.reading)}

    def looked_at(self, images: tuple[str, ...]) -> dict[str, Header]:
        """The telling headers, and those of the other images evenly spread over the set."""
        step = max(1, -(-len(images) // MAX_LOOKED_AT))
        return self.telling(images) | {image: self(image) for image in images[::step]}


def find_header(reading: Reading, path: Path) -> dict[str, Any]:
    return asdict(read_header(path, reading))
