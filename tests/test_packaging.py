"""What an installation is made of: pins, requirements, versions, and files that may be tracked."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
MEGABYTE = 1024 * 1024
# import name -> distribution, where they differ
DISTRIBUTIONS = {"PIL": "pillow", "mlflow": "mlflow-skinny", "skimage": "scikit-image", "sklearn": "scikit-learn"}


def read_toml(path: Path) -> dict:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def read_lines(name: str) -> list[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def canonical(requirement: str) -> str:
    """The name a requirement starts with, as indexes write it."""
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", requirement)[0]).lower()


def tracked_files() -> list[Path]:
    """What git tracks, or would with `git add .`."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def imported_distributions(folder: Path) -> set[str]:
    """The distributions that the code in a folder imports, anywhere in its functions; our own left out."""
    tops = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                tops |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                tops.add(node.module.split(".")[0])
    own = {path.name for path in folder.iterdir()} | {folder.name, "zoo", "__future__"}
    return {canonical(DISTRIBUTIONS.get(top, top)) for top in tops - own - set(sys.stdlib_module_names)}


def optional(folder: Path) -> dict[str, list[str]]:
    """A plugin's extras."""
    return read_toml(folder / "pyproject.toml")["project"].get("optional-dependencies", {})


def declared(folder: Path) -> list[str]:
    """All that a plugin may need, extras among them."""
    project = read_toml(folder / "pyproject.toml")["project"]
    return [*project["dependencies"], *(wanted for extra in optional(folder).values() for wanted in extra)]


PROJECT = read_toml(ROOT / "pyproject.toml")
PINS = read_lines("constraints.txt")


def test_pip_and_uv_get_the_same_pins():
    assert PROJECT["tool"]["uv"]["constraint-dependencies"] == PINS


def test_pins_are_exact_sorted_and_name_each_distribution_once():
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin) for pin in PINS)
    names = [canonical(pin) for pin in PINS]
    assert names == sorted(set(names))


def test_the_pins_cover_the_whole_installed_tree():
    from packaging.requirements import Requirement

    def walk(name: str, extras: frozenset[str]) -> None:
        if (name, extras) in seen or name in ours:
            return
        seen.add((name, extras))
        for text in metadata.requires(name) or []:
            wanted = Requirement(text)
            if wanted.marker is None or any(wanted.marker.evaluate({"extra": e}) for e in {"", *extras}):
                walk(canonical(wanted.name), frozenset(wanted.extras))

    ours = {"zoo-bench", *(folder.name for folder in PLUGINS)}
    seen: set[tuple[str, frozenset[str]]] = set()
    extras = [wanted for extra in PROJECT["project"]["optional-dependencies"].values() for wanted in extra]
    for wanted in [*PROJECT["project"]["dependencies"], *extras, *PROJECT["dependency-groups"]["dev"]]:
        walk(canonical(wanted), frozenset())
    for folder in PLUGINS:
        for wanted in declared(folder):
            walk(canonical(wanted), frozenset())
    missing = {name for name, _ in seen} - {canonical(pin) for pin in PINS}
    assert not missing


def test_requirements_install_the_project_and_its_plugins_under_the_pins():
    extras = ",".join(PROJECT["project"]["optional-dependencies"])
    groups = PROJECT["dependency-groups"]
    plugins = [(folder.name, ",".join(optional(folder))) for folder in PLUGINS if folder.name in groups["plugins"]]
    lines = [f"-e plugins/{name}[{extra}]" if extra else f"-e plugins/{name}" for name, extra in plugins]
    expected = ["-c constraints.txt", f"-e .[{extras}]", *lines]
    assert read_lines("requirements.txt") == expected


def test_pip_and_uv_get_the_same_tools_for_development():
    assert read_lines("requirements-dev.txt")[0] == "-c constraints.txt"
    listed = sorted(canonical(line.removeprefix("-e plugins/")) for line in read_lines("requirements-dev.txt")[1:])
    assert listed == sorted(canonical(wanted) for wanted in PROJECT["dependency-groups"]["dev"])


