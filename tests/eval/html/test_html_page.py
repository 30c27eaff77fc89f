"""The page as text: what it holds, that no data becomes markup, and what happens without the optional parts."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_data import LABELS, report, store

from qvggt.errors import QvggtError
from qvggt.eval.html.document import parse_document, read_document
from qvggt.eval.html.page import page_of_file, render

EVIL = "</script><img src=x onerror=alert(1)>\"'&$\\frac{\ud800\x00"


class Page(HTMLParser):
    """tags, attributes and the text of a page; scripts apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts.append(data)
        else:
            self.text += data


def made(folder: Path, value: dict[str, Any]) -> str:
    return render(parse_document(value, "r.json"), folder)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    store(folder)
    (folder / "r.json").write_text(json.dumps(report()))
    page_of_file(folder / "r.html", folder / "r.json")
    assert sorted(p.name for p in folder.iterdir()) == ["r.html", "r.json", "store"]
    return (folder / "r.html").read_text(encoding="utf-8")


def test_it_shows_every_part(text: str) -> None:
    page = Page(text)
    for words in (
        *LABELS, "83.25 [79.50, 87.50]", "-4.75 [-9.50, -0.25]", "8.00 MB", "500.0 ms", "300.00 MB", "cup", "85.00",
        "34.5 dB", "SQNR of the weights of a linear", "frame_blocks.0.attn.qkv", "cup/one", "frame 12", "-20.00",
        "not measured: Acc (point head)", "points: not measured, no sequence has ground-truth depth", "cd" * 32,
    ):  # fmt: skip
        assert words in page.text, words
    assert '<span class="worse">-4.75' in text
    ids = [facts["id"] for _, facts in page.tags if facts.get("id")]
    assert {"summary", "candidates", "categories", "parity", "size-0", "time-0", "layers-0"} <= set(ids)
    assert len(ids) == len(set(ids))
    assert sum(tag == "svg" for tag, _ in page.tags) == 5
    pictures = [facts for tag, facts in page.tags if tag == "img"]
    assert len(pictures) == 3 * 5 + 1  # frames, truth, two candidates, one distance; the colour scale


def test_it_asks_for_nothing(text: str) -> None:
    assert "://" not in text
    assert len(text) < 300_000
    for tag, facts in Page(text).tags:
        assert tag not in ("iframe", "object", "embed", "base")
        for name in ("src", "href", "xlink:href"):
            assert (facts.get(name) or "#").startswith(("#", "data:")), (tag, facts)
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|WebSocket|sendBeacon", text)
    assert "default-src 'none'" in text


def test_the_points_of_the_viewer(text: str) -> None:
    (data,) = [json.loads(s) for s in Page(text).scripts if s.startswith('{"clouds"')]
    assert [cloud["name"] for cloud in data["clouds"]] == ["ground truth", *LABELS]
    assert [cloud["shown"] for cloud in data["clouds"]] == [False, True, True]
    assert [cloud["count"] + cloud["outside"] for cloud in data["clouds"]] == [500, 500, 500]
    assert all(len(camera) == 15 for cloud in data["clouds"] for camera in cloud["cameras"])


def named(word: str) -> dict[str, Any]:
    """A report that says `word` wherever it can say anything."""
    value = report()
    for candidate in value["candidates"]:
        candidate |= {"scheme": word, "kind": word, "file": word, "sha256": word}
        candidate["categories"] = {word: candidate["categories"]["cup"], "hat": candidate["categories"]["hat"]}
        candidate["summary"][word] = candidate["summary"].pop("abs_rel")
    value["candidates"][1]["label"] = value["parity"][0]["candidate"] = word
    value["candidates"][1]["layers"] |= {"measure": word, "source": word}
    value["candidates"][1]["layers"]["rows"][0]["path"] = word
    value["worst"][0]["sequence"] = word
    value["parity"][0]["outputs"] = {word: value["parity"][0]["outputs"]["depth"]}
    value |= {"notes": [word], "versions": {word: word}, "units": {word: word}, "config_sha256": word}
    value["config"] |= {"dataset": word, "root": word}
    value["metrics"][0] |= {"title": word, "unit": word}
    value["metrics"][1] |= {"name": word, "title": word}
    return value


def test_no_text_becomes_markup(tmp_path: Path) -> None:
    """A page full of hostile names has the elements and attributes of one with harmless names."""
    store(tmp_path)
    hostile = made(tmp_path, named(EVIL))
    hostile.encode("utf-8")

    def skeleton(page: Page) -> list[tuple[str, list[str]]]:
        """Without the insides of charts: axes have other ticks when labels take other room."""
        inner = ("g", "path", "use", "text", "defs", "clippath", "rect", "tspan")
        return [(tag, sorted(facts)) for tag, facts in page.tags if tag not in inner]

    found = Page(hostile)
    assert skeleton(found) == skeleton(Page(made(tmp_path, named("word"))))
    assert not [name for _, facts in found.tags for name in facts if name.startswith("on")]
    assert hostile.count("<script") == hostile.count("</script") == 2  # points, and the viewer
    assert "<img src=x" not in hostile
    assert hostile.count("&lt;img src=x") > 20


