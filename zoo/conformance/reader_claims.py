"""Checks of readers, on the files in a folder of the author."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from zoo.arrays import Array
from zoo.conformance.checking import Check, CheckedSpec, Inapplicable
from zoo.conformance.spec_claims import last_line, run_python
from zoo.conformance.steps import check_plain_fields, expect, pickle_callables, step
from zoo.errors import DataError
from zoo.images.plugin_readers import SuffixReader
from zoo.images.reading import suffix_of
from zoo.registry.loading import suffix_reader

NUM_FILES = 8  # read by each check
NUM_READ_THREADS = 4
READ_ELSEWHERE = """
import hashlib, pickle, sys
from pathlib import Path
functions, path = pickle.load(sys.stdin.buffer)
array = pickle.loads(functions)[0](Path(path))
array = array.view("u1") if array.dtype == bool else array  # as `SuffixReader.read_array`
print(hashlib.sha256(str(array.dtype).encode() + str(array.shape).encode() + array.tobytes()).hexdigest())
"""


def reader_of(subject: CheckedSpec) -> SuffixReader:
    return suffix_reader(subject.spec, "the plugin")


def example_files(subject: CheckedSpec) -> list[Path]:
    """Some files with the suffixes of a reader, in the folder of the checks."""
    suffixes = ", ".join(subject.spec.suffixes)
    if subject.folder is None:
        raise Inapplicable(f"give a folder with {suffixes} files: --data DIR, or `folder` in a test")
    files = sorted(path for path in subject.folder.rglob("*") if suffix_of(path.name) in subject.spec.suffixes)
    if not files:
        raise Inapplicable(f"{subject.folder} has no {suffixes} files")
    return files[:: -(-len(files) // NUM_FILES)]


def readable_files(subject: CheckedSpec) -> dict[Path, Array]:
    """The arrays of the files. Raises Inapplicable if one cannot be read, or is read differently the second time."""
    reader = reader_of(subject)
    try:
        first, again = ([np.array(reader.read_array(path)) for path in example_files(subject)] for _ in range(2))
    except DataError as error:
        raise Inapplicable(error.message) from error
    if any(array_digest(array) != array_digest(other) for array, other in zip(first, again, strict=True)):
        raise Inapplicable("two readings of a file differ")
    return dict(zip(example_files(subject), first, strict=True))


def array_digest(array: Array) -> str:
    return hashlib.sha256(str(array.dtype).encode() + str(array.shape).encode() + array.tobytes()).hexdigest()


def check_reader_fields(subject: CheckedSpec) -> None:
    check_plain_fields("reader", subject.spec)


def check_arrays(subject: CheckedSpec) -> None:
    reader = reader_of(subject)
    for path in example_files(subject):
        with step(f"reading {path.name}"):
            reader.read_array(path)


def check_spacing(subject: CheckedSpec) -> None:
    reader = reader_of(subject)
    if reader.spacing is None:
        raise Inapplicable("it has no `spacing`")
    for path in example_files(subject):
        with step(f"the spacing of {path.name}"):
            reader.read_size(path)


def check_repeated_reads(subject: CheckedSpec) -> None:
    reader = reader_of(subject)
    for path in example_files(subject):
        try:
            first, again = (array_digest(reader.read_array(path)) for _ in range(2))
        except DataError as error:
            raise Inapplicable(error.message) from error
        expect(first == again, f"reading {path.name} twice gives different arrays")


def check_read_threads(subject: CheckedSpec) -> None:
    reader, expected = reader_of(subject), readable_files(subject)
    with ThreadPoolExecutor(NUM_READ_THREADS) as pool, step("reading in several threads"):
        arrays = list(pool.map(reader.read_array, [*expected] * NUM_READ_THREADS))
    for path, array in zip([*expected] * NUM_READ_THREADS, arrays, strict=True):
        expect(array_digest(array) == array_digest(expected[path]), f"another thread reads {path.name} differently")


def check_truncated(subject: CheckedSpec) -> None:
    """Read the first half of each file, and its first byte."""
    reader = reader_of(subject)
    with TemporaryDirectory(prefix="zoo-") as folder:
        for path in readable_files(subject):
            content = path.read_bytes()
            for size in (len(content) // 2, 1):
                cut = Path(folder, f"{size}-{path.name}")
                cut.write_bytes(content[:size])
                try:
                    array = reader.read_array(cut)
                except DataError:
                    continue
                shape = f"an array of shape {array.shape}"
                expect(False, f"the first {size} of {len(content)} bytes of {path.name} are read as {shape}")


def check_untouched(subject: CheckedSpec) -> None:
    """Read copies of the files, which must have the same content and no new file beside them."""
    reader = reader_of(subject)
    with TemporaryDirectory(prefix="zoo-") as folder:
        for path in readable_files(subject):
            copy = Path(folder, path.name)
            shutil.copy(path, copy)
            reader.read_array(copy)
            present = sorted(each.name for each in Path(folder).iterdir())
            expect(present == [path.name], f"reading {path.name} leaves other files: {', '.join(present)}")
            expect(copy.read_bytes() == path.read_bytes(), f"reading {path.name} changes it")
            copy.unlink()


def check_read_elsewhere(subject: CheckedSpec) -> None:
    path, array = next(iter(readable_files(subject).items()))
    functions = pickle_callables("reader", subject.spec)
    done = run_python(READ_ELSEWHERE, stdin=pickle.dumps((functions, str(path))))
    expect(done.returncode == 0, f"another process cannot read {path.name}: {last_line(done.stderr)}")
    expect(done.stdout.decode().strip() == array_digest(array), f"another process reads {path.name} differently")


READER_CHECKS = (
    Check(id="reader-fields", claim="Its fields are valid", run=check_reader_fields),
    Check(id="reader-arrays", claim="Every file is an array of the declared axes", run=check_arrays),
    Check(id="reader-spacing", claim="The spacing has a positive number per axis, or is None", run=check_spacing),
    Check(id="reader-repeats", claim="Two readings of a file are equal", run=check_repeated_reads),
    Check(id="reader-threads", claim="Files can be read in several threads", run=check_read_threads),
    Check(id="reader-truncated", claim="A truncated file is an error", run=check_truncated),
    Check(id="reader-untouched", claim="Reading leaves the file and its folder as they are", run=check_untouched),
    Check(id="reader-process", claim="A spawned process reads the same", run=check_read_elsewhere),
)
