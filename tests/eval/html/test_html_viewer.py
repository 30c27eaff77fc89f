"""The page in a real browser: headless Chromium, driven by Playwright, on a file and without a network."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from page_data import SHORT, six, store
from PIL import Image

from qvggt.eval.html.page import page_of_file

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt install chromium")

FLAGS = [
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]  # fmt: skip
PATIENCE = 120_000  # milliseconds, on a busy machine
EVIL = "<img src=x onerror='document.title=1'>"
LIGHT, DARK = (250, 250, 250), (14, 16, 19)  # of the view, as page.css has them
SHOWN = ".viewer canvas[data-drawn]:not([data-drawn='0'])"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a page of six candidates with long and hostile names."""
    folder = tmp_path_factory.mktemp("page")
    store(folder, candidates=6)
    (folder / "r.json").write_text(json.dumps(six(EVIL)))
    page_of_file(folder / "r.html", folder / "r.json")
    return (folder / "r.html").as_uri()


def opened(browser: Any, address: str, width: int, touch: bool = False) -> Any:
    """The page with everything unfolded; `complaints` has console messages, errors and requests."""
    tab = browser.new_context(viewport={"width": width, "height": 900}, has_touch=touch).new_page()
    tab.set_default_timeout(PATIENCE)
    tab.complaints = []
    tab.on("console", lambda message: tab.complaints.append(message.text))
    tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
    tab.on(
        "request",
        lambda asked: None if asked.url.startswith(("data:", address)) else tab.complaints.append(asked.url),
    )
    tab.goto(address)
    assert not tab.locator(".viewer canvas").count()  # sequences are folded, and their views not started
    for summary in tab.locator("details > summary").all():
        summary.click()
    tab.wait_for_selector(SHOWN)
    return tab


@pytest.fixture(scope="module")
def wide(browser: Any, address: str) -> Any:
    return opened(browser, address, 1200)


@pytest.fixture(scope="module")
def narrow(browser: Any, address: str) -> Any:
    return opened(browser, address, 400, touch=True)


def look(tab: Any) -> np.ndarray:
    """The view as int16 [h, w, 3], after the pending frame."""
    tab.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    shot = tab.locator(".viewer canvas").screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), np.int16)


def covered(pixels: np.ndarray, background: tuple[int, int, int] = LIGHT) -> float:
    """Share that is no background, below the names and above the hint."""
    return float((np.abs(pixels[50:-40, 4:-4] - background).max(-1) > 40).mean())


