"""From ids and texts that may name a person or a place to ones that can be shared."""

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

KEY_NAME = ".zoo-bundle-key"  # in the folder that holds the results folder: one for all results of a lab
KEY_BYTES = 32
LEFT_OUT = "[left out]"
MIN_NAME_LENGTH = 3  # of a user or host: shorter ones are words


@dataclass(frozen=True)
class Pseudonyms:
    """Keyed hashes (HMAC-SHA-256, its first 64 bits): the same id is the same name, and only the key leads back.

    Without a key anybody could hash every patient number there is and compare.
    """

    key: bytes

    def __call__(self, name: str) -> str:
        return hmac.new(self.key, name.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:16]


def open_key(path: Path) -> bytes:
    """The key kept at `path`, made there the first time, readable by its owner alone."""
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as stream:
                stream.write(secrets.token_hex(KEY_BYTES) + "\n")
        if not path.is_file():
            raise ValueError("a device would be read without end")
        key = bytes.fromhex(path.read_text(encoding="ascii"))
    except FileExistsError:  # another process made it meanwhile
        return open_key(path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"key {path}: {getattr(error, 'strerror', None) or 'is not one'}", fix="name another file by --key"
        ) from error
    if len(key) != KEY_BYTES:
        raise UsageError(f"key {path}: holds {len(key)} bytes, expected {KEY_BYTES}", fix="name another by --key")
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
    """A free text without what may name a person, a file or a place: quoted words, paths, file names, ids, numbers
    that look like ids, this user and this machine. What is in `kept` (labels, names of models) stays."""

    def quoted(match: re.Match[str]) -> str:
        return match[0] if match[0][1:-1] in kept else LEFT_OUT

    def word(match: re.Match[str]) -> str:
        found = match[0].strip("()[]{},;:.!?'\"")
        return match[0].replace(found, LEFT_OUT) if found and not is_harmless(found, ids, kept) else match[0]

    # the marks put in place of quoted words are not looked at again
    parts = [re.sub(r"\S+", word, part) for part in QUOTED_TEXT.sub(quoted, text).split(LEFT_OUT)]
    return NUMBERED.sub(lambda match: f"{match[1]} {LEFT_OUT}", LEFT_OUT.join(parts))


def is_harmless(word: str, ids: Collection[str], kept: Collection[str]) -> bool:
    if word in kept or word in PLAIN or WEB.match(word) or DIGEST.fullmatch(word):
        return True
    if "/" in word or "\\" in word or FILE_PATTERN.search(word) or word in own_names():
        return False
    digits = sum(character.isdigit() for character in word)
    if word.isdigit():
        return digits < 6 and (digits < 5 or word not in ids)  # a short number is a count before it is an id
    return word not in ids and (digits < 4 or not any(character.isalpha() for character in word))


def without_paths(text: str) -> str:
    """A technical text (a model's or a device's name) with nothing replaced but paths that begin at a root."""
    return ABSOLUTE.sub(LEFT_OUT, text)


def own_names() -> set[str]:
    """What this user and this machine are called."""
    names = {platform.node(), platform.node().partition(".")[0]}
    with contextlib.suppress(Exception):  # a container's user may have no name; what is raised differs by Python
        names.add(getpass.getuser())
    return {name for name in names if len(name) >= MIN_NAME_LENGTH}


def replace_texts(value: object, change: Callable[[str], str]) -> object:
    """Plain data with every text in it changed; the keys of mappings too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(str(key)): replace_texts(part, change) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [replace_texts(part, change) for part in value]
    return value
