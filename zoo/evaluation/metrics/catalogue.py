"""All built-in metrics.

A mean over units is one function, `per_unit`, whose docstring is the formula. Any other metric is implemented twice:
once for the value, and weighted for B resamples at once, for the interval. The tests compare both with scikit-learn.
Each returns one column per label, NaN where the metric is undefined for it. The value is the mean over the
other labels, and a note counts them ("macro over 6 of 7 labels"): a class that is absent from the test split is never
scored 0, .5 or 1.
"""

from zoo.evaluation.metrics.decisions import AGREEMENT, RATES
from zoo.evaluation.metrics.masks import OVERLAPS
from zoo.evaluation.metrics.numbers import ERRORS
from zoo.evaluation.metrics.probabilities import CURVES, DISTANCES

METRICS = (*CURVES, *RATES, *DISTANCES, *AGREEMENT, *ERRORS, *OVERLAPS)
