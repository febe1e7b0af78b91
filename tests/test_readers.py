"""Readers of plugins: files with their suffixes are images everywhere; without one, an error says how to get it."""

import hashlib
import json
import re
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nibabel
import numpy as np
import pytest
from PIL import Image

from zoo import builtin
from zoo.conformance.catalogue import checks_of
from zoo.conformance.checking import CheckedSpec
from zoo.data.opening import open_dataset
from zoo.data.references import list_readers
from zoo.errors import DataError, PluginError
from zoo.images.formats import BY_SUFFIX, how_to_read, is_image_name, is_volume_name, read_header, read_image
from zoo.images.formats import read_spacing as spacing_of
from zoo.images.label_maps import read_label_map
from zoo.images.nifti_masks import save_volume_mask
from zoo.images.plugin_readers import PLUGIN_READERS, parse_identity
from zoo.registry.choices import reopen_choice
from zoo.registry.finding import InstalledPlugin
from zoo.registry.loading import load_registry
from zoo.sources.listing import list_folder
from zoo.sources.opening import find_source
from zoo.specs.dataset import SamplesRequest
from zoo.specs.hooks import hookimpl
from zoo.specs.reader import ReaderSpec

PAGE = Path(__file__).parents[1] / "docs" / "write-a-plugin.md"
CORE = ("zoo-bench", builtin)


def source_in_docs():
    section = PAGE.read_text(encoding="utf-8").partition("## `ReaderSpec`")[2]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


def documented():
    """The plugin in the docs, as a module."""
    module = ModuleType("documented_reader")
    exec(source_in_docs(), vars(module))
    return module


def load(*plugins):
    return load_registry(
        [InstalledPlugin(name=name, version="1.0", load=lambda module=module: module) for name, module in plugins]
    )


def plugin_of(*specs):
    return SimpleNamespace(register_readers=hookimpl(lambda: list(specs)))


@pytest.fixture(scope="module")
def spec():
    (spec,) = documented().register_readers()
    return spec


@pytest.fixture
def install():
    """Load plugins into this process; their readers are removed after the test."""
    yield lambda *plugins: load(CORE, *plugins)
    load(CORE)
    assert not PLUGIN_READERS and ".oct" not in BY_SUFFIX


def write_oct(path, pixels, spacing=(0.5, 0.25)):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<4sHHff", b"OCT1", *pixels.shape, *spacing) + pixels.astype("<u2").tobytes())


def draw(seed=0, shape=(12, 9)):
    return np.random.default_rng(seed).integers(0, 3000, shape).astype(np.uint16)


@pytest.fixture
def folder(tmp_path):
    """Two classes of 12 images."""
    for number in range(24):
        write_oct(tmp_path / "set" / ("healthy", "sick")[number % 2] / f"{number}.oct", draw(number))
    return tmp_path / "set"


# --- reading ---------------------------------------------------------------------------------------------------------
def test_the_reader_in_the_docs_reads_a_folder(install, folder, spec):
    install(("zoo-oct", plugin_of(spec)))
    source = open_dataset(find_source(folder), folder)
    image = source.samples.table["image"][0]
    assert len(source.sample_ids) == 24 and source.spec.channels == 1
    assert source.samples.reading["readers"] == ("zoo-oct:oct@1",)
    assert source.samples.spacing(image) == (0.5, 0.25)
    assert np.array_equal(source.samples.read(image), draw(int(Path(image).stem)))


