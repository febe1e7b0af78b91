"""What an audit finds: findings, their verdicts, and the words that name samples, pairs and splits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from zoo.arrays import Array
from zoo.auditing.scope import Scope
from zoo.data.datasheet import label_text
from zoo.data.opening import OpenDataset
from zoo.errors import DataError, dataset_subject
from zoo.specs.dataset import SPLITS

Verdict = Literal["ok", "warn", "refuse"]
RANKS: tuple[Verdict, ...] = ("ok", "warn", "refuse")


MOST_NAMED = 20
LEAK_FIX = (
    "--drop-leaks removes the copies from train and val, `zoo audit --fix OUT.toml` writes a card without them; "
    "--allow-leak REASON continues and marks every result"
)


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A label that is probably wrong, judged by a model fitted to the other images."""

    sample: str
    label: str  # multi-label only: the label in question
    given: str
    suggested: str
    score: float  # 0 to 1: probability that the given label is right


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One result of a check: a fault, a warning, or a note on a check that was skipped."""

    check: str
    verdict: Verdict
    splits: tuple[str, ...]  # affected splits
    samples: tuple[str, ...]  # the first MOST_NAMED affected sample ids
    count: int  # affected images
    message: str
    fix: str = ""
    pairs: tuple[tuple[str, str], ...] = ()  # the first MOST_NAMED conflicting pairs
    suspects: tuple[Suspect, ...] = ()  # all, lowest score first


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The findings for one dataset, or for a training set and an external test set."""

    dataset: str
    findings: tuple[Finding, ...]
    scope: Scope | None = None  # None if the dataset could not be opened, or for a pair of datasets
    is_pair: bool = False

    @property
    def verdict(self) -> Verdict:
        return max((finding.verdict for finding in self.findings), key=RANKS.index, default="ok")

    @property
    def failed_checks(self) -> frozenset[str]:
        """The checks with a warning or a refusal."""
        return frozenset(finding.check for finding in self.findings if finding.verdict != "ok")

    def refusal(self) -> DataError | None:
        """Return one error for all refusing findings, or None.

        The message does not name the dataset; the caller adds it.
        """
        refusing = [finding for finding in self.findings if finding.verdict == "refuse"]
        if not refusing:
            return None
        first = refusing[0]
        others = ", ".join(dict.fromkeys(finding.check for finding in refusing[1:]))
        where = "" if self.is_pair else "; `zoo audit` lists all"
        more = f" (and: {others}{where})" if others else ""
        return DataError(f"{first.message}{more}", fix=first.fix, code=first.check)

    def describe(self) -> dict[str, Any]:
        """Return the audit as plain data for `zoo audit --json`."""
        return {
            "dataset": self.dataset,
            "verdict": self.verdict,
            "findings": [asdict(finding) for finding in self.findings],
            "looked_at": self.scope.describe(self.failed_checks) if self.scope else None,
        }

    def with_finding(self, finding: Finding) -> Audit:
        return replace(self, findings=worst_first([*self.findings, finding]))


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: -RANKS.index(finding.verdict)))


def refused_audit(dataset: str, error: DataError) -> Audit:
    """Return the audit of a dataset that could not be opened, decoded or split; the error is its only finding."""
    message = error.message_below(dataset_subject(dataset))
    finding = Finding(
        check=error.code, verdict="refuse", splits=(), samples=(), count=0, message=message, fix=error.fix
    )
    return Audit(dataset=dataset, findings=(finding,))


def note(check: str, message: str) -> Finding:
    return Finding(check=check, verdict="ok", splits=(), samples=(), count=0, message=message)


def name_samples(source: OpenDataset, rows: Sequence[int] | Array) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(source.sample_ids[row]) for row in list(rows)[:MOST_NAMED]))


def named_pairs(source: OpenDataset, pairs: Iterable[Sequence[int]]) -> tuple[tuple[str, str], ...]:
    return tuple((str(source.sample_ids[a]), str(source.sample_ids[b])) for a, b in list(pairs)[:MOST_NAMED])


def name_row(source: OpenDataset, split_of: Array, row: int) -> str:
    return f"{source.sample_ids[row]} ({split_of[row]})"


def describe_label(source: OpenDataset, row: int) -> str:
    text = label_text(source, row)
    return repr(text) if source.task.labeled else text


def first_across(split_of: Array, group: Array) -> tuple[int, int]:
    """Return two rows of a group from different splits."""
    other = group[split_of[group] != split_of[group[0]]]
    return int(group[0]), int(other[0])


def sorted_splits(names: Array) -> tuple[str, ...]:
    return tuple(name for name in SPLITS if name in set(names.tolist()))


def and_more(count: int, what: str) -> str:
    return f" (and {count} {what}{'s' * (count != 1)} more)" if count > 0 else ""


def join_words(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
