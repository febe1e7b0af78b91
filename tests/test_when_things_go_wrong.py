"""docs/when-things-go-wrong.md holds every code that an error can have, each with its cause and what to do."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from source_code import syntax_nodes

from zoo import errors
from zoo.errors import ZooError
from zoo.registry.loading import HOOKS
from zoo.specs.executor import ExecutorSpec
from zoo.system import workers

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "when-things-go-wrong.md").read_text(encoding="utf-8")
OWN_CODE = {name: c.code for name, c in vars(errors).items() if isinstance(c, type) and issubclass(c, ZooError)}
ROWS = [re.split(r"(?<!\\)\|", line)[1:-1] for line in PAGE.splitlines() if line.startswith("| `")]


def codes_in(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Every code written in some code: of errors made, of `unknown(KIND, ...)`, of findings that refuse a dataset."""
    for node in nodes:
        if isinstance(node, ast.Dict):  # what a child process reports
            named = zip(node.keys, node.values, strict=True)
            yield from (
                text
                for key, value in named
                if isinstance(key, ast.Constant) and key.value == "code"
                for text in texts(value)
            )
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if node.func.id in OWN_CODE:
            yield from texts(given.get("code", ast.Constant(OWN_CODE[node.func.id])))
        elif node.func.id == "unknown" and isinstance(node.args[0], ast.Constant):
            yield f"unknown-{node.args[0].value}"
        elif node.func.id == "Finding" and ast.unparse(given["verdict"]) not in ("'ok'", "'warn'"):
            yield from texts(given["check"])


def texts(value: ast.expr) -> Iterator[str]:
    """A constant; of an f-string over the kinds of specs, one text a kind; nothing where a code is only passed on."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value
    elif isinstance(value, ast.JoinedStr) and ast.unparse(value).endswith("-{kind}'"):
        prefix = ast.unparse(value.values[0]).strip("'")
        yield from (f"{prefix}{kind}" for kind in HOOKS)


@pytest.fixture(scope="module")
def codes():
    files = [*ROOT.glob("zoo/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")]
    files.remove(ROOT / "zoo/results/schema1.py")  # its codes are of stored facts
    found = {code for path in files for code in codes_in(syntax_nodes(path))}
    ends = {"oom", "killed", "timeout", "crashed", "run-error"}  # of runs: see the next test
    return found | ends | {"boxes", "outlines", "volume-masks"}  # of sources.masks.other_task


def test_the_ways_a_run_can_end_are_those_of_the_executor():
    ends = set(workers.EndStatus.__args__) - {"ok", "failed"}
    assert ends == {"oom", "timeout", "crashed"}
    assert '"run-error"' in Path(workers.__file__).read_text()
    assert "executor" in HOOKS and ExecutorSpec  # of which `unknown-` and `ambiguous-` are said


def test_every_code_has_a_row(codes):
    described = {code for row in ROWS for code in re.findall(r"`([a-z-]+)`", row[0])}
    assert codes - described == set()
    assert described - codes == set(), "a row of a code that no error has"


@pytest.mark.parametrize("row", ROWS, ids=[row[0].strip(" `").partition("`")[0] for row in ROWS])
def test_every_row_says_cause_and_what_to_do(row):
    assert len(row) == 3
    assert all(len(cell.split()) >= 2 for cell in row[1:])


def test_the_search_for_codes_sees_each_way_to_write_one():
    source = """
raise DataError("a", fix="b")
raise UsageError("a", code="bad-flag")
raise UsageError("a", code=f"odd-{kind}")
raise DataError("a", code=error.code)
raise unknown("suite", name, names)
Finding(check="leak", verdict="refuse" if x else "warn")
Finding(check="size", verdict="warn")
"""
    odd = {f"odd-{kind}" for kind in HOOKS}
    assert set(codes_in(ast.walk(ast.parse(source)))) == {"data", "bad-flag", "unknown-suite", "leak", *odd}
