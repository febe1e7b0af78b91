"""Frames of videos and animated GIFs, compared with av and Pillow; truncated and invalid files are refused."""

import os
import pickle
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from zoo.errors import DataError
from zoo.images import animation, video
from zoo.images.formats import read_header, read_image

KINDS = {  # suffix -> codec and pixel format
    ".avi": ("mjpeg", "yuvj420p"),
    ".mp4": ("mpeg4", "yuv420p"),
    ".mov": ("libx264", "yuv420p"),
    ".mkv": ("ffv1", "yuv420p"),
    ".webm": ("libvpx-vp9", "yuv420p"),
    ".mpg": ("mpeg2video", "yuv420p"),
}


def pictures(count: int, color: bool = True, seed: int = 0) -> list[np.ndarray]:
    """Smooth, distinct frames, because codecs are worst at noise."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 255, (count, 6, 8, 3 if color else 1), dtype=np.uint8)
    return [np.kron(np.broadcast_to(block, (6, 8, 3)), np.ones((8, 8, 1), np.uint8)) for block in blocks]


def write_video(path: Path, frames: list[np.ndarray], codec: str, pixel_format: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_gif(path: Path, frames: list[np.ndarray]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=others, duration=40)
    return path


def reference(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        header = read_header(path)
        for frame in range(header.frames or 0):
            read_image(path, frame)
        read_image(path)
    line = caught.value.line()
    assert "\n" not in line
    assert path.name in line
    return line


def test_a_frame_beyond_the_end_is_refused(tmp_path):
    path = write_video(tmp_path / "a.avi", pictures(3), "mjpeg", "yuvj420p")
    with pytest.raises(DataError, match=r"a\.avi: frame 7 of 3"):
        read_image(path, 7)
    path = write_gif(tmp_path / "a.gif", pictures(3))
    with pytest.raises(DataError, match=r"a\.gif: frame 7 of 3"):
        read_image(path, 7)


def test_the_declared_rotation_of_a_video_is_applied(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture in pictures(2):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = path.read_bytes()
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    matrix = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)  # 90 degrees, as phones declare it
    track = data.index(b"tkhd")
    at = data.index(upright, track)
    path.write_bytes(data[:at] + matrix + data[at + len(matrix) :])
    (first, _) = reference(path)
    assert read_header(path).width == 48
    assert read_image(path, 0).shape[:2] == (64, 48)
    assert (read_image(path, 0) == np.rot90(first, -1)).all()


# --- frames ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", KINDS)
def test_frames_match_av(tmp_path, suffix):
    path = write_video(tmp_path / f"a{suffix}", pictures(20), *KINDS[suffix])
    expected = reference(path)
    header = read_header(path)
    assert (header.frames, header.width, header.height, header.channels) == (len(expected), 64, 48, 3)
    for number in (0, 8, 16, 3, 19, 0):  # also backwards
        assert np.array_equal(read_image(path, number), expected[number])


def test_a_clip_whose_frames_are_all_gray_is_gray(tmp_path):
    gray = write_video(tmp_path / "gray.avi", pictures(5, color=False), "ffv1", "gray")
    assert read_header(gray).channels == 1
    assert np.array_equal(read_image(gray, 3), reference(gray)[3][..., 0])
    late = write_video(tmp_path / "late.mkv", pictures(4, color=False) + pictures(1), "ffv1", "yuv444p")
    assert read_header(late).channels == 3


@pytest.mark.integration
def test_a_long_clip_is_not_decoded_to_count_its_frames(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", pictures(30), *KINDS[".mp4"])
    monkeypatch.setattr(video, "DECODED_PIXELS", 1000)
    converted = []
    convert = lambda path, frame: converted.append(1) or frame.to_ndarray(format="rgb24")  # noqa: E731
    monkeypatch.setattr(video, "frame_pixels", convert)
    assert read_header(path).frames == 30
    assert len(converted) == 1


def test_a_clip_is_decoded_once_for_all_its_frames_by_several_threads(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.avi", pictures(64), *KINDS[".avi"])
    expected = reference(path)
    begun = []
    open_container = video.open_container
    monkeypatch.setattr(video, "open_container", lambda path: begun.append(path) or open_container(path))
    with ThreadPoolExecutor(8) as pool:
        frames = list(pool.map(lambda number: read_image(path, number), range(0, 64, 4)))
    assert begun == [path]
    assert all(np.array_equal(a, b) for a, b in zip(frames, expected[::4], strict=True))


def test_the_cache_of_decoded_frames_is_bounded(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.avi", pictures(40), *KINDS[".avi"])
    monkeypatch.setattr(video, "KEPT_BYTES", 5 * 64 * 48 * 3)
    read_image(path, 39)
    assert len(video.RECENT_CLIPS(path).cached) == 5
    assert np.array_equal(read_image(path, 2), reference(path)[2])


def test_a_file_is_never_read_as_a_playlist(tmp_path):
    whole = write_video(tmp_path / "a.avi", pictures(3), *KINDS[".avi"])
    (tmp_path / "list.avi").write_text(f"ffconcat version 1.0\nfile {whole}\n")
    (tmp_path / "hls.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{whole}\n#EXT-X-ENDLIST\n")
    assert "list.avi" in refusal(tmp_path / "list.avi")
    assert "hls.mp4" in refusal(tmp_path / "hls.mp4")


# --- bad input -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", [suffix for suffix in KINDS if suffix != ".mpg"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_video_that_ends_early_is_refused(tmp_path, suffix, share):  # an MPEG stream does not declare its length
    path = write_video(tmp_path / f"a{suffix}", pictures(40), *KINDS[suffix])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert path.name in refusal(path)


def test_a_file_that_is_not_a_video_is_refused(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "page.avi").write_bytes(b"<!DOCTYPE html><html>sign in</html>")
    (tmp_path / "pickle.mkv").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "noise.webm").write_bytes(os.urandom(5000))
    for name in ("empty.mp4", "page.avi", "pickle.mkv", "noise.webm"):
        refusal(tmp_path / name)
    (tmp_path / "folder.mp4").mkdir()
    assert "not a regular file" in refusal(tmp_path / "folder.mp4")


def test_an_audio_file_and_a_video_of_more_than_8_bits_are_refused(tmp_path):
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    assert "contains no video" in refusal(tmp_path / "sound.mkv")
    deep = write_video(tmp_path / "deep.mkv", pictures(3), "ffv1", "yuv420p10le")
    assert "10 bits per sample" in refusal(deep)


def test_a_video_larger_than_any_image_may_be_is_refused(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.avi", pictures(3), *KINDS[".avi"])
    monkeypatch.setattr("zoo.images.reading.MAX_PIXELS", 1000)
    assert "megapixels" in refusal(path)


@pytest.mark.integration
def test_flipped_bits_give_an_image_or_a_data_error(tmp_path):
    random = np.random.default_rng(0)
    for suffix in (".avi", ".mp4", ".gif"):
        path = tmp_path / f"a{suffix}"
        if suffix == ".gif":
            write_gif(path, pictures(6))
        else:
            write_video(path, pictures(6), *KINDS[suffix])
        whole = path.read_bytes()
        for trial in range(25):
            data = bytearray(whole)
            for place in random.integers(0, len(data), 3):
                data[place] ^= 1 << random.integers(8)
            damaged = tmp_path / f"{trial}{suffix}"
            damaged.write_bytes(data)
            try:
                header = read_header(damaged)
                for number in range(header.frames or 0):
                    assert read_image(damaged, number).dtype == np.uint8
            except DataError as error:
                assert "\n" not in error.line()


def test_without_av_the_message_names_the_extra(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.avi", pictures(3), *KINDS[".avi"])
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError) as caught:
        read_header(path)
    assert "pip install 'zoo-bench[video]'" in caught.value.line()
    assert "a.avi" in caught.value.line()


# --- GIF -------------------------------------------------------------------------------------------------------------
def test_frames_of_a_gif_match_pillow(tmp_path):
    path = write_gif(tmp_path / "a.gif", pictures(7))
    header = read_header(path)
    assert (header.frames, header.width, header.height, header.channels) == (7, 64, 48, 3)
    with Image.open(path) as image:
        for number in (0, 5, 2):
            image.seek(number)
            assert np.array_equal(read_image(path, number), np.asarray(image.convert("RGB")))
    gray = write_gif(tmp_path / "gray.gif", pictures(3, color=False))
    assert read_header(gray).channels == 1
    assert read_image(gray, 1).shape == (48, 64)


def test_a_gif_with_one_frame_is_an_image(tmp_path):
    path = write_gif(tmp_path / "a.gif", pictures(1))
    assert read_header(path).frames is None
    assert read_image(path).shape == (48, 64, 3)


def test_a_truncated_or_too_long_gif_is_refused(tmp_path, monkeypatch):
    path = write_gif(tmp_path / "a.gif", pictures(7))
    cut = tmp_path / "cut.gif"
    cut.write_bytes(path.read_bytes()[:-900])
    monkeypatch.setattr(animation, "MAX_CLIP_BYTES", 1000)
    assert "7 frames of 64 x 48 are more than" in refusal(path)
    refusal(cut)
