"""External data of untrusted ONNX files: what is allowed and what is not."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from qvggt import QvggtError
from qvggt.engines.external_data import open_onnx


def external(name, location, offset=None, length=16):
    tensor = TensorProto(name=name, dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return tensor


def write(path, initializers=(), nodes=None):
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    nodes = nodes or [helper.make_node("Identity", [initializers[0].name], ["y"])]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(helper.make_model(helper.make_graph(nodes, "g", [], [y], list(initializers))).SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "m.data").write_bytes(bytes(64))
    (tmp_path / "secret").write_bytes(bytes(64))
    return folder


def test_data_beside_the_model_is_found_once(folder):
    model = write(folder / "m.onnx", [external("a", "m.data"), external("b", "m.data", 16, 48)])
    assert open_onnx(model).data == (folder / "m.data",)


def test_data_in_a_sub_folder_is_allowed(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "w").write_bytes(bytes(16))
    assert open_onnx(write(folder / "m.onnx", [external("a", "sub/w")])).data == (folder / "sub" / "w",)


def test_inline_weights_need_no_file(folder):
    model = write(folder / "m.onnx", [numpy_helper.from_array(np.zeros(4, np.float32), "a")])
    opened = open_onnx(model)
    assert opened.data == ()
    assert len(opened.model.graph.node) == 1


@pytest.mark.parametrize(
    "location",
    ["../secret", "sub/../../secret", "/etc/passwd", "", "C:\\x", "..\\secret", "\\\\host\\x", "./../secret"],
)
def test_escaping_locations_are_refused(folder, location):
    model = write(folder / "m.onnx", [external("a", location)])
    with pytest.raises(QvggtError, match=r"tensor a: external data .* a relative path inside") as caught:
        open_onnx(model)
    assert "\n" not in str(caught.value)


def test_an_absolute_location_of_the_right_file_is_refused_too(folder):
    with pytest.raises(QvggtError, match="expected a relative path"):
        open_onnx(write(folder / "m.onnx", [external("a", str(folder / "m.data"))]))


def test_a_link_out_of_the_folder_is_refused(folder):
    (folder / "link").symlink_to(folder.parent / "secret")
    with pytest.raises(QvggtError, match="symbolic link leads out"):
        open_onnx(write(folder / "m.onnx", [external("a", "link")]))
    (folder / "up").symlink_to(folder.parent)
    with pytest.raises(QvggtError, match="symbolic link leads out"):
        open_onnx(write(folder / "m.onnx", [external("a", "up/secret")]))


def test_a_link_inside_the_folder_is_allowed(folder):
    (folder / "link").symlink_to("m.data")
    assert open_onnx(write(folder / "m.onnx", [external("a", "link")])).data == (folder / "m.data",)


def test_the_layout_of_the_hub_cache_is_allowed(tmp_path):
    """snapshots/<commit>/m.onnx and its data are links to files of other names in blobs/."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    write(blobs / "aaa", [external("a", "m.onnx.data")])
    (blobs / "bbb").write_bytes(bytes(16))
    (snapshot / "m.onnx").symlink_to("../../blobs/aaa")
    (snapshot / "m.onnx.data").symlink_to("../../blobs/bbb")
    assert open_onnx(snapshot / "m.onnx").data == (blobs / "bbb",)
    (tmp_path / "secret").write_bytes(bytes(16))
    (snapshot / "m.onnx.data").unlink()
    (snapshot / "m.onnx.data").symlink_to("../../secret")
    with pytest.raises(QvggtError, match="symbolic link leads out"):
        open_onnx(snapshot / "m.onnx")


@pytest.mark.parametrize("place", ["constant", "subgraph", "function"])
def test_hidden_tensors_are_checked(folder, place):
    constant = helper.make_node("Constant", [], ["y"], value=external("a", "../secret"))
    nodes, functions = [constant], []
    if place == "subgraph":
        branch = helper.make_graph([constant], "b", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
        nodes = [helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)]
    if place == "function":
        functions = [helper.make_function("d", "f", [], ["y"], [constant], [helper.make_opsetid("", 21)])]
        nodes = [helper.make_node("f", [], ["z"], domain="d")]
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    model = helper.make_model(helper.make_graph(nodes, "g", [], [z]), functions=functions)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(QvggtError, match=r"tensor a: external data '\.\./secret'"):
        open_onnx(folder / "m.onnx")


def test_missing_and_short_data(folder):
    with pytest.raises(QvggtError, match="'gone': missing; keep the data file beside the model"):
        open_onnx(write(folder / "m.onnx", [external("a", "gone")]))
    with pytest.raises(QvggtError, match=r"expected bytes 60 to 76 of m\.data, which has 64: truncated"):
        open_onnx(write(folder / "m.onnx", [external("a", "m.data", 60)]))
    with pytest.raises(QvggtError, match="truncated"):
        open_onnx(write(folder / "m.onnx", [external("a", "m.data", -4)]))
    with pytest.raises(QvggtError, match="no number"):
        open_onnx(write(folder / "m.onnx", [external("a", "m.data", "x")]))
    os.mkfifo(folder / "pipe")
    with pytest.raises(QvggtError, match="no regular file"):
        open_onnx(write(folder / "m.onnx", [external("a", "pipe")]))


def test_what_is_no_model(folder):
    for name, content, message in (
        ("empty.onnx", b"", "empty, expected an ONNX file"),
        ("text.onnx", b"hello, this is not a model", "truncated or corrupt ONNX|no ONNX graph"),
        ("lfs.onnx", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer, expected an ONNX file"),
        ("page.onnx", b"<!DOCTYPE html><html>", "web page"),
    ):
        (folder / name).write_bytes(content)
        with pytest.raises(QvggtError, match=message):
            open_onnx(folder / name)
    with pytest.raises(QvggtError, match="nothing there"):
        open_onnx(folder / "none.onnx")
    with pytest.raises(QvggtError, match="a directory there"):
        open_onnx(folder)


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 0.999), flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=3))
def test_damaged_files_end_in_one_line(tmp_path_factory, cut, flips):
    folder = tmp_path_factory.mktemp("fuzz")
    model = write(folder / "m.onnx", [numpy_helper.from_array(np.ones(8, np.float32), "a")])
    data = bytearray(model.read_bytes()[: int(cut * model.stat().st_size)])
    for position, value in flips:
        if data:
            data[position % len(data)] = value
    model.write_bytes(data)
    outcome = ""
    try:
        outcome = type(open_onnx(model).model).__name__
    except QvggtError as error:
        outcome = str(error)
    assert "\n" not in outcome
