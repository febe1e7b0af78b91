"""A function takes at most six parameters; where it needs more values, a record is missing."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MOST_PARAMETERS = 6
FILES = sorted([*ROOT.glob("zoo/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")])


def count_parameters(arguments: ast.arguments) -> int:
    """The number of parameters without `self` and `cls`; `*args` and `**kwargs` count one each."""
    named = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    own = named[:1] in (["self"], ["cls"])
    return len(named) - own + (arguments.vararg is not None) + (arguments.kwarg is not None)


def long_signatures(text: str) -> Iterator[tuple[int, str, int]]:
    """Line, name and number of parameters of every function with too many."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            count = count_parameters(node.args)
            if count > MOST_PARAMETERS:
                yield node.lineno, getattr(node, "name", "lambda"), count


@pytest.mark.integration
def test_no_function_takes_more_than_six_parameters():
    wrong = [
        f"{path.relative_to(ROOT).as_posix()}:{line}: {name} takes {count} parameters"
        for path in FILES
        for line, name, count in long_signatures(path.read_text(encoding="utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("parameters", "count"),
    [
        ("a, b, c, d, e, f", None),
        ("self, a, b, c, d, e, f", None),
        ("a, b, c, d, e, f, g", 7),
        ("a, /, b, *, c, d, e, f, g=1", 7),
        ("cls, a, b, c, d, *e, f, g, **h", 8),
    ],
)
def test_parameters_of_every_kind_are_counted(parameters, count):
    counts = [number for _, _, number in long_signatures(f"class A:\n    def work({parameters}): ...")]
    assert counts == ([count] if count else [])


def test_nested_functions_and_lambdas_are_checked():
    text = "def outer():\n    async def inner(a, b, c, d, e, f, g): ...\n    lambda a, b, c, d, e, f, g: a"
    assert list(long_signatures(text)) == [(2, "inner", 7), (3, "lambda", 7)]
