"""From targets, probabilities and decisions to the built-in metrics, each a function of values by label and one spec.

A metric is written twice: by label with scikit-learn (the value), and weighted with numpy for B resamples at once (the
interval); the tests hold the two equal. Both give one column a label, NaN where the metric does not exist for it. The
mean over the labels that are left is the value, and a note counts them ("macro over 6 of 7 labels"): a class absent
from the test split is never scored 0, .5 or 1.
"""

from zoo.evaluation.metrics.decisions import AGREEMENT, RATES
from zoo.evaluation.metrics.numbers import ERRORS
from zoo.evaluation.metrics.probabilities import CURVES, DISTANCES

METRICS = (*CURVES, *RATES, *DISTANCES, *AGREEMENT, *ERRORS)
