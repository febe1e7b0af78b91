"""Read HTML pages as tests see them, and run them in a real browser."""

import base64
import hashlib
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NO_BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

VOID = {"meta", "img", "br", "input", "wbr"}


class Page(HTMLParser):
    """The elements and texts of a page; asserts that every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def in_browser(page, script, tmp_path, *flags):
    """What a script leaves in the page's title after the page's own script has run in a real browser."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = page.replace("script-src '", f"script-src 'sha256-{digest}' '", 1)
    page = page.replace("\n</body>", f"<script>{script}</script>\n</body>")
    path = tmp_path / "page.html"
    path.write_text(page, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--proxy-server=127.0.0.1:9", "--dump-dom"]
    done = subprocess.run([*command, *flags, path.as_uri()], capture_output=True, text=True, timeout=120)
    return re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[1]
