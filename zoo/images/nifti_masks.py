"""Write the mask of a volume as a NIfTI file on the grid of its volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.images.label_maps import read_grid
from zoo.images.reading import suffix_of

SCANNER = 1  # code of an affine to the coordinates of the scanner


def save_volume_mask(path: Path, mask: Array, volume: Path, text: str) -> None:
    """Write a mask, uint8 (A, B, C) along the axes of the volume in RAS+ order, along the axes of its file.

    Its affines, their codes and its units are those of the volume; nothing else of its header is copied, as it may
    name the patient. `text` becomes the description, of at most 79 bytes. The mask of a NRRD or MetaImage volume is in
    RAS+ order; that of a volume without a header has an affine of code 0, which is unknown.
    """
    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)  # without it, float32 is written
    header["descrip"] = text.encode()[:79]
    if is_nifti(volume):
        image = on_grid_of(nibabel.load(volume), from_upright(mask, volume), header)
    else:
        grid = read_grid(volume)
        image = nibabel.Nifti1Image(mask, grid.affine, header)
        if grid.affine is not None:
            image.set_sform(grid.affine, SCANNER)
            image.header.set_xyzt_units("mm")
        elif grid.spacing is not None:  # of a plugin's reader
            image.header.set_zooms(grid.spacing)
            image.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)


def is_nifti(path: Path) -> bool:
    return suffix_of(path.name) in (".nii", ".nii.gz")


def from_upright(mask: Array, volume: Path) -> Array:
    """A mask in RAS+ order along the axes of the file of its volume; unchanged if that is no NIfTI."""
    import nibabel
    from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

    if not is_nifti(volume):
        return mask
    orientation = io_orientation(nibabel.load(volume).affine)
    if not np.isfinite(orientation).all():
        return mask
    upright = np.array([[axis, 1] for axis in range(3)])
    turned: Array = apply_orientation(mask, ornt_transform(upright, orientation))
    return turned


def on_grid_of(volume: Any, mask: Array, header: Any) -> Any:
    """The image of a mask along the axes of a volume, on its grid."""
    import nibabel

    header.set_data_shape(mask.shape)
    header.set_zooms(volume.header.get_zooms()[:3])
    header.set_xyzt_units(xyz=volume.header.get_xyzt_units()[0])
    image = nibabel.Nifti1Image(np.asarray(mask), None, header)
    for form in ("qform", "sform"):
        affine, code = getattr(volume, f"get_{form}")(coded=True)
        if code:
            getattr(image, f"set_{form}")(affine, int(code))
    return image
