"""The floors of the house: a module imports only from floors below its own; siblings on a floor are strangers.

FLOORS begins with the lowest: that is the order in which the program can be understood. Plugins come in by the front
door, `from zoo import ...`.
"""

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOUSE = ROOT / "zoo"

FLOORS = (
    # Every error a user can meet.
    {"errors"},
    # The ground: files, the machine, one image, numbers, the kinds of answer, the recipe. Each knows errors at most.
    {"files", "system", "progress", "images", "decimals", "statistics", "tasks", "protocol", "pseudonyms", "records"},
    # Every device a run computes on.
    {"devices"},
    # Functions called again and again on one.
    {"replay"},
    # What plugins hand over; an archive unpacked; what the cache folder holds; a file brought.
    {"specs", "archives", "caches", "downloads"},
    # Whether what a plugin hands over is what it may be.
    {"fields"},
    # What is made of specs: the hooks, samples opened, a network built, a metric, a baseline, a child process.
    {"hookspecs", "sources", "samples", "models", "metrics", "baselines", "executor", "contact_sheet"},
    # Plugins to a registry; samples to what their images are, and which are copies; a template to a page.
    {"registry", "fingerprints", "pages", "builtin"},
    # Samples to a split.
    {"splits"},
    # A split to decoded pixels and batches.
    {"data"},
    # A split to what speaks against it; pixels to the features of a frozen network.
    {"audit", "features"},
    # Images to predictions; a dataset to what is told of it.
    {"inference", "datasheet", "shuffling"},
    # Names to files of weights; a network to a fitted one; predictions to scores, or to what is wrong with them.
    {"weights", "training", "scoring", "soundness"},
    # A suite to its runs, each with its id; what stands below a board.
    {"suites", "sections", "precision"},
    # A run's folder; numbers as people read them; labels that a model doubts.
    {"results", "readable", "label_noise"},
    # What would go wrong on this machine.
    {"diagnosis"},
    # Before the work: the plan. After it: boards, scores made again, and what is told of one run or given to others.
    {"planning", "leaderboard", "rescoring", "bundles", "audit_page", "tracing", "elsewhere"},
    # A plan to each process's work; results to how fast their models answer, and to a table of predictions.
    {"assignments", "timing", "exporting"},
    # The table of contents, and what is shown to people; the conformance kit that plugins' tests call.
    {"runner", "report", "catalog", "auditing", "testing", "verifying"},
    # One short function a command.
    {"cli"},
    # What the installed command calls.
    {"__main__"},
)
# A room with a folder has floors of its own, and is entered by its name alone.
ROOMS = {
    "audit": (
        {"levels"},
        {"scope"},
        {"leaks"},
        {"matching", "exclusions"},
        {"overlap"},
    ),
    "cli": (
        {"options", "terminal"},
        {"stored"},
        {"benching", "looking", "auditing", "reporting", "sharing"},
        {"commands"},
        {"process"},
    ),
    "images": (
        {"reading", "resizing", "recent", "codestreams"},
        {"stacks"},
        {"raster", "elements"},
        {"padding"},
        {"dicom"},
        {"volumes", "animation", "video"},
    ),
    "leaderboard": (
        {"comparison", "calibration", "operating", "subgroups", "ensembles", "controls"},
        {"ranking"},
        {"across", "pairing"},
    ),
    "metrics": (
        {"labels"},
        {"probabilities", "decisions", "numbers"},
    ),
    "registry": (
        {"finding"},
        {"lookup"},
        {"loading"},
        {"probing"},
        {"opening"},
    ),
    "report": (
        {"statements"},
        {"boards", "pairs"},
    ),
    "runner": (
        {"running", "gate", "decoding"},
        {"carrying"},
        {"benching"},
    ),
    "sources": (
        {"listing", "tables", "cards", "arrays", "headers", "synopsis"},
        {"selection", "intensity", "level_groups", "screening", "names", "clips", "masks", "labeling"},
        {"joining", "levels"},
        {"targets", "official", "guess", "frames", "patients"},
        {"assembly"},
        {"colour", "packed", "recognition", "writing"},
    ),
    "statistics": (
        {"means"},
        {"intervals", "weighted", "roc", "pairs", "calibration"},
        {"datasets", "predictive"},
    ),
    "training": (
        {"augmentation", "checkpoints", "probes", "optimizer"},
        {"batches", "selection"},
        {"loop"},
        {"fitting"},
        {"check"},
    ),
}
# What `from zoo import ...` gives to plugins: it may lead to all rooms up to this floor.
DOOR_FLOOR = 7
VAGUE = {"utils", "util", "helpers", "common", "base", "core", "manager", "types", "misc"}


