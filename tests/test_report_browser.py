"""The report in a real browser: nothing logged, nothing asked for, nothing beyond the edge."""

import re

import pytest
from browser import CHROMIUM, Browser
from detection_factory import random_case
from report_factory import make_validation, write_run
from test_report import HOSTILE

from vision.report.analysis import Analysis
from vision.report.report import write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
CASES = {
    "three": ["cat", "dog", "owl"],
    "odd names": HOSTILE,
    "1000 classes": [f"class number {i}" for i in range(1000)],
}
FIGURES = """
[...document.querySelectorAll('svg, img')].map(e => {
  const box = e.getBoundingClientRect();
  return [e.getAttribute('aria-label') || e.getAttribute('alt'), box.width, box.height];
})
"""
TOO_WIDE = """
[...document.querySelectorAll('body *')]
  .filter(e => !e.closest('.scroll') && !e.closest('svg'))
  .filter(e => e.getBoundingClientRect().right > window.innerWidth + 0.5)
  .map(e => e.tagName + ' ' + e.textContent.slice(0, 40))
"""


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A report of each case, with a run's history."""
    paths = {}
    for name, names in CASES.items():
        folder = tmp_path_factory.mktemp("report")
        case = random_case(3, num_images=10, num_classes=len(names))
        run = write_run(folder / "run", AP=[0.1, 0.2], AP50=[0.2] * 2, AP75=[0.1] * 2)
        analysis = Analysis(make_validation(folder, names, case))
        paths[name] = write_report(run, analysis, run=run)
    return paths


@pytest.mark.parametrize("name", CASES)
def test_it_opens_without_a_word_or_a_request(browser, pages, name):
    browser.open(pages[name])
    browser.evaluate("document.querySelector('#classes button').click()")
    assert browser.complaints() == []
    assert browser.requests() == []


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_is_wider_than_the_window(browser, pages, name, width):
    browser.open(pages[name], width=width)
    assert browser.evaluate(TOO_WIDE) == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("name", CASES)
def test_every_figure_has_a_size_and_a_text(browser, pages, name):
    browser.open(pages[name], width=400)
    figures = browser.evaluate(FIGURES)
    assert len(figures) > 20
    for text, width, height in figures:
        assert text and 20 < width <= 400 and height > 20, text


def test_the_names_are_text_and_not_markup(browser, pages):
    browser.open(pages["odd names"])
    assert browser.evaluate("document.scripts.length") == 1
    cells = browser.evaluate(
        "[...document.querySelectorAll('#classes tbody td.name bdi')].map(e => e.textContent)"
    )
    assert sorted(cells) == sorted(name.replace("\t", "\\t") for name in HOSTILE)


def test_a_click_sorts_the_classes(browser, pages):
    browser.open(pages["three"])
    column = "[...document.querySelectorAll('#classes tbody tr')].map(r => r.cells[1].innerText)"
    browser.evaluate("document.querySelectorAll('#classes button')[1].click()")
    falling = [int(text) for text in browser.evaluate(column)]
    assert falling == sorted(falling, reverse=True) and len(set(falling)) > 1
    browser.evaluate("document.querySelectorAll('#classes button')[1].click()")
    assert [int(text) for text in browser.evaluate(column)] == falling[::-1]


def test_dark_and_light_have_readable_colours(browser, pages):
    """Text is far from its ground (WCAG's 4.5), in the page and in the drawings."""
    for dark in (False, True):
        browser.open(pages["three"], dark=dark)
        paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        for selector in ("body", "figcaption", "svg text", "a"):
            color = "fill" if "svg" in selector else "color"
            ink = browser.evaluate(
                f"getComputedStyle(document.querySelector('{selector}')).{color}"
            )
            assert contrast(paper, ink) > 4.5, (dark, selector, paper, ink)
        assert (luminance(paper) < 0.1) == dark


def contrast(first: str, second: str) -> float:
    """The contrast ratio of two colours `rgb(r, g, b)`, 1 to 21."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def luminance(color: str) -> float:
    """Relative luminance of `rgb(r, g, b)`."""
    shares = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [s / 12.92 if s <= 0.03928 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return sum(w * s for w, s in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_it_is_whole_without_javascript(browser, pages):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(pages["three"])
        browser.call("DOM.enable")
        root = browser.call("DOM.getDocument")["root"]["nodeId"]
        rows = browser.call("DOM.querySelectorAll", nodeId=root, selector="#classes tbody tr")
        assert len(rows["nodeIds"]) == 3
        buttons = browser.call("DOM.querySelectorAll", nodeId=root, selector="button")
        assert buttons["nodeIds"] == []  # nothing to click that does nothing
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_what_is_forbidden_would_be_seen(browser, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        '<img src="http://127.0.0.1:9/x.png"><script>console.error("no")</script>'
        '<p style="width: 2000px">wide</p>'
    )
    browser.open(page, width=400)
    assert browser.requests() == ["http://127.0.0.1:9/x.png"]
    assert len(browser.complaints()) >= 2
    assert [name[:1] for name in browser.evaluate(TOO_WIDE)] == ["P"]
