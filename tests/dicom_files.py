"""Small DICOM files, as tests write them."""

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def write(path, pixels=None, syntax=ExplicitVRLittleEndian, *, compress=None, **elements):
    """A small CT, or what `elements` make of it; `pixels` fill in size, depth and sign."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = CTImageStorage, generate_uid(), "CT"
    if pixels is not None:
        frames = pixels.ndim - 2 - (pixels.shape[-1] == 3)
        dataset.Rows, dataset.Columns = pixels.shape[frames : frames + 2]
        dataset.SamplesPerPixel = 3 if pixels.shape[-1] == 3 else 1
        dataset.PhotometricInterpretation = "RGB" if dataset.SamplesPerPixel == 3 else "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        dataset.PixelData = pixels.tobytes()
        if frames:
            dataset.NumberOfFrames = len(pixels)
        if dataset.SamplesPerPixel == 3:
            dataset.PlanarConfiguration = 0
    for keyword, value in elements.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    if compress:
        dataset.compress(compress)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def ramp(dtype=np.int16, low=-1000, shape=(8, 8)):
    return (np.arange(np.prod(shape)).reshape(shape) * 40 + low).astype(dtype)
