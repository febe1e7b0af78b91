"""Commands with good and broken plugins, installed from wheels."""

import base64
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from zoo.errors import PluginError
from zoo.registry import quarantine
from zoo.registry.finding import find_plugins
from zoo.system.files import cache_root

pytestmark = pytest.mark.integration

ZOO = [sys.executable, "-m", "zoo"]
IMPATIENT_SECONDS = 8.0  # for the import of a plugin, in place of 30
IMPATIENT = [sys.executable, "-c", f"import zoo.registry.quarantine as q; q.SECONDS = {IMPATIENT_SECONDS}"]
IMPATIENT[-1] += "; from zoo.__main__ import main; main()"

GIVES = """
    from zoo import ModelSpec, hookimpl

    def build(request):
        raise RuntimeError("listing builds nothing")

    @hookimpl
    def register_models():
        return [ModelSpec(name="{name}", build=build)]
    """
NEVER_LOADED = "raise AssertionError('this must not be imported')"

# distribution: the source of its module, or the cards in its package
GOOD = {
    "zoo-good": GIVES.format(name="good_net"),
    "zoo-clash-a": GIVES.format(name="claimed_net"),
    "zoo-clash-b": GIVES.format(name="claimed_net"),
    "zoo-cards": {
        "dataset.toml": """
            name = "spots"
            task = "binary"
            labels = ["clear", "spot"]
            images = "{label}/*.png"
            label = {positive = "spot"}
            patient = {none = "not published"}
            license = "CC0"
            url = "https://example.org/spots"
            """,
        "grades.toml": """
            task = "ordinal"
            root = "$SPOTS_HOME/grades"
            table = "grades.csv"
            images = "{file}.png"
            labels = {0 = "none", 1 = "mild", 2 = "severe"}
            label = {column = "grade"}
            license = "CC0"
            """,
    },
    "zoo-prints": GIVES.format(name="printing_net") + "\n    print('{not json}')",
}
# distribution: the source of its module, and part of the reason
BROKEN = {
    "zoo-import-error": ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
    "zoo-raises": ("raise OSError('no license file')", "OSError: no license file"),
    "zoo-syntax-error": ("def register_models(:", "SyntaxError: "),
    "zoo-interrupts": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "zoo-closes": ("import os, sys; os.close(1); sys.stdout = None; raise ValueError('closed')", "ValueError: closed"),
    "zoo-exits": ("import sys; sys.exit(0)", "SystemExit: it called sys.exit(0)"),
    "zoo-recursion": ("def f(): f()\nf()", "RecursionError: "),
    "zoo-raising-hook": (
        "from zoo import hookimpl\n@hookimpl\ndef register_models(): return [1 / 0]",
        "ZeroDivisionError: division by zero",
    ),
    "zoo-misspelled": (
        "from zoo import hookimpl\n@hookimpl\ndef register_modles(): return []",
        "register_modles is marked @hookimpl but is not a hook. Did you mean 'register_models'?",
    ),
    "zoo-unmarked": ("def register_models(): return []", "register_models is not marked as a hook"),
    "zoo-returns-none": (
        "from zoo import hookimpl\n@hookimpl\ndef register_models(): pass",
        "register_models returned None, expected a list of ModelSpec",
    ),
    "zoo-wrong-type": (
        "from zoo import hookimpl\n@hookimpl\ndef register_datasets(): return {'dots': 1}",
        "register_datasets returned an object of type dict, expected a list of DatasetSpec",
    ),
    "zoo-wrong-spec": (
        "from zoo import FINETUNE, hookimpl\n@hookimpl\ndef register_models(): return [FINETUNE]",
        "register_models returned an object of type Protocol at [0], expected ModelSpec",
    ),
    "zoo-unknown-field": (
        "from zoo import ModelSpec, hookimpl\n@hookimpl\n"
        "def register_models(): return [ModelSpec(name='a', clasifier='fc')]",
        "ModelSpec has no field 'clasifier'; fix: Did you mean 'classifier'? Else zoo-bench ",
    ),
    "zoo-missing-name": (
        "from zoo import ModelSpek",
        "zoo has no 'ModelSpek'; fix: Did you mean 'ModelSpec'? Else zoo-bench ",
    ),
    "zoo-bad-name": (GIVES.format(name="../up"), "model name '../up'"),
    "zoo-no-hooks": ("x = 1", "no function is marked @hookimpl"),
    "zoo-bad-card": (
        {"dataset.toml": 'task = "multiclas"\nlabels = "a"\nlicense = 3\n'},
        "dataset.toml: 3 mistakes: task: unknown task 'multiclas'. Did you mean 'multiclass'",
    ),
    "zoo-torn-card": ({"skin.toml": "task = ["}, "skin.toml: invalid TOML: "),
    "zoo-bad-card-name": (
        {"card.toml": 'name = "../up"\ntask = "binary"\nlabels = ["a", "b"]\n'},
        "dataset name '../up'",
    ),
    "zoo-no-module": (None, "ModuleNotFoundError: No module named 'zoo_no_module'"),
    "zoo-no-attribute": ("x = 1", "AttributeError: "),
    "zoo-newer": (NEVER_LOADED, "needs contract zoo.v2, but this zoo supports v1; fix: upgrade zoo-bench"),
    "zoo-two-entries": (NEVER_LOADED, "2 entry points in zoo.v1, expected 1"),
    "zoo-damaged": (NEVER_LOADED, "its entry_points.txt is damaged: "),
    "zoo-exits-at-once": ("import os; os._exit(0)", "its import ends the process, with exit status 0"),
    "zoo-segfault": ("import ctypes; ctypes.string_at(0)", "its import crashes: killed by SIGSEGV"),
    "zoo-aborts": (GIVES.format(name="n") + "\n    import os; os.abort()", "its import crashes: killed by SIGABRT"),
    "zoo-kills": ("import os; os.kill(os.getpid(), 9)", "its import crashes: killed by SIGKILL"),
    "zoo-hook-exits": (
        "import os\nfrom zoo import hookimpl\n@hookimpl\ndef register_models(): os._exit(7)",
        "its import ends the process, with exit status 7",
    ),
    "zoo-hangs": (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(987)'])\ntime.sleep(987)",
        f"its import did not end within {IMPATIENT_SECONDS:g} s",
    ),
}
ENTRY_POINTS = {
    "zoo-no-attribute": "[zoo.v1]\nzoo-no-attribute = zoo_no_attribute:plugin\n",
    "zoo-newer": "[zoo.v2]\nzoo-newer = zoo_newer\n",
    "zoo-two-entries": "[zoo.v1]\none = zoo_two_entries\ntwo = zoo_two_entries\n",
}


