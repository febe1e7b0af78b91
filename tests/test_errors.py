"""Every error that a user can fix is one line with its fix."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from source_code import syntax_nodes

from zoo import errors
from zoo.errors import DataError, ZooError, clean, plural_of, unknown

ROOT = Path(__file__).resolve().parents[1]
CLASSES = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, ZooError)}
# A message may contain its fix: what is expected, or the nearest existing names.
FIX_CALLS = {"nearest", "hint"}


def fixless(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    """Yield line and text of every error in some source code that has no fix."""
    for node in nodes:
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CLASSES):
            continue
        fixes = [keyword.value for keyword in node.keywords if keyword.arg == "fix"]
        has_fix = any(not (isinstance(fix, ast.Constant) and not fix.value) for fix in fixes)
        if not has_fix and not any(contains_fix(part) for part in ast.walk(node)):
            yield node.lineno, ast.unparse(node)


def contains_fix(part: ast.AST) -> bool:
    if isinstance(part, ast.Call) and isinstance(part.func, ast.Name):
        return part.func.id in FIX_CALLS
    return isinstance(part, ast.Constant) and isinstance(part.value, str) and "expected " in part.value


def test_every_error_has_a_fix():
    files = sorted([*ROOT.glob("zoo/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")])
    fixless_errors = [
        f"{path.relative_to(ROOT).as_posix()}:{line}: {text}"
        for path in files
        for line, text in fixless(syntax_nodes(path))
    ]
    assert not fixless_errors, "\n".join(fixless_errors)


@pytest.mark.parametrize(
    ("code", "is_fixless"),
    [
        ("raise DataError(f'{path}: no such file')", True),
        ("raise DataError(f'{path}: no such file', fix='')", True),
        ("return UsageError('bad', code='x')", True),
        ("raise DataError(f'{path}: no such file', fix='copy it')", False),
        ("raise DataError(f'{path}: {dtype}, expected 8 bits')", False),
        ("raise DataError(f'no column {name}. {nearest(name, names)}')", False),
        ("raise ValueError('bad')", False),
    ],
)
def test_errors_without_a_fix_are_detected(code, is_fixless):
    assert bool(list(fixless(ast.walk(ast.parse(code))))) == is_fixless


def test_an_error_is_one_line_with_code_cause_and_fix():
    error = DataError("a.png: not an\nimage", fix="leave\x1b it out", code="image")
    assert error.line() == "zoo: error[image] a.png: not an\\x0aimage; fix: leave\\x1b it out"
    assert str(error) == "a.png: not an\\x0aimage; fix: leave\\x1b it out"


def test_control_characters_are_made_visible():
    assert clean("a\x1b[2J\u202eb\tc é 漢") == "a\\x1b[2J\\x202eb\\x09c é 漢"


def test_an_unknown_name_suggests_the_nearest_and_the_listing_command():
    error = unknown("model", "resnet81", ["resnet18", "resnet50", "vgg"])
    assert error.code == "unknown-model" and error.exit_status == 2
    assert error.fix == "Did you mean 'resnet18' or 'resnet50'? `zoo list models` shows the 3 installed"


def test_an_error_below_its_subject_does_not_repeat_it():
    error = DataError("two images only", subject="dataset 'dots'", fix="add images")
    assert error.line() == "zoo: error[data] dataset 'dots': two images only; fix: add images"
    assert error.message_below("dataset 'dots'") == "two images only"
    assert error.message_below("dataset 'lines'") == "dataset 'dots': two images only"


@pytest.mark.parametrize(
    ("word", "plural"),
    [("patient", "patients"), ("loss", "losses"), ("study", "studies"), ("child", "children"), ("x-ray", "x-rays")],
)
def test_units_and_kinds_have_english_plurals(word, plural):
    assert plural_of(word) == plural
