"""Whole sentences that tests expect, in one file: tests/golden.json. `make golden` writes it from what is said now.

A test asserts a code, a status or a name; what it says in full goes through the fixture `golden`, so that prose can be
edited without touching a test. Read the difference of golden.json before committing it.
"""

import json
from pathlib import Path

import filelock
import pytest

FILE = Path(__file__).with_suffix(".json")


class Golden:
    """The texts of one test, in the order in which it shows them; `folder` is written as TMP."""

    def __init__(self, key: str, folder: str, update: bool):
        self.key, self.folder, self.update = key, folder, update
        self.expected = json.loads(FILE.read_text(encoding="utf-8")).get(key, []) if FILE.exists() else []
        self.seen: list[str] = []

    def __call__(self, text: object, *named: str) -> None:
        """Assert that this is the next text of the test, and that it contains each `named` item, also in an update."""
        said = str(text)
        if self.folder:  # messages name the folder in full, or by its last part
            said = said.replace(self.folder, "TMP").replace(Path(self.folder).name, "TMP")
        self.seen.append(said)
        assert [item for item in named if item not in said] == []
        if not self.update:
            expected = self.expected[len(self.seen) - 1 : len(self.seen)]
            assert [said] == expected, "another sentence than in tests/golden.json; if it is meant: make golden"

    def close(self) -> None:
        """Store what was said, or assert that nothing expected is missing."""
        if not self.update:
            assert len(self.seen) == len(self.expected), f"{self.key} no longer says {self.expected[len(self.seen) :]}"
            return
        with filelock.FileLock(f"{FILE}.lock"):
            texts = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
            texts[self.key] = self.seen
            FILE.write_text(json.dumps(dict(sorted(texts.items())), indent=1, ensure_ascii=False) + "\n", "utf-8")


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="write tests/golden.json from what is said now")


@pytest.fixture
def golden(request):
    """Compare a text with the one that this test said when tests/golden.json was last written."""
    folder = str(request.getfixturevalue("tmp_path")) if "tmp_path" in request.fixturenames else ""
    own = Golden(f"{request.path.name}::{request.node.name}", folder, request.config.getoption("--update-golden"))
    yield own
    own.close()