def write_wheel(folder: Path, name: str, source: str | dict[str, str] | None, version: str = "1.0") -> Path:
    """Write a wheel of one module, or of a package of data files, with an entry point for zoo."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    files = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": ENTRY_POINTS.get(name, f"[zoo.v1]\n{name} = {module}\n"),
    }
    if isinstance(source, dict):
        files |= {f"{module}/__init__.py": "", **{f"{module}/{file}": textwrap.dedent(source[file]) for file in source}}
    elif source is not None:
        files[f"{module}.py"] = textwrap.dedent(source)
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text.encode())}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    wheel = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


def install(wheels: list[Path], target: Path) -> None:
    """Unpack wheels, which installs pure ones. perf: pip takes a second per call; the fixture `site` uses it."""
    for wheel in wheels:
        zipfile.ZipFile(wheel).extractall(target)


def install_by_pip(wheels: list[Path], target: Path) -> None:
    if not importlib.util.find_spec("pip"):  # an environment of uv
        install(wheels, target)
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*command, "--target", str(target), *map(str, wheels)], check=True)


def zoo(*arguments: str, path: list[Path], command=ZOO, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the zoo command with the plugins of these folders installed."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "NO_COLOR": "1",
        "COLUMNS": "200",
        **variables,
    }
    return subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with all good and broken plugins, and two distributions with damaged metadata."""
    folder = tmp_path_factory.mktemp("plugins")
    sources = {**GOOD, **{name: source for name, (source, _) in BROKEN.items()}}
    target = folder / "site"
    install_by_pip([write_wheel(folder, name, source) for name, source in sources.items()], target)
    (target / "zoo_damaged-1.0.dist-info" / "entry_points.txt").write_text("[zoo.v1]\nzoo-damaged\n")
    nameless = target / "nameless-1.0.dist-info"
    nameless.mkdir()
    (nameless / "entry_points.txt").write_text("[zoo.v1]\nzoo-nameless = zoo_nameless\n")
    unreadable = target / "unreadable-1.0.dist-info"
    unreadable.mkdir()
    (unreadable / "entry_points.txt").write_bytes(b"[zoo.v1]\n\xff\xfe = x\n")
    return target


