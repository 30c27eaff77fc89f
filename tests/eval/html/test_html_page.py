"""The page as text: what it holds, that no data becomes markup, and what happens without the optional parts."""

from __future__ import annotations

import base64
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_data import LABELS, SHORT, report, six, store, stored_arrays

from qvggt.errors import QvggtError
from qvggt.eval.html.charts import LABEL, ROOM, pareto, spread
from qvggt.eval.html.cloud import packed
from qvggt.eval.html.document import parse_document, read_document
from qvggt.eval.html.names import short_names
from qvggt.eval.html.page import LIBRARY, page_of_file, render
from qvggt.eval.html.text import asset
from qvggt.eval.html.verdict import headline, verdicts

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
    assert {
        "summary",
        "candidates",
        "categories",
        "own-parity",
        "verdict",
        "legend",
        "size-0",
        "time-0",
        "layers-0",
    } <= set(ids)
    assert len(ids) == len(set(ids))
    assert sum(tag == "svg" for tag, _ in page.tags) == 4
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


def test_the_library_asks_for_nothing_either() -> None:
    """It lies compressed in the page, so the test above does not read it; only where there is something to show."""
    code = asset(LIBRARY)
    assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket|sendBeacon|\beval\(|\bFunction\(", code)
    assert "</script" not in asset("viewer.js")
    assert "MIT" in asset("vendor/three.LICENSE")
    assert len(packed(code.encode())) < 200_000
    assert 'id="library"' not in render(parse_document(report(worst=False), "r"), Path())


def test_the_points_of_the_viewer(text: str) -> None:
    (data,) = [json.loads(s) for s in Page(text).scripts if s.startswith('{"clouds"')]
    assert [cloud["name"] for cloud in data["clouds"]] == ["ground truth", *SHORT]
    assert [cloud["shown"] for cloud in data["clouds"]] == [False, True, True]
    assert [cloud["count"] + cloud["outside"] for cloud in data["clouds"]] == [500, 500, 500]
    assert all(len(camera) == 15 for cloud in data["clouds"] for camera in cloud["cameras"])
    # all points, to a fraction of a pixel, and colours once
    assert [cloud["count"] for cloud in data["clouds"]] == [500, 500, 500]
    steps = [
        np.frombuffer(zlib.decompress(base64.b64decode(cloud["points"])), "<i2").reshape(3, -1).T
        for cloud in data["clouds"]
    ]
    truth = stored_arrays()["gt_points"]
    scale = np.ptp(truth, 0) / np.ptp(steps[0], 0)
    assert np.allclose(scale, scale[0], rtol=1e-2)
    assert np.allclose(steps[0] - np.median(steps[0], 0), (truth - np.median(truth, 0)) / scale[0], atol=2)
    assert np.array_equal(steps[0], steps[1])
    assert len(data["colors"]) == 1


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
    assert hostile.count("<script") == hostile.count("</script") == 3  # points, the library and the viewer
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
    assert [(cloud["name"], cloud["shown"]) for cloud in data["clouds"]] == [(name, True) for name in SHORT]
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


def test_short_names() -> None:
    names = short_names(parse_document(six(), "r").candidates)
    assert names == [
        *SHORT,
        "w8a8-static+ OpenVINO",
        "model ORT",
        "w8a8 ORT 1",
        "w8a8 ORT 2",
    ]


def in_files(value: dict[str, Any]) -> dict[str, Any]:
    """The report with files alone, whose sizes compare."""
    for candidate in value["candidates"]:
        candidate["kind"] = "onnxruntime"
    return value


def test_the_verdict_in_words() -> None:
    document = parse_document(in_files(six()), "r")
    names = ["float", "w4", "ov", "other", "one", "two"]
    found = verdicts(document, names)
    assert [verdict.kind for verdict in found] == ["loses", "loses", "keeps", "keeps", "keeps"]
    assert found[0].words == "has no finite depth abs-rel"
    assert found[0].more == ("worse AUC@30 by 4.75 (95 %: 0.25 to 9.50)",)
    below = (("pose_enc", 29.5), ("depth", 29.5), ("world_points_conf", 29.5))
    assert [verdict.fails for verdict in found] == [(), below, (), (), ()]
    said = headline(document, names, found)
    assert said[0] == "one keeps the accuracy of float at 3.50 MB, 2.3x smaller than float."
    assert said[1] == "other and two keep it too."
    assert "Parity fails for ov: not what it was made from." in said
    assert said[-1] == "Only 3 sequences: the intervals are rough."


def changed(value: dict[str, Any], delta: float | None, interval: list[float] | None) -> dict[str, Any]:
    """A report of two candidates with AUC@30 alone, changed by that."""
    for candidate in value["candidates"]:
        candidate["summary"].pop("abs_rel")
    value["candidates"][1]["summary"]["auc30"] |= {"delta": delta, "delta_interval": interval}
    return value


@pytest.mark.parametrize(
    ("delta", "interval", "words"),
    [
        (-4.75, [-9.5, -0.25], "w4a4 ORT loses 4.75 points of AUC@30 (95 %: 0.25 to 9.50) at 2.50 MB"),
        (-4.75, [-9.5, 0.25], "w4a4 ORT keeps the accuracy of fp32 PyTorch."),
        (4.75, [0.25, 9.5], "w4a4 ORT keeps the accuracy"),
        (-0.001, [-0.002, -0.0005], "w4a4 ORT keeps the accuracy"),  # told from chance, and nothing
        (-0.3, [-0.4, -0.2], "w4a4 ORT keeps the accuracy"),  # of 90 points: too little to matter
        (-4.75, None, "Not decided, as no metric has an interval: w4a4 ORT."),
        (float("nan"), None, "w4a4 ORT has no finite AUC@30"),
    ],
)  # fmt: skip
def test_one_verdict(delta: float, interval: list[float] | None, words: str) -> None:
    document = parse_document(changed(report(), delta, interval), "r")
    assert headline(document, SHORT, verdicts(document, SHORT))[0].startswith(words)


def test_sizes_compare_like_with_like() -> None:
    value = in_files(six())
    for candidate, file in zip(value["candidates"], ("a.pt", "a.onnx", "b.onnx", "c.onnx", "d.pt", "e"), strict=True):
        candidate["file"] = file
    value["candidates"][3] |= {"scheme": "fp32", "bytes": 16_000_000}
    document = parse_document(value, "r")
    assert [document.compression(i) for i in range(6)] == [
        None, (3, 6.4), (3, 16 / 3), None, (0, 8 / 3.5), (0, 8 / 3.5),
    ]  # fmt: skip
    value["candidates"][0]["kind"] = "pytorch"  # a checkpoint in half precision beside files
    document = parse_document(value, "r")
    assert [document.compression(i) for i in range(6)] == [None, (3, 6.4), (3, 16 / 3), None, None, None]


def test_parity_against_the_own_reference_comes_first(tmp_path: Path) -> None:
    value = six()
    value["candidates"][4]["reference"] = {"label": None, "name": "tiny-w8a8", "floor_db": 45.0}
    text = made(tmp_path, value)
    own, others = text.split('id="own-parity"')[1].split('id="parity"')
    assert own.count("<tr>") == 1 + 5
    assert own.count('<span class="worse">29.5 dB') == 3
    assert "not among the candidates; add --model tiny-w8a8" in own
    assert "11 other pairs" in own
    assert others.split("</table>")[0].count("<tr>") == 1 + 11


def test_what_no_other_beats() -> None:
    points = [(1.0, 5.0), (2.0, 7.0), (2.0, 6.0), (3.0, 7.0), (4.0, 9.0), (1.0, 5.0)]
    assert pareto(points, higher=True) == [(1.0, 5.0), (2.0, 7.0), (4.0, 9.0)]
    assert pareto(points, higher=False) == [(1.0, 5.0)]


def test_labels_of_dots_do_not_meet() -> None:
    places = [(0.2, 0.5), (0.2, 0.5), (0.25, 0.51), (0.3, 0.49), (0.9, 0.5), (0.2, 1.0), (0.21, 0.0)]
    moved = spread(places)
    assert [x for x, _ in moved] == [x for x, _ in places]
    assert moved[4] == places[4]
    for i, (x, y) in enumerate(moved):
        assert 0 <= y <= 1
        assert all(abs(x - a) >= LABEL or abs(y - b) >= ROOM for a, b in moved[:i])


def test_charts_follow_the_theme(text: str) -> None:
    svg = text.split('<figure id="size-0">')[1].split("</figure>")[0]
    assert "var(--c1)" in svg
    assert "var(--ink)" in svg
    assert not re.search(r'style="[^"]*#(?!000000)[0-9a-f]{6}', svg)
    assert "w4a4 ORT" in svg
