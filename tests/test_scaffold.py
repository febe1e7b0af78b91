"""`zoo plugin new`: each project is a wheel that installs, loads, and passes the conformance kit and its own tests."""

import ast
import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import click
import pytest

from zoo.cli.plugin import plugin_new
from zoo.errors import UsageError, plural_of
from zoo.scaffold.writing import PROJECT_KINDS, check_command, module_of, write_project
from zoo.specs.hooks import KINDS

LISTED = {"dataset-card": "dataset"}  # where the kind of project is not the kind of spec
ELSEWHERE = ("reader-process", "suite-names")  # checks that start a process, or load every plugin
MIN_PASSED = {"suite": 4}  # without settings and without code


@pytest.fixture(scope="session")
def fresh_environment(tmp_path_factory):
    """A virtual environment in which nothing is installed, and which finds this environment's libraries behind it."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages") if os.name == "posix" else folder.glob("Lib/site-packages")
    (site / "behind.pth").write_text("\n".join(entry for entry in sys.path if Path(entry).is_dir()))
    python = folder / ("bin/python" if os.name == "posix" else "Scripts/python.exe")

    def run(*words, status=0, timeout=280, **settings):
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [str(python), "-m", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout, **settings)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    run.python = python
    return run


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("kind", PROJECT_KINDS)
def test_a_new_project_is_built_installed_checked_and_tested(kind, zoo, fresh_environment, tmp_path):
    pytest.importorskip("flit_core")
    name, module, spec = f"zoo-kit-{kind}", f"zoo_kit_{kind.replace('-', '_')}", f"kit_{kind.replace('-', '_')}"
    done = zoo("plugin", "new", kind, name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    project = tmp_path / name
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", tmp_path / "dist", project]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    packed = zipfile.ZipFile(wheel).namelist()
    assert f"{module}/py.typed" in packed and any(path.endswith("/LICENSE") for path in packed)
    install = [*pip, "--python", fresh_environment.python, "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True)

    plugins = json.loads(fresh_environment("zoo", "plugin", "list", "--json", cwd=tmp_path))["plugins"]
    (own,) = [plugin for plugin in plugins if plugin["name"] == name]
    assert (own["status"], own["version"], own["author"]) == ("ok", "0.1.0", "YOUR NAME")
    kinds = plural_of(LISTED.get(kind, kind))
    items = json.loads(fresh_environment("zoo", "list", kinds, spec, "--json", cwd=tmp_path))["items"]
    assert spec in [item["name"] for item in items]
    data = ["--data", project / "tests" / "replica"] if PROJECT_KINDS[kind].replica else []
    checks = json.loads(fresh_environment("zoo", "plugin", "check", name, *data, "--json", cwd=tmp_path))["checks"]
    assert {check["outcome"] for check in checks} <= {"passed", "skipped"}
    assert sum(check["outcome"] == "passed" for check in checks) >= MIN_PASSED.get(kind, 6)
    assert " passed" in fresh_environment("pytest", "-q", "-p", "no:cacheprovider", cwd=project)


@pytest.mark.slow
@pytest.mark.integration
def test_the_example_of_another_library_is_built_installed_and_passes_its_tests(fresh_environment, tmp_path):
    pytest.importorskip("torchxrayvision", reason="torchxrayvision is not installed")
    pytest.importorskip("flit_core")
    project = Path(__file__).parents[1] / "examples" / "zoo-torchxrayvision"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", tmp_path, project]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    install = [*pip, "--python", fresh_environment.python, "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True)
    assert " passed" in fresh_environment("pytest", "-q", "-p", "no:cacheprovider", project, cwd=tmp_path, timeout=900)


@pytest.mark.parametrize("kind", PROJECT_KINDS)
def test_a_project_holds_what_an_author_needs(kind, tmp_path):
    files = write_project(kind, "zoo-kit", tmp_path / "kit")
    texts = {path.as_posix(): (tmp_path / "kit" / path).read_text() for path in files if "replica" not in path.parts}
    assert not [path for path, text in texts.items() if "{%" in text or "{{ " in text.replace("${{ matrix.zoo }}", "")]
    project = tomllib.loads(texts["pyproject.toml"])["project"]
    assert project["entry-points"] == {"zoo.v1": {"zoo-kit": "zoo_kit"}}
    assert any(requirement.startswith("zoo-bench>=") for requirement in project["dependencies"])
    assert "YOUR-LICENSE" in project["license"] and "YOUR LICENSE" in texts["LICENSE"]
    oldest = next(each for each in project["dependencies"] if each.startswith("zoo-bench")).replace(">=", "==")
    assert f'zoo: ["{oldest}", "zoo-bench"]' in texts[".github/workflows/tests.yml"]
    assert "parametrize_with_checks" in texts["tests/test_zoo_kit.py"]
    for path, text in texts.items():
        if path.endswith(".py"):
            ast.parse(text)


def test_the_command_has_a_project_for_every_kind():
    (kinds,) = [parameter.type.choices for parameter in plugin_new.params if parameter.name == "kind"]
    assert set(kinds) == set(PROJECT_KINDS) == {"dataset-card", *KINDS}


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["estimator", "loss", "sampling", "transform", "suite", "reader"])
def test_the_tests_of_a_new_project_pass_in_this_process(kind, tmp_path, monkeypatch):
    name = f"zoo-near-{kind}"
    test_file = tmp_path / "kit" / "tests" / f"test_{module_of(name)}.py"
    write_project(kind, name, tmp_path / "kit")
    monkeypatch.syspath_prepend(str(tmp_path / "kit" / "src"))
    specification = importlib.util.spec_from_file_location("near", test_file)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    tests = [test for title, test in vars(module).items() if title.startswith("test_")]
    kit = next(test for test in tests if hasattr(test, "pytestmark"))
    for spec, check in (each.values for each in kit.pytestmark[0].args[1]):
        if check.check.id in ELSEWHERE or not check.check.id.startswith(f"{kind}-"):
            continue
        with contextlib.suppress(pytest.skip.Exception):
            check(spec)
    for test in tests:
        if test is not kit:
            test()


@pytest.mark.integration
def test_the_last_lines_are_the_three_commands_to_go_on(zoo, tmp_path):
    done = zoo("plugin", "new", "protocol", "zoo-kit", "--output", "my kit", cwd=tmp_path)
    assert [line.strip() for line in done.stdout.splitlines()[-3:]] == [
        "pip install -e 'my kit' pytest",
        "zoo plugin check zoo-kit",
        "python -m pytest 'my kit'",
    ]


def test_a_dataset_is_checked_with_the_replica_of_its_project(tmp_path):
    assert check_command("dataset", "zoo-kit", tmp_path) == f"zoo plugin check zoo-kit --data {tmp_path}/tests/replica"
    write_project("dataset", "zoo-kit", tmp_path / "kit")
    for file in ("README.md", ".github/workflows/tests.yml"):
        assert "zoo plugin check zoo-kit --data tests/replica" in (tmp_path / "kit" / file).read_text()


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("Zoo_Mynet", "did you mean 'zoo-mynet'?"),
        ("zoo mynet", "such as zoo-mynet"),
        ("../up", "such as zoo-mynet"),
        ("3d-net", "zoo-3d-net"),
        ("match", "zoo-match"),
        ("json", "choose another name"),
        ("numpy", "choose another name"),
    ],
)
def test_a_name_that_is_no_distribution_or_no_module_is_refused(name, fix):
    with pytest.raises(UsageError) as caught:
        module_of(name)
    assert (caught.value.code, caught.value.fix) == ("usage", fix)


def test_an_existing_folder_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError) as caught:
        write_project("model", "zoo-kit", tmp_path)
    assert caught.value.code == "usage"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_help_breaks_no_kind_across_lines():
    context = click.Context(plugin_new, info_name="new", terminal_width=80)
    words = set(re.findall(r"[\w-]+", plugin_new.get_help(context)))
    assert set(PROJECT_KINDS) <= words