def imports(path: Path) -> Iterator[tuple[str, str, int]]:
    """Every import in a file, in functions and for types only too: module, name ("" for a plain import), line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((module, alias.name, node.lineno) for alias in node.names)


def modules() -> dict[str, Path]:
    """Module name below zoo -> its file: "data", "sources.cards", and "sources" for the folder's own."""
    found = {}
    for path in sorted(HOUSE.rglob("*.py")):
        parts = path.relative_to(HOUSE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imported_rooms(path: Path) -> Iterator[tuple[str, int]]:
    """What a file takes from zoo: "data" for `from zoo.data import x`, "report" for `from zoo import report`."""
    for module, name, line in imports(path):
        assert not module.startswith("."), f"{path.name}:{line}: write the import out, `from zoo...`"
        if module == "zoo" and name:
            assert name in MODULES, f"{path.name}:{line}: inside zoo, import {name} from the module it lives in"
            yield name, line
        elif module.split(".")[0] == "zoo":
            below = module.removeprefix("zoo").removeprefix(".")
            yield (f"{below}.{name}" if f"{below}.{name}" in MODULES else below), line


MODULES = modules()
FLOOR = {room: number for number, rooms in enumerate(FLOORS, start=1) for room in rooms}


def test_every_module_has_one_floor():
    rooms = {name.split(".")[0] for name in MODULES if name}
    assert rooms == set(FLOOR)
    assert len(FLOOR) == sum(map(len, FLOORS))


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name and "." not in name and name not in ROOMS))
def test_imports_fall(name):
    wrong = [
        f"{name}.py:{line} (floor {FLOOR[name]}) imports {room} (floor {FLOOR[room.split('.')[0]]})"
        for room, line in imported_rooms(MODULES[name])
        if FLOOR[room.split(".")[0]] >= FLOOR[name]
    ]
    assert not wrong


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_imports_fall_inside_a_room_and_out_of_it(room):
    inside = {part: number for number, parts in enumerate(ROOMS[room], start=1) for part in parts}
    assert {f"{room}.{part}" for part in inside} == {name for name in MODULES if name.startswith(f"{room}.")}
    top = len(ROOMS[room]) + 1
    wrong = []
    for name in (room, *(f"{room}.{part}" for part in inside)):
        own = inside.get(name.rpartition(".")[2], top)
        for imported, line in imported_rooms(MODULES[name]):
            head, _, part = imported.partition(".")
            falls = inside.get(part, top) < own if head == room else FLOOR[head] < FLOOR[room]
            wrong += [] if falls else [f"{name}:{line} imports {imported}"]
    assert not wrong


def test_a_room_is_entered_by_its_name():
    wrong = [
        f"{name}:{line} imports {room}"
        for name, path in MODULES.items()
        for room, line in imported_rooms(path)
        if "." in room and room.split(".")[0] != name.split(".")[0]
    ]
    assert not wrong


def test_the_front_door_leads_to_lower_floors_only():
    too_high = {room for room, _ in imported_rooms(MODULES[""]) if FLOOR[room] > DOOR_FLOOR}
    assert not too_high


def test_what_the_front_door_gives_is_what_it_says_to_a_type_checker():
    import zoo

    given = {name: getattr(import_module(module), name) for module, name, _ in imports(MODULES[""]) if "zoo." in module}
    assert sorted(given) == sorted(zoo.__all__)
    assert [name for name in given if getattr(zoo, name) is not given[name]] == []
    assert set(zoo.__all__) < set(dir(zoo))


def test_plugins_come_in_by_the_front_door():
    import zoo

    wrong = []
    for path in sorted(ROOT.glob("plugins/*/src/**/*.py")):
        own = path.relative_to(ROOT / "plugins").parts[2]
        strangers = {folder.name for folder in ROOT.glob("plugins/*/src/*")} - {own}
        for module, name, line in imports(path):
            top = module.split(".")[0]
            if (top == "zoo" and not (module == "zoo" and name in zoo.__all__)) or top in strangers:
                wrong.append(f"{path.relative_to(ROOT).as_posix()}:{line}: {module} {name}")
    assert not wrong


def test_no_module_has_a_vague_name():
    names = [path for folder in ("zoo", "plugins", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert not [path for path in names if path.stem in VAGUE or path.parent.name in VAGUE]


def test_the_search_for_imports_sees_those_in_functions_and_for_types_only(tmp_path):
    file = tmp_path / "example.py"
    file.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from zoo.runner import bench\n"
        "def work():\n    import zoo.report\n    from zoo import cli\n"
    )
    assert sorted(imported_rooms(file)) == [("cli", 6), ("report", 5), ("runner", 3)]
