"""Execute docs/python.ipynb in an empty folder and store its outputs, without progress and without whole pages.

make notebook       # installs nbclient and ipykernel into .venv
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).with_name("python.ipynb")
LARGEST_PAGE = 20_000  # characters of HTML; the page of a board has more


def execute(path: Path) -> dict[str, Any]:
    """The executed notebook, as plain data."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
    document: dict[str, Any] = json.loads(nbformat.writes(notebook))
    return document


def clear(notebook: dict[str, Any]) -> None:
    """Remove what differs from machine to machine: progress, the page of a board, times, and the kernel's version."""
    notebook["metadata"] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook["cells"]:
        cell["metadata"] = {}
        if cell["cell_type"] != "code":
            continue
        cell["outputs"] = [output for output in cell["outputs"] if output.get("name") != "stderr"]
        for output in cell["outputs"]:
            data = output.get("data", {})
            if len("".join(data.get("text/html", ""))) > LARGEST_PAGE:
                del data["text/html"]


def main() -> None:
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    notebook = execute(NOTEBOOK)
    clear(notebook)
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