def test_without_the_optional_parts(tmp_path: Path) -> None:
    value = report(worst=False)
    value["parity"] = []
    for candidate in value["candidates"]:
        candidate |= {"layers": None, "bytes": None, "latency": None, "memory": None, "categories": {}}
    text = Page(made(tmp_path, value)).text
    assert "no predictions were stored" in text
    assert "no candidate has a table of its layers" in text
    assert text.count("not measured") > 12
    value = {"format": 2, "candidates": [{"label": "alone"}]}
    assert "1 candidate on the same 0 sequences" in Page(made(tmp_path, value)).text


def test_pictures_that_are_missing_are_named(tmp_path: Path) -> None:
    assert "pictures not available: store/one.npz is missing" in made(tmp_path, report())


@pytest.mark.parametrize("dropped", [("gt_depth", "gt_points"), ("c1_depth",), ("c1_points", "c0_points")])
def test_stored_parts_that_are_missing(tmp_path: Path, dropped: tuple[str, ...]) -> None:
    store(tmp_path, **dict.fromkeys(dropped))
    text = made(tmp_path, report())
    assert '"count":0' in text or "not measured" in Page(text).text.split("ground truth")[1]


def test_a_scene_without_ground_truth(tmp_path: Path) -> None:
    store(tmp_path, **dict.fromkeys(("gt_extrinsics", "gt_intrinsics", "gt_depth", "gt_points", "gt_colors")))
    text = made(tmp_path, report())
    (data,) = [json.loads(s) for s in Page(text).scripts if s.startswith('{"clouds"')]
    assert [(cloud["name"], cloud["shown"]) for cloud in data["clouds"]] == [(label, True) for label in LABELS]
    assert sum(tag == "img" for tag, _ in Page(text).tags) == 3 * 4 + 1  # no row of the truth


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((3, 20, 20), np.uint8)}, "images: expected"),
        ({"images": np.zeros((3, 20, 20, 3))}, "images: expected"),
        ({"c1_depth": np.zeros((3, 19, 20), np.float32)}, "c1_depth: expected"),
        ({"c1_colors": np.zeros((4, 3), np.uint8)}, "c1_colors: expected"),
        ({"c1_scale": None}, "c1_scale: expected"),
        ({"c2_extrinsics": np.zeros((3, 3, 4))}, "is not of 2 candidates"),
        ({"frames": np.array([{}, {}, {}], object)}, "cannot be read"),
    ],
)
def test_a_damaged_store_is_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    store(tmp_path, **changes)
    with pytest.raises(QvggtError, match=message) as error:
        made(tmp_path, report())
    assert "\n" not in str(error.value)


def test_a_truncated_store(tmp_path: Path) -> None:
    path = store(tmp_path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(QvggtError, match=r"one\.npz: cannot be read"):
        made(tmp_path, report())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", r"r\.json: expected an object"),
        ('{"format": 1}', "format: expected the format 2"),
        ('{"format": 2}', "candidates: expected at least one candidate"),
        ('{"format": 2, "candidates": [{"label": 3}]}', r"candidates\[0\].label: expected a string, got int '3'"),
        ('{"format": 2, "candidates": 5}', "candidates: expected a list"),
        ('{"format": 2, "candidates": [{"label": "a", "bytes": -1}]}', r"bytes: expected a count"),
        ('{"format": 2, "candidates": [{"label": "a", "bytes": "many"}]}', "bytes: expected an integer or null"),
        ('{"format": 2, "candidates": [{"label": "a", "summary": {"m": {"interval": [1]}}}]}', "expected two numbers"),
    ],
)
def test_what_is_no_report_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(QvggtError, match=message) as error:
        page_of_file(tmp_path / "r.html", path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "r.html").exists()


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(QvggtError, match=r"no\.json: cannot be read"):
        read_document(tmp_path / "no.json")


def test_cameras_that_are_not_finite(tmp_path: Path) -> None:
    store(tmp_path, c1_extrinsics=np.full((3, 3, 4), np.nan), c1_points=np.full((500, 3), np.inf, np.float32))
    (data,) = [json.loads(s) for s in Page(made(tmp_path, report())).scripts if s.startswith('{"clouds"')]
    assert data["clouds"][2]["cameras"] == []
    assert data["clouds"][2]["outside"] == 500
