"""Arrays of `.npz` files are read as numpy reads them."""

import io
import zipfile

import numpy as np
import pytest

from zoo.system.npz import ArchivedArrays, read_npy

ARRAYS = {
    "matrix": np.arange(6.0).reshape(2, 3),
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "number": np.array(3),
    "none": np.zeros((0, 3), np.float32),
    "texts": np.array(["", "Ä 🩻"]),
    "empty_texts": np.array(["", ""]),
    "big_endian": np.arange(3, dtype=">i4"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_is_that_of_numpy(tmp_path, name):
    np.savez_compressed(tmp_path / "x.npz", **ARRAYS)
    with zipfile.ZipFile(tmp_path / "x.npz") as archive, np.load(tmp_path / "x.npz") as stored:
        read, expected = ArchivedArrays(archive)[name], stored[name]
    np.testing.assert_array_equal(read, expected, strict=True)
    assert read.flags.f_contiguous == expected.flags.f_contiguous


def test_pickled_objects_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.array([{}], dtype=object))
    with zipfile.ZipFile(tmp_path / "x.npz") as archive, pytest.raises(ValueError, match="array of object"):
        ArchivedArrays(archive)["x"]


@pytest.mark.parametrize("header", [b"{'descr': '<f8', (", b"\xff" * 30, b"{'descr': 'x', 'shape': (1,)}"])
def test_a_damaged_header_is_a_value_error(header):
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with pytest.raises(ValueError):
        read_npy(io.BytesIO(content))
