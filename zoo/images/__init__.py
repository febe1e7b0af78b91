"""Read image files (photographs, DICOM, volumes, videos, animations) as pixels."""
