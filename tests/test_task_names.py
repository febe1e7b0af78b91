"""Only zoo/tasks/ knows the kinds of answer by name: elsewhere a task is asked what it is."""

import ast
from pathlib import Path

from zoo.tasks.kinds import IMAGE_TASKS

HOUSE = Path(__file__).resolve().parents[1] / "zoo"
CONSTANTS = {name.upper() for name in IMAGE_TASKS}
# `from zoo import BINARY` is part of the plugin contract.
DOOR = HOUSE / "__init__.py"


def task_names(tree):
    """The names of tasks in a module: as a constant, as a whole string, or quoted in a sentence."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in CONSTANTS:
            yield node.lineno, node.id
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name in CONSTANTS)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            quoted = {node.value, *node.value.replace("'", '"').split('"')[1::2]}
            yield from ((node.lineno, name) for name in IMAGE_TASKS if name in quoted)


def test_only_the_package_of_tasks_knows_a_task_by_name():
    found = [
        f"{path.relative_to(HOUSE)}:{line}: {name}"
        for path in sorted(HOUSE.rglob("*.py"))
        if HOUSE / "tasks" not in path.parents and path != DOOR
        for line, name in task_names(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


def test_a_name_is_noticed_in_each_form():
    source = "from zoo import ORDINAL\nx = 'binary'\ny = 'set task = \"multilabel\" there'\nz = 'a multiclass task'"
    assert {name for _, name in task_names(ast.parse(source))} == {"ORDINAL", "binary", "multilabel"}
