"""Valid and hostile archives are unpacked completely, or refused in one line with nothing written."""

import io
import re
import stat
import struct
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from zoo.errors import DataError
from zoo.sources.archives import MAX_TAR_HEADER_BYTES, find_unpacked, is_archive_name, unpack

FILES = {"set/benign/a.png": b"a" * 1000, "set/malignant/b.png": b"b" * 2000, "set/labels.csv": b"x,y\n"}
LEFT_BEHIND = {"__MACOSX/set/._a.png": b"resource fork", "set/.DS_Store": b"\0\0\0\1Bud1", "set/Thumbs.db": b"?"}


def make_zip(path, files=FILES, **changes):
    """Write a zip of these files; `changes` are set on its first entry."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, (name, data) in enumerate(files.items()):
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            if not number:
                for field, value in changes.items():
                    setattr(entry, field, value)
            archive.writestr(entry, data)
    return path


def make_tar(path, files=FILES, mode="w:gz", **changes):
    with tarfile.open(path, mode) as archive:
        for number, (name, data) in enumerate(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            if not number:
                for field, value in changes.items():
                    setattr(entry, field, value)
            archive.addfile(entry, io.BytesIO(data))
    return path


def files_in(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refusal(archive, tmp_path):
    """Return the line that refuses an archive, after checking that no file is left."""
    home = tmp_path / "home"
    home.mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError) as caught:
        unpack(archive, home / "data")
    assert sorted(tmp_path.rglob("*")) == before
    line = caught.value.line()
    assert "\n" not in line
    assert archive.name in line
    return line


# --- good ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["set.zip", "set.tar", "set.tar.gz", "set.tgz", "set.tar.bz2", "set.tar.xz"])
def test_every_kind_of_archive_is_unpacked_with_progress_and_without_system_files(tmp_path, name):
    everything = {**FILES, **LEFT_BEHIND}
    mode = {"tgz": "w:gz", "gz": "w:gz", "bz2": "w:bz2", "xz": "w:xz", "tar": "w"}.get(name.rpartition(".")[2])
    archive = make_tar(tmp_path / name, everything, mode) if mode else make_zip(tmp_path / name, everything)
    steps = []
    folder = unpack(archive, tmp_path / "data", lambda done, total: steps.append((done, total)))
    assert files_in(folder) == FILES
    assert [done for done, _ in steps] == [1000, 3000, 3004]
    assert is_archive_name(name)


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path):
    files = {"a.txt": b"1", "z.npz": make_zip(tmp_path / "z.npz").read_bytes()}
    assert files_in(unpack(make_tar(tmp_path / "set.tar", files, "w"), tmp_path / "data")) == files


def test_an_archive_is_unpacked_again_only_if_the_file_changes(tmp_path):
    archive = make_zip(tmp_path / "Set (1).zip", {"a/x.png": b"1", "b/x.png": b"2"})
    folder = find_unpacked(archive, tmp_path / "cache")
    assert folder.name == "Set (1)"
    (folder / "mark").touch()
    assert find_unpacked(archive, tmp_path / "cache") == folder
    assert (folder / "mark").exists()
    make_zip(archive, {"a/x.png": b"11", "b/x.png": b"2"})
    again = find_unpacked(archive, tmp_path / "cache")
    assert again != folder
    assert files_in(again) == {"a/x.png": b"11", "b/x.png": b"2"}


def test_an_archive_that_two_commands_open_at_once_is_unpacked_once(tmp_path):
    archive, cache = make_zip(tmp_path / "set.zip"), tmp_path / "cache"
    started, finish, again = Event(), Event(), []

    def wait(done, total):
        started.set()
        assert finish.wait(30)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(find_unpacked, archive, cache, wait)
        assert started.wait(30)
        second = pool.submit(find_unpacked, archive, cache, lambda *steps: again.append(steps))
        with pytest.raises(TimeoutError):
            second.result(timeout=0.2)
        finish.set()
        assert first.result(30) == second.result(30)
    assert again == []


def test_the_only_folder_of_an_archive_is_the_dataset(tmp_path):
    assert find_unpacked(make_zip(tmp_path / "archive.zip"), tmp_path / "cache").name == "set"


def test_a_small_archive_that_compresses_well_is_not_a_bomb(tmp_path):
    data = {"labels.csv": b"0" * 5_000_000}
    assert files_in(unpack(make_zip(tmp_path / "a.zip", data), tmp_path / "data")) == data


# --- names and kinds of entries --------------------------------------------------------------------------------------
NAMES = {
    "../up.png": "leads out",
    "set/../../up.png": "leads out",
    "/etc/zoo.png": "an absolute path",
    "C:/zoo.png": "an absolute path",
    "c:zoo.png": "an absolute path",
    "set\\..\\..\\up.png": "a backslash",
    "set/\x1b[2Jx.png": "a control character",
    "set/a\nb.png": "a control character",
}


@pytest.mark.parametrize("make", [make_zip, make_tar], ids=["zip", "tar"])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_out_or_cannot_be_displayed_is_refused(tmp_path, make, name):
    line = refusal(make(tmp_path / "a.zip", {"fine.png": b"1", name: b"2"}), tmp_path)
    assert NAMES[name] in line
    assert not re.search(r"[\x00-\x1f]", line)


def test_a_nul_in_a_zips_name_is_refused(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"safe.png_hidden": b"1"})
    archive.write_bytes(archive.read_bytes().replace(b"safe.png_", b"safe.png\0"))
    assert "a control character" in refusal(archive, tmp_path)


def test_an_entry_without_a_name_is_refused(tmp_path):
    assert "'': its name is empty" in refusal(make_zip(tmp_path / "a.zip", {"": b"1", "fine.png": b"2"}), tmp_path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_a_zips_link_or_device_is_refused(tmp_path, kind):
    archive = make_zip(tmp_path / "a.zip", {"link": b"/etc/passwd"}, external_attr=(kind | 0o644) << 16)
    assert "'link': it is a link or a device" in refusal(archive, tmp_path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_a_tars_link_or_device_is_refused(tmp_path, kind):
    archive = make_tar(tmp_path / "a.tar", {"link": b""}, "w", type=kind, linkname="../../etc/passwd")
    assert "'link': it is a link or a device" in refusal(archive, tmp_path)


def test_a_repeated_name_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", b"1")
        archive.writestr("a.png", b"2")
    assert "'a.png': another entry has the same name" in refusal(tmp_path / "a.zip", tmp_path)


@pytest.mark.parametrize("make", [make_zip, make_tar], ids=["zip", "tar"])
def test_dots_and_doubled_slashes_in_a_name_are_normalized(tmp_path, make):
    names = ["./a/1.png", "a//2.png", "a/./3.png", "./b/4.png"]
    folder = unpack(make(tmp_path / "a.zip", dict.fromkeys(names, b"1")), tmp_path / "data")
    assert sorted(files_in(folder)) == ["a/1.png", "a/2.png", "a/3.png", "b/4.png"]


def test_a_tar_of_a_folder_itself_is_unpacked(tmp_path):
    for name in ("a/1.png", "b/2.png", ".hidden"):
        (tmp_path / "base" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "base" / name).write_bytes(b"1")
    with tarfile.open(tmp_path / "dot.tar", "w") as archive:
        archive.add(tmp_path / "base", ".")
    assert sorted(files_in(unpack(tmp_path / "dot.tar", tmp_path / "data"))) == ["a/1.png", "b/2.png"]


@pytest.mark.parametrize("make", [make_zip, make_tar], ids=["zip", "tar"])
@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a/1.png", "./a/1.png"], "'a/1.png': another entry has the same name"),
        (["a/1.png", "a//1.png"], "'a/1.png': another entry has the same name"),
        (["a", "a/0.png"], "'a/0.png': its folder is a file in another entry"),
        (["a", "a/b/0.png"], "'a/b/0.png': its folder is a file in another entry"),
        (["a/0.png", "a"], "'a': another entry is a folder of this name"),
        (["fine.png", "."], "'': another entry is a folder of this name"),
        (["fine.png", "./../up.png"], "'./../up.png': its name leads out of the folder"),
        (["fine.png", "./C:/up.png"], "'./C:/up.png': its name is an absolute path"),
        (["fine.png", "a/" + "x" * 300], "'a/xxx"),
        (["fine.png", "/".join(["x" * 200] * 30)], "its name is too long for the disk"),
    ],
    ids=range(10),
)
def test_entries_that_no_folder_can_hold_are_refused_by_name(tmp_path, make, names, expected):
    line = refusal(make(tmp_path / "a.zip", dict.fromkeys(names, b"1")), tmp_path)
    assert expected in line
    assert "fix: unpack it yourself" in line


# --- bombs -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [make_zip, make_tar], ids=["zip", "tar"])
@pytest.mark.integration
def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path, make, monkeypatch):
    import zoo.sources.archives

    written = []
    write = zoo.sources.archives.write
    monkeypatch.setattr(
        zoo.sources.archives, "write", lambda *arguments: written.append(arguments[1]) or write(*arguments)
    )
    archive = make(tmp_path / "a.zip", {str(number): bytes(30_000_000) for number in range(4)})
    assert archive.stat().st_size < 500_000
    assert "too much for a set of images" in refusal(archive, tmp_path)
    assert sum(written) <= 100 * 2**20


def test_an_archive_larger_than_the_free_disk_space_is_refused(tmp_path, monkeypatch):
    import zoo.sources.archives

    usage = type("Usage", (), {"free": 2500})
    monkeypatch.setattr(zoo.sources.archives.shutil, "disk_usage", lambda folder: usage)
    assert "more than the free disk space" in refusal(make_zip(tmp_path / "a.zip"), tmp_path)


def test_an_entry_larger_than_declared_is_refused(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"a.png": b"a" * 1000})
    data = archive.read_bytes()
    assert data.count(struct.pack("<L", 1000)) >= 2
    archive.write_bytes(data.replace(struct.pack("<L", 1000), struct.pack("<L", 10)))
    assert "damaged or truncated" in refusal(archive, tmp_path)


def test_a_tar_with_a_name_of_megabytes_is_refused_before_it_is_read(tmp_path):
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz", format=tarfile.GNU_FORMAT) as opened:
        opened.addfile(tarfile.TarInfo("x" * (MAX_TAR_HEADER_BYTES + 10)))
    assert "a header has 1048587 bytes" in refusal(archive, tmp_path)


# --- damage ----------------------------------------------------------------------------------------------------------
def test_a_login_page_saved_as_a_zip_is_recognized(tmp_path):
    page = tmp_path / "archive.zip"
    page.write_text("\n<!DOCTYPE html>\n<html><head><title>Login | Kaggle</title>")
    assert "a web page, not an archive" in refusal(page, tmp_path)


@pytest.mark.parametrize("make", [make_zip, make_tar], ids=["zip", "tar"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_archive_is_refused(tmp_path, make, share):
    archive = make(
        tmp_path / "a.zip", {f"{n}.png": bytes((i * n * 7919 >> 3) % 251 for i in range(9000)) for n in (1, 2)}
    )
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * share)])
    assert re.search("truncated|neither a zip nor a tar", refusal(archive, tmp_path))


def test_a_flipped_bit_in_a_zip_is_refused(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"a.png": bytes(range(256)) * 9}, compress_type=zipfile.ZIP_STORED)
    data = bytearray(archive.read_bytes())
    data[200] ^= 4
    archive.write_bytes(bytes(data))
    assert "CRC" in refusal(archive, tmp_path)


def test_a_tar_with_a_damaged_second_header_is_refused_and_not_truncated(tmp_path):
    archive = make_tar(tmp_path / "a.tar", {"a.png": b"1" * 100, "b.png": b"2" * 100}, "w")
    data = bytearray(archive.read_bytes())
    data[1024 + 150] ^= 255
    archive.write_bytes(bytes(data))
    assert "a header at byte 1024 cannot be read" in refusal(archive, tmp_path)


def test_an_encrypted_zip_is_refused(tmp_path):
    archive = make_zip(tmp_path / "a.zip")
    data = bytearray(archive.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(bytes(data))
    assert "encrypted" in refusal(archive, tmp_path)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "neither a zip nor a tar"),
        (b"garbage " * 100, "neither a zip nor a tar"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(600), "7z archives are not supported"),
        (b"Rar!\x1a\x07\x01\x00" + bytes(600), "RAR archives are not supported"),
    ],
    ids=["empty", "garbage", "7z", "rar"],
)
def test_a_file_that_is_not_an_archive_is_refused(tmp_path, data, expected):
    (tmp_path / "a.zip").write_bytes(data)
    assert expected in refusal(tmp_path / "a.zip", tmp_path)


def test_an_archive_without_files_is_refused(tmp_path):
    assert "contains no files" in refusal(make_zip(tmp_path / "a.zip", LEFT_BEHIND), tmp_path)


def test_a_missing_archive_and_a_folder_are_refused(tmp_path):
    (tmp_path / "folder.zip").mkdir()
    assert "not a regular file" in refusal(tmp_path / "folder.zip", tmp_path)
