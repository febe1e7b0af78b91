"""Losses and probabilities of tasks, compared with scipy and torch."""

import pickle

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.nn import functional

from zoo import BINARY, MULTICLASS, MULTILABEL, ORDINAL, REGRESSION
from zoo.tasks.kinds import CORE_TASKS, find_task
from zoo.tasks.task import Answers

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(0, 3, (20, 4))
EXTREME = np.array([[800.0, -800.0, 0.0, -745.0], [-800.0, 800.0, 0.0, 745.0]])
finite_logits = arrays(np.float64, (3, 4), elements=st.floats(-1e4, 1e4))


# --- probabilities ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("task", [BINARY, MULTICLASS], ids=str)
@pytest.mark.parametrize("logits", [LOGITS, EXTREME], ids=["ordinary", "extreme"])
def test_class_probabilities_match_scipy_softmax(task, logits):
    np.testing.assert_allclose(task.answers.from_logits(logits), scipy.special.softmax(logits, axis=1), atol=1e-15)


@pytest.mark.parametrize("logits", [LOGITS, EXTREME], ids=["ordinary", "extreme"])
def test_multilabel_probabilities_match_scipy_expit(logits):
    with np.errstate(over="raise"):
        probabilities = MULTILABEL.answers.from_logits(logits)
    np.testing.assert_allclose(probabilities, scipy.special.expit(logits), atol=1e-15)


def test_ordinal_probabilities_are_differences_of_cumulative_ones():
    logits = np.array([[2.0, 0.5, -1.0]])  # P(y > 0), P(y > 1), P(y > 2)
    above = scipy.special.expit(logits[0])
    expected = [1 - above[0], above[0] - above[1], above[1] - above[2], above[2]]
    np.testing.assert_allclose(ORDINAL.answers.from_logits(logits), [expected])


@settings(deadline=None)  # no limit on a busy machine
@given(finite_logits)
def test_ordinal_probabilities_sum_to_one_and_none_is_negative(logits):
    probabilities = ORDINAL.answers.from_logits(logits)
    assert probabilities.shape == (3, 5)
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)


@settings(deadline=None)  # no limit on a busy machine
@given(finite_logits, st.integers(0, 3), st.floats(0.01, 5))
def test_raising_an_ordinal_logit_never_lowers_the_expected_class(logits, threshold, by):
    raised = logits.copy()
    raised[:, threshold] += by
    mean = [ORDINAL.answers.from_logits(x) @ np.arange(5) for x in (logits, raised)]
    assert (mean[1] >= mean[0] - 1e-12).all()


def test_a_regression_output_is_returned_unchanged():
    values = RANDOM.normal(size=(5, 1))
    np.testing.assert_array_equal(REGRESSION.answers.from_logits(values), values)


# --- losses ----------------------------------------------------------------------------------------------------------
def test_the_class_loss_matches_torch_cross_entropy():
    logits, targets = torch.tensor(LOGITS), torch.arange(20) % 4
    assert MULTICLASS.head.loss(logits, targets) == functional.cross_entropy(logits, targets)


def test_the_multilabel_loss_is_the_mean_over_known_cells():
    logits = torch.tensor(LOGITS)
    targets = torch.tensor(RANDOM.integers(0, 2, LOGITS.shape)).double()
    targets[::3, 1] = torch.nan
    known = ~targets.isnan()
    expected = functional.binary_cross_entropy_with_logits(logits[known], targets[known])
    assert MULTILABEL.head.loss(logits, targets).item() == pytest.approx(expected.item())


def test_unknown_labels_get_no_gradient():
    logits = torch.tensor([[0.3, -1.2], [2.0, 0.7]], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[1.0, torch.nan], [0.0, 1.0]], dtype=torch.float64)
    MULTILABEL.head.loss(logits, targets).backward()
    by_hand = (torch.sigmoid(logits.detach()) - targets.nan_to_num()) / 3  # three known cells
    by_hand[0, 1] = 0.0
    torch.testing.assert_close(logits.grad, by_hand)
    assert torch.autograd.gradcheck(lambda x: MULTILABEL.head.loss(x, targets), (logits,))


def test_a_batch_without_any_known_label_has_loss_zero_and_finite_gradients():
    logits = torch.ones(2, 3, requires_grad=True)
    loss = MULTILABEL.head.loss(logits, torch.full((2, 3), torch.nan))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad.tolist() == [[0.0] * 3] * 2


def test_the_ordinal_loss_is_the_cross_entropy_of_the_events_y_above_k():
    logits = torch.tensor(LOGITS[:3, :2])
    events = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)  # classes 0, 1, 2
    expected = functional.binary_cross_entropy_with_logits(logits, events)
    assert ORDINAL.head.loss(logits, torch.tensor([0, 1, 2])).item() == pytest.approx(expected.item())


def test_the_regression_loss_matches_torch_mse():
    outputs, targets = torch.tensor(LOGITS[:, :1]), torch.tensor(LOGITS[:, 1])
    assert REGRESSION.head.loss(outputs, targets).item() == pytest.approx(
        functional.mse_loss(outputs[:, 0], targets).item()
    )


# --- the records -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("task", "outputs"), [(BINARY, 2), (MULTICLASS, 5), (ORDINAL, 4), (MULTILABEL, 5), (REGRESSION, 1)], ids=str
)
def test_a_head_has_as_many_outputs_as_its_task_needs(task, outputs):
    labels = {"binary": 2, "regression": 1}.get(task.name, 5)
    assert task.head.num_outputs(labels) == outputs
    assert task.answers.from_logits(np.zeros((3, outputs))).shape == (3, labels)


@pytest.mark.parametrize("task", CORE_TASKS, ids=str)
def test_a_pickled_task_is_the_same_task(task):
    copy = pickle.loads(pickle.dumps(task))
    assert copy == task and copy.head.num_outputs(5) == task.head.num_outputs(5)


def test_an_unknown_task_lists_the_valid_ones():
    with pytest.raises(KeyError, match=r"unknown task 'segment'.*binary, multiclass"):
        find_task("segment")


@pytest.mark.parametrize("task", [BINARY, MULTICLASS, MULTILABEL], ids=str)
def test_a_task_without_its_own_rescaling_divides_the_logits(task):
    probabilities = task.answers.from_logits(LOGITS)
    expected = task.answers.rescale(probabilities, 2.0)
    np.testing.assert_allclose(Answers.rescale(task.answers, probabilities, 2.0), expected, atol=1e-12)
    np.testing.assert_allclose(Answers.rescale(task.answers, probabilities, 1.0), probabilities, atol=1e-12)
