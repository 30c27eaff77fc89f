"""The page in a real browser: headless Chromium, driven by Playwright, on a file and without a network."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from page_data import LABELS, report, store
from PIL import Image

from qvggt.eval.html.page import page_of_file

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt install chromium")

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = 120_000  # milliseconds, on a busy machine
EVIL = "<img src=x onerror='document.title=1'>"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The open page; `complaints` has console messages, errors and requests."""
    folder = tmp_path_factory.mktemp("page")
    store(folder)
    value = report()
    value["candidates"][1]["label"] += EVIL
    (folder / "r.json").write_text(json.dumps(value))
    page_of_file(folder / "r.html", folder / "r.json")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = browser.new_page(viewport={"width": 1200, "height": 900})
        tab.set_default_timeout(PATIENCE)
        address = (folder / "r.html").as_uri()
        tab.complaints = []
        tab.on("console", lambda message: tab.complaints.append(message.text))
        tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
        tab.on(
            "request",
            lambda asked: None if asked.url.startswith(("data:", address)) else tab.complaints.append(asked.url),
        )
        tab.goto(address)
        tab.wait_for_function("Number(document.querySelector('.viewer canvas').dataset.drawn) > 0")
        yield tab
        browser.close()


def look(tab: Any) -> np.ndarray:
    """The canvas as int16 [h, w, 3], after the pending frame."""
    tab.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    shot = tab.locator(".viewer canvas").screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), np.int16)


def covered(pixels: np.ndarray) -> float:
    """Share that is no background, below the names and inside the frame."""
    return float((np.abs(pixels[50:-4, 4:-4] - 250).max(-1) > 40).mean())


def test_points_are_drawn_and_turn(tab: Any) -> None:
    start = look(tab)
    half = start.shape[1] // 2
    assert 0.005 < covered(start[:, :half]) < 0.7
    assert 0.005 < covered(start[:, half:]) < 0.7
    box = tab.locator(".viewer canvas").bounding_box()
    tab.mouse.move(box["x"] + 200, box["y"] + 200)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 300, box["y"] + 220, steps=3)
    tab.mouse.up()
    turned = look(tab)
    assert np.abs(turned - start).max() > 40
    tab.mouse.wheel(0, -300)
    assert np.abs(look(tab) - turned).max() > 40
    tab.get_by_role("button", name="reset view").click()
    tab.mouse.move(5, 5)
    assert np.abs(look(tab) - start).max() < 40


def test_candidates_are_switched(tab: Any) -> None:
    drawn = "Number(document.querySelector('.viewer canvas').dataset.drawn)"
    before = tab.evaluate(drawn)
    tab.get_by_label(LABELS[1]).uncheck()
    look(tab)
    one = tab.evaluate(drawn)
    assert 0 < one < before
    tab.get_by_label(LABELS[0]).uncheck()
    assert covered(look(tab)) == 0
    tab.get_by_label("ground truth").check()
    tab.get_by_label("colour by candidate").check()
    tab.get_by_label("side by side").uncheck()
    pixels = look(tab)
    assert (np.abs(pixels - 128).max(-1) < 12).mean() > 0.002  # the grey of the ground truth
    assert tab.title() == "qvggt eval: co3d"
    assert tab.complaints == []
