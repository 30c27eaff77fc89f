"""Selection from a pool of images: planted outliers, constant memory, order, determinism, the saved list."""

from __future__ import annotations

import ast
import json
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small_network import SIZE, small_model
from torch import Tensor

from qvggt.calib.frame_features import STATISTICS, SequenceFeatures
from qvggt.calib.selection import (
    Record,
    Selection,
    SelectionConfig,
    load_selection,
    measure_pool,
    save_selection,
    select_records,
)
from qvggt.data.synthetic.render import render
from qvggt.data.synthetic.scene import SceneConfig, sample_scene
from qvggt.errors import QvggtError
from qvggt.hub.loading import load_model
from qvggt.models.network import Network

FRAMES = 3
CONFIG = SelectionConfig(clusters=3, per_cluster=2)
Item = tuple[str, str, Tensor]


def select_pool(
    model: Network,
    pool: Iterable[tuple[str, str, torch.Tensor]],
    config: SelectionConfig = CONFIG,
    *,
    total: int | None = None,
    progress: bool = True,
) -> Selection:
    return select_records(measure_pool(model, pool, config.deep_rounds, total=total, progress=progress), config)


def scene(seed: int, size: int = SIZE, frames: int = FRAMES) -> Tensor:
    config = SceneConfig(height=size, width=size, frames=frames)
    images = render(sample_scene(config, seed), config).images
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def pool() -> list[Item]:
    blank = [(f"bad/{i}", "synthetic", torch.full((FRAMES, 3, SIZE, SIZE), i / 2)) for i in range(3)]
    return [*((f"good/{i:02}", "synthetic", scene(i)) for i in range(24)), *blank]


@pytest.fixture(scope="module")
def records(pool: list[Item]) -> list[Record]:
    return measure_pool(small_model(), pool, progress=False)


