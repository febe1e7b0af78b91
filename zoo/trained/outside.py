"""Detect images unlike the training data by the distance of their features to those of val.

The distance of an image is that to its k-th nearest neighbor among the L2-normalized features of val (Sun et al. 2022,
"Out-of-distribution detection with deep nearest neighbors", ICML). Its limit is the 99th percentile of the same
distance within val, where neighbors of the same patient do not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zoo.arrays import Array

NUM_NEIGHBORS = 5
MAX_REFERENCE = 2000  # images of val, evenly spread
PERCENTILE = 99.0
SMALLEST_LIMIT = 1e-6  # a collapsed network has equal features, so a limit of 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """Normalized features of val, and the largest distance that counts as alike."""

    features: Array  # float32 (N, D)
    neighbors: int
    limit: float

    def distances(self, features: Array) -> Array:
        """Distances (n,) of unnormalized features (n, D)."""
        return kth_distances(normalize(features), self.features, self.neighbors)

    def ratios(self, features: Array) -> Array:
        """Distances (n,) as multiples of the limit."""
        return self.distances(features) / max(self.limit, SMALLEST_LIMIT)


def make_reference(features: Array, patients: Array) -> Reference | None:
    """The reference of val's features (N, D) and patients (N,); None if no image has a neighbor of another patient."""
    rows = np.arange(0, len(features), -(-len(features) // MAX_REFERENCE) if len(features) else 1)
    # as stored, so that a limit holds for what is compared with it later
    normalized = normalize(features[rows]).astype(np.float16).astype(np.float32)
    owners = patients[rows]
    num_others = [int((owners != owner).sum()) for owner in np.unique(owners)]
    neighbors = min([NUM_NEIGHBORS, *num_others])
    if neighbors < 1:
        return None
    distances = kth_distances(normalized, normalized, neighbors, owners[:, None] == owners)
    return Reference(features=normalized, neighbors=neighbors, limit=float(np.percentile(distances, PERCENTILE)))


def normalize(features: Array) -> Array:
    values = np.asarray(features, dtype=np.float32)
    normalized: Array = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return normalized


def kth_distances(features: Array, reference: Array, k: int, excluded: Array | None = None) -> Array:
    """Euclidean distance (n,) of normalized features to the k-th nearest of `reference`; `excluded` is bool (n, N)."""
    squared = 2 - 2 * (features @ reference.T)
    if excluded is not None:
        squared = np.where(excluded, np.inf, squared)
    distances: Array = np.sqrt(np.maximum(np.partition(squared, k - 1, axis=1)[:, k - 1], 0))
    return distances
