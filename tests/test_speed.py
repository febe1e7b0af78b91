"""The benchmark scripts of benchmarks/speed: rows, the table of README.md, budgets, and contenders in one process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "speed"
sys.path.append(str(FOLDER))

import speed  # noqa: E402
from table import COLUMNS, FOOT, HEAD, Failure, Line, find_rows, heading, to_row, update_table  # noqa: E402
from timing import Figure, Ratio  # noqa: E402
from work import Settings  # noqa: E402


def figure(value, unit="s"):
    return Figure(values=(value,), unit=unit, foreign=0.0)


def line(name="G5", what="quickstart", value=30.0, wanted=40.0, unit="s"):
    return Line(name=name, what=what, measurement=figure(value, unit), wanted=wanted, at_most=True)


def cells(row):
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def readme(*rows):
    return "\n".join(["before", HEAD + heading(), "|" + "---|" * len(COLUMNS), *rows, FOOT, "after"])


def contend(*arguments):
    command = [sys.executable, FOLDER / "contenders.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_row_of_an_absolute_figure_has_its_unit():
    assert cells(to_row(line(value=38.24), "today"))[2:7] == ["38.2 s", "-", "at most 40 s", "yes", "-"]


def test_a_count_above_its_target_is_not_met():
    assert cells(to_row(line(value=3.0, wanted=2, unit=""), "today"))[2:6] == ["3", "-", "at most 2", "NO"]


def test_a_ratio_is_the_median_of_ours_over_theirs():
    ratio = Ratio(pairs=((8.0, 10.0), (9.0, 10.0), (50.0, 10.0)), gain=False, foreign=0.0)
    row = to_row(Line(name="G1", what="step", measurement=ratio, wanted=0.85), "today")
    assert cells(row)[2:7] == ["0.90", "0.80 to 5.00", "at least 0.85", "yes", "9, 10"]


def test_each_row_has_a_cell_for_each_column():
    rows = [to_row(line(), "today"), to_row(Failure(name="G5", what="quickstart", reason="a | b\nmore"), "today")]
    assert [len(cells(row)) for row in rows] == [len(COLUMNS)] * 2


def test_a_measured_row_replaces_the_unmeasured_one():
    text = readme("| G5 | quickstart | *not measured* |", "| G5 | failed runs | *not measured* |")
    row = to_row(line(), "today")
    assert update_table(text, [row]) == readme(row, "| G5 | failed runs | *not measured* |")


def test_a_complete_line_removes_only_other_rows_of_its_name():
    other = "| G6 | grid | *not measured* |"
    text = readme("| G5 | quickstart of another day | 1 |", other)
    row = to_row(line(), "today")
    assert update_table(text, [row], complete=True) == readme(row, other)


def test_rows_in_a_log_are_found_without_failed_ones():
    row = to_row(line(), "today")
    failure = to_row(Failure(name="G3", what="timm", reason="no compiler"), "today")
    assert find_rows(f"{{}}\n{heading()}\n{row}\n{failure}\nnot measured: G6\n") == [row]


@pytest.fixture
def lines(monkeypatch):
    """Lines without measurements: `ok` has a row, `bad` fails after its first row, `slow` never ends."""

    def bad(_settings):
        yield line(what="first")
        raise ValueError("the second")

    def slow(_settings):
        while True:
            pass
        yield

    monkeypatch.setattr(speed, "TABLE", {"ok": lambda _: iter([line()]), "bad": bad, "slow": slow})


def measure_all(names, budget=0.0, limit=0.0):
    return speed.measure_all(names, Settings(), budget=budget, limit=limit, noted=False)


def test_a_line_that_fails_is_a_row_and_the_next_one_runs(lines, capsys):
    assert not measure_all(["bad", "ok"])
    rows = [cells(row)[1:3] for row in capsys.readouterr().out.splitlines()]
    assert rows == [["first", "30.0 s"], ["-", "failed: ValueError: the second"], ["quickstart", "30.0 s"]]


def test_a_line_beyond_its_limit_is_stopped_and_the_next_one_runs(lines, capsys):
    assert not measure_all(["slow", "ok"], limit=0.2)
    first, second = capsys.readouterr().out.splitlines()
    assert "TimeoutError" in first
    assert cells(second)[1] == "quickstart"


def test_lines_beyond_the_budget_are_listed(lines, capsys):
    assert not measure_all(["slow", "ok", "bad"], budget=0.1, limit=0.2)
    assert capsys.readouterr().out.splitlines()[-1].endswith(": ok, bad")


def test_meaningless_figures_are_not_noted(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["speed.py", "G5", "--device", "cpu", "--note"])
    with pytest.raises(SystemExit) as exit_:
        speed.main()
    assert exit_.value.code == 2
    assert "--note" in capsys.readouterr().err


def test_the_table_of_the_readme_has_all_lines_for_gpus():
    table = (FOLDER / "README.md").read_text().partition(HEAD)[2].partition(FOOT)[0]
    assert set(speed.gpu.TABLE) <= {cells(row)[0] for row in table.splitlines()}


@pytest.mark.integration
def test_a_step_is_captured_on_a_gpu_only():
    done = contend("bare", "--capture")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "--device cuda" in done.stderr


@pytest.mark.slow
def test_one_process_measures_several_contenders_and_reports_failures():
    tiny = "--size 32 --batch 2 --steps 1 --warm-up 1"
    done = contend("many", f"bare {tiny} --repeats 2", "bare --model resnet81", f"bare {tiny} --settings default")
    first, second, third = (json.loads(text) for text in done.stdout.splitlines())
    assert len(first["repeats"]) == 2
    assert "resnet81" in second["error"]
    assert third["images_per_second"] > 0
