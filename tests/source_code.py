"""The syntax of source files, parsed once for all tests of a process that look into it."""

import ast
from functools import cache
from pathlib import Path


@cache
def syntax_tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def syntax_nodes(path: Path) -> tuple[ast.AST, ...]:
    """Every node of a file. perf: each `ast.walk` over all of zoo takes .3 s."""
    return tuple(ast.walk(syntax_tree(path)))
