"""Every error that a user can mend is one clean line that says how."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from zoo import errors
from zoo.errors import DataError, ZooError, clean, unknown

ROOT = Path(__file__).resolve().parents[1]
CLASSES = {name for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, ZooError)}
# A message may say itself what would be right: what is expected, or the nearest names that exist.
TELLING_CALLS = {"nearest", "hint"}


def fixless(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every error made in some code that does not say what to do."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CLASSES):
            continue
        fixes = [keyword.value for keyword in node.keywords if keyword.arg == "fix"]
        says = any(not (isinstance(fix, ast.Constant) and not fix.value) for fix in fixes)
        if not says and not any(is_telling(part) for part in ast.walk(node)):
            yield node.lineno, ast.unparse(node)


def is_telling(part: ast.AST) -> bool:
    if isinstance(part, ast.Call) and isinstance(part.func, ast.Name):
        return part.func.id in TELLING_CALLS
    return isinstance(part, ast.Constant) and isinstance(part.value, str) and "expected " in part.value


def test_every_error_says_what_to_do():
    files = sorted([*ROOT.glob("zoo/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")])
    silent = [
        f"{path.relative_to(ROOT).as_posix()}:{line}: {text}"
        for path in files
        for line, text in fixless(path.read_text(encoding="utf-8"))
    ]
    assert not silent, "\n".join(silent)


@pytest.mark.parametrize(
    ("code", "is_silent"),
    [
        ("raise DataError(f'{path}: no such file')", True),
        ("raise DataError(f'{path}: no such file', fix='')", True),
        ("return UsageError('bad', code='x')", True),
        ("raise DataError(f'{path}: no such file', fix='bring it')", False),
        ("raise DataError(f'{path}: {found}, expected 8 bit')", False),
        ("raise DataError(f'no column {name}. {nearest(name, names)}')", False),
        ("raise ValueError('bad')", False),
    ],
)
def test_the_search_sees_an_error_without_advice(code, is_silent):
    assert bool(list(fixless(code))) == is_silent


def test_an_error_is_one_line_with_code_cause_and_fix():
    error = DataError("a.png: not an\nimage", fix="leave\x1b it out", code="image")
    assert error.line() == "zoo: error[image] a.png: not an\\x0aimage; fix: leave\\x1b it out"
    assert str(error) == "a.png: not an\\x0aimage; fix: leave\\x1b it out"


def test_what_could_drive_a_terminal_is_made_visible():
    assert clean("a\x1b[2J\u202eb\tc é 漢") == "a\\x1b[2J\\x202eb\\x09c é 漢"


def test_an_unknown_name_comes_with_the_nearest_and_where_all_are_listed():
    error = unknown("model", "resnet81", ["resnet18", "resnet50", "vgg"])
    assert error.code == "unknown-model" and error.exit_status == 2
    assert error.fix == "Did you mean 'resnet18' or 'resnet50'? `zoo list models` shows the 3 installed"
