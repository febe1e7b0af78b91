"""Write the section "Unreleased" of CHANGELOG.md from the fragments in changes/: `python docs/make_changelog.py`."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHANGELOG = ROOT / "CHANGELOG.md"
FRAGMENTS = ROOT / "changes"
# Keep a Changelog's headings, and the kinds of fragments below each
HEADINGS = {
    "Added": ("feature", "docs"),
    "Changed": ("speed", "internal"),
    "Removed": ("removal",),
    "Fixed": ("fix",),
}
UNRELEASED = re.compile(r"(?<=^## \[Unreleased\]\n).*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def read_bullets(kinds: tuple[str, ...]) -> list[str]:
    """The bullets of all fragments of some kinds, sorted by area; within an area the newest issue first."""
    paths = [path for path in FRAGMENTS.glob("*.*.md") if path.name.split(".")[1] in kinds]
    paths.sort(key=lambda path: (-int(path.name.split(".")[0]), path.name))
    texts = [path.read_text(encoding="utf-8").strip() for path in paths]
    bullets = [f"- {bullet}" for text in texts for bullet in re.split(r"^- ", text, flags=re.MULTILINE) if bullet]
    return sorted((bullet.strip() for bullet in bullets), key=lambda bullet: bullet.partition(":")[0])


def write_section() -> str:
    """The section "Unreleased", without its heading."""
    parts = []
    for heading, kinds in HEADINGS.items():
        if bullets := read_bullets(kinds):
            parts.append("\n".join([f"### {heading}", "", *bullets]))
    return "\n" + "\n\n".join(parts) + "\n\n"


def update(changelog: str) -> str:
    """The changelog with its section "Unreleased" written anew."""
    return UNRELEASED.sub(lambda _: write_section(), changelog, count=1).rstrip() + "\n"


if __name__ == "__main__":
    CHANGELOG.write_text(update(CHANGELOG.read_text(encoding="utf-8")), encoding="utf-8")