@pytest.fixture(scope="module")
def plugins(site):
    """The output of `zoo plugin list --json`, by plugin."""
    done = zoo("plugin", "list", "--json", path=[site], command=IMPATIENT)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["schema"], document["command"]) == (1, "plugin list")
    assert len({plugin["name"] for plugin in document["plugins"]}) == len(document["plugins"])
    return {plugin["name"]: plugin for plugin in document["plugins"]}


@pytest.fixture(scope="module")
def models(site):
    """The result of `zoo list models`, as the first command of a day."""
    (cache_root() / "plugins" / "warned.json").unlink(missing_ok=True)
    return zoo("list", "models", "--json", path=[site])


@pytest.mark.parametrize("name", BROKEN)
def test_each_kind_of_broken_plugin_is_named_with_its_reason(plugins, name):
    assert plugins[name]["status"] == "broken"
    assert BROKEN[name][1] in plugins[name]["reason"]
    assert plugins[name]["version"] == "1.0"


@pytest.mark.parametrize("name", GOOD)
def test_a_good_plugin_works_beside_broken_ones(plugins, name):
    assert (plugins[name]["status"], plugins[name]["version"]) == ("ok", "1.0")


def test_plugins_that_hang_or_crash_at_import_delay_later_commands_by_seconds_and_leave_no_process(site, plugins):
    for words in (["list", "models"], ["plugin", "list"]):
        start = time.monotonic()
        assert zoo(*words, path=[site]).returncode == 0
        assert time.monotonic() - start < quarantine.SECONDS
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(b"time.sleep(987)" in command for command in commands)


def test_a_broken_plugin_is_reported_once_a_day_and_again_with_a_new_reason(tmp_path):
    target, cache = tmp_path / "site", str(tmp_path / "cache")
    install([write_wheel(tmp_path, "zoo-noisy", "raise OSError('no key')")], target)
    first, second = (zoo("list", "models", path=[target], ZOO_CACHE=cache).stderr for _ in range(2))
    assert "zoo-noisy" in first and "zoo-noisy" not in second
    (target / "zoo_noisy.py").write_text("raise OSError('no disk')")
    assert "no disk" in zoo("list", "models", path=[target], ZOO_CACHE=cache).stderr
    assert "zoo-noisy" in zoo("plugin", "list", path=[target], ZOO_CACHE=cache).stdout


def test_an_import_that_timed_out_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(quarantine, "SECONDS", 5.0)
    target, mark = tmp_path / "site", tmp_path / "mark"
    source = f"import pathlib, time\nmark = pathlib.Path({str(mark)!r})\nif not mark.exists():\n"
    source += "    mark.touch()\n    time.sleep(60)\n" + textwrap.dedent(GIVES.format(name="slow_net"))
    install([write_wheel(tmp_path, "zoo-slow", source)], target)
    monkeypatch.syspath_prepend(str(target))
    (plugin,) = [plugin for plugin in find_plugins() if plugin.name == "zoo-slow"]
    (first,) = quarantine.quarantine_plugins([plugin], tmp_path / "cache")
    with pytest.raises(PluginError, match=r"did not end within 5 s; fix: .* `pip uninstall zoo-slow`"):
        first.load()
    (second,) = quarantine.quarantine_plugins([plugin], tmp_path / "cache")
    assert second is plugin


def test_a_fixed_plugin_is_tried_again(tmp_path):
    target = tmp_path / "site"
    install([write_wheel(tmp_path, "zoo-mended", "import os; os._exit(1)")], target)
    assert "zoo-mended" in zoo("list", "models", path=[target]).stderr
    (target / "zoo_mended.py").write_text(textwrap.dedent(GIVES.format(name="mended_net")))
    done = zoo("list", "models", path=[target])
    assert "mended_net" in done.stdout and "zoo-mended" not in done.stderr


@pytest.mark.parametrize(
    "memo", ['{"a": 1}', "\x00", *(pytest.param(text, marks=pytest.mark.slow) for text in ("", "[]"))]
)
def test_a_damaged_quarantine_cache_is_recreated(memo, tmp_path):
    cache, target = tmp_path / "cache", tmp_path / "site"
    install([write_wheel(tmp_path, "zoo-gone", "import os; os._exit(1)")], target)
    (cache / "plugins").mkdir(parents=True)
    (cache / "plugins" / "tried.json").write_text(memo)
    done = zoo("list", "models", path=[target], ZOO_CACHE=str(cache))
    assert done.returncode == 0 and "its import ends the process, with exit status 1" in done.stderr


def test_a_distribution_without_metadata_is_named_by_its_entry_point(plugins):
    assert plugins["zoo-nameless"]["status"] == "broken"
    assert "zoo_nameless" in plugins["zoo-nameless"]["reason"]


