"""The mapping of a dataset's values to levels, from headers and its card, and the notes about it."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from zoo.errors import DataError
from zoo.images.formats import read_image
from zoo.images.reading import AS_STORED, Header, to_levels
from zoo.sources.cards import DatasetCard
from zoo.sources.intensity import choose_reading, record_reading

PLAIN = Header(width=8, height=8, channels=1)
CT = replace(PLAIN, bits=12, values=(-1024.0, 3071.0), modality="CT")


def choose(*headers, **intensity):
    card = DatasetCard(intensity=intensity or None)
    return choose_reading(card, [f"{number}.dcm" for number in range(len(headers))], headers)


def test_eight_bits_stay_unchanged_and_nothing_is_recorded():
    reading, notes = choose(PLAIN, replace(PLAIN, channels=3))
    assert (reading, notes, record_reading(reading)) == (AS_STORED, (), {})


def test_every_integer_value_of_a_ct_has_its_own_level():
    reading, notes = choose(CT, replace(CT, values=(-2000.0, 2095.0)))
    assert notes == ("values -2000 to 3071 (as the headers allow) become levels 0 to 5071",)
    assert record_reading(reading) == {"levels": (-2000.0, 63535.0), "bits": 16}
    values = np.arange(-2000, 3072)
    assert (to_levels(values, reading) == values + 2000).all()


def test_more_steps_than_levels_are_rounded_and_reported():
    _, exact = choose(replace(CT, values=(-32768.0, 32767.0)))
    reading, rounded = choose(replace(CT, values=(-1000.0, 99000.0)))
    assert "rounded" not in exact[0]
    assert rounded == ("values -1000 to 99000 become levels 0 to 65535, rounded",)
    assert to_levels(np.array([-1000.0, 99000.0]), reading).tolist() == [0, 65535]


def test_files_of_several_depths_share_one_reported_mapping():
    _, notes = choose(CT, replace(CT, bits=16, values=(0.0, 65535.0 - 1024)))
    assert notes[1] == "files of 12 and 16 bits: equal values are equal levels in all of them"


@pytest.mark.parametrize(("modality", "expected"), [("DX", "dicom"), ("MG", "dicom"), ("CT", ""), ("MR", "")])
def test_radiographs_that_all_declare_a_window_are_mapped_by_it(modality, expected):
    shown = replace(CT, modality=modality, has_window=True)
    assert choose(shown, shown)[0].window == expected
    assert choose(shown, replace(shown, has_window=False))[0].window == ""


def test_a_file_without_the_declared_window_is_named():
    with pytest.raises(DataError, match=r"^1\.dcm: has no window and no VOI LUT"):
        choose(replace(CT, has_window=True), CT, window="dicom")


@pytest.fixture
def ramp(tmp_path):
    """Write three 16-bit files with the values 0 to 999, 1000 to 1999 and 2000 to 2999."""
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.fromarray(np.arange(1000 * number, 1000 * (number + 1), dtype=np.uint16).reshape(40, 25)).save(path)
    return paths


def test_a_stated_range_is_clipped_and_the_images_with_values_outside_are_counted(ramp):
    for intensity in ({"levels": (500, 2500)}, {"window": (1500, 2000)}):
        reading, notes = choose_reading(DatasetCard(intensity={**intensity, "bits": 8}), ramp, [CT] * 3)
        assert notes == (
            "values 500 to 2500 become levels 0 to 255",
            "values outside are clipped: 2 of 3 measured images have some",
        )
        expected = np.rint((np.arange(2000, 3000) - 500) / 2000 * 255).clip(0, 255)
        assert read_image(ramp[2], reading=reading).ravel().tolist() == expected.tolist()


def test_percentiles_are_computed_over_all_values(ramp):
    reading, notes = choose_reading(DatasetCard(intensity={"percentiles": (1, 90)}), ramp, [CT] * 3)
    assert reading.levels == pytest.approx(np.percentile(np.arange(3000), [1, 90]), abs=1)
    assert notes[1] == "values outside are clipped: 2 of 3 measured images have some"


def test_values_without_a_range_in_the_header_are_measured(ramp):
    unknown = replace(CT, values=(float("-inf"), float("inf")), step=0.0)
    reading, notes = choose_reading(DatasetCard(), ramp, [unknown] * 3)
    assert reading.levels == (0.0, 2999.0)
    assert "0 of 3" in notes[1]


@pytest.mark.parametrize("intensity", [{"levels": (5, 5)}, {"levels": (1, float("nan"))}, {"percentiles": (90, 10)}])
def test_an_invalid_range_is_refused(ramp, intensity):
    with pytest.raises(DataError, match="intensity"):
        choose_reading(DatasetCard(intensity=intensity), ramp, [CT] * 3)
