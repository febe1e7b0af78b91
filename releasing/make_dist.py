"""Build, check and try out the wheels and sdists of zoo-bench and its plugins.

    python releasing/make_dist.py [--repository URL]

The files are written to dist/. The trial installs the wheels into a new virtual environment that also finds the
libraries of this one, but not the clone, and runs the quickstart there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "dist"
CORE = "zoo-bench"
# A relative link of Markdown, or a relative image: the second group.
LINK = re.compile(r"(!\[[^\]]*)?\]\((?!https?:|#)([^)\s]+)\)")
QUICKSTART = (
    *("bench", "--datasets", "phantom", "--models", "resnet18,tutorial_cnn", "--protocol", "quick"),
    *("--weights", "none", "--set", "steps=4", "--set", "rounds=1", "--seeds", "1"),
)


def find_projects() -> dict[str, Path]:
    """The folder of each distribution of this repository, by name."""
    return {CORE: ROOT, **{path.parent.name: path.parent for path in sorted(ROOT.glob("plugins/*/pyproject.toml"))}}


def stage_project(project: Path, staged: Path, repository: str) -> None:
    """Copy what a distribution is built from, and add the pages of the repository if its URL is known."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    source = project / ("zoo" if project == ROOT else "src")
    shutil.copytree(source, staged / source.name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(project / name, staged)
    if repository:
        text = (staged / "pyproject.toml").read_text(encoding="utf-8")
        page = f"{repository}/blob/v{tomllib.loads(text)['project']['version']}"
        urls = {"Source": repository, "Documentation": f"{page}/README.md", "Changelog": f"{page}/CHANGELOG.md"}
        urls |= {"Issues": f"{repository}/issues"}
        table = "\n".join(f'{name} = "{url}"' for name, url in urls.items())
        (staged / "pyproject.toml").write_text(f"{text}\n[project.urls]\n{table}\n", encoding="utf-8")
        readme = (staged / "README.md").read_text(encoding="utf-8")
        (staged / "README.md").write_text(absolute_links(readme, project, page), encoding="utf-8")


def absolute_links(text: str, folder: Path, page: str) -> str:
    """A README whose links also work on the page of a package index."""

    def rewrite(match: re.Match[str]) -> str:
        image, target = match[1] or "", match[2]
        place = Path(os.path.normpath(folder / target)).relative_to(ROOT).as_posix()
        return f"{image}]({page.replace('/blob/', '/raw/') if image else page}/{place})"

    return LINK.sub(rewrite, text)


def build(projects: Mapping[str, Path], output: Path, repository: str = "") -> list[Path]:
    """Build the sdist of each project, and its wheel from the sdist. Return the files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, project in projects.items():
            staged = Path(folder) / name
            stage_project(project, staged, repository)
            run(sys.executable, "-m", "build", "--no-isolation", "--outdir", output, staged)
    return [*sorted(output.glob("*.tar.gz")), *sorted(output.glob("*.whl"))]


def check(files: Iterable[Path]) -> None:
    """Check the metadata, and that the READMEs render."""
    run(sys.executable, "-m", "twine", "check", "--strict", *files)


def try_out(wheels: Sequence[Path], folder: Path) -> str:
    """Install the wheels into a new environment, run the quickstart there, and return its board."""
    python = make_environment(folder / "environment")
    install(python, wheels)
    listed = json.loads(run_isolated(python, "-m", "zoo", "plugin", "list", "--json"))["plugins"]
    plugins = {plugin["name"]: plugin for plugin in listed}
    for name in map(name_of, wheels):
        if plugins[name]["status"] != "ok":
            sys.exit(f"failed: {name} does not load: {plugins[name]['reason']}")
    modules = ["zoo" if name == CORE else name.replace("-", "_") for name in map(name_of, wheels)]
    origins = run_isolated(
        python, "-c", f"import {', '.join(modules)}\nfor m in {', '.join(modules)},: print(m.__file__)"
    )
    if strange := [path for path in origins.splitlines() if not path.startswith(str(folder))]:
        sys.exit(f"failed: not imported from the wheels: {strange}")
    return run_isolated(python, "-m", "zoo", *QUICKSTART)


def make_environment(folder: Path) -> Path:
    """Make a virtual environment that finds the libraries of this one, but not the clone; return its interpreter."""
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    own = run_isolated(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # The .pth files in these folders, such as those of editable installations, have no effect behind another .pth file.
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(own, "libraries.pth").write_text("\n".join(sorted(libraries)) + "\n")
    return python


def install(python: Path, wheels: Sequence[Path]) -> None:
    """Install wheels into the environment of an interpreter; fail if anything that they require is missing."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install", "--no-index"]
    run(*pip, "--no-deps", "--ignore-installed", *wheels)
    run(*pip, "--dry-run", *map(name_of, wheels))


def name_of(wheel: Path) -> str:
    """The name of the distribution of a wheel."""
    return wheel.name.partition("-")[0].replace("_", "-")


def run_isolated(python: Path, *words: object) -> str:
    """Run Python in an environment, beside its folder, without the modules and the cache of the caller."""
    folder = python.parents[2]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return run(python, *words, cwd=folder, env={**environment, "ZOO_CACHE": str(folder / "cache")})


def run(*words: object, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a command and return its stdout. If it fails, print all of its output and exit."""
    command = [str(word) for word in words]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=cwd, env=env)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        sys.exit(f"failed: {' '.join(command)}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", default="", help="the URL of the repository, for links in the metadata")
    repository = parser.parse_args().repository.rstrip("/")
    shutil.rmtree(OUTPUT, ignore_errors=True)
    files = build(find_projects(), OUTPUT, repository)
    check(files)
    with tempfile.TemporaryDirectory() as folder:
        print(try_out([path for path in files if path.suffix == ".whl"], Path(folder)))
    print(f"{len(files)} files in {OUTPUT}: built, checked, installed and tried out")
    if not repository:
        print("They have no project URLs, and the READMEs have relative links: --repository URL adds them.")


if __name__ == "__main__":
    main()
