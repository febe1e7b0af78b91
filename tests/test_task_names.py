"""Only zoo/tasks/ knows the kinds of answer by name: elsewhere a task is asked what it is."""

import ast
from pathlib import Path

from source_code import syntax_nodes

from zoo.tasks.kinds import CORE_TASKS, IMAGE_TASKS

HOUSE = Path(__file__).resolve().parents[1] / "zoo"
CONSTANTS = {name.upper() for name in IMAGE_TASKS}
WORDS = {*IMAGE_TASKS, *(task.presentation.title for task in CORE_TASKS)}
MODULES = {type(part).__module__ for task in CORE_TASKS for part in (task.targets, task.head, task.answers)}
# `from zoo import BINARY` is part of the plugin contract.
DOOR = HOUSE / "__init__.py"


def task_names(nodes):
    """The names of tasks in a module: a constant, a module of one kind, a whole string, or quoted in a sentence."""
    for node in nodes:
        if isinstance(node, ast.Name) and node.id in CONSTANTS:
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and node.attr in CONSTANTS:
            yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            yield node.lineno, node.module
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name in CONSTANTS)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            quoted = {node.value, *node.value.replace("'", '"').split('"')[1::2]}
            yield from ((node.lineno, name) for name in WORDS if name in quoted)


def test_only_the_package_of_tasks_knows_a_task_by_name():
    found = [
        f"{path.relative_to(HOUSE)}:{line}: {name}"
        for path in sorted(HOUSE.rglob("*.py"))
        if HOUSE / "tasks" not in path.parents and path != DOOR
        for line, name in task_names(syntax_nodes(path))
    ]
    assert found == []


def test_a_name_is_noticed_in_each_form():
    source = """
from zoo import ORDINAL
from zoo.tasks.multilabel import FlagTargets
a = 'binary'
b = 'set task = "multilabel" there'
c = 'a multiclass task'
d = kinds.REGRESSION
e = title == 'multi-class'
"""
    expected = {"ORDINAL", "zoo.tasks.multilabel", "binary", "multilabel", "REGRESSION", "multi-class"}
    assert {name for _, name in task_names(ast.walk(ast.parse(source)))} == expected
