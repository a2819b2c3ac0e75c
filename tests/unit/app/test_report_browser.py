"""The page as a browser shows it: on light and dark screens, on narrow ones, and on paper."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from recipes import recipe_in

from onnxprune.app.report import collect, render
from onnxprune.app.runner import run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium: apt-get install chromium"),
]

MEASURE = """
const page = frame.contentDocument, root = page.documentElement;
const outside = [...page.querySelectorAll("svg text")].filter(text => {
  const box = text.getBBox(), view = text.ownerSVGElement.viewBox.baseVal;
  return box.x < 0 || box.y < 0 || box.x + box.width > view.width || box.y + box.height > view.height;
});
document.title = JSON.stringify({
  wider: root.scrollWidth - root.clientWidth,
  outside: outside.map(text => text.textContent),
  headings: [...page.querySelectorAll("h2")].filter(h => h.getBoundingClientRect().height > 0).length,
});
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run(recipe_in(folder, "compare.one_shot=true"))
    facts = collect(folder / "work")
    facts["original"]["val_score"] = facts["iterations"][-1]["score"] = 1.0  # as many digits as there can be
    facts["iterations"][-1]["latency_ms"] = 0.00719
    path = folder / "page.html"
    path.write_text(render(facts), "utf-8")
    return path


def browse(folder: Path, address: Path, *options: str) -> str:
    """Open a page; return the browser's standard output."""
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={folder / 'profile'}", *options, address.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def corner(folder: Path, page: Path, scheme: int) -> tuple[int, ...]:
    """Take a picture of the page and return the colour of its corner; scheme 0 is dark, 1 is light."""
    image = pytest.importorskip("PIL.Image")
    place = folder / f"{scheme}.png"
    look = f"--blink-settings=preferredColorScheme={scheme}"
    browse(folder, page, look, "--window-size=1000,2400", f"--screenshot={place}")
    with image.open(place) as picture:
        assert picture.size == (1000, 2400)
        assert len(picture.getcolors(1 << 24)) > 50  # there is something on it
        return tuple(picture.convert("RGB").getpixel((2, 2)))


def test_light_and_dark_screens(page, tmp_path):
    assert min(corner(tmp_path, page, 1)) > 230
    assert max(corner(tmp_path, page, 0)) < 40


@pytest.mark.parametrize("width", [390, 1200])
def test_no_element_is_wider_than_the_page(page, tmp_path, width):
    frame = (
        f'<iframe id="frame" width="{width}" height="900" srcdoc="{html.escape(page.read_text())}"></iframe>'
    )
    outer = f'<!doctype html>{frame}<script>frame.addEventListener("load", () => {{{MEASURE}}})</script>'
    (tmp_path / "outer.html").write_text(outer, "utf-8")
    printed = browse(tmp_path, tmp_path / "outer.html", "--window-size=1400,1000", "--dump-dom")
    title = re.search(r"<title>(.*?)</title>", printed.partition("<iframe")[0])
    assert title, printed[:300]
    found = json.loads(html.unescape(title[1]))
    assert found["wider"] <= 0
    assert found["outside"] == []
    assert found["headings"] >= 6


def test_paper(page, tmp_path):
    place = tmp_path / "page.pdf"
    browse(tmp_path, page, "--no-pdf-header-footer", f"--print-to-pdf={place}")
    assert place.read_bytes().startswith(b"%PDF")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", place.read_bytes())) <= 8
