"""The HTML page of an audit: findings as tables, with the images of each pair side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.auditing.examine import AuditedDataset
from zoo.auditing.findings import MOST_NAMED, Audit, Finding, Suspect
from zoo.data.contact_sheet import Thumbnail
from zoo.data.datasheet import describe_source, label_text, set_intensity, to_readable
from zoo.data.fingerprints import Fingerprints
from zoo.data.opening import OpenDataset
from zoo.data.splits import Split
from zoo.report.html import picture, render_page
from zoo.specs.dataset import SPLITS

MOST_SUSPECTS = 60  # shown with their image; --json has all
READABLE = ("images", "patient", "patients", "unit", "split", "left_out_of_splits", "sizes", "bits", "channels")
HASHES = ("content_hash", "split_hash")


def build_page(audited: Sequence[AuditedDataset]) -> str:
    """Build the page of some audits."""
    datasets = []
    for number, each in enumerate(audited, start=1):
        opened = each.dataset
        images = PageImages(opened.source, opened.split, opened.fingerprints) if opened else None
        datasets.append(describe_audit(each.audit, images, f"dataset-{number}"))
    names = ", ".join(each.audit.dataset for each in audited)
    return render_page("audit.html", title=f"Audit: {names}", datasets=datasets)


@dataclass(eq=False)
class PageImages:
    """The images of an audited dataset as thumbnails, each decoded once."""

    source: OpenDataset
    split: Split
    fingerprints: Fingerprints
    thumbnails: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.row_of = {sample_id: row for row, sample_id in enumerate(self.source.sample_ids.tolist())}
        self.images = list(self.source.samples.table["image"])
        self.intensity = set_intensity(self.source, self.split) if self.fingerprints.bits[0] > 8 else (0.0, 255.0)
        self.patient_word = self.source.patient_word if self.source.has_patients else ""

    def image(self, sample_id: str) -> dict[str, Any]:
        if sample_id not in self.thumbnails:
            row = self.row_of[sample_id]
            self.thumbnails[sample_id] = {
                "name": sample_id,
                "uri": picture(Thumbnail(pixels=self.source.samples.read(self.images[row])), self.intensity),
                "label": label_text(self.source, row),
                "split": str(self.split.folds[0][row]),
                "patient": str(self.source.patients[row]) if self.source.has_patients else "",
                "patient_word": self.patient_word,
                "size": f"{self.fingerprints.widths[row]} x {self.fingerprints.heights[row]}",
            }
        return self.thumbnails[sample_id]


def describe_audit(audit: Audit, images: PageImages | None, anchor: str) -> dict[str, Any]:
    """The values of the template for one dataset."""
    findings = [describe_finding(f, images, f"{anchor}-{number}") for number, f in enumerate(audit.findings, start=1)]
    described: dict[str, Any] = {
        "name": audit.dataset,
        "anchor": anchor,
        "verdict": audit.verdict,
        "findings": findings,
        "found_clean": audit.scope.summary(audit.failed_checks) if audit.scope else "",
        "facts": {},
        "splits": {},
        "labels": [],
        "notes": [],
        "folds": "",
        "has_patients": False,
        "patient_word": "",
    }
    if images is None:
        return described
    facts = describe_source(images.source, images.split, images.fingerprints)
    readable = to_readable({**facts, "sheet": "", "shown": [], "shown_from_to": [0, 0]})
    splits = {name: facts["splits"][name] for name in SPLITS}
    return described | {
        "facts": {
            **{name.replace("_", " "): readable[name] for name in READABLE if name in readable},
            **{name.replace("_", " "): facts[name][:16] for name in HASHES},
        },
        "splits": splits,
        "labels": list(splits["train"].get("labels", {})),
        "folds": f"the first of {facts['folds']} folds" if facts["folds"] > 1 else "",
        "notes": [*facts["notes"], *facts["known_issues"]],
        "has_patients": images.source.has_patients,
        "patient_word": images.patient_word,
    }


def describe_finding(finding: Finding, images: PageImages | None, anchor: str) -> dict[str, Any]:
    described: dict[str, Any] = {
        **{name: getattr(finding, name) for name in ("check", "verdict", "splits", "count", "message", "fix")},
        "anchor": "",
        "pairs": [],
        "images": [],
        "suspects": [],
        "more": "",
    }
    if images is None or not (finding.pairs or finding.samples or finding.suspects):
        return described
    described["anchor"] = anchor
    if finding.suspects:
        described["suspects"] = [describe_suspect(each, images) for each in finding.suspects[:MOST_SUSPECTS]]
        described["more"] = first_of(len(described["suspects"]), len(finding.suspects), "images")
    elif finding.pairs:
        described["pairs"] = [(images.image(a), images.image(b)) for a, b in finding.pairs]
        described["more"] = f"The first {MOST_NAMED} pairs." if len(finding.pairs) == MOST_NAMED else ""
    else:
        described["images"] = [images.image(sample_id) for sample_id in finding.samples]
        described["more"] = first_of(len(finding.samples), finding.count, "images")
    return described


def describe_suspect(suspect: Suspect, images: PageImages) -> dict[str, Any]:
    return {
        "image": images.image(suspect.sample),
        "label": suspect.label,
        "given": suspect.given,
        "suggested": suspect.suggested,
        "score": f"{suspect.score:.2f}",
    }


def first_of(num_shown: int, count: int, what: str) -> str:
    return f"The first {num_shown} of {count} {what}." if num_shown < count else ""
