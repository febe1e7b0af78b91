"""A contact sheet contains every thumbnail with its label and is reproducible to the byte."""

import numpy as np
import pytest
from PIL import Image

from zoo.data.contact_sheet import CAPTION, MARGIN, THUMBNAIL_SIDE, Thumbnail, draw_contact_sheet
from zoo.errors import UsageError


def plain(level, label="a", dtype=np.uint8, shape=(20, 20)):
    return Thumbnail(pixels=np.full(shape, level, dtype), label=label)


def cell(sheet, row, column):
    """The pixels of one thumbnail."""
    top, left = MARGIN + row * (THUMBNAIL_SIDE + CAPTION + MARGIN), MARGIN + column * (THUMBNAIL_SIDE + MARGIN)
    return np.asarray(sheet)[top : top + THUMBNAIL_SIDE, left : left + THUMBNAIL_SIDE]


def test_thumbnails_are_in_rows_of_five_in_order(tmp_path):
    path = draw_contact_sheet([plain(20 * number) for number in range(7)], (0, 255), tmp_path / "sheet.png")
    sheet = Image.open(path)
    assert sheet.size == (5 * (THUMBNAIL_SIDE + MARGIN) + MARGIN, 2 * (THUMBNAIL_SIDE + CAPTION + MARGIN) + MARGIN)
    for number in range(7):
        assert (cell(sheet, *divmod(number, 5)) == 20 * number).all()


def test_16_bits_are_displayed_through_the_given_intensity(tmp_path):
    levels = [1000, 2000, 3000, 60000]
    thumbnails = [plain(level, dtype=np.uint16) for level in levels]
    sheet = Image.open(draw_contact_sheet(thumbnails, (1000, 3000), tmp_path / "sheet.png"))
    assert [int(cell(sheet, 0, column)[0, 0, 0]) for column in range(4)] == [0, 128, 255, 255]


def test_the_same_images_give_the_same_bytes_and_another_label_gives_others(tmp_path):
    first = draw_contact_sheet([plain(9, "mass")], (0, 255), tmp_path / "a.png").read_bytes()
    again = draw_contact_sheet([plain(9, "mass")], (0, 255), tmp_path / "b.png").read_bytes()
    other = draw_contact_sheet([plain(9, "fluid")], (0, 255), tmp_path / "c.png").read_bytes()
    assert first == again != other


def test_any_label_fits_below_its_image(tmp_path):
    long, strange = plain(0, "x" * 3000), plain(0, "\x1b[31m\N{GRINNING FACE}\N{RIGHT-TO-LEFT OVERRIDE}")
    sheet = Image.open(draw_contact_sheet([long, strange], (0, 255), tmp_path / "sheet.png"))
    captions = np.asarray(sheet)[MARGIN + THUMBNAIL_SIDE : MARGIN + THUMBNAIL_SIDE + CAPTION]
    assert (
        captions[:, MARGIN + THUMBNAIL_SIDE : MARGIN + THUMBNAIL_SIDE + MARGIN // 2] == 255
    ).all()  # nothing between the two


def test_a_sheet_that_cannot_be_written_is_an_error_naming_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--sheet .*sheet\.png"):
        draw_contact_sheet([plain(0)], (0, 255), tmp_path / "file" / "sheet.png")