def test_list_exits_0_with_one_warning_line_for_each_broken_plugin(models):
    assert models.returncode == 0, models.stderr
    assert "Traceback" not in models.stderr
    for name in BROKEN:
        assert len([line for line in models.stderr.splitlines() if f"{name} " in line or f"{name}:" in line]) == 1


def test_list_shows_the_models_of_the_good_plugins(models):
    names = {item["name"] for item in json.loads(models.stdout)["items"]}
    assert {"good_net", "printing_net", "zoo-clash-a:claimed_net", "zoo-clash-b:claimed_net"} <= names
    assert "claimed_net" not in names


def test_what_a_plugin_prints_at_import_stays_out_of_stdout(models):
    assert "{not json}" in models.stderr
    assert "{not json}" not in models.stdout


@pytest.mark.parametrize("name", ["zoo-clash-a:claimed_net", "zoo-clash-b:claimed_net", "zoo-good:good_net"])
def test_a_qualified_name_selects_one_of_two_that_clash(site, name):
    assert zoo("info", "models", name, path=[site]).returncode == 0


def test_a_requested_ambiguous_name_lists_both_plugins(site):
    done = zoo("info", "models", "claimed_net", path=[site])
    assert done.returncode == 2
    assert "ambiguous-model" in done.stderr and "zoo-clash-a:claimed_net or zoo-clash-b:claimed_net" in done.stderr


def test_requesting_a_broken_plugin_exits_2_with_its_reason(site):
    done = zoo("info", "models", "zoo-raises:some_net", path=[site])
    assert done.returncode == 2
    assert "zoo: error[broken-plugin] plugin zoo-raises 1.0 is broken: OSError: no license file" in done.stderr


def test_a_plugin_installed_twice_is_loaded_once_from_the_first_path(tmp_path, site):
    newer = tmp_path / "newer"
    install([write_wheel(tmp_path, "zoo-good", GOOD["zoo-good"], version="2.0")], newer)
    listed = json.loads(zoo("plugin", "list", "--json", path=[newer, site]).stdout)["plugins"]
    assert [plugin["version"] for plugin in listed if plugin["name"] == "zoo-good"] == ["2.0"]


# --- plugins that are cards ------------------------------------------------------------------------------------------
def test_a_plugin_of_cards_lists_its_datasets_by_name_task_and_license(site):
    done = zoo("list", "datasets", "--json", path=[site])
    items = {item["name"]: item for item in json.loads(done.stdout)["items"]}
    assert {name: (items[name]["task"], items[name]["labels"]) for name in ("spots", "grades")} == {
        "spots": ("binary", 2),
        "grades": ("ordinal", 3),
    }
    assert {items[name]["plugin"] for name in ("spots", "grades")} == {"zoo-cards"}
    assert items["spots"]["license"] == "CC0"


def test_listing_a_card_imports_neither_pandas_nor_pydantic(site):
    code = """
import sys
from zoo.registry.opening import open_registry
assert "spots" in open_registry().datasets
print(sorted({"torch", "pandas", "pydantic", "PIL"} & set(sys.modules)))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.fixture
def spots(tmp_path):
    """Write images in the layout of the card `spots` to the folder of ZOO_DATA."""
    for number in range(60):
        image = tmp_path / "data" / "spots" / ("clear", "spot")[number % 2] / f"{number}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), 3 * number).save(image)
    return tmp_path / "data"


@pytest.fixture
def bench_spots(zoo, tmp_path):
    """Plan a bench on `spots` with the plugin of cards installed, in a folder without damaged metadata."""
    site = tmp_path / "site"
    install([write_wheel(tmp_path, "zoo-cards", GOOD["zoo-cards"])], site)
    words = ["bench", "--datasets", "spots", "--models", "constant", "--dry-run", "--offline", "--results", "results"]
    return lambda **variables: zoo(*words, sites=[site], cwd=tmp_path, **variables)


def test_a_card_is_benchmarked_from_the_zoo_data_folder(bench_spots, spots):
    done = bench_spots(ZOO_DATA=str(spots))
    assert done.returncode == 0, done.stderr
    assert "spots" in done.stdout


def test_a_card_is_benchmarked_from_a_zip_in_zoos_data_folder(bench_spots, tmp_path, spots):
    cache = tmp_path / "cache"
    shutil.make_archive(str(cache / "datasets" / "spots"), "zip", spots / "spots")
    done = bench_spots(ZOO_CACHE=str(cache))
    assert done.returncode == 0, done.stderr


def test_a_card_without_data_names_the_folder_and_the_page(bench_spots, tmp_path):
    done = bench_spots(ZOO_CACHE=str(tmp_path / "cache"), ZOO_DATA=str(tmp_path / "data"))
    assert done.returncode == 4
    (line,) = [line for line in done.stderr.splitlines() if "data-missing" in line or "no data in" in line]
    assert str(tmp_path / "data" / "spots") in line
    assert str(tmp_path / "cache" / "datasets" / "spots") in line
    assert "https://example.org/spots" in line
    assert "Traceback" not in done.stderr


def test_an_uninstalled_plugin_is_not_listed(tmp_path, site):
    rest = tmp_path / "rest"
    shutil.copytree(site, rest, ignore=shutil.ignore_patterns("zoo_good*"))
    listed = json.loads(zoo("plugin", "list", "--json", path=[rest]).stdout)["plugins"]
    assert "zoo-good" not in {plugin["name"] for plugin in listed}


def test_loading_every_installed_plugin_imports_no_heavy_library():
    code = """