def invented(count: int, frames: int = 4, category: str = "a", seed: int = 0) -> list[Record]:
    """Records with random numbers."""
    rng = np.random.default_rng(seed)
    layers = ("frame", "global")
    return [
        Record(
            f"{category}/{i:03}",
            category,
            SequenceFeatures(layers, rng.normal(size=(2, len(STATISTICS))), rng.uniform(-1, 1, frames - 1)),
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("frames", [4, 8])
def test_planted_outliers_are_rejected_and_good_ones_stay(frames: int) -> None:
    """On the trained tiny model; random weights tell blank frames from scenes, but not noise."""
    scenes = [scene(i, 70, frames) for i in range(32)]
    draw = torch.Generator().manual_seed(0)
    strangers = [torch.full_like(scenes[0], level) for level in (0.0, 1.0, 0.5)]
    strangers += [torch.rand(scenes[0].shape, generator=draw) for _ in range(3)]
    strangers += [torch.stack([scene(100 + 8 * i + f, 70, frames)[f] for f in range(frames)]) for i in range(3)]
    pool = [(f"good/{i:02}", "synthetic", images) for i, images in enumerate(scenes)]
    pool += [(f"bad/{i}", "synthetic", images) for i, images in enumerate(strangers)]
    selection = select_pool(load_model("tiny", heads=("camera",)), pool, CONFIG, progress=False)
    assert {f"bad/{i}" for i in range(len(strangers))} <= set(selection.rejected)
    assert len(selection.rejected) <= len(strangers) + 3
    assert len(selection.chosen) == CONFIG.size
    assert not set(selection.chosen) & set(selection.rejected)


def test_every_sequence_has_a_reason(records: list[Record]) -> None:
    selection = select_records(records, CONFIG)
    assert [s.key for s in selection.sequences] == sorted(r.key for r in records)
    for entry in selection.sequences:
        if entry.status == "rejected":
            assert entry.violation is not None
            assert entry.violation.value is not None
            assert entry.violation.low is not None
            assert entry.violation.high is not None
            assert not entry.violation.low <= entry.violation.value <= entry.violation.high
            assert entry.reason.startswith(
                f"noise: {entry.violation.statistic} of the input of {entry.violation.layer} is"
            )
            assert entry.cluster is None
        else:
            assert f"cluster {entry.cluster}" in entry.reason
            assert entry.distance is not None
            assert entry.violation is None
        assert len(entry.similarity) == FRAMES - 1


def test_one_sequence_is_alive_at_a_time(records: list[Record]) -> None:
    """The images of a sequence are gone before the next is asked for, and nothing of the network's is kept."""
    alive: list[weakref.ref[Tensor]] = []
    model = small_model()
    model.aggregator.register_forward_hook(
        lambda _module, _inputs, kept: alive.extend(weakref.ref(v) for v in kept.values())
    )

    def watched() -> Iterator[Item]:
        for number in range(4):
            assert [ref() for ref in alive if ref() is not None] == []
            images = torch.rand(FRAMES, 3, SIZE, SIZE)
            alive.append(weakref.ref(images))
            item = (str(number), "a", images)
            del images
            yield item
            del item

    found = measure_pool(model, watched(), progress=False)
    assert len(alive) == 4 * (1 + 4)
    assert [ref() for ref in alive if ref() is not None] == []
    numbers = [record.features.statistics.nbytes + record.features.similarity.nbytes for record in found]
    assert max(numbers) <= 8 * (8 * len(STATISTICS) + FRAMES - 1)


def test_the_order_of_the_pool_does_not_matter(pool: list[Item], records: list[Record]) -> None:
    expected = select_records(records, CONFIG)
    order = np.random.default_rng(0).permutation(len(pool))
    again = select_pool(small_model(), (pool[i] for i in order), CONFIG, total=len(pool), progress=False)
    assert again == expected
    assert again.sha256 == expected.sha256


def test_the_order_of_later_frames_does_not_matter() -> None:
    records = invented(20)
    turned = invented(20)
    rng = np.random.default_rng(1)
    for record in turned:
        rng.shuffle(record.features.similarity)
    assert select_records(turned, CONFIG).chosen == select_records(records, CONFIG).chosen


def test_seeded() -> None:
    records = invented(60)
    config = SelectionConfig(pick="random", seed=1)
    assert select_records(records, config) == select_records(records, config)
    assert select_records(records, config).chosen != select_records(records, SelectionConfig(pick="random")).chosen


def test_a_rejected_sequence_is_never_chosen_again() -> None:
    """Not even to fill up; the published code ignores its filter."""
    records = invented(12)
    records[3].features.statistics[1, 1] = 1e3
    selection = select_records(records, SelectionConfig(clusters=4, per_cluster=4))
    assert selection.rejected == ("a/003",)
    assert len(selection.chosen) == 11


def test_without_fences_only_what_is_no_number_is_rejected() -> None:
    records = invented(12)
    records[3].features.statistics[1, 1] = 1e3
    records[4].features.similarity[0] = np.nan
    selection = select_records(records, SelectionConfig(false_alarm=0.0))
    assert selection.rejected == ("a/004",)
    json.dumps(selection.to_dict(), allow_nan=False)


def test_a_broken_sequence_does_not_break_the_pool(pool: list[Item]) -> None:
    broken = ("bad/nan", "synthetic", torch.full((FRAMES, 3, SIZE, SIZE), float("nan")))
    selection = select_pool(small_model(), [*pool[:10], broken], CONFIG, progress=False)
    assert "bad/nan" in selection.rejected
    assert "no finite number" in next(s.reason for s in selection.sequences if s.key == "bad/nan")


def test_deficits_are_filled(records: list[Record]) -> None:
    """One far point is a cluster of its own and cannot give two."""
    records = invented(20)
    records[0].features.similarity[:] = 40.0
    selection = select_records(records, SelectionConfig(clusters=2, per_cluster=5))
    reasons = {s.key: s.reason for s in selection.sequences}
    assert len(selection.chosen) == 10
    assert "a/000" in selection.chosen
    assert sum("in place of" in reason for reason in reasons.values()) == 4


def test_what_a_user_can_get_wrong(pool: list[Item]) -> None:
    model = small_model()
    with pytest.raises(QvggtError, match="the pool is empty"):
        select_pool(model, [], progress=False)
    with pytest.raises(QvggtError, match="good/00 is twice in the pool"):
        select_pool(model, [pool[0], pool[0]], progress=False)
    with pytest.raises(QvggtError, match=r"good/01 has 2 frames and good/00 3, expected the same"):
        select_pool(model, [pool[0], (pool[1][0], "synthetic", pool[1][2][:2])], progress=False)
    nothing = [("x", "a", torch.full((2, 3, SIZE, SIZE), float("nan")))]
    with pytest.raises(QvggtError, match="none of the 1 sequences of the pool gave finite"):
        select_pool(model, nothing, progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clusters": 0}, "clusters 0, expected at least 1"),
        ({"pick": "best"}, "expected one of spread, nearest, random"),
        ({"false_alarm": 1.0}, "false_alarm"),
        ({"class_mode": "six"}, "expected one of apple, five, more, all"),
        ({"min_judges": 2}, "at least 3"),
    ],
)
def test_config_is_checked(changes: dict[str, object], message: str) -> None:
    with pytest.raises(QvggtError, match=message):
        SelectionConfig(**changes)  # type: ignore[arg-type]


def test_json_round_trip(tmp_path: Path, records: list[Record]) -> None:
    selection = select_records(records, CONFIG)
    save_selection(tmp_path / "set.json", selection)
    assert load_selection(tmp_path / "set.json") == selection
    assert [p.name for p in tmp_path.iterdir()] == ["set.json"]
    assert json.loads((tmp_path / "set.json").read_text())["chosen"] == list(selection.chosen)
    assert str(CONFIG.size) in selection.summary()


def edited(selection: Selection, **changes: object) -> str:
    return json.dumps({**selection.to_dict(), **changes})


def test_a_changed_list_is_refused(tmp_path: Path) -> None:
    selection = select_records(invented(12), CONFIG)
    path = tmp_path / "set.json"
    values = selection.to_dict()
    values["sequences"][0]["reason"] = "because"
    cases = {
        json.dumps(values): "does not match its sha256",
        edited(selection, chosen=["a/000"]): "does not match its sha256",
        edited(selection, format=2): "format: expected 1, got int '2'",
        edited(selection, sequences=[{"key": "a"}]): r"sequences\[0\].category: expected a string, got nothing",
        edited(selection, config={"size": 3}): "unknown key 'config.size'",
        edited(selection)[:-9]: "is no JSON",
        "[]": "expected an object",
    }
    for text, message in cases.items():
        path.write_text(text)
        with pytest.raises(QvggtError, match=message) as caught:
            load_selection(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(QvggtError, match="cannot be read"):
        load_selection(tmp_path / "missing.json")


def test_scikit_learn_and_scipy_are_imported_when_needed() -> None:
    import qvggt.calib.selection as place

    for file in Path(place.__file__).parent.glob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"sklearn", "scipy", "threadpoolctl"}, file
