"""Videos and folders of frames become clips: some frames of each, of one patient, with one label."""

import csv
from pathlib import Path

import numpy as np
import pytest
from folders import open_source
from PIL import Image

from zoo.errors import DataError
from zoo.evaluation.predictions import load_predictions
from zoo.images.formats import read_image
from zoo.sources.opening import find_source

av = pytest.importorskip("av")


def shades(number: int, count: int = 20, size: int = 32) -> list[np.ndarray]:
    """Frames of one clip; odd clips are brighter below."""
    random = np.random.default_rng(number)
    frames = random.integers(0, 100, (count, size, size), dtype=np.uint8)
    if number % 2:
        frames[:, size // 2 :] += 120
    return list(frames)


def save_video(path: Path, frames: list[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = frames[0].shape
        stream.pix_fmt = "gray"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())


def save_frames(folder: Path, frames: list[np.ndarray], name: str = "{}.png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / name.format(number))


def write_table(root: Path, header: str, rows: list[str]) -> None:
    (root / "labels.csv").write_text("\n".join([header, *rows]) + "\n")


def echo(root: Path, clips: int = 4) -> Path:
    """Videos with a table as in EchoNet: two clips per patient, with one label."""
    for number in range(clips):
        save_video(root / "Videos" / f"v{number}.avi", shades(number % 4 // 2 + number))
    rows = [f"v{number},{'low' if number % 4 < 2 else 'high'},p{number // 2}" for number in range(clips)]
    write_table(root, "FileName,EF,PatientID", rows)
    (root / "dataset.toml").write_text(
        'unit = "clip"\nimages = "Videos/{FileName}.avi"\nframes = {every = 8, max = 2}\ntable = "labels.csv"\n'
        'label = {column = "EF"}\npatient = {column = "PatientID"}\n'
    )
    return root


# --- which frames ----------------------------------------------------------------------------------------------------
def test_a_table_of_videos_gives_every_eighth_frame_up_to_a_maximum(tmp_path):
    spec, samples = open_source(echo(tmp_path))
    assert list(samples.table["sample_id"][:4]) == [
        f"Videos/v{clip}.avi#{frame}" for clip in (0, 1) for frame in (0, 8)
    ]
    assert list(samples.table["patient"][:4]) == ["p0"] * 4
    assert spec.unit == "clip"
    assert spec.channels == 1
    assert np.array_equal(samples.read("Videos/v1.avi#8"), shades(1)[8])
    assert any(
        "4 files have several frames: 8 frames are read as images, every 8th, at most 2" in n for n in samples.notes
    )


@pytest.mark.parametrize(("step", "choice"), [(1, ""), (2, ", every 2nd"), (3, ", every 3rd"), (8, ", every 8th")])
def test_the_choice_of_frames_is_noted(tmp_path, step, choice):
    save_frames(tmp_path / "a" / "c0", shades(0, count=9))
    save_frames(tmp_path / "b" / "c1", shades(1, count=9))
    (tmp_path / "dataset.toml").write_text(f"frames = {{every = {step}}}\n")
    assert f"2 clips of 18 frames in separate files{choice}" in open_source(tmp_path)[1].notes


def test_class_folders_of_videos_need_no_card(tmp_path):
    for number in range(4):
        save_video(tmp_path / ("sick" if number % 2 else "well") / f"{number}.mkv", shades(number, 3))
    spec, samples = open_source(tmp_path)
    assert len(samples.table) == 12
    assert spec.labels == ("sick", "well")
    assert samples.table["patient"].nunique() == 4
    assert any("every volume or clip is taken as one" in note for note in samples.notes)


def test_folders_of_frames_named_in_the_pattern_are_clips_in_natural_order(tmp_path):
    for number in range(4):
        save_frames(tmp_path / "frames" / f"c{number}", shades(number))
    write_table(tmp_path, "clip,label", [f"c{number},{'ab'[number % 2]}" for number in range(4)])
    (tmp_path / "dataset.toml").write_text(
        'images = "frames/{clip}/*.png"\nframes = {every = 5, max = 3}\n'
        'table = "labels.csv"\nlabel = {column = "label"}\n'
    )
    _, samples = open_source(tmp_path)
    assert list(samples.table["sample_id"][:3]) == ["frames/c0#0", "frames/c0#5", "frames/c0#10"]
    assert list(samples.table["image"][:3]) == [f"frames/c0/{frame}.png" for frame in (0, 5, 10)]  # not 0, 13, 18
    assert list(samples.table["patient"][:4]) == ["frames/c0"] * 3 + ["frames/c1"]
    assert samples.targets[:6].tolist() == [0, 0, 0, 1, 1, 1]
    assert any("4 clips of 80 frames in separate files, every 5th, at most 3 per clip" in n for n in samples.notes)


@pytest.mark.parametrize("cell", ["c{}", "frames/c{}"])
def test_a_column_may_name_the_folder_of_a_clip(tmp_path, cell):
    for number in range(4):
        save_frames(tmp_path / "frames" / f"c{number}", shades(number, 6))
    write_table(tmp_path, "video,label", [f"{cell.format(number)},{'ab'[number % 2]}" for number in range(4)])
    (tmp_path / "dataset.toml").write_text(
        'frames = {every = 3}\ntable = "labels.csv"\njoin = {column = "video"}\nlabel = {column = "label"}\n'
    )
    _, samples = open_source(tmp_path)
    assert list(samples.table["sample_id"][:3]) == ["frames/c0#0", "frames/c0#3", "frames/c1#0"]
    assert samples.targets[:3].tolist() == [0, 0, 1]


def test_class_folders_of_clip_folders_need_only_frames_in_the_card(tmp_path):
    for number in range(4):
        save_frames(tmp_path / ("sick" if number % 2 else "well") / f"c{number}", shades(number, 6))
    (tmp_path / "dataset.toml").write_text('unit = "clip"\nframes = {every = 2}\n')
    _, samples = open_source(tmp_path)
    assert list(samples.table["sample_id"][:4]) == ["sick/c1#0", "sick/c1#2", "sick/c1#4", "sick/c3#0"]


def test_clips_in_one_folder_are_separated_by_their_names(tmp_path):
    for number in range(4):
        save_frames(tmp_path, shades(number, 6), f"c{number}_{{}}.png")
    write_table(tmp_path, "clip,label", [f"c{number},{'ab'[number % 2]}" for number in range(4)])
    (tmp_path / "dataset.toml").write_text(
        'images = "{clip}_*.png"\nframes = {every = 3}\ntable = "labels.csv"\nlabel = {column = "label"}\n'
    )
    assert list(open_source(tmp_path)[1].table["sample_id"][:3]) == ["c0#0", "c0#3", "c1#0"]


def test_a_clip_with_two_labels_is_refused(tmp_path):
    for label in ("a", "b"):
        save_frames(tmp_path / "c1" / label, shades(0, 3))
    (tmp_path / "dataset.toml").write_text('images = "{clip}/{label}/*.png"\nframes = {every = 1}\n')
    with pytest.raises(DataError, match=r"clip c1: its frames c1/a/0\.png and c1/b/0\.png have a different label"):
        find_source(tmp_path)


def test_a_gif_gives_frames_among_videos(tmp_path):
    for number in range(4):
        first, *others = [Image.fromarray(frame) for frame in shades(number, 5)]
        path = tmp_path / "ab"[number % 2] / f"{number}.gif"
        path.parent.mkdir(exist_ok=True)
        first.save(path, save_all=True, append_images=others)
    (tmp_path / "dataset.toml").write_text("frames = {every = 2}\n")
    _, samples = open_source(tmp_path)
    assert list(samples.table["sample_id"][:3]) == ["a/0.gif#0", "a/0.gif#2", "a/0.gif#4"]
    assert np.array_equal(samples.read("a/0.gif#2"), read_image(tmp_path / "a" / "0.gif", 2))


def test_a_damaged_video_is_one_line_with_its_name(tmp_path):
    echo(tmp_path)
    (tmp_path / "Videos" / "v2.avi").write_bytes((tmp_path / "Videos" / "v2.avi").read_bytes()[:2000])
    with pytest.raises(DataError) as caught:
        find_source(tmp_path)
    assert "v2.avi" in caught.value.line()
    assert "\n" not in caught.value.line()


# --- as a user sees them ---------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_set_of_clips_is_listed_and_benched_by_the_clip(tmp_path, zoo):
    data, results = echo(tmp_path / "echo", clips=48), tmp_path / "results"
    done = zoo("info", "datasets", str(data))
    assert done.returncode == 0, done.stderr
    assert "unit: clip" in done.stdout
    flags = ["--models", "thumbnails", "--folds", "1", "--seeds", "1", "--device", "cpu", "--metrics", "accuracy"]
    done = zoo("bench", "--datasets", str(data), *flags, "--results", str(results))
    assert done.returncode == 0, done.stderr
    assert "unit: clip" in zoo("report", "--details", "--results", str(results)).stdout
    path = next(results.rglob("predictions.npz"))
    test = load_predictions(path)["test"]
    rows = {name: test.probabilities[test.sample_ids == name][0] for name in test.sample_ids}
    clips = test.by_unit("clip")
    assert len(clips) == len(test) / 2
    mean = (rows[f"{clips.sample_ids[0]}#0"] + rows[f"{clips.sample_ids[0]}#8"]) / 2
    assert np.allclose(clips.probabilities[0], mean)
    with open(data / "labels.csv", newline="") as stream:
        owner = {f"Videos/{row['FileName']}.avi": row["PatientID"] for row in csv.DictReader(stream)}
    assert all(owner[name] == patient for name, patient in zip(clips.sample_ids, clips.patients, strict=True))
