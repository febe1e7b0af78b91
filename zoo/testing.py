"""The conformance kit for the tests of a plugin.

`@parametrize_with_checks(specs)` runs every check of zoo/conformance as a test of its own. `check_model(spec)`,
`check_dataset(spec, folder)` and `check_metric(spec)` try the most important of them in one call: they return None, or
raise an AssertionError that describes the first problem and what was expected.
"""

from zoo.conformance.datasets import (
    check_dataset,
    check_dataset_spec,
    check_image,
    check_pixels,
    check_spec_targets,
    check_splits,
    check_table,
)
from zoo.conformance.metrics import (
    check_metric,
    check_per_unit,
    check_resample,
    check_undefined,
    check_weighted_counts,
)
from zoo.conformance.models import (
    check_bounds,
    check_evaluation,
    check_features,
    check_groups,
    check_model,
    check_model_spec,
    check_training,
)
from zoo.conformance.parametrizing import parametrize_with_checks
from zoo.conformance.steps import check_spec_fields, check_tasks

__all__ = [
    "check_bounds",
    "check_dataset",
    "check_dataset_spec",
    "check_evaluation",
    "check_features",
    "check_groups",
    "check_image",
    "check_metric",
    "check_model",
    "check_model_spec",
    "check_per_unit",
    "check_pixels",
    "check_resample",
    "check_spec_fields",
    "check_spec_targets",
    "check_splits",
    "check_table",
    "check_tasks",
    "check_training",
    "check_undefined",
    "check_weighted_counts",
    "parametrize_with_checks",
]
