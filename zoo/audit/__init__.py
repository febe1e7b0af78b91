"""From samples to what speaks against their split: copies, patients on two sides, labels that contradict each other."""

from zoo.audit.exclusions import Exclusions, choose_exclusions
from zoo.audit.leaks import MOST_NAMED, Audit, Finding, Suspect, audit, note, unusable
from zoo.audit.matching import OFFICIAL_TEST, External, describe_external, match, open_external
from zoo.audit.overlap import audit_external, check_overlap

__all__ = [
    "MOST_NAMED",
    "OFFICIAL_TEST",
    "Audit",
    "Exclusions",
    "External",
    "Finding",
    "Suspect",
    "audit",
    "audit_external",
    "check_overlap",
    "choose_exclusions",
    "describe_external",
    "match",
    "note",
    "open_external",
    "unusable",
]
