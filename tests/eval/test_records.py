"""Record files: exact round trips, resume under the same configuration only, what a kill or an editor leaves."""

from __future__ import annotations

import contextlib
import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qvggt import QvggtError
from qvggt.eval.depth import DepthErrors
from qvggt.eval.merging import merge_records, shard_of
from qvggt.eval.noise import Noise
from qvggt.eval.points import PointErrors
from qvggt.eval.pose import PoseErrors
from qvggt.eval.records import RecordWriter, config_sha256, read_records, record_from_json, record_to_json
from qvggt.eval.result import SequenceRecord

KEYS = [f"{category}/{i}" for category in "ab" for i in range(3)]


def made(key, seed=0):
    rng = np.random.default_rng([seed, KEYS.index(key)])
    pose = PoseErrors(rng.uniform(0, 40, 6), np.append(rng.uniform(0, 90, 5), 6e7))
    return SequenceRecord(
        key=key,
        category=key[0],
        pose=pose,
        depth=DepthErrors(float(rng.random()), math.nan, 1.5, 7) if key[-1] != "1" else None,
        noise={"depth": Noise(1 / 3, math.inf, math.inf, math.inf)} if seed else {},
        seconds=0.1,
        points={"head": PointErrors(*rng.random(9), 3, 4)},
        timings=(0.1, 0.3),
        parity={1: {"depth": Noise(*rng.random(5))}} if seed > 1 else {},
    )


def row(key):
    return tuple(made(key, seed) for seed in range(3))


def header(shard=(1, 1), **identity):
    identity = {"frames": "x", **identity}
    return {
        "config_sha256": config_sha256(identity),
        "identity": identity,
        "config": {},
        "candidates": [{"label": f"c{i}", "bytes": i} for i in range(3)],
        "sequences": [{"key": key, "category": key[0]} for key in KEYS],
        "frame_list": {"sha256": "f"},
        "notes": [],
        "versions": {},
        "shard": list(shard),
    }


def write(path, keys, **more):
    writer = RecordWriter(path, header(**more))
    for key in keys:
        writer.append(row(key))
    return path


def same(one, other):
    """NaN equals NaN; arrays to the last bit."""
    return json.dumps(record_to_json(one)) == json.dumps(record_to_json(other))


def test_records_read_back_exactly(tmp_path):
    found = read_records(write(tmp_path / "r.jsonl", KEYS))
    assert list(found.rows) == KEYS
    for key in KEYS:
        assert all(same(a, b) for a, b in zip(found.rows[key], row(key), strict=True))
    assert np.array_equal(found.rows[KEYS[0]][0].pose.rotation_deg, made(KEYS[0]).pose.rotation_deg)
    assert found.rows[KEYS[0]][0].depth.pixels == 7
    assert all(json.loads(text, parse_constant=pytest.fail) for text in (tmp_path / "r.jsonl").read_text().splitlines())


def test_a_run_goes_on_where_it_stopped(tmp_path):
    path = write(tmp_path / "new" / "r.jsonl", KEYS[:2])
    writer = RecordWriter(path, header())
    assert list(writer.done) == KEYS[:2]
    for key in KEYS[2:]:
        writer.append(row(key))
    assert path.read_bytes() == write(tmp_path / "whole.jsonl", KEYS).read_bytes()


@pytest.mark.parametrize("content", [b"precious", b"\x00\x01\nprecious", b"{}", b'{"a": 1}\n{"b"'])
def test_another_file_given_by_mistake_is_left_alone(tmp_path, content):
    path = tmp_path / "r.jsonl"
    path.write_bytes(content)
    with pytest.raises(QvggtError):
        RecordWriter(path, header())
    assert path.read_bytes() == content


@pytest.mark.parametrize("cut", [1, 40, 400])
def test_a_line_cut_by_a_kill_is_dropped(tmp_path, cut):
    path = write(tmp_path / "r.jsonl", KEYS[:3])
    path.write_bytes(path.read_bytes()[:-cut])
    assert list(read_records(path).rows) == KEYS[:2]
    writer = RecordWriter(path, header())
    assert list(writer.done) == KEYS[:2]
    writer.append(row(KEYS[2]))
    assert path.read_bytes() == write(tmp_path / "whole.jsonl", KEYS[:3]).read_bytes()


def test_a_header_cut_by_a_kill_starts_anew(tmp_path):
    path = write(tmp_path / "r.jsonl", [])
    whole = path.read_bytes()
    for length in (0, 5, 30):
        path.write_bytes(whole[:length])
        write(path, [])
        assert path.read_bytes() == whole


def test_another_configuration_is_refused_and_named(tmp_path):
    path = write(tmp_path / "r.jsonl", KEYS[:1])
    before = path.read_bytes()
    with pytest.raises(QvggtError, match=r"another configuration \(differs in frames, images\)"):
        RecordWriter(path, header(frames="y", images=518))
    with pytest.raises(QvggtError, match=r"another configuration \(shard was 1/1, is 2/3\)"):
        RecordWriter(path, header(shard=(2, 3)))
    assert path.read_bytes() == before


