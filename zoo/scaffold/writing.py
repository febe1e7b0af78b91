"""Write the project of a new plugin: a distribution with its tests and a CI workflow."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shlex
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import UsageError
from zoo.registry.finding import canonical
from zoo.registry.loading import CORE
from zoo.system.files import folder_written_whole

if TYPE_CHECKING:
    from jinja2 import Environment

DISTRIBUTION = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")  # normalized, as in PEP 503
REPLICA_PATIENTS = {"train": 8, "val": 4, "test": 4}  # of two images each
REPLICA_PIXELS = 32
REPLICA_HEADER = struct.Struct("<4sHHff")  # of a file in the format of the template of readers


@dataclass(frozen=True, kw_only=True)
class ProjectKind:
    """What a plugin of one kind needs beside its module."""

    summary: str  # with {title}
    usage: str  # a command, with {spec}
    requirements: tuple[str, ...] = ()  # beside zoo-bench
    card: bool = False  # a dataset.toml instead of code
    replica: Callable[[Path, str], None] | None = None  # writes small files for the tests, given {spec}


def write_replica(folder: Path, spec: str) -> None:  # noqa: ARG001
    """Write a small dataset in the layout of the template: noise, brighter with a finding."""
    import numpy as np
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    rng, lines, patient = np.random.default_rng(0), ["file,patient,label,split"], 0
    for split, count in REPLICA_PATIENTS.items():
        for number in range(count):
            patient, label = patient + 1, ("healthy", "finding")[number % 2]
            for image in (1, 2):
                pixels = rng.integers(0, 128, (REPLICA_PIXELS, REPLICA_PIXELS)) + 100 * (label == "finding")
                file = f"p{patient:02}-{image}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / file)
                lines.append(f"{file},p{patient:02},{label},{split}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_files_to_read(folder: Path, spec: str) -> None:
    """Write images in the format of the template of readers."""
    folder.mkdir(parents=True)
    for number in (1, 2):
        height, width = 3, 4 * number
        pixels = struct.pack(f"<{height * width}H", *range(height * width))
        (folder / f"{number}.{spec}").write_bytes(REPLICA_HEADER.pack(b"KIT1", height, width, 0.5, 0.25) + pixels)


PROJECT_KINDS = {
    "model": ProjectKind(
        summary="The model {title} for zoo",
        usage="zoo bench --models {spec} --datasets PATH --weights none",
        requirements=("torch",),
    ),
    "dataset": ProjectKind(
        summary="The dataset {title} for zoo",
        usage="zoo bench --datasets {spec}",
        requirements=("numpy", "pandas", "pillow"),
        replica=write_replica,
    ),
    "dataset-card": ProjectKind(
        summary="The dataset {title} for zoo", usage="zoo bench --datasets {spec}", card=True, replica=write_replica
    ),
    "metric": ProjectKind(
        summary="The metric {title} for zoo",
        usage="zoo bench --datasets PATH --metrics {spec}",
        requirements=("numpy",),
    ),
    "protocol": ProjectKind(
        summary="The protocol {title} for zoo", usage="zoo bench --datasets PATH --protocol {spec}"
    ),
    "task": ProjectKind(
        summary="The task {title} for zoo", usage="zoo info tasks {spec}", requirements=("numpy", "torch")
    ),
    "executor": ProjectKind(
        summary="The executor {title} for zoo", usage="zoo bench --datasets PATH --executor {spec}"
    ),
    "observer": ProjectKind(
        summary="The observer {title} for zoo", usage="zoo bench --datasets PATH --observers {spec}"
    ),
    "estimator": ProjectKind(
        summary="The estimator {title} for zoo",
        usage="zoo bench --models resnet18 --datasets PATH --protocol {spec}",
        requirements=("numpy",),
    ),
    "loss": ProjectKind(
        summary="The loss {title} for zoo",
        usage="zoo bench --datasets PATH --set loss={spec}",
        requirements=("torch",),
    ),
    "sampling": ProjectKind(
        summary="The sampling {title} for zoo",
        usage="zoo bench --datasets PATH --set sampling={spec}",
        requirements=("numpy", "torch"),
    ),
    "transform": ProjectKind(
        summary="The transform {title} for zoo",
        usage="zoo bench --datasets PATH --set transforms={spec}",
        requirements=("torch",),
    ),
    "suite": ProjectKind(
        summary="The suite {title} for zoo",
        usage="zoo bench --suite {spec}",
        requirements=("zoo-example", "zoo-phantom"),
    ),
    "reader": ProjectKind(
        summary="A reader of {title} files for zoo",
        usage="zoo audit PATH",
        requirements=("numpy",),
        replica=write_files_to_read,
    ),
    "section": ProjectKind(
        summary="The section {title} of zoo's boards", usage="zoo report --details", requirements=("numpy",)
    ),
}


def write_project(kind: str, name: str, folder: Path) -> list[Path]:
    """Write the project of a plugin into a new folder, and return its files, relative to it.

    Raises UsageError if the folder exists or the name cannot be that of a distribution and its module.
    """
    module = module_of(name)
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} exists", fix="choose another --output, or remove it")
    files = render_project(kind, name, module)
    with folder_written_whole(folder) as place:
        for path, text in files.items():
            target = place / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        if write := PROJECT_KINDS[kind].replica:
            write(place / "tests" / "replica", spec_name(name))
        return sorted(path.relative_to(place) for path in place.rglob("*") if path.is_file())


def module_of(name: str) -> str:
    """The module of a distribution. Raises UsageError if the name is invalid or taken."""
    if not DISTRIBUTION.fullmatch(name):
        normal = canonical(name).strip("-")
        raise UsageError(
            f"{name!r} is not the name of a distribution: expected lower-case letters, digits and single '-'",
            fix=f"did you mean {normal!r}?" if DISTRIBUTION.fullmatch(normal) else "such as zoo-mynet",
        )
    module = name.replace("-", "_")
    if not module.isidentifier() or keyword.iskeyword(module) or keyword.issoftkeyword(module):
        raise UsageError(f"{name!r} makes the module {module!r}, which cannot be imported", fix=f"zoo-{name}")
    existing = importlib.util.find_spec(module)
    if module in sys.stdlib_module_names or (existing and existing.origin):  # a folder alone has no origin
        raise UsageError(f"there is a module {module!r} in this environment", fix="choose another name")
    return module


def spec_name(name: str) -> str:
    """The name of what a new plugin registers: that of the distribution without `zoo-`."""
    return name.removeprefix("zoo-").replace("-", "_")


def check_command(kind: str, name: str, folder: Path) -> str:
    """The command that checks a new plugin whose project is in `folder`: a dataset by its replica."""
    data = f" --data {shlex.quote(str(folder / 'tests' / 'replica'))}" if PROJECT_KINDS[kind].replica else ""
    return f"zoo plugin check {name}{data}"


def render_project(kind: str, name: str, module: str) -> dict[str, str]:
    """The text files of a project by path."""
    project, spec = PROJECT_KINDS[kind], spec_name(name)
    title = spec.replace("_", " ")
    main_file = f"src/{module}/dataset.toml" if project.card else f"src/{module}/__init__.py"
    values = {
        "name": name,
        "module": module,
        "spec": spec,
        "title": title,
        "summary": project.summary.format(title=title),
        "usage": project.usage.format(spec=spec),
        "requirements": project.requirements,
        "check": check_command(kind, name, Path()),
        "main_file": main_file,
        "zoo_version": metadata.version(CORE),
    }
    templates = {
        "pyproject.toml": "common/pyproject.toml",
        "README.md": "common/README.md",
        "LICENSE": "common/LICENSE",
        ".gitignore": "common/gitignore",
        ".github/workflows/tests.yml": "common/tests.yml",
        f"src/{module}/__init__.py": f"{kind}/module.py",
        f"tests/test_{module}.py": f"{kind}/test.py",
        **({main_file: f"{kind}/dataset.toml"} if project.card else {}),
    }
    environment = open_project_templates()
    files = {path: environment.get_template(f"{template}.jinja").render(values) for path, template in templates.items()}
    return {**files, f"src/{module}/py.typed": ""}


@cache
def open_project_templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("zoo.scaffold"),
        autoescape=False,  # the texts are Python, TOML and Markdown
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
