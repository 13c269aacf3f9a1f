"""The documentation's site hides nothing on a laptop: its widest pages, built without the reference, in Chromium."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
WIDEST = ("index", "distillation", "paper_and_released_code", "scaling")
# Wide tables and code hide behind a scrollbar of their own.
HIDDEN = """() => [document.documentElement, ...document.querySelectorAll("article *")]
  .filter((e) => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX != "visible")
  .map((e) => e.outerHTML.slice(0, 200))"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("furo")
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    shutil.copytree(DOCS / "images", source / "docs/images")
    for name in WIDEST:
        shutil.copy(DOCS / f"{name}.md", source / f"docs/{name}.md")
    # Links to the pages that are left out are warnings.
    subprocess.run([sys.executable, "-m", "sphinx", "-Q", "-c", DOCS, source, built], check=True)
    return built


@pytest.mark.parametrize("name", WIDEST)
def test_nothing_is_hidden(site, browser, name):
    page = browser.new_page()
    page.goto(f"file://{site}/docs/{name}.html")
    for width in (1024, 1280, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        assert not page.evaluate(HIDDEN), width
    page.set_viewport_size({"width": 390, "height": 800})  # of a phone, where a table may scroll but not the page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