def test_a_place_that_refuses(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(QvggtError, match="cannot be written"):
        RecordWriter(tmp_path / "file" / "r.jsonl", header())
    with pytest.raises(QvggtError, match="cannot be written"):
        RecordWriter(tmp_path, header())


def test_what_is_no_record_file(tmp_path):
    path = write(tmp_path / "r.jsonl", KEYS[:2])
    lines = path.read_text().splitlines()
    cases = {
        "": "expected the records of qvggt",
        "[]\n": "line 1: expected a JSON object",
        "{}\n": "expected the records of qvggt",
        '{"qvggt_eval": 1}\n': "was written by an older qvggt; delete it",
        '{"qvggt_journal": 99}\n': "expected the records of qvggt",
        '{"qvggt_journal": 2, "kind": "selection"}\n': "expected the records of qvggt",
        '{"qvggt_journal": 2, "kind": "records"}\n': "expected the header",
        '{"qvggt_journal": 2, "kind": "records", "identity": {}, "about": {}}\n': "expected the header",
        "\x00\n": "line 1: expected JSON",
        f"{lines[0]}\n{lines[1][:50]}\n{lines[2]}\n": "line 2: expected JSON",
        f'{lines[0]}\n{{"sequence": "a/0"}}\n': "line 2: expected a key and a value",
        f'{lines[0]}\n["a/0", 3]\n': "'a/0': expected the record of a sequence",
        f'{lines[0]}\n["a/0", [{{}}]]\n': "'a/0': expected the record of a sequence",
        f'{lines[0]}\n["z/9", []]\n': "'z/9'",
        f'{lines[0]}\n["a/0", []]\n': "0 candidates",
    }
    for content, message in cases.items():
        path.write_text(content)
        with pytest.raises(QvggtError, match=message) as caught:
            read_records(path)
        assert str(path) in str(caught.value)
    with pytest.raises(QvggtError, match="cannot be read"):
        read_records(tmp_path / "none.jsonl")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_is_one_error_or_harmless(tmp_path, data):
    """Any byte of the file changed, or any value of a record replaced."""
    path, intact = tmp_path / "damaged.jsonl", tmp_path / "r.jsonl"
    content = (intact if intact.exists() else write(intact, KEYS[:2])).read_bytes()
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(content) - 1))
        path.write_bytes(content[:at] + data.draw(st.binary(max_size=3)) + content[at + 1 :])
    else:
        lines = content.decode().splitlines()
        index = data.draw(st.integers(0, 2))
        whole = json.loads(lines[index])
        entry = whole if index == 0 else whole[1][0]
        entry = data.draw(st.sampled_from([entry, *(v for v in entry.values() if isinstance(v, dict) and v)]))
        key = data.draw(st.sampled_from(sorted(entry)))
        entry[key] = data.draw(st.sampled_from([None, 3, "x", [], {}, [1], [{}], [[1, 2]], {"a": 1}]))
        lines[index] = json.dumps(whole)
        path.write_text("\n".join(lines) + "\n")
    with contextlib.suppress(QvggtError):
        read_records(path)


def test_pose_errors_must_pair():
    data = record_to_json(made(KEYS[0]))
    with pytest.raises(ValueError, match="different lengths"):
        record_from_json({**data, "rotation_deg": [1.0]}, "a/0", "a")


def test_shards_partition():
    assert sorted(i for k in range(1, 5) for i in shard_of(11, (k, 4))) == list(range(11))


def test_merged_shards_equal_the_whole(tmp_path):
    whole_header, whole = merge_records([write(tmp_path / "whole.jsonl", KEYS)])
    paths = []
    for k in (1, 2):
        keys = [KEYS[i] for i in shard_of(len(KEYS), (k, 2))]
        paths.append(write(tmp_path / f"{k}.jsonl", keys, shard=(k, 2)))
    found_header, found = merge_records(paths[::-1])
    assert [[r.key for r in result.records] for result in found] == [KEYS] * 3
    for one, other in zip(whole, found, strict=True):
        assert (one.label, one.facts) == (other.label, other.facts)
        assert all(same(a, b) for a, b in zip(one.records, other.records, strict=True))
    assert found_header["frame_list"] == whole_header["frame_list"]


def test_extras_come_back_and_files_stay_where_they_are(tmp_path):
    path = write(tmp_path / "deep" / "r.jsonl", KEYS)
    writer = RecordWriter(path, header())
    writer.append_extra("worst", [{"sequence": "a/0", "values": [3, 2], "file": "s/a.npz"}])
    writer.append_extra("memory", [{"peak_rss": 5, "rss_before": 2, "device": None}, None, None])
    found, results = merge_records([path])
    assert found["worst"] == [{"sequence": "a/0", "values": [3, 2], "file": str(tmp_path / "deep" / "s" / "a.npz")}]
    assert results[0].memory.peak_rss == 5
    assert results[1].memory is None
    writer = RecordWriter(path, header())
    assert list(writer.done) == KEYS


def test_merges_that_cannot_be(tmp_path):
    one = write(tmp_path / "1.jsonl", KEYS[:4], shard=(1, 2))
    with pytest.raises(QvggtError, match="2 of 6 sequences are in no file, first b/1"):
        merge_records([one])
    with pytest.raises(QvggtError, match=r"a/0 is in .*1.jsonl too; give every shard once"):
        merge_records([one, write(tmp_path / "2.jsonl", KEYS, shard=(2, 2))])
    with pytest.raises(QvggtError, match=r"another configuration than .*1.jsonl \(differs in frames\)"):
        merge_records([one, write(tmp_path / "3.jsonl", KEYS[4:], frames="y")])
    with pytest.raises(QvggtError, match="at least one record file"):
        merge_records([])
