"""Shuffle the labels of train and val among patients, as a control that reveals leaks.

Nothing can be learned from shuffled labels, so a score above chance on test means that test images leaked.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from zoo.arrays import Array
from zoo.data.dataset import DecodedFold
from zoo.images.formats import clips_of

USE = 1_019  # makes these draws independent of those that a run makes from the same seed


def shuffle_labels(dataset: DecodedFold, seed: int) -> DecodedFold:
    """Return the dataset with the labels of train and val each shuffled within their split; test is unchanged."""
    targets = dataset.targets.copy()
    random = np.random.default_rng([USE, seed])
    frames = clips_of(dataset.sample_ids) if dataset.unit == "clip" else dataset.sample_ids
    for name in ("train", "val"):
        rows = dataset.index(name)
        targets[rows] = shuffle(targets[rows], dataset.patients[rows], frames[rows], random)
    return replace(dataset, targets=targets)


def shuffle(targets: Array, patients: Array, frames: Array, random: np.random.Generator) -> Array:
    """Give every patient the labels of another, chosen by a random permutation of all patients.

    A patient whose images share one label gets a single label. Otherwise the donor's labels are assigned in random
    order, repeated if there are too few. The frames of a clip keep a common label. The permutation is independent of
    the patients, so no kind of patient has more of a label than others.
    """
    _, first, clip = np.unique(frames, return_index=True, return_inverse=True)
    owners = np.unique(patients[first], return_inverse=True)[1]  # of every clip
    own = [np.flatnonzero(owners == owner) for owner in np.unique(owners)]
    donated = targets[first].copy()
    for mine, donor in zip(own, random.permutation(len(own)), strict=True):
        pool = random.permutation(first[own[donor]])
        if len(np.unique(np.nan_to_num(targets[first[mine]], nan=-1), axis=0)) == 1:  # NaN (unknown) equals NaN
            pool = pool[:1]
        donated[mine] = targets[np.resize(pool, len(mine))]
    shuffled: Array = donated[clip]
    return shuffled
