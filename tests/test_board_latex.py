"""Boards as LaTeX: whole tables, bold only for a tested winner, and names that cannot become commands."""

import re
import shutil
import subprocess

import pytest

from zoo.evaluation.metrics.catalogue import METRICS
from zoo.leaderboard.boards import build_leaderboard
from zoo.report.board_latex import escape_latex, to_latex
from zoo.results.store import load_results

KNOWN = {spec.name: spec for spec in METRICS}


def latex_of(root, store, *models):
    for seed in range(3):
        for model, noise in models:
            store(root, model=model, seed=seed, noise=noise)
    return to_latex(build_leaderboard(load_results(root)[0], KNOWN))


@pytest.mark.integration
def test_only_a_winner_without_ties_is_bold(tmp_path, store):
    text = latex_of(tmp_path, store, ("sharp", 0.3), ("blunt", 5.0))
    bold = [line for line in text.splitlines() if r"\textbf" in line]
    assert len(bold) == 1 and "sharp" in bold[0]


@pytest.mark.integration
def test_tied_rows_are_not_bold_and_have_a_dagger(tmp_path, store):
    text = latex_of(tmp_path, store, ("one", 0.3), ("two", 0.3), ("blunt", 50.0))
    marked = [line.split(" & ")[1] for line in text.splitlines() if "textdagger" in line and "&" in line]
    assert r"\textbf" not in text and sorted(marked) == ["one", "two"]
    assert "not detectably worse" in text and "Bold" not in text


@pytest.mark.integration
def test_every_row_has_as_many_cells_as_the_table_has_columns(tmp_path, store):
    text = latex_of(tmp_path, store, ("sharp", 0.3), ("blunt", 5.0))
    columns = len(re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1])
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 3 and {len(re.split(r"(?<!\\)&", row)) for row in rows} == {columns}


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("naïve ±2", "naïve ±2"),
        ("e\u0301", "é"),  # composed
        ("肺 λ", "U+80BA U+03BB"),
        ("a--b,,c", "a-{}-b,{},c"),
        ("'\"`", r"\textquotesingle{}\textquotedbl{}\textasciigrave{}"),
    ],
)
def test_characters_are_printed_as_they_are_or_as_code_points(name, printed):
    assert escape_latex(name) == printed


@pytest.mark.parametrize("name", [r"a_b%c$d#e&f{g}h~i^j\k", r"\input{/etc/passwd}"])
def test_a_name_cannot_become_a_command(name):
    plain = escape_latex(name)
    for command in re.findall(r"\\([A-Za-z]+)", plain):
        assert command.startswith("text")
    assert plain.count("{") == plain.count("}")


@pytest.mark.integration
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_a_paper_with_the_table_compiles(tmp_path, store):
    table = latex_of(tmp_path / "results", store, ("sharp_50%|<\"'`^~", 0.3), ("肺é--±·…", 5.0))
    paper = (
        "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs}\\begin{document}\n"
        + table
        + "\\end{document}\n"
    )
    (tmp_path / "paper.tex").write_text(paper)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
