"""Replace ids by pseudonyms and remove names and paths from text, for sharing."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import hmac
import os
import platform
import re
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import UsageError

KEY_NAME = ".zoo-bundle-key"  # in the parent of the results folder: one key for all results of a lab
KEY_BYTES = 32
LEFT_OUT = "[left out]"
MIN_NAME_LENGTH = 3  # of a user or host name; shorter ones may be ordinary words


@dataclass(frozen=True)
class Pseudonyms:
    """Pseudonyms as keyed hashes (first 64 bits of HMAC-SHA-256): equal ids have equal pseudonyms.

    Without a secret key, anyone could hash all possible patient numbers and compare.
    """

    key: bytes

    def __call__(self, name: str) -> str:
        return hmac.new(self.key, name.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:16]


def open_key(path: Path) -> bytes:
    """Read the key at `path`; create it if missing, readable by its owner only."""
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as stream:
                stream.write(secrets.token_hex(KEY_BYTES) + "\n")
        if not path.is_file():
            raise ValueError("not a regular file")
        key = bytes.fromhex(path.read_text(encoding="ascii"))
    except FileExistsError:  # created by another process in the meantime
        return open_key(path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"key {path}: {getattr(error, 'strerror', None) or 'not a key file'}", fix="choose another file with --key"
        ) from error
    if len(key) != KEY_BYTES:
        raise UsageError(
            f"key {path}: holds {len(key)} bytes, expected {KEY_BYTES}", fix="choose another file with --key"
        )
    return key


# --- texts -----------------------------------------------------------------------------------------------------------
QUOTED_TEXT = re.compile(r"(?<!\w)'(?=\S)[^'\n]*'(?!\w)|(?<!\w)\"(?=\S)[^\"\n]*\"(?!\w)|`[^`\n]*`")
NUMBERED = re.compile(r"\b((?:patient|subject|person|lesion|eye|study|case|sample|image|slice|id)s?)\s+#?\d+\b", re.I)
FILE_PATTERN = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")
WEB = re.compile(r"https?://", re.I)
DIGEST = re.compile(r"[0-9a-f]{32,64}")
PLAIN = {"0/1", "and/or"}
ABSOLUTE = re.compile(r"file:/+\S+|(?<![\w.~:/])~?/(?![/\s])[^\s'\"]+|\b[A-Za-z]:[\\/][^\s'\"]+|\\\\[^\s'\"]+")


def without_names(text: str, ids: Collection[str], kept: Collection[str]) -> str:
    """Remove words that may identify a person, file or place from free text.

    Removed are quoted words, paths, file names, ids, numbers that look like ids, and the names of this user and this
    machine. Words in `kept` (labels, model names) stay.
    """

    def quoted(match: re.Match[str]) -> str:
        return match[0] if match[0][1:-1] in kept else LEFT_OUT

    def word(match: re.Match[str]) -> str:
        bare = match[0].strip("()[]{},;:.!?'\"")
        return match[0].replace(bare, LEFT_OUT) if bare and not is_harmless(bare, ids, kept) else match[0]

    # the marks that replace quoted words are not processed again
    parts = [re.sub(r"\S+", word, part) for part in QUOTED_TEXT.sub(quoted, text).split(LEFT_OUT)]
    return NUMBERED.sub(lambda match: f"{match[1]} {LEFT_OUT}", LEFT_OUT.join(parts))


def is_harmless(word: str, ids: Collection[str], kept: Collection[str]) -> bool:
    if word in kept or word in PLAIN or WEB.match(word) or DIGEST.fullmatch(word):
        return True
    if "/" in word or "\\" in word or FILE_PATTERN.search(word) or word in own_names():
        return False
    digits = sum(character.isdigit() for character in word)
    if word.isdigit():
        return digits < 6 and (digits < 5 or word not in ids)  # a short number is more likely a count than an id
    return word not in ids and (digits < 4 or not any(character.isalpha() for character in word))


def without_paths(text: str) -> str:
    """Remove absolute paths only, from technical text such as the name of a model or device."""
    return ABSOLUTE.sub(LEFT_OUT, text)


def own_names() -> set[str]:
    """Return the names of this user and this machine."""
    names = {platform.node(), platform.node().partition(".")[0]}
    # The user of a container may have no name; the exception's type differs by Python version.
    with contextlib.suppress(Exception):
        names.add(getpass.getuser())
    return {name for name in names if len(name) >= MIN_NAME_LENGTH}


def replace_texts(value: object, change: Callable[[str], str]) -> object:
    """Apply `change` to every string in plain data, including the keys of mappings."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(str(key)): replace_texts(part, change) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [replace_texts(part, change) for part in value]
    return value
