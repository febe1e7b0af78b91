"""The wheels and sdists: what they contain, that they install and run without the clone, and beside a namesake."""

import email
import importlib.util
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("build")
pytest.importorskip("twine")
pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "https://example.org/us/zoo"
NAMES = ("zoo-bench", "zoo-phantom")
NAMESAKE = {
    "zoo/__init__.py": "ANIMALS = ['lion']\n",
    "zoo-2.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: zoo\nVersion: 2.0\n",
    "zoo-2.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "zoo-2.0.dist-info/RECORD": "zoo/__init__.py,,\nzoo-2.0.dist-info/METADATA,,\nzoo-2.0.dist-info/RECORD,,\n",
}


@pytest.fixture(scope="module")
def make_dist():
    path = ROOT / "releasing" / "make_dist.py"
    specification = importlib.util.spec_from_file_location("make_dist", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def files(make_dist, tmp_path_factory):
    """The sdists and wheels of the core and one plugin."""
    projects = {name: folder for name, folder in make_dist.find_projects().items() if name in NAMES}
    return make_dist.build(projects, tmp_path_factory.mktemp("dist"), REPOSITORY)


def contents(path):
    """The bytes of each file of a wheel or an sdist, by its path in there."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist()}
    with tarfile.open(path) as sdist:
        members = [member for member in sdist if member.isfile()]
        return {member.name.partition("/")[2]: sdist.extractfile(member).read() for member in members}


def test_there_is_a_wheel_and_an_sdist_of_each(files):
    assert [path.name for path in files] == [
        "zoo_bench-0.1.0.tar.gz",
        "zoo_phantom-0.1.0.tar.gz",
        "zoo_bench-0.1.0-py3-none-any.whl",
        "zoo_phantom-0.1.0-py3-none-any.whl",
    ]


@pytest.mark.parametrize("number", range(4))
def test_they_hold_the_package_and_its_license_and_nothing_else(files, number):
    source, top = (ROOT / "zoo", ROOT) if number % 2 == 0 else (next(ROOT.glob("plugins/zoo-phantom/src/*")), None)
    top = top or source.parents[1]
    packed = contents(files[number])
    wheel = files[number].suffix == ".whl"
    base = source.parent if wheel else top
    package = {
        path.relative_to(base).as_posix(): path.read_bytes()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert package.items() <= packed.items()
    others = {name.rpartition("/")[2] for name in packed.keys() - package.keys()}
    if wheel:
        assert others == {"LICENSE", "METADATA", "RECORD", "WHEEL", "entry_points.txt"}
    else:
        assert others == {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}
    assert any(name.endswith("/py.typed") for name in packed)


def test_they_name_no_path_of_this_machine(files):
    paths = [str(ROOT).encode(), sys.prefix.encode()]
    named = [name for path in files for name, data in contents(path).items() if any(each in data for each in paths)]
    assert not named


def test_the_metadata_are_complete_and_the_readme_renders(make_dist, files):
    make_dist.check(files)
    for wheel in files[2:]:
        (name,) = [name for name in contents(wheel) if name.endswith("METADATA")]
        metadata = email.message_from_bytes(contents(wheel)[name])
        urls = dict(line.split(", ") for line in metadata.get_all("Project-URL"))
        assert urls["Source"] == REPOSITORY and urls.keys() == {"Source", "Documentation", "Changelog", "Issues"}
        assert metadata["License-Expression"] == "Apache-2.0" and metadata["Keywords"]
        assert "Typing :: Typed" in metadata.get_all("Classifier")


def test_links_of_a_readme_become_links_to_the_repository(make_dist):
    text = "[![The page](docs/a.png)](docs/a.md) [b](../../docs/b.md#c) [d](https://example.org) [e](#e)"
    page = f"{REPOSITORY}/blob/v1"
    assert make_dist.absolute_links(text.replace("../../", ""), ROOT, page) == (
        f"[![The page]({REPOSITORY}/raw/v1/docs/a.png)]({page}/docs/a.md) [b]({page}/docs/b.md#c) "
        "[d](https://example.org) [e](#e)"
    )
    assert make_dist.absolute_links("[b](../../docs/b.md#c)", ROOT / "plugins" / "zoo-timm", page) == (
        f"[b]({page}/docs/b.md#c)"
    )


def test_every_plugin_has_the_license_of_the_core():
    text = (ROOT / "LICENSE").read_bytes()
    assert all((path.parent / "LICENSE").read_bytes() == text for path in ROOT.glob("plugins/*/pyproject.toml"))


@pytest.fixture
def namesake(tmp_path):
    """The wheel of another distribution with a package `zoo`."""
    path = tmp_path / "zoo-2.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in NAMESAKE.items():
            wheel.writestr(name, text)
    return path


@pytest.mark.slow
def test_a_distribution_called_zoo_is_reported_by_doctor_and_by_every_command_that_it_breaks(
    make_dist, files, namesake, tmp_path
):
    def pip(*words):
        subprocess.run([sys.executable, "-m", "pip", "--python", python, *words, "-q"], check=True)

    def zoo(*words):
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [python, "-m", "zoo", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    python = make_dist.make_environment(tmp_path / "environment")
    pip("install", "--no-index", namesake)
    make_dist.install(python, files[2:])  # our files replace theirs
    assert "zoo 2.0 also installs a package `zoo`" in zoo("doctor").stdout

    pip("install", "--no-index", "--force-reinstall", namesake)
    done = zoo("list", "metrics")
    restore = "pip install --force-reinstall --no-deps zoo-bench"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "zoo: error[overwritten] the package `zoo` is not that of zoo-bench: zoo 2.0 also installs a package `zoo`; "
        f"fix: pip uninstall zoo, then {restore}\n"
    )

    pip("uninstall", "-y", "zoo")
    assert zoo("list", "metrics").stderr.endswith(f"its __init__.py is missing; fix: {restore}\n")
    make_dist.install(python, files[2:])
    assert zoo("list", "metrics").returncode == 0


@pytest.mark.slow
def test_all_distributions_install_without_the_clone_and_run_the_quickstart(make_dist, tmp_path):
    files = make_dist.build(make_dist.find_projects(), tmp_path / "dist")
    make_dist.check(files)
    wheels = [path for path in files if path.suffix == ".whl"]
    assert len(wheels) == len(make_dist.find_projects()) == len(files) / 2
    board = make_dist.try_out(wheels, tmp_path)
    assert "resnet18" in board and "tutorial_cnn" in board
