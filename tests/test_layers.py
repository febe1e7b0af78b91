"""The floors of the house: a package imports only from floors below its own, so none on one floor knows another.

FLOORS begins with the lowest: that is the order in which the program can be understood. Within a package any module may
use another, but never in a circle. A name is imported from the module that defines it; plugins write `from zoo import`.
"""

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from source_code import syntax_nodes, syntax_tree

ROOT = Path(__file__).resolve().parents[1]
HOUSE = ROOT / "zoo"

FLOORS = (
    {"errors", "arrays"},
    {"images", "statistics", "system", "tasks"},
    {"specs"},
    {"sources"},
    {"registry"},
    {"data"},
    {"models"},
    {"evaluation"},
    {"results", "training"},
    {"auditing", "leaderboard", "trained"},
    {"builtin", "conformance", "explaining", "runner"},
    {"report", "scaffold"},
    {"api", "cli", "testing"},
)
FLOOR = {package: number for number, packages in enumerate(FLOORS, start=1) for package in packages}
FLOOR["__main__"] = len(FLOORS) + 1  # the installed command: the door to all of it
# What `from zoo import ...` gives to plugins lives up to this floor: sections read boards.
DOOR_FLOOR = FLOOR["leaderboard"]
# What several modules implement alike: readers of image files, sections below a board, hooks.
IMPLEMENTED_ALIKE = {
    "SUFFIXES",
    "HEADER_VERSION",
    "read_header",
    "read_frame",
    "read_values",
    "read_spacing",
    "build_section",
}
API = {"bench", "load_results", "open_dataset", "predict"}
VAGUE = {"utils", "util", "helpers", "common", "base", "core", "manager", "types", "misc"}


def imports(path: Path) -> Iterator[tuple[str, str, int]]:
    """Every import in a file, in functions and for types only too: module, name ("" for a plain import), line."""
    for node in syntax_nodes(path):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((module, alias.name, node.lineno) for alias in node.names)


