"""All numbers that determine the phantoms, in one frozen record."""

from __future__ import annotations

from dataclasses import dataclass, replace

# Effect of a finding on the lung. With equal numbers below, each adds the same integrated density.
CLEAR = "clear"  # nothing
COMPACT = "compact"  # discs with a sharp edge: nodules
DIFFUSE = "diffuse"  # the same density spread over a wide, smooth patch: ground glass
RING = "ring"  # the same density in a wall around a hole: cavities
LAYER = "layer"  # fluid behind one lung, up to a level: effusion


@dataclass(frozen=True, kw_only=True)
class PhantomParameters:
    """Lengths in units of 1/64 of the field of view (about 6 mm), densities in Hounsfield units (HU).

    Ranges are (low, high) of a uniform draw. `size` changes the sampling only: a scene is the same at every size.
    """

    seed: int = 20_250_601
    size: int = 64  # pixels along each side
    patients: tuple[int, int, int] = (160, 40, 60)  # train, val, test
    # numbers of slices of the patients of each split, repeated over the patients and shuffled
    slices: tuple[tuple[int, ...], ...] = ((7, 8, 9, 8), (3, 4, 5, 4), (3, 4, 5, 4))

    findings: tuple[str, ...] = (DIFFUSE, COMPACT)  # one per label
    shares: tuple[float, ...] = (0.6, 0.4)  # of the slices of a split, rounded to whole slices
    exclusive: bool = True  # exactly one finding per slice; else independent findings
    clustering: float = 0.4  # 0: labels fall on slices at random; 1: all slices of a patient agree
    unknown: float = 0.0  # share of unknown targets (NaN); only if not exclusive

    lesions: tuple[int, int] = (3, 6)  # a slice with a plain finding
    radius: tuple[float, float] = (2.5, 4.0)
    contrast: tuple[float, float] = (500.0, 900.0)  # of a compact lesion; the others get its integrated density
    diffuse_spread: float = 2.4  # radius of a diffuse patch over that of the compact lesion of equal density
    faint: float = 0.38  # share of slices with one faint lesion only
    faint_contrast: tuple[float, float] = (300.0, 500.0)
    margin: float = 2.5  # between the center of a lesion and the edge of the lung
    separation: float = 7.0  # between centers of lesions, if there is room

    noise: tuple[float, float] = (20.0, 45.0)  # standard deviation of a patient's scan
    texture: float = 45.0  # amplitude of slow density changes within a lung
    vessels: int = 9  # per lung
    vessel_hu: float = -350.0  # below blood: vessels are thinner than a pixel


PHANTOM = PhantomParameters()
PHANTOM_HARD = replace(
    PHANTOM, seed=20_250_602, faint=0.6, contrast=(350.0, 600.0), faint_contrast=(120.0, 250.0), noise=(40.0, 90.0)
)
PHANTOM_MULTICLASS = replace(
    PHANTOM, seed=20_250_603, findings=(CLEAR, COMPACT, DIFFUSE, RING), shares=(0.34, 0.26, 0.22, 0.18)
)
PHANTOM_MULTILABEL = replace(
    PHANTOM,
    seed=20_250_604,
    findings=(COMPACT, DIFFUSE, RING, LAYER),
    shares=(0.4, 0.35, 0.25, 0.2),
    exclusive=False,
    lesions=(2, 4),
    unknown=0.05,
)
