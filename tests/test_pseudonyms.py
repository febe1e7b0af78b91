"""Pseudonyms, and removal of identifying words from text."""

import hashlib
import hmac
import sys

import pytest

from zoo.errors import UsageError
from zoo.results.pseudonyms import Pseudonyms, open_key, own_names, replace_texts, without_names, without_paths


def test_a_pseudonym_is_the_hmac_of_the_id():
    expected = hmac.new(b"k" * 32, b"p17", hashlib.sha256).hexdigest()[:16]
    assert Pseudonyms(b"k" * 32)("p17") == expected
    assert Pseudonyms(b"other" * 7)("p17") != expected


def test_a_key_is_created_once_and_readable_by_its_owner_only(tmp_path):
    key = open_key(tmp_path / "lab" / "key")
    assert len(key) == 32 and open_key(tmp_path / "lab" / "key") == key
    assert open_key(tmp_path / "other") != key
    if sys.platform != "win32":
        assert (tmp_path / "lab" / "key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("text", ["", "abcd\n", "no key at all\n", "00" * 31])
def test_an_invalid_key_file_is_an_error(tmp_path, text):
    (tmp_path / "key").write_text(text)
    with pytest.raises(UsageError, match="key"):
        open_key(tmp_path / "key")


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("/home/eve/lungs/table.csv: not UTF-8", "[left out]: not UTF-8"),
        (r"C:\Users\eve\a.png cannot be read", "[left out] cannot be read"),
        (r"\\server\share\x is slow", "[left out] is slow"),
        ("scan_0042.dcm was left out", "[left out] was left out"),
        ("patient 17 was imaged twice", "patient [left out] was imaged twice"),
        ("P00123 and 1234567 have two labels", "[left out] and [left out] have two labels"),
        ("Meier has two labels", "[left out] has two labels"),
        ("labels are the folders' names, not column 'who' of t.csv", None),
        ('"Eve Meier" is in two splits', "[left out] is in two splits"),
        ("1811 slices of 200 patients", "1811 slices of 200 patients"),
        ("val has under 5 images of 'nodule'", "val has under 5 images of 'nodule'"),
        ("no official test split: 5-fold by patient", "no official test split: 5-fold by patient"),
        ("tuned learning_rate: 0.0003 of 0.0001, 0.0009", "tuned learning_rate: 0.0003 of 0.0001, 0.0009"),
        ("labels are the 0/1 columns mass, fluid", "labels are the 0/1 columns mass, fluid"),
        ("see https://example.org/cards/1", "see https://example.org/cards/1"),
    ],
)
def test_free_text_loses_only_identifying_words(text, shared):
    cleaned = without_names(text, ids={"Meier"}, kept={"nodule"})
    if shared is None:
        shared = "labels are the folders' names, not column [left out] of [left out]"
    assert cleaned == shared


def test_names_of_user_and_machine_are_removed():
    for name in own_names():
        assert name not in without_names(f"run by {name} today", ids=(), kept=())


def test_technical_text_loses_only_paths():
    text = "Intel(R) CPU @ 2.2GHz, hf-hub:owner/name, 40 / 20, https://a.b/c"
    assert without_paths(text) == text
    assert without_paths("read from /home/eve/x y") == "read from [left out] y"


def test_texts_are_replaced_at_every_level():
    replaced = replace_texts({"a": ["x", {"x": 1}], "b": None}, lambda text: text.replace("x", "y"))
    assert replaced == {"a": ["y", {"y": 1}], "b": None}
