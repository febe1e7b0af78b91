"""Plugins of one file: `--plugin FILE.py` and ZOO_PLUGINS."""

import hashlib
import json
import os

import pytest

from zoo.cli.commands import zoo as zoo_command
from zoo.cli.options import add_plugin_files
from zoo.errors import UsageError
from zoo.registry.finding import find_plugins
from zoo.registry.loading import load_registry
from zoo.system.machine import versions

SOURCE = '''"""One network of one file."""

from zoo import ModelSpec, hookimpl


def build(request):
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(request.channels * request.image_size**2, request.num_outputs))


@hookimpl
def register_models():
    return [ModelSpec(name="NAME", build=build, image_size=16)]
'''


def write_plugin(folder, stem, name):
    path = folder / f"{stem}.py"
    path.write_text(SOURCE.replace("NAME", name))
    return path, "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.integration
@pytest.mark.parametrize("how", ["flag", "variable"])
def test_a_run_records_the_hash_of_the_file_whose_model_it_trains(how, bench, tmp_path, tiny_data):
    path, version = write_plugin(tmp_path, f"kit_by_{how}", "one_file_net")
    words = ("-m", "one_file_net", "-d", tiny_data / "binary.npz", "--protocol", "scratch", "--set", "steps=2")
    words += ("--set", "image_size=16", "--seeds", "1", "--weights", "none", "--results", tmp_path / "results")
    flags, variables = (["--plugin", path], {}) if how == "flag" else ([], {"ZOO_PLUGINS": str(path)})
    status, document, said = bench(*words, *flags, cwd=tmp_path, **variables)
    assert status == 0, said
    (run,) = [run for run in document["runs"] if run["model"] == "one_file_net"]
    assert run["status"] == "ok"
    (stored,) = [json.loads(file.read_text()) for file in (tmp_path / "results").rglob("one_file_net*/*/result.json")]
    assert stored["versions"][f"kit-by-{how}"] == version
    assert stored["run"]["network"].startswith(version)


@pytest.mark.integration
def test_a_changed_file_is_another_network(zoo, tmp_path, tiny_data):
    path, _ = write_plugin(tmp_path, "kit_edited", "edited_net")
    words = ("bench", "-m", "edited_net", "-d", tiny_data / "binary.npz", "--protocol", "scratch", "--weights", "none")
    planned = []
    for _ in range(2):
        planned.append(zoo(*words, "--plugin", path, "--seeds", "1", "--dry-run", cwd=tmp_path).stdout)
        path.write_text(path.read_text() + "# edited\n")
    first, second = ([line.split()[0] for line in text.splitlines() if "edited_net" in line] for text in planned)
    assert first and second and first != second


@pytest.mark.integration
def test_plugin_list_shows_summary_hooks_and_path(zoo, tmp_path):
    path, version = write_plugin(tmp_path, "kit_listed", "listed_net")
    listed = json.loads(zoo("plugin", "list", "--plugin", path, "--json", cwd=tmp_path).stdout)["plugins"]
    (own,) = [plugin for plugin in listed if plugin["name"] == "kit-listed"]
    assert own["summary"] == "One network of one file."
    assert (own["version"], own["file"], own["hooks"]) == (version, str(path), ["register_models"])


def load_files(monkeypatch, *paths):
    monkeypatch.setenv("ZOO_PLUGINS", os.pathsep.join(map(str, paths)))
    return load_registry([plugin for plugin in find_plugins() if plugin.file])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("kit-dashed.py", "kit-dashed.py cannot be imported; fix: give it a name such as my_plugin.py"),
        ("json.py", "there is another module 'json'"),
    ],
)
def test_a_file_that_cannot_be_a_module_is_broken_with_the_reason(monkeypatch, tmp_path, name, reason):
    (tmp_path / name).write_text(SOURCE)
    (broken,) = load_files(monkeypatch, tmp_path / name).broken
    assert reason in broken.reason
    assert str(tmp_path / name) in broken.removal and "pip" not in broken.removal


def test_a_file_beside_others_hides_no_installed_module(monkeypatch, tmp_path):
    path, _ = write_plugin(tmp_path, "kit_beside", "beside_net")
    (tmp_path / "kit_helper.py").write_text("SIZE = 16\n")
    (tmp_path / "numpy.py").write_text("raise AssertionError('this must not be imported')\n")
    path.write_text(f"import numpy\nimport kit_helper\n{path.read_text().partition(chr(10))[2]}")
    assert list(load_files(monkeypatch, path).models) == ["beside_net"]


def test_the_versions_of_a_run_name_each_file_once(monkeypatch, tmp_path):
    path, version = write_plugin(tmp_path, "kit_versions", "versions_net")
    monkeypatch.setenv("ZOO_PLUGINS", os.pathsep.join([str(path), str(path)]))
    assert versions()["kit-versions"] == version
    assert len([plugin for plugin in find_plugins() if plugin.file]) == 1


@pytest.mark.integration
def test_a_missing_file_is_a_usage_error(zoo, tmp_path):
    done = zoo("list", "models", "--plugin", "no_such_file.py", cwd=tmp_path)
    assert done.returncode == 2 and "no_such_file.py" in done.stderr


@pytest.mark.skipif(os.pathsep != ":", reason="a path of Windows has no semicolon")
def test_a_path_with_the_separator_of_paths_is_refused(tmp_path):
    with pytest.raises(UsageError, match="contains ':'"):
        add_plugin_files(None, None, [tmp_path / "a:b" / "net.py"])


def test_every_command_that_loads_plugins_takes_a_file():
    """`zoo worker` receives the files of its bench in ZOO_PLUGINS."""
    without = {"cache", "completion", "new", "worker"}

    def list_options(command, name):
        for key, part in getattr(command, "commands", {}).items():
            if key not in without:
                yield from list_options(part, f"{name} {key}")
        if not hasattr(command, "commands"):
            yield name, {option for parameter in command.params for option in parameter.opts}

    found = dict(list_options(zoo_command, "zoo"))
    assert len(found) > 10 and [name for name, options in found.items() if "--plugin" not in options] == []
