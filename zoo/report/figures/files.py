"""Write the figures of boards to a folder: SVG, CSV with the data, and PDF where CairoSVG is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import UsageError
from zoo.leaderboard.boards import Board
from zoo.report.figures.board_figures import list_figures
from zoo.report.figures.figure import Figure, figure_name, to_csv_file, to_svg_file
from zoo.report.figures.main_figures import list_main_figures
from zoo.system.files import written_whole


@dataclass(frozen=True, kw_only=True)
class WrittenFigures:
    """Summary of a folder of figures."""

    num_figures: int
    pdf_problem: str = ""  # why there is no PDF


def write_figures(boards: Sequence[Board], folder: Path) -> WrittenFigures:
    """Write every figure as DATASET-FIGURE.svg, .csv and .pdf; other files in the folder are left alone."""
    to_pdf, problem = find_converter()
    count = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for prefix, board in zip(name_files(boards), boards, strict=True):
            for figure in (*list_main_figures(board), *list_figures(board).figures):
                write_figure(figure, folder / f"{prefix}-{figure.name}", to_pdf)
                count += 1
    except OSError as error:
        raise UsageError(f"--figures {folder}: {error.strerror}", fix="name a folder that can be written") from error
    return WrittenFigures(num_figures=count, pdf_problem=problem)


def write_figure(figure: Figure, path: Path, to_pdf: Callable[[str], bytes] | None) -> None:
    svg = to_svg_file(figure)
    contents = {".svg": svg.encode(), ".csv": to_csv_file(figure).encode()}
    if to_pdf:
        contents[".pdf"] = to_pdf(svg)
    for suffix, content in contents.items():
        with written_whole(path.with_name(path.name + suffix)) as temporary:
            temporary.write_bytes(content)


def name_files(boards: Sequence[Board]) -> list[str]:
    """A name for each board: its dataset, with protocol and initial weights where boards share one, and a number."""
    names = [figure_name(board.dataset) or "board" for board in boards]
    for parts in (
        lambda board: (board.dataset, board.protocol),
        lambda board: (board.dataset, board.protocol, board.init),
    ):
        names = [
            name if names.count(name) == 1 else figure_name(*parts(board))
            for name, board in zip(names, boards, strict=True)
        ]
    return [name if names.count(name) == 1 else f"{name}-{number}" for number, name in enumerate(names, start=1)]


def find_converter() -> tuple[Callable[[str], bytes] | None, str]:
    """A function from SVG to PDF, or None and the reason why there is none."""
    try:
        import cairosvg
    except ImportError:
        return None, "no PDF: pip install 'zoo-bench[figures]'"
    except OSError as error:  # the Python package is there, the C library is not
        return None, f"no PDF: the library cairo is missing ({error})"

    def convert(svg: str) -> bytes:
        pdf: bytes = cairosvg.svg2pdf(bytestring=svg.encode())
        return pdf

    return convert, ""