def moved(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the points moved between two looks; text may be smoothed in another way."""
    return covered(one - other, (0, 0, 0)) > 0.002


@pytest.mark.parametrize("name", ["narrow", "wide"])
def test_nothing_reaches_over_the_page(name: str, request: pytest.FixtureRequest) -> None:
    """Wide tables scroll inside their boxes, and their first column stays."""
    tab = request.getfixturevalue(name)
    width = 400 if name == "narrow" else 1200
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    boxes = tab.locator(".wide").evaluate_all("boxes => boxes.map(b => b.scrollWidth > b.clientWidth)")
    assert any(boxes)
    box = tab.locator(".wide", has=tab.locator("#candidates"))
    first = box.locator("tbody th").first
    before = first.bounding_box()
    assert box.evaluate("box => { box.scrollLeft = 150; return box.scrollLeft; }") == 150
    assert first.bounding_box() == before
    assert 60 < before["width"] < 0.45 * width
    box.evaluate("box => { box.scrollLeft = 0; }")


@pytest.mark.parametrize("name", ["narrow", "wide"])
def test_it_follows_the_theme(name: str, request: pytest.FixtureRequest) -> None:
    """Light and dark: text, charts and the view."""
    tab = request.getfixturevalue(name)
    tab.locator(".viewer canvas").scroll_into_view_if_needed()
    for scheme, background in (("dark", DARK), ("light", LIGHT)):
        tab.emulate_media(color_scheme=scheme)
        assert 0.005 < covered(look(tab), background) < 0.7
        paper, ink, chart, dot = (
            np.array(re.findall(r"\d+", text)[:3], int).mean()
            for text in tab.evaluate(
                """() => [
                    getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
                    getComputedStyle(document.querySelector("#size-0 text")).fill,
                    getComputedStyle(document.querySelector("#size-0 use[style*='--c1']")).fill,
                ]"""
            )
        )
        for colour in (ink, chart):
            assert abs(colour - paper) > 150, (scheme, colour)
        assert abs(dot - paper) > 70


def test_points_are_drawn_and_turn(wide: Any) -> None:
    start = look(wide)
    half = start.shape[1] // 2
    assert 0.005 < covered(start[:, :half]) < 0.7
    assert 0.005 < covered(start[:, half:]) < 0.7
    assert int(wide.locator(SHOWN).get_attribute("data-drawn")) == 2 * 500  # all of the first and the worst
    box = wide.locator(".viewer canvas").bounding_box()
    wide.mouse.move(box["x"] + 200, box["y"] + 200)
    wide.mouse.down()
    wide.mouse.move(box["x"] + 300, box["y"] + 220, steps=3)
    wide.mouse.up()
    turned = look(wide)
    assert moved(turned, start)
    wide.keyboard.press("ArrowLeft")
    assert moved(look(wide), turned)
    wide.get_by_role("button", name="reset view").click()
    wide.mouse.move(5, 5)
    assert not moved(look(wide), start)


def test_the_wheel_scrolls_the_page_until_the_view_has_the_focus(wide: Any) -> None:
    wide.locator(".viewer").scroll_into_view_if_needed()
    wide.evaluate("scrollBy(0, -200)")
    where, box = wide.evaluate("scrollY"), wide.locator(".viewer canvas").bounding_box()
    wide.mouse.move(box["x"] + 200, box["y"] + 100)
    start = look(wide)
    wide.mouse.wheel(0, 60)
    wide.wait_for_timeout(300)
    assert wide.evaluate("scrollY") == where + 60
    assert not moved(look(wide), start)
    wide.mouse.down()
    wide.mouse.up()
    wide.mouse.wheel(0, -300)
    wide.wait_for_timeout(300)
    assert wide.evaluate("scrollY") == where + 60
    assert moved(look(wide), start)
    wide.keyboard.press("Escape")
    wide.mouse.wheel(0, -60)
    wide.wait_for_timeout(300)
    assert wide.evaluate("scrollY") == where
    wide.get_by_role("button", name="reset view").click()


def swipe(tab: Any) -> None:
    """One finger over the view, 80 pixels up."""
    box = tab.locator(".viewer canvas").bounding_box()
    session, x, y = tab.context.new_cdp_session(tab), box["x"] + 150, box["y"] + 150
    session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    for step in range(1, 9):
        points = [{"x": x + step, "y": y - 10 * step}]
        session.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": points})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    tab.wait_for_timeout(300)


def test_a_finger_scrolls_the_page_until_the_view_is_tapped(narrow: Any) -> None:
    narrow.locator(".viewer canvas").scroll_into_view_if_needed()
    where, start = narrow.evaluate("scrollY"), look(narrow)
    swipe(narrow)
    scrolled = narrow.evaluate("scrollY")
    assert scrolled > where + 30
    assert not moved(look(narrow), start)
    narrow.locator(".viewer canvas").tap(position={"x": 100, "y": 100})
    there = narrow.evaluate("scrollY")
    swipe(narrow)
    assert narrow.evaluate("scrollY") == there
    assert moved(look(narrow), start)
    narrow.locator("#worst").tap()
    assert not narrow.locator(".stage.active").count()
    assert narrow.complaints == []


def test_candidates_are_switched(wide: Any) -> None:
    def drawn() -> int:
        look(wide)
        return int(wide.locator(".viewer canvas").get_attribute("data-drawn"))

    def box(name: str) -> Any:
        return wide.locator(".bar label", has_text=name).first.locator("input")

    first, worst = SHORT[0].split(" ")[0], SHORT[1].split(" ")[0]
    assert drawn() == 1000
    box(worst).uncheck()
    assert drawn() == 500
    box(first).uncheck()
    assert covered(look(wide)) == 0
    box("ground truth").check()
    box("colour by candidate").check()
    box("side by side").uncheck()
    pixels = look(wide)
    assert (np.abs(pixels - 0x75).max(-1) < 12).mean() > 0.002  # the grey of the ground truth
    assert wide.title() == "qvggt eval: co3d"
    assert wide.complaints == []


def test_a_folded_view_gives_its_context_back(wide: Any) -> None:
    summary = wide.locator("details.sequence > summary")
    summary.click()
    wide.wait_for_selector(".viewer canvas", state="detached")
    summary.click()
    wide.wait_for_selector(SHOWN)
    assert wide.locator(".viewer canvas").count() == 1
    assert wide.complaints == []