def test_uv_takes_every_first_party_plugin_from_the_checkout():
    names = [folder.name for folder in PLUGINS]
    groups = PROJECT["dependency-groups"]
    assert sorted([*groups["plugins"], *(name for name in groups["dev"] if name in names)]) == names
    assert PROJECT["tool"]["uv"]["sources"] == {name: {"workspace": True} for name in ["zoo-bench", *names]}


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_a_plugin_agrees_with_the_core_on_version_python_license_and_entry_point(folder):
    project, core = read_toml(folder / "pyproject.toml")["project"], PROJECT["project"]
    assert project["name"] == folder.name
    for field in ("version", "requires-python", "license"):
        assert project[field] == core[field]
    hooks = {"zoo.v1": {folder.name: folder.name.replace("-", "_")}}
    assert project.get("entry-points") == (None if "scripts" in project else hooks)
    assert "zoo-bench" in map(canonical, project["dependencies"])


@pytest.mark.integration
def test_the_core_depends_on_what_it_imports_and_on_nothing_else():
    needed = {canonical(wanted) for wanted in PROJECT["project"]["dependencies"]}
    extras = PROJECT["project"]["optional-dependencies"].values()
    optional = {canonical(wanted) for extra in extras for wanted in extra}  # pydicom finds its decoders by itself
    imported = imported_distributions(ROOT / "zoo")
    assert needed <= imported <= needed | optional


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_a_plugin_depends_on_what_it_imports(folder):
    assert imported_distributions(folder / "src") <= set(map(canonical, declared(folder)))


@pytest.mark.integration
def test_no_tracked_file_names_the_host_of_a_package_registry():
    # Put together here, so that this file names none either.
    hosts = [".".join(pair) for pair in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("debian", "org"))]
    found = [
        f"{path.relative_to(ROOT)}: {host}"
        for path in tracked_files()
        for host in hosts
        if host.encode() in path.read_bytes()
    ]
    assert not found


@pytest.mark.integration
def test_no_lock_file_is_tracked():
    locks = {"uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock"}
    assert not [path for path in tracked_files() if path.name in locks]


@pytest.mark.integration
def test_no_tracked_file_is_larger_than_a_megabyte():
    """The published leaderboard has its own limit: see tests/test_published_leaderboard.py."""
    large = [path for path in tracked_files() if path.stat().st_size > MEGABYTE]
    assert not [path for path in large if ROOT / "leaderboard" not in path.parents]


def test_every_change_has_one_news_fragment_with_a_name_that_can_be_sorted():
    kinds = "feature|fix|docs|removal|speed|internal"
    names = [path.name for path in (ROOT / "changes").iterdir() if path.name != "README.md"]
    assert names
    assert not [name for name in names if not re.fullmatch(rf"[0-9]+\.({kinds})\.md", name)]


def load_script(name: str):
    """The module of a script in docs/."""
    specification = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.integration
def test_the_gallery_has_a_row_for_every_plugin():
    reference = load_script("make_reference")
    page = reference.GALLERY.read_text(encoding="utf-8")
    assert page == reference.gallery_text(page), "run `python docs/make_reference.py`"
    assert all(f"`pip install {folder.name}`" in page for folder in PLUGINS)


def test_the_release_workflow_builds_with_the_target_that_is_tested():
    workflow = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"run: make dist REPOSITORY=", workflow) and "\ndist: setup-dev" in makefile
    assert "id-token: write" in workflow and "password" not in workflow


def test_the_changelog_holds_every_news_fragment():
    make_changelog = load_script("make_changelog")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert changelog == make_changelog.update(changelog), "run `make changelog`"
    fragments = [path.read_text(encoding="utf-8") for path in (ROOT / "changes").glob("*.*.md")]
    assert all(line in changelog for text in fragments for line in text.splitlines())


def test_a_news_fragment_is_a_list_of_bullets_that_start_with_their_area():
    for path in (ROOT / "changes").glob("*.*.md"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert re.match(r"- [a-z]+: |  \S", line), f"{path.name}: {line}"


def test_the_citation_names_the_version_of_the_project():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE)[1] == PROJECT["project"]["version"]