import sys
from zoo.registry.finding import find_plugins; from zoo.registry.loading import load_registry
load_registry(find_plugins())
print(sorted({"torch", "torchvision", "timm", "pandas", "sklearn", "scipy", "rich"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", done.stderr


# --- plugins that change the process they are loaded into -----------------------------------------------------------
VANDAL = """
    import os, random, sys
    import torch
    from zoo import BINARY, DatasetSpec, MetricSpec, ModelSpec, Samples, hookimpl

    def spoil():
        os.chdir("/")
        os.environ["OMP_NUM_THREADS"] = "7"
        os.environ.pop("ZOO_CACHE", None)
        random.seed(0)
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_num_threads(3)
        torch.use_deterministic_algorithms(True)

    spoil()

    def build(request):
        spoil()
        torch.set_grad_enabled(True)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(request.num_outputs)).float()

    @hookimpl
    def register_models():
        return [ModelSpec(name="vandal", build=build)]

    def compute(request):
        spoil()
        return 0.5

    def resample(request, weights):
        spoil()
        return weights[:, 0] * 0 + 0.5

    @hookimpl
    def register_metrics():
        return [MetricSpec(name="vandalism", tasks=("binary",), compute=compute, resample=resample)]

    def open_samples(request):
        import numpy as np
        import pandas as pd
        spoil()
        images = np.random.default_rng(0).integers(0, 256, (80, 16, 16), dtype=np.uint8)
        ids, splits = [f"s{row:02}" for row in range(80)], ["train", "train", "val", "test"] * 20
        table = pd.DataFrame({"sample_id": ids, "image": range(80), "split": splits})
        return Samples(table=table, targets=np.arange(80) // 4 % 2, read=lambda row: images[row])

    @hookimpl
    def register_datasets():
        return [DatasetSpec(name="ruins", task=BINARY, labels=("a", "b"), channels=1, samples=open_samples)]
    """


def test_a_plugin_that_changes_its_process_does_not_affect_other_models(tmp_path, zoo, tiny_data):
    target = tmp_path / "site"
    install([write_wheel(tmp_path, "zoo-vandal", VANDAL)], target)
    shutil.copy(tiny_data / "binary.npz", tmp_path / "set.npz")
    words = [
        "bench",
        "--protocol",
        "scratch",
        "--set",
        "image_size=16",
        "--set",
        "steps=5",
        "--json",
    ]
    runs_of = {}
    for name, sites, models, datasets, metrics in (
        ("alone", [], "tiny_cnn", "./set.npz", "auroc,accuracy"),
        ("beside", [target], "vandal,tiny_cnn", "ruins,./set.npz", "auroc,vandalism,accuracy"),
    ):
        chosen = ["-m", models, "-d", datasets, "--metrics", metrics, "--seeds", "1", "--results", name]
        done = zoo(*words, *chosen, sites=sites, cwd=tmp_path)
        assert done.returncode in (0, 3), done.stderr  # its own run may fail
        runs = json.loads(done.stdout)["runs"]
        runs_of[name] = next(run for run in runs if run["model"] == "tiny_cnn" and run["dataset"] == "set")
        runs_of[name]["scores"].pop("vandalism", None)
    assert runs_of["alone"]["id"] == runs_of["beside"]["id"]
    assert runs_of["alone"]["scores"] == runs_of["beside"]["scores"]
    both = [next((tmp_path / name).rglob("set/tiny_cnn.random/*/predictions.npz")).read_bytes() for name in runs_of]
    assert both[0] == both[1]
