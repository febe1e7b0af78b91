"""The checks as tests of pytest, one test each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.conformance.catalogue import checks_of
from zoo.conformance.checking import Check, CheckedSpec, Inapplicable
from zoo.errors import UsageError, nearest


@dataclass(frozen=True, kw_only=True)
class CheckTest:
    """A check to call with its spec in a test."""

    check: Check
    folder: Path | None

    def __call__(self, spec: Any) -> None:
        """Raise AssertionError if the claim is false; skip the test if there is nothing to check."""
        import pytest

        try:
            self.check.run(CheckedSpec(spec=spec, folder=self.folder))
        except Inapplicable as reason:
            pytest.skip(str(reason))


def parametrize_with_checks(
    specs: Iterable[Any], *, folder: Path | None = None, expected_failures: Mapping[str, str] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Run a test with the arguments `spec` and `check` for every check of each spec, as `check(spec)`.

    `folder` has the data of datasets. `expected_failures` maps the ids of checks that fail to the reason; such a check
    fails the test if it passes. Raises UsageError for an unknown id.
    """
    import pytest

    failures, specs = dict(expected_failures or {}), list(specs)
    pairs = [(spec, check) for spec in specs for check in checks_of(CheckedSpec(spec=spec).kind)]
    known = {check.id for _, check in pairs}
    for name in failures.keys() - known:
        raise UsageError(f"no check {name!r}", fix=nearest(name, sorted(known)) or ", ".join(sorted(known)))
    tests = []
    for spec, check in pairs:
        marks = [pytest.mark.xfail(reason=failures[check.id], strict=True)] if check.id in failures else []
        tests.append(
            pytest.param(spec, CheckTest(check=check, folder=folder), id=f"{spec.name}-{check.id}", marks=marks)
        )
    return pytest.mark.parametrize(("spec", "check"), tests)
