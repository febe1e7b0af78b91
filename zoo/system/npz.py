"""Read the arrays of an `.npz` file, of which a report opens thousands."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from tokenize import TokenError
from typing import IO, Any

import numpy as np

from zoo.arrays import Array

VERSIONS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
MAGIC_BYTES = 8  # with the version


class ArchivedArrays(Mapping[str, Array]):
    """The arrays of an open archive by name, read-only. Each access reads one; those of pickled objects are refused.

    perf: `np.load` parses the header of every array as Python code, half of its time for arrays of 100 samples.
    """

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.members = {name.removesuffix(".npy"): name for name in archive.namelist()}

    def __getitem__(self, name: str) -> Array:
        with self.archive.open(self.members[name]) as stream:
            return read_npy(stream)

    def __contains__(self, name: object) -> bool:
        return name in self.members

    def __iter__(self) -> Iterator[str]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)


def read_npy(stream: IO[bytes]) -> Array:
    """Read an array in numpy's format. Raises ValueError, KeyError or EOFError if it is damaged."""
    start = stream.read(MAGIC_BYTES)
    length = stream.read(2 if start[6:7] == b"\1" else 4)
    shape, is_fortran, dtype = parse_header(start + length + stream.read(int.from_bytes(length, "little")))
    size = math.prod(shape) * dtype.itemsize
    content = stream.read(size)
    if len(content) < size:
        raise EOFError(f"an array ends after {len(content)} of {size} bytes")
    return np.ndarray(shape, dtype, content, order="F" if is_fortran else "C")


@lru_cache(maxsize=1000)
def parse_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """The shape, whether the order is Fortran's, and the type of an array."""
    stream = io.BytesIO(header)
    try:
        shape, is_fortran, dtype = VERSIONS[np.lib.format.read_magic(stream)](stream)
    except (SyntaxError, TokenError) as error:  # numpy parses the header as Python code
        raise ValueError(f"the header of an array is damaged: {error}") from error
    if dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError(f"an array of {dtype} {shape}")
    return shape, is_fortran, dtype
