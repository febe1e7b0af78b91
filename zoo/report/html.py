"""Render a template to one self-contained HTML page that requests nothing."""

from __future__ import annotations

import base64
import hashlib
import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.data.contact_sheet import Thumbnail, to_image
from zoo.errors import UsageError, clean
from zoo.system.files import written_whole

if TYPE_CHECKING:
    from jinja2 import Environment

STYLES = ("page.css", "figure-colors.css", "figures.css", "figure-page.css")  # of zoo/report/templates
QUALITY = 88  # JPEG; a thumbnail takes 4 to 9 kB, as PNG 15 to 50
QUALITIES = (QUALITY, 75, 60, 45, 30)  # the first that is small enough
MAX_PICTURE_BYTES = 9000  # of a small picture as a `data:` URI


def render_page(template: str, script: str = "", **values: Any) -> str:
    """Render a template of zoo/report/templates; values are escaped and their control characters made visible.

    The content security policy forbids loading and sending anything; the style sheet, and the script if a template is
    named, are allowed by their hashes.
    """
    environment = open_templates()
    style = render_style()
    code = environment.get_template(script).render() if script else ""
    hashes = {"style_hash": content_hash(style), "script_hash": content_hash(code)}
    page = environment.get_template(template).render(style=style, script=code, **hashes, **values)
    return page + "\n"


def render_style() -> str:
    """The style sheet of all pages."""
    return "\n".join(open_templates().get_template(name).render() for name in STYLES)


@cache
def open_templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    def show(value: Any) -> Any:
        return clean(value) if isinstance(value, str) and not hasattr(value, "__html__") else value

    return Environment(
        loader=PackageLoader("zoo.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=show,
    )


def content_hash(text: str) -> str:
    """The hash by which a content-security policy allows an inline style sheet or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def write_page(page: str, path: Path) -> None:
    try:
        with written_whole(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", fix="name a file that can be written") from error


def picture(thumbnail: Thumbnail, intensity: tuple[float, float], quality: int = QUALITY) -> str:
    """A thumbnail as a `data:` URI. `intensity`: the 16-bit levels shown as black and white."""
    stream = io.BytesIO()
    to_image(thumbnail, intensity).save(stream, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def small_picture(thumbnail: Thumbnail, intensity: tuple[float, float]) -> str:
    """A thumbnail as a `data:` URI, at the best quality that fits `MAX_PICTURE_BYTES`."""
    uris = (picture(thumbnail, intensity, quality) for quality in QUALITIES)
    uri = next(uris)
    while len(uri) > MAX_PICTURE_BYTES and (smaller := next(uris, "")):
        uri = smaller
    return uri
