"""The page in a real browser: headless Chromium, driven by Playwright."""

from __future__ import annotations

import io
import os
import shutil
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from true_runner import shoot

from qvggt.calib.rtn import quantize_rtn_
from qvggt.engines.onnx_runner import OnnxRunner
from qvggt.engines.torch_runner import open_model
from qvggt.errors import QvggtError
from qvggt.eval.demo import page as demo_page
from qvggt.eval.demo.workshop import Choice, Limits, Workshop
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.hub.loading import load_model
from qvggt.quant.scheme import parse_scheme

gradio = pytest.importorskip("gradio", reason="Gradio is not installed: pip install '.[demo]' in the clone")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt install chromium")

FLAGS = [
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]  # fmt: skip
PATIENCE = 120_000  # milliseconds, on a busy machine


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    model, scheme = load_model("tiny"), parse_scheme("w8a8")
    quantize_rtn_(model, scheme)
    export_onnx(model, scheme, ExportConfig(70, 70), path)
    choices = [Choice("float", lambda: open_model("tiny")), Choice("w8a8", lambda: OnnxRunner(path))]
    shop = Workshop(choices, Limits(images=3, megabytes=1))
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(shop.folder / "uploads")
    yield shop
    shop.close()
    if before is None:
        del os.environ["GRADIO_TEMP_DIR"]


@pytest.fixture(scope="module")
def address(workshop: Workshop) -> Iterator[str]:
    page = demo_page.build_page(workshop)
    port = free_port()
    yield demo_page.launch(page, workshop, port=port, wait=False)
    page.close()


@pytest.fixture(scope="module")
def tab(address: str) -> Iterator[Any]:
    """An open page; `outside` has the addresses it asked other hosts for."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = browser.new_page(viewport={"width": 1400, "height": 950})
        tab.set_default_timeout(PATIENCE)
        tab.outside = []

        def note(request: Any) -> None:
            if not request.url.startswith((address, "data:", "blob:")):
                tab.outside.append(request.url)

        tab.on("request", note)
        tab.goto(address)
        tab.wait_for_selector("#go")
        yield tab
        browser.close()


def drop(tab: Any, files: list[Path]) -> None:
    """Upload files and wait until the page lists them."""
    tab.set_input_files("#images input[type=file]", [str(file) for file in files])
    tab.wait_for_function("name => document.querySelector('#images').innerText.includes(name)", arg=files[-1].stem)


def drawn(tab: Any, viewer: str) -> float:
    """Share of the canvas that is neither background nor empty; 0 while there is no background yet."""
    shot = tab.locator(f"{viewer} canvas").screenshot()
    pixels = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), np.int16)[60:-20, 20:-20]  # without the labels
    background = np.round(255 * np.array(demo_page.BACKGROUND[:3]))
    drawn_over = np.abs(pixels - background).max(-1) > 20
    return float(drawn_over.mean()) if drawn_over.mean() < 0.7 else 0.0


@pytest.fixture(scope="module")
def compared(tab: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The page when both networks have reconstructed view0.png to view2.png."""
    drop(tab, shoot(tmp_path_factory.mktemp("photos"), [(140, 140)] * 3).paths)
    tab.click("#go")
    tab.wait_for_selector("#report table")
    return tab


def test_drop_images_compare_and_download(compared: Any, tmp_path: Path) -> None:
    tab = compared
    text = tab.locator("#report").inner_text()
    assert "w8a8 against float" in text
    assert "rotation between cameras" in text
    for viewer in ("#view-a", "#view-b"):
        tab.wait_for_selector(f"{viewer} canvas")
    for _ in range(90):  # three seconds on an idle machine
        if min(drawn(tab, "#view-a"), drawn(tab, "#view-b")) > 0.002:
            break
        tab.wait_for_timeout(500)
    tab.screenshot(path=str(tmp_path / "page.png"))
    assert drawn(tab, "#view-a") > 0.002
    assert drawn(tab, "#view-b") > 0.002
    with tab.expect_download() as download:
        tab.click("#colmap-a")
    download.value.save_as(tmp_path / "c.zip")
    with zipfile.ZipFile(tmp_path / "c.zip") as archive:
        assert "sparse/0/points3D.bin" in archive.namelist()
    with tab.expect_download() as download:
        tab.click("#glb-b")
    download.value.save_as(tmp_path / "b.glb")
    assert (tmp_path / "b.glb").read_bytes()[:4] == b"glTF"
    assert tab.outside == []  # no font, script or beacon of another host


def until(tab: Any, true: Any) -> bool:
    for _ in range(60):
        if true():
            return True
        tab.wait_for_timeout(500)
    return False


@pytest.mark.slow
def test_pictures_cameras_and_confidence_are_linked(compared: Any, workshop: Workshop) -> None:
    """A picture chooses its camera, a camera its picture; the slider acts at once."""
    tab = compared
    chosen = "document.querySelector('#camera input:checked').value"
    picked = "[...document.querySelectorAll('#pictures .thumbnail-item')].findIndex(e => e.matches('.selected'))"

    def shown(times: int) -> bool:
        """Files for the first viewer beside the one that was made: the workshop's tests look into them."""
        return len([*workshop.folder.glob("*/*/float.glb")]) >= times

    tab.locator("#pictures .thumbnail-item").nth(1).click()
    tab.wait_for_function(f"{chosen} === 'view1.png'")
    assert until(tab, lambda: shown(1))
    tab.locator("#camera label", has_text="view2.png").click()
    tab.wait_for_function(f"{picked} === 2")
    assert until(tab, lambda: shown(2))
    before, runs = tab.locator("#report").inner_text(), len(workshop.made)
    slider = tab.locator("#percentile input[type=range]")
    slider.fill("90")
    slider.dispatch_event("pointerup")
    assert until(tab, lambda: tab.locator("#report").inner_text() != before)
    assert len(workshop.made) == runs


def test_an_example_is_taken(tab: Any) -> None:
    tab.reload()
    tab.click("#example-balls")
    tab.locator("#pictures").get_by_text("balls-6.png").wait_for()


def test_a_mistake_is_shown_as_one_line(tab: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tab.reload()
    tab.wait_for_selector("#go")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    drop(tab, [tmp_path / "broken.png"])
    tab.click("#go")
    tab.get_by_text("expected a readable image").wait_for()
    said = tab.locator(".toast-body").inner_text()
    assert "broken.png: expected a readable image" in said
    assert "/" not in said.split("got:")[0]  # the name of the file, and no folder of ours
    assert "Traceback" not in capfd.readouterr().err


def test_only_the_loopback_address_is_served(address: str) -> None:
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    with socket.socket() as probe:
        probe.settimeout(5)
        assert probe.connect_ex(("127.0.0.1", port)) == 0
    other = socket.gethostbyname(socket.gethostname())
    if not other.startswith("127."):
        with socket.socket() as probe:
            probe.settimeout(5)
            assert probe.connect_ex((other, port)) != 0


def test_a_taken_port_is_an_error(workshop: Workshop, address: str) -> None:
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(QvggtError, match=f"port {port}"):
        demo_page.launch(demo_page.build_page(workshop), workshop, port=port, wait=False)


def test_analytics_are_off(workshop: Workshop, address: str) -> None:
    assert demo_page.build_page(workshop).analytics_enabled is False
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
