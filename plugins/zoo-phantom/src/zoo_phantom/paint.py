"""Paint scenes as uint16 slices of HU + 1024, and compute how much each lesion adds to each pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from zoo_phantom.exact import (
    Array,
    Stream,
    blend,
    coverage,
    direction,
    ellipse_depth,
    pixel_centers,
    segment_depth,
    slow_field,
    smooth,
)
from zoo_phantom.parameters import DIFFUSE, LAYER, RING, PhantomParameters
from zoo_phantom.scenes import KERNELS, Scenes, draw_vessels, lung_depth

OFFSET = 1024  # stored value = HU + 1024
CHUNK = 32  # slices painted at once: their intermediate arrays stay in the processor's cache


def paint(scenes: Scenes, progress: Callable[[int, int | None], None] | None = None) -> Array:
    """Paint all slices, uint16 (N, size, size)."""
    size, total = scenes.parameters.size, len(scenes.patient)
    images = np.empty((total, size, size), dtype=np.uint16)
    noise = Stream(scenes.parameters.seed, "noise")
    for start in range(0, total, CHUNK):
        slices = np.arange(start, min(start + CHUNK, total))
        lung = lung_share(scenes, slices)
        hu = paint_anatomy(scenes, slices, lung) + paint_lesions(scenes, slices, lung)
        images[slices] = scan(scenes, slices, hu, noise.bell(len(slices), size, size).astype(np.float32))
        if progress:
            progress(int(slices[-1]) + 1, total)
    return images


def scan(scenes: Scenes, slices: Array, hu: Array, noise: Array) -> Array:
    """Simulate the scanner: blur and noise of its kernel, then integers from 0 to 4095."""
    kernel = np.array(KERNELS, dtype=np.float32)[scenes.patients["scanner"][slices], None, None]
    level = scenes.patients["noise"][slices, None, None].astype(np.float32)
    # smoothing scales the noise by (1 + 2k^2) / (1 + 2k)^2; `noise` is its value afterwards
    kept = (1.0 + 2.0 * kernel * kernel) / ((1.0 + 2.0 * kernel) * (1.0 + 2.0 * kernel))
    hu = smooth(hu, kernel) + (level / kept) * smooth(noise, kernel)
    return np.clip(np.floor(hu + (OFFSET + 0.5)), 0, 4095).astype(np.uint16)


def at(values: Mapping[str, Array], slices: Array) -> dict[str, Array]:
    """Select the values of some slices, shaped (n, 1, 1) to broadcast over pixels."""
    return {name: column[slices, None, None].astype(np.float32) for name, column in values.items()}


def lung_share(scenes: Scenes, slices: Array) -> Array:
    """Share of each pixel that is lung, float32 (n, size, size)."""
    size = scenes.parameters.size
    return coverage(lung_depth(at(scenes.anatomy, slices), *pixel_centers(size)), size)


def paint_anatomy(scenes: Scenes, slices: Array, lung: Array) -> Array:
    """HU (n, size, size) of body, lungs, vessels, heart and bones, from the outside inwards."""
    parameters, size = scenes.parameters, scenes.parameters.size
    here, patient = at(scenes.anatomy, slices), at(scenes.patients, slices)
    x, y = pixel_centers(size)
    bx, by = x - here["x"], y - here["y"]
    hu = np.full((len(slices), size, size), -1000.0, dtype=np.float32)
    table = ellipse_depth(bx, by, (0.0, here["body_b"] - 21.0), (30.0, 24.5))
    blend(hu, -150.0, coverage(np.minimum(table, 0.9 - table), size) * (by > here["body_b"] - 4.0))
    body = ellipse_depth(bx, by, (0.0, 0.0), (here["body_a"], here["body_b"]), 0.3)
    blend(hu, -100.0, coverage(body, size))
    blend(hu, 50.0, coverage(body - patient["fat"], size))
    cells = Stream(parameters.seed, "texture").uniform((-1.0, 1.0), int(slices[-1]) + 1, 9, 9)[slices]
    # Gravity makes the lung denser at the back.
    air = patient["lung_hu"] + 3.0 * by + parameters.texture * slow_field(cells.astype(np.float32), size)
    blend(hu, air, lung)
    paint_vessels(hu, parameters, slices, here, lung)
    paint_heart(hu, here, patient, bx, by, size)
    paint_bones(hu, here, patient, bx, by, size)
    return hu


def paint_vessels(
    hu: Array, parameters: PhantomParameters, slices: Array, here: Mapping[str, Array], lung: Array
) -> None:
    """Paint lines that taper from the root of each lung, and round sections of vessels that cross the slice."""
    size = parameters.size
    tree = at(draw_vessels(parameters, slices), np.arange(len(slices)))
    for side in (-1.0, 1.0):
        half = half_of(size, side)
        x, y = pixel_centers(size)
        x, deepest = x[:, :, half], np.full(hu[:, :, half].shape, -1.0, dtype=np.float32)
        root = here["x"] + here["heart_x"] * 0.4 + side * 5.0, here["y"] + 1.0
        for vessel in range(parameters.vessels):
            one = {name: tree[name][..., vessel, 0 if side < 0 else 1] for name in tree}
            run_x = side * one["cosine"] * one["reach"] * 1.5 * here["lung_a"]
            run_y = one["sine"] * one["reach"] * here["lung_b"]
            bend = root[0] + 0.5 * run_x, root[1] + 0.5 * run_y + 2.0 * one["bend"]
            tip = root[0] + run_x, root[1] + run_y
            dx, dy = x - tip[0], y - (tip[1] - 3.0 * one["bend"])
            for depth in (
                segment_depth(x, y, root, bend, (one["width"], 0.6 * one["width"])),
                segment_depth(x, y, bend, tip, (0.6 * one["width"], 0.1 * one["width"])),
                one["cut"] - np.sqrt(dx * dx + dy * dy),
            ):
                np.maximum(deepest, depth, out=deepest)
        blend(hu[:, :, half], parameters.vessel_hu, coverage(deepest, size) * lung[:, :, half])


def half_of(size: int, side: float) -> slice:
    """Columns of one side of the body, with a margin beyond the middle."""
    return slice(0, 36 * size // 64) if side < 0 else slice(28 * size // 64, size)


def paint_heart(
    hu: Array, here: Mapping[str, Array], patient: Mapping[str, Array], bx: Array, by: Array, size: int
) -> None:
    """Paint heart or great vessels, the descending aorta, the trachea above and its two branches below."""
    blood, level = patient["blood_hu"], here["level"]
    heart = ellipse_depth(bx, by, (here["heart_x"], here["heart_y"]), (here["heart_a"], here["heart_b"]))
    blend(hu, 45.0, coverage(heart, size))
    blend(hu, blood, coverage(heart - 1.2, size))
    blend(hu, blood, coverage(ellipse_depth(bx, by, (here["aorta_x"], here["spine_y"] - 4.0), (2.1, 2.1)), size))
    apart = 4.4 * np.maximum(level - 0.25, 0.0)
    for side in (-1.0, 1.0):
        airway = ellipse_depth(
            bx, by, (side * apart, here["heart_y"] + here["heart_b"] + 1.6), (1.7 - 0.4 * level, 1.5)
        )
        blend(hu, -980.0, coverage(airway, size))


def paint_bones(
    hu: Array, here: Mapping[str, Array], patient: Mapping[str, Array], bx: Array, by: Array, size: int
) -> None:
    """Paint vertebra with canal and spinous process, sternum, and twelve oblique sections of ribs."""
    bone, spine = patient["bone_hu"], here["spine_y"]
    vertebra = ellipse_depth(bx, by, (0.0, spine), (3.6, 2.9))
    for depth in (
        segment_depth(bx, by, (-5.2, spine + 4.6), (5.2, spine + 4.6), (0.5, 0.5)),
        segment_depth(bx, by, (0.0, spine + 4.0), (0.0, spine + 7.0), (0.9, 0.5)),
    ):
        blend(hu, 0.8 * bone, coverage(depth, size))
    blend(hu, bone + 80.0, coverage(vertebra, size))
    blend(hu, 0.6 * bone, coverage(vertebra - 0.9, size))
    blend(hu, 20.0, coverage(ellipse_depth(bx, by, (0.0, spine + 4.0), (1.5, 1.2)), size))
    blend(hu, 0.8 * bone, coverage(ellipse_depth(bx, by, (0.0, -here["cage_b"] - 0.2), (2.8, 0.9)), size))
    for rib, place in enumerate((-0.75, -0.45, -0.12, 0.2, 0.5, 0.8)):
        # ribs slope, so their sections move along the cage from slice to slice
        cosine, sine = direction(place + 0.2 * (here["level"] - 0.5) + 0.02 * (rib % 2))
        slant_x, slant_y = -sine * here["cage_a"], cosine * here["cage_b"]
        length = np.sqrt(slant_x * slant_x + slant_y * slant_y)
        for side in (-1.0, 1.0):
            half = half_of(size, side)
            x0, y0 = side * cosine * (here["cage_a"] + 0.2), sine * (here["cage_b"] + 0.2)
            dx, dy = side * 2.2 * slant_x / length, 2.2 * slant_y / length
            depth = segment_depth(bx[:, :, half], by, (x0 - dx, y0 - dy), (x0 + dx, y0 + dy), (0.85, 0.85))
            blend(hu[:, :, half], bone, coverage(depth, size))


def lesion_weights(scenes: Scenes, lesions: Array, lung: Array) -> Array:
    """Share of its contrast that each lesion adds to each pixel, (K, size, size) in [0, 1]: its shape within `lung`."""
    size, findings = scenes.parameters.size, np.array(scenes.parameters.findings)
    kinds = findings[lesions["label"]][:, None, None]
    here = at({name: scenes.anatomy[name] for name in ("x", "y", "lung_b")}, lesions["slice"])
    x, y = pixel_centers(size)
    lx, ly, radius = at({name: lesions[name] for name in ("x", "y", "radius")}, np.arange(len(lesions))).values()
    dx, dy = x - lx, y - ly
    distance = np.sqrt(dx * dx + dy * dy)
    disc = coverage(radius - distance, size)
    bowl = np.maximum(1.0 - (distance / radius) * (distance / radius), 0.0)
    ring = disc - coverage(0.6 * radius - distance, size)
    same_side = (x - here["x"]) * (lx - here["x"]) > 0.0
    layer = coverage(y - here["y"] - here["lung_b"] + 2.0 * radius, size) * same_side
    shape: Array = np.select([kinds == DIFFUSE, kinds == RING, kinds == LAYER], [bowl, ring, layer], disc)
    return shape * lung


def lesion_contrasts(scenes: Scenes, lesions: Array, weights: Array) -> Array:
    """HU (K,) that each lesion adds where its weight is 1: its density over the area of its weights."""
    area = np.rint(weights * 4096.0).astype(np.int64).sum(axis=(1, 2)) / 4096.0
    unit = 64.0 / scenes.parameters.size
    spread = lesions["density"] / (np.maximum(area, 0.25) * unit * unit)
    contrasts: Array = np.where(lesions["density"] > 0.0, spread, lesions["contrast"])
    return contrasts


def paint_lesions(scenes: Scenes, slices: Array, lung: Array) -> Array:
    """HU (n, size, size) that the lesions of consecutive slices add."""
    added = np.zeros(lung.shape, dtype=np.float32)
    lesions = lesions_of(scenes, slices)
    places = lesions["slice"] - slices[0]
    weights = lesion_weights(scenes, lesions, lung[places])
    contrasts = lesion_contrasts(scenes, lesions, weights).astype(np.float32)
    for place, weight, contrast in zip(places, weights, contrasts, strict=True):
        added[place] += contrast * weight
    return added


def lesions_of(scenes: Scenes, slices: Array) -> Array:
    """The lesions of consecutive slices."""
    first, last = np.searchsorted(scenes.lesions["slice"], [slices[0], slices[-1] + 1])
    return scenes.lesions[first:last]