def test_another_version_of_a_reader_gives_another_content_hash(install, folder, spec):
    hashes = []
    for version in (1, 1, 2):
        install(("zoo-oct", plugin_of(replace(spec, version=version))))
        hashes.append(open_dataset(find_source(folder), folder).content_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_another_version_of_a_reader_reads_masks_and_ranges_again(install, tmp_path, monkeypatch, spec):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    for number in range(4):
        write_oct(tmp_path / "set" / "images" / f"{number}.oct", draw(number))
        write_oct(tmp_path / "set" / "masks" / f"{number}.oct", draw(number) > 1500)
    toml = 'schema = 1\ntask = "segmentation"\nimages = "images/*"\nmasks = {path = "masks/{stem}.oct"}\n'
    (tmp_path / "set" / "dataset.toml").write_text(toml + "intensity = {percentiles = [1, 99]}\n")
    read, levels, values = spec.read, [], []
    for version in (1, 2):
        install(("zoo-oct", plugin_of(replace(spec, version=version, read=lambda path, k=version: k * read(path)))))
        samples = find_source(tmp_path / "set" / "dataset.toml").samples(SamplesRequest(folder=tmp_path / "set"))
        levels.append(samples.reading["levels"][1])
        values.append(samples.masks.values)
    assert levels[1] == 2 * levels[0] and values == [(1,), (2,)]


def test_another_version_of_the_reader_of_masks_gives_another_content_hash(install, tmp_path, monkeypatch, spec):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    for number in range(4):
        (tmp_path / "set" / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(number).astype(np.uint8)).save(tmp_path / "set" / "images" / f"{number}.png")
        write_oct(tmp_path / "set" / "masks" / f"{number}.oct", draw(number) > 1500)
    toml = 'schema = 1\ntask = "segmentation"\nlabels = ["lesion"]\nimages = "images/*"\n'
    (tmp_path / "set" / "dataset.toml").write_text(toml + 'masks = {path = "masks/{stem}.oct"}\n')
    read, hashes = spec.read, []
    for version in (1, 2):
        fixed = replace(spec, version=version, read=lambda path, k=version: read(path)[:: 2 * k - 3])
        install(("zoo-oct", plugin_of(fixed)))  # version 1 reads masks upside down
        hashes.append(open_dataset(find_source(tmp_path / "set" / "dataset.toml"), tmp_path / "set").content_hash)
    assert hashes[0] != hashes[1]


def test_images_named_by_a_table_are_read(install, tmp_path, spec):
    install(("zoo-oct", plugin_of(spec)))
    for number in range(6):
        write_oct(tmp_path / "images" / f"{number}.oct", draw(number))
    names = [f"{number}.oct,{number % 2}" for number in range(6)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,label", *names]) + "\n")
    assert len(open_dataset(find_source(tmp_path / "labels.csv"), tmp_path).sample_ids) == 6


def test_a_reader_of_masks_alone_is_among_the_readers_of_a_dataset(install, tmp_path, monkeypatch, spec):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    install(("zoo-oct", plugin_of(spec)))
    root = tmp_path / "set"
    (root / "images").mkdir(parents=True)
    for number in range(24):
        Image.fromarray((draw(number) // 16).astype(np.uint8)).save(root / "images" / f"{number}.png")
        write_oct(root / "masks" / f"{number}.oct", draw(number) > 1500)
    toml = 'schema = 1\ntask = "segmentation"\nimages = "images/*"\nmasks = {path = "masks/{stem}.oct"}\n'
    (root / "dataset.toml").write_text(toml)
    assert list_readers(open_dataset(find_source(root / "dataset.toml"), root)) == ["zoo-oct:oct@1"]


def test_a_mask_is_read_with_its_spacing(install, tmp_path, spec):
    install(("zoo-oct", plugin_of(spec)))
    write_oct(tmp_path / "a.oct", draw() > 1500)
    label_map = read_label_map(tmp_path / "a.oct")
    assert np.array_equal(label_map.labels, draw() > 1500) and label_map.spacing == (0.5, 0.25)


def test_the_array_of_a_detached_header_is_no_image_of_a_reader(install, tmp_path, spec):
    install(("zoo-raw", plugin_of(replace(spec, suffixes=(".raw",)))))
    header = "NDims = 3\nDimSize = 2 2 1\nElementType = MET_UCHAR\nElementDataFile = a.raw"
    (tmp_path / "a.mhd").write_text(f"ObjectType = Image\n{header}")
    (tmp_path / "a.raw").write_bytes(bytes(4))
    (tmp_path / "b.raw").write_bytes(bytes(4))
    assert list_folder(tmp_path).images == ("a.mhd", "b.raw")


def read_stack(path):
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 5
    return (values > 3).astype(np.uint8) if path.parent.name == "masks" else values


def space_stack(path):
    return 3.0, 0.5, 0.25


def test_a_volume_is_slices_along_its_first_axis(install, tmp_path, spec):
    stack = replace(spec, name="stack", suffixes=(".stack",), read=read_stack, spacing=space_stack, dims=3)
    install(("zoo-stack", plugin_of(stack)))
    path = tmp_path / "a.stack"
    path.write_text("1")
    header = read_header(path)
    assert (header.frames, header.height, header.width, header.values) == (2, 3, 4, (-5.0, 18.0))
    assert header.is_volume and is_volume_name("a.stack") and spacing_of(path, 1) == (0.5, 0.25)


def test_whole_volumes_have_the_spacing_of_their_reader(install, tmp_path, spec):
    stack = replace(spec, name="stack", suffixes=(".stack",), read=read_stack, spacing=space_stack, dims=3)
    install(("zoo-stack", plugin_of(stack)))
    for name in ("images", "masks"):
        for number in range(4):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{number}.stack").write_text(name)
    (tmp_path / "dataset.toml").write_text(
        'schema = 1\ndims = 3\ntask = "segmentation"\nlabels = ["lesion"]\nimages = "images/*.stack"\n'
        'masks = {path = "masks/{stem}.stack"}\n'
    )
    samples = find_source(tmp_path / "dataset.toml").samples(SamplesRequest(folder=tmp_path))
    image = samples.table["image"][0]
    assert samples.volumes(image).shape == (2, 3, 4) and samples.spacing(image) == (3.0, 0.5, 0.25)
    mask = samples.masks(image)
    assert mask.sum() == 15
    save_volume_mask(tmp_path / "mask.nii.gz", mask, tmp_path / image, "")
    assert nibabel.load(tmp_path / "mask.nii.gz").header.get_zooms() == (3.0, 0.5, 0.25)
    assert samples.reading == {"readers": ["zoo-stack:stack@1"]}


# --- errors ----------------------------------------------------------------------------------------------------------
def test_without_its_plugin_the_suffix_and_how_to_get_a_reader_are_named(install, folder):
    install()
    with pytest.raises(DataError) as caught:
        find_source(folder)
    assert "24 .oct" in caught.value.message and how_to_read("a.oct") in caught.value.fix
    assert "\n" not in str(caught.value)
    (folder / "dataset.toml").write_text('schema = 1\ntask = "binary"\nimages = "{label}/*.oct"\n')
    with pytest.raises(DataError, match=r"a plugin that reads \.oct"):
        find_source(folder / "dataset.toml")


def read_badly(path, answer):
    if isinstance(answer, BaseException):
        raise answer
    return answer


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (ValueError("no\nheader"), "failed: ValueError: no header"),
        (SystemExit(3), "failed: SystemExit: 3"),
        (None, "returned an object of type NoneType"),
        (np.zeros((2, 2, 2)), "returned an array of float64 with shape (2, 2, 2)"),
        (np.zeros((0, 2)), "returned an array of float64 with shape (0, 2)"),
        (np.array([["a"]]), "returned an array of <U1 with shape (1, 1)"),
    ],
)
def test_what_a_reader_must_not_return_is_one_line_with_file_and_plugin(install, tmp_path, spec, answer, problem):
    install(("zoo-oct", plugin_of(replace(spec, read=lambda path: read_badly(path, answer)))))
    (tmp_path / "a.oct").write_text("1")
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / "a.oct")
    assert f"a.oct: reader 'oct' of zoo-oct {problem}" in caught.value.message and caught.value.code == "image"


def test_a_suffix_of_two_plugins_is_refused_with_both(install, tmp_path, spec):
    install(("zoo-oct", plugin_of(spec)), ("zoo-eye", plugin_of(replace(spec, name="eye"))))
    write_oct(tmp_path / "a.oct", draw())
    assert is_image_name("a.oct")
    with pytest.raises(DataError, match=r"\.oct files have 2 readers: zoo-eye:eye@1 and zoo-oct:oct@1"):
        read_header(tmp_path / "a.oct")


@pytest.mark.parametrize("suffix", [".png", ".nii.gz", ".csv", ".npz", ".txt", "oct", ".OCT", ".a.oct", ".", ""])
def test_a_suffix_that_other_files_have_is_refused(install, spec, suffix):
    registry = install(("zoo-oct", plugin_of(replace(spec, suffixes=(suffix,)))))
    (broken,) = registry.broken
    assert f"reader 'oct': suffix {suffix!r}" in broken.reason and suffix not in PLUGIN_READERS


def test_a_suffix_that_a_reader_lists_twice_is_refused(install, spec):
    (broken,) = install(("zoo-oct", plugin_of(replace(spec, suffixes=(".oct", ".oct"))))).broken
    assert "suffix '.oct': listed twice" in broken.reason


def test_two_readers_of_one_plugin_and_suffix_are_refused_with_their_names(install, tmp_path, spec):
    install(("zoo-oct", plugin_of(spec, replace(spec, name="eye"))))
    write_oct(tmp_path / "a.oct", draw())
    with pytest.raises(DataError, match=r"\.oct files have 2 readers: zoo-oct:eye@1 and zoo-oct:oct@1"):
        read_header(tmp_path / "a.oct")


def test_a_trained_model_needs_the_reader_and_its_version(install, spec):
    installed = install(("zoo-oct", plugin_of(spec)))
    assert reopen_choice("reader", parse_identity("zoo-oct:oct@1"), installed).spec is spec
    for identity, registry in (("zoo-oct:oct@2", installed), ("zoo-oct:oct@1", load(CORE))):
        with pytest.raises(PluginError, match=r"reader 'oct' version \d of zoo-oct is needed") as caught:
            reopen_choice("reader", parse_identity(identity), registry)
        assert caught.value.code == "unknown-reader"


# --- other processes -------------------------------------------------------------------------------------------------
@pytest.mark.integration
def test_the_reader_in_the_docs_conforms(tmp_path, monkeypatch):
    (tmp_path / "kit_oct.py").write_text(source_in_docs())
    monkeypatch.syspath_prepend(str(tmp_path))
    import kit_oct

    for number in range(3):
        write_oct(tmp_path / "files" / f"{number}.oct", draw(number))
    (spec,) = kit_oct.register_readers()
    for check in checks_of("reader"):
        if check.id != "light-import":
            check.run(CheckedSpec(spec=spec, folder=tmp_path / "files"))


@pytest.mark.integration
def test_a_reader_of_masks_may_return_true_and_false(tmp_path, monkeypatch):
    (tmp_path / "kit_flags.py").write_text("import numpy as np\ndef read(path): return np.load(path) > 1500\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import kit_flags

    with open(tmp_path / "a.flags", "wb") as stream:
        np.save(stream, draw())
    reader = ReaderSpec(name="flags", suffixes=(".flags",), read=kit_flags.read)
    (check,) = (each for each in checks_of("reader") if each.id == "reader-process")
    check.run(CheckedSpec(spec=reader, folder=tmp_path))


@pytest.mark.integration
def test_a_spawned_worker_finds_the_readers_of_plugin_files(tmp_path, monkeypatch):
    """A spawned process opens the registry before its work, as `execute_run` does."""
    (tmp_path / "kit_oct_spawned.py").write_text(source_in_docs())
    monkeypatch.setenv("ZOO_PLUGINS", str(tmp_path / "kit_oct_spawned.py"))
    write_oct(tmp_path / "a.oct", draw())
    code = (
        "import sys; from pathlib import Path; from zoo.registry.opening import open_registry; open_registry(); "
        "from zoo.images.formats import read_image; print(int(read_image(Path(sys.argv[1])).sum()))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.oct"], capture_output=True, text=True, check=True)
    assert int(done.stdout) == int(draw().sum())


@pytest.mark.slow
@pytest.mark.integration
def test_a_bench_records_the_reader_and_a_prediction_needs_it(bench, zoo, folder, tmp_path):
    plugin = tmp_path / "kit_oct_benched.py"
    plugin.write_text(source_in_docs())
    words = ("-m", "tiny_cnn", "-d", folder, "--protocol", "scratch", "--set", "steps=2", "--set", "image_size=16")
    words += ("--seeds", "1", "--weights", "none", "--keep-weights", "all", "--plugin", plugin)
    status, _, said = bench(*words, cwd=tmp_path)
    assert status == 0, said
    (*_, stored) = sorted((tmp_path / "results").rglob("tiny_cnn*/*/result.json"))
    versions = json.loads(stored.read_text())["versions"]
    assert versions["kit-oct-benched"] == "sha256:" + hashlib.sha256(plugin.read_bytes()).hexdigest()
    predict = ("predict", stored.parent, folder / "sick", "-o", tmp_path / "out.csv")
    assert zoo(*predict, "--plugin", plugin, cwd=tmp_path).returncode == 0
    done = zoo(*predict, cwd=tmp_path)
    assert done.returncode == 2 and "error[unknown-reader]" in done.stderr
