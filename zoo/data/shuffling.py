"""From a dataset to the same with the labels of train and val shuffled among patients: the control that finds leaks.

Nothing can be learned from it, so that whatever scores above chance on test knows test from elsewhere.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from zoo.arrays import Array
from zoo.data.dataset import DecodedFold
from zoo.images.formats import clips_of

USE = 1_019  # keeps these draws apart from those that a run makes of the same seed


def shuffle_labels(dataset: DecodedFold, seed: int) -> DecodedFold:
    """The dataset with train's labels shuffled within train, and val's within val; test's stay what they are."""
    targets = dataset.targets.copy()
    random = np.random.default_rng([USE, seed])
    frames = clips_of(dataset.sample_ids) if dataset.unit == "clip" else dataset.sample_ids
    for name in ("train", "val"):
        rows = dataset.index(name)
        targets[rows] = shuffle(targets[rows], dataset.patients[rows], frames[rows], random)
    return replace(dataset, targets=targets)


def shuffle(targets: Array, patients: Array, frames: Array, random: np.random.Generator) -> Array:
    """Every patient gets the labels of another, drawn from all: one label for all images that shared one.

    Whose labels differ gets the other's in random order, repeated where they are too few; the frames of one clip keep
    one label. Who is given to whom depends on nothing, so that no kind of patient has more of a label than others.
    """
    _, first, clip = np.unique(frames, return_index=True, return_inverse=True)
    owners = np.unique(patients[first], return_inverse=True)[1]  # of every clip
    own = [np.flatnonzero(owners == owner) for owner in np.unique(owners)]
    given = targets[first].copy()
    for mine, donor in zip(own, random.permutation(len(own)), strict=True):
        pool = random.permutation(first[own[donor]])
        if len(np.unique(np.nan_to_num(targets[first[mine]], nan=-1), axis=0)) == 1:  # unknown is unknown too
            pool = pool[:1]
        given[mine] = targets[np.resize(pool, len(mine))]
    shuffled: Array = given[clip]
    return shuffled