def modules() -> dict[str, Path]:
    """Module name below zoo -> its file: "data.splits", and "data" for the package's own."""
    found = {}
    for path in sorted(HOUSE.rglob("*.py")):
        parts = path.relative_to(HOUSE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()
# The plugins of this project that an error may suggest to install.
PLUGIN_NAMES = ("timm", "torchvision", "kaggle")
INSTALL_HINTS = {"registry.finding": ("zoo-timm", "zoo-torchvision", "zoo-kaggle")}


@cache
def imported_modules(path: Path) -> list[tuple[str, str, int]]:
    """What a file takes from zoo, as module, name ("" for the module itself) and line."""
    names = []
    for module, name, line in imports(path):
        assert not module.startswith("."), f"{path.name}:{line}: write the import out, `from zoo...`"
        if module.split(".")[0] != "zoo":
            continue
        below = module.removeprefix("zoo").removeprefix(".")
        inner = f"{below}.{name}" if below else name
        names.append((inner, "", line) if inner in MODULES else (below, name, line))
    return names


def package_of(module: str) -> str:
    return module.split(".")[0]


@cache
def defined_names(path: Path) -> set[str]:
    """The names that a module defines at its top level; imported ones are not among them."""
    names = set()
    for node in syntax_tree(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    return names


def test_every_package_has_one_floor():
    assert {package_of(name) for name in MODULES if name} == set(FLOOR)
    assert len(FLOOR) == sum(map(len, FLOORS)) + 1


@pytest.mark.parametrize("package", sorted(FLOOR))
def test_imports_fall(package):
    wrong = [
        f"{name}:{line} imports {imported}"
        for name, path in MODULES.items()
        if package_of(name) == package
        for imported, _, line in imported_modules(path)
        if imported and package_of(imported) != package and FLOOR[package_of(imported)] >= FLOOR[package]
    ]
    assert not wrong


def test_no_module_leads_back_to_itself():
    below = {name: {imported for imported, _, _ in imported_modules(path)} for name, path in MODULES.items() if name}
    left = dict(below)
    while done := [name for name, needed in left.items() if not needed & left.keys()]:
        for name in done:
            del left[name]
    assert not left  # what is left imports in a circle, or imports something that does


def test_a_name_is_imported_from_the_module_that_defines_it():
    wrong = [
        f"{name}:{line} imports {part} from {imported or 'zoo'}"
        for name, path in MODULES.items()
        for imported, part, line in imported_modules(path)
        if imported not in MODULES or not imported or (part and part not in defined_names(MODULES[imported]))
    ]
    assert not wrong


def test_a_name_is_defined_once():
    homes: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        # a function of the Python interface has the name of the command
        for name in defined_names(path) - IMPLEMENTED_ALIKE - (API if module == "api" else set()):
            if not name.startswith(("register_", "__")):
                homes.setdefault(name, []).append(module)
    assert not {name: modules for name, modules in homes.items() if len(modules) > 1}


def test_a_package_s_own_file_holds_a_docstring_only():
    for name, path in MODULES.items():
        if name and path.name == "__init__.py":
            (docstring,) = syntax_tree(path).body
            assert isinstance(docstring, ast.Expr), name


def test_the_front_door_leads_to_lower_floors_only():
    plugins_use = {name for name, _, _ in imported_modules(MODULES[""])} - {"api"}
    assert not {name for name in plugins_use if FLOOR[package_of(name)] > DOOR_FLOOR}


def test_what_the_front_door_gives_is_what_it_says_to_a_type_checker():
    import zoo

    given = {name: getattr(import_module(module), name) for module, name, _ in imports(MODULES[""]) if "zoo." in module}
    assert sorted(given) == sorted((*zoo.__all__, *zoo._API))
    assert [name for name in given if getattr(zoo, name) is not given[name]] == []
    assert set(zoo.__all__) < set(dir(zoo))


def test_plugins_come_in_by_the_front_door():
    import zoo

    wrong = []
    for path in sorted(ROOT.glob("plugins/*/src/**/*.py")):
        own = path.relative_to(ROOT / "plugins").parts[2]
        project = tomllib.loads((path.parents[2] / "pyproject.toml").read_text())["project"]
        declared = {name.replace("-", "_") for name in project["dependencies"]}
        door = {*zoo.__all__, *(zoo._API if "scripts" in project else ())}  # a program calls the API
        strangers = {folder.name for folder in ROOT.glob("plugins/*/src/*")} - {own, *declared}
        for module, name, line in imports(path):
            top = module.split(".")[0]
            if (top == "zoo" and not (module == "zoo" and name in door)) or top in strangers:
                wrong.append(f"{path.relative_to(ROOT).as_posix()}:{line}: {module} {name}")
    assert not wrong


def test_no_module_has_a_vague_name():
    names = [path for folder in ("zoo", "plugins", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert not [path for path in names if path.stem in VAGUE or path.parent.name in VAGUE]


def test_the_search_for_imports_sees_those_in_functions_and_for_types_only(tmp_path):
    file = tmp_path / "example.py"
    file.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from zoo.runner.bench import bench\n"
        "def work():\n    from zoo.report import html\n"
    )
    assert sorted(imported_modules(file)) == [("report.html", "", 5), ("runner.bench", "bench", 3)]


FACTS = {
    "deviation",
    "fix",
    "message",
    "method",
    "misfit",
    "overrides",
    "problem",
    "reason",
}  # names of records, or of texts for people
TEXT_METHODS = {"startswith", "endswith", "partition", "rpartition", "removeprefix", "removesuffix", "split", "replace"}


def parsed_facts(path: Path) -> Iterator[int]:
    """The lines that take the text of a deviation, reason, method or error apart."""
    for node in syntax_nodes(path):
        texts: list[ast.expr] = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in TEXT_METHODS:
            texts = [node.func.value]
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            texts = node.comparators
        for text in texts:
            if fact_name(text) in FACTS:
                yield text.lineno


def fact_name(text: ast.expr) -> str:
    """The name of the fact in `(cell.reason or "")`, `report["misfit"]` or a plain name."""
    match text:
        case ast.BoolOp():
            return fact_name(text.values[0])
        case ast.Subscript(slice=ast.Constant(value=str(key))):
            return key
        case ast.Attribute():
            return text.attr
        case ast.Name():
            return text.id
    return ""


def test_no_sentence_is_parsed_outside_the_packages_that_write_them():
    inner = {module: path for module, path in MODULES.items() if package_of(module) not in ("report", "cli")}
    assert not {module: lines for module, path in inner.items() if (lines := list(parsed_facts(path)))}


@pytest.mark.parametrize(
    "line",
    [
        '(cell.reason or "").startswith("too few")',
        '"bootstrap" in score.method',
        'event.message.partition("; fix: ")',
        'report["misfit"].removeprefix(str(path))',
    ],
)
def test_a_parsed_sentence_is_detected(tmp_path, line):
    (tmp_path / "module.py").write_text(f"x = {line}\n", encoding="utf-8")
    assert list(parsed_facts(tmp_path / "module.py")) == [1]


def string_literals(path: Path) -> Iterator[str]:
    """The string literals of a file that are not docstrings."""
    docs = {id(node.value) for node in syntax_nodes(path) if isinstance(node, ast.Expr)}
    for node in syntax_nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def test_the_core_names_no_plugin_except_to_suggest_installing_it():
    literals = {
        module: tuple(text for text in string_literals(path) if any(name in text.lower() for name in PLUGIN_NAMES))
        for module, path in MODULES.items()
    }
    assert {module: texts for module, texts in literals.items() if texts} == INSTALL_HINTS
