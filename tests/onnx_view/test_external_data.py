"""External data of untrusted ONNX files: what is allowed and what is not."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from qvggt import QvggtError
from qvggt.onnx_view.external_data import BITS, described
from qvggt.onnx_view.file import open_onnx


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
    model = write(folder / "m.onnx", [external("a", "m.data"), external("b", "m.data", 16)])
    assert open_onnx(model).data == (folder / "m.data",)


def test_data_in_a_sub_folder_is_allowed(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "w").write_bytes(bytes(16))
    assert open_onnx(write(folder / "m.onnx", [external("a", "sub/w")])).data == (folder / "sub" / "w",)


def test_inline_weights_need_no_file(folder):
    model = write(folder / "m.onnx", [numpy_helper.from_array(np.zeros(4, np.float32), "a")])
    opened = open_onnx(model)
    assert opened.data == ()
    assert len(opened.proto.graph.node) == 1


@pytest.mark.parametrize(
    "location",
    [
        "../secret",
        "sub/../../secret",
        "/etc/passwd",
        "",
        ".",
        "C:\\x",
        "..\\secret",
        "\\\\host\\x",
        "./../secret",
        "m.data\n",
        "m.data\0.txt",
        "*/_ORT_MEM_ADDR_/*",
    ],
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


def test_a_hard_link_out_of_the_folder_is_refused(folder):
    os.link(folder.parent / "secret", folder / "copy")
    with pytest.raises(QvggtError, match="hard link to a file that also lies outside"):
        open_onnx(write(folder / "m.onnx", [external("a", "copy")]))


def test_a_hard_link_inside_the_folder_is_allowed(folder):
    (folder / "sub").mkdir()
    os.link(folder / "m.data", folder / "twin")
    os.link(folder / "m.data", folder / "sub" / "twin")
    assert open_onnx(write(folder / "m.onnx", [external("a", "sub/twin")])).data == (folder / "sub" / "twin",)


def test_a_link_to_a_device_is_refused(folder):
    (folder / "zeros").symlink_to("/dev/zero")
    with pytest.raises(QvggtError, match="symbolic link leads out"):
        open_onnx(write(folder / "m.onnx", [external("a", "zeros")]))


def test_a_location_onnx_runtime_takes_for_memory_is_refused_even_as_a_file(folder):
    (folder / "*" / "_ORT_MEM_ADDR_").mkdir(parents=True)
    (folder / "*" / "_ORT_MEM_ADDR_" / "*").write_bytes(bytes(64))
    with pytest.raises(QvggtError, match="expected a relative path"):
        open_onnx(write(folder / "m.onnx", [external("a", "*/_ORT_MEM_ADDR_/*")]))


def test_a_name_too_long_for_the_system_is_one_short_line(folder):
    with pytest.raises(QvggtError, match=r"cannot be read|missing") as caught:
        open_onnx(write(folder / "m.onnx", [external("a", "x" * 5000)]))
    assert len(str(caught.value)) < 600


def test_tied_weights_share_their_bytes(folder):
    assert open_onnx(write(folder / "m.onnx", [external(n, "m.data", 16) for n in "ab"])).data == (folder / "m.data",)


@pytest.mark.parametrize("offset", [4, 15, 17, 31])
def test_ranges_that_cut_each_other_are_refused(folder, offset):
    tensors = [external("a", "m.data", 16), external("b", "m.data", offset)]
    for pair in (tensors, tensors[::-1]):
        with pytest.raises(QvggtError, match=r"bytes \d+ to \d+ of m\.data cut those of tensor [ab]"):
            open_onnx(write(folder / "m.onnx", pair))


def test_an_empty_tensor_cuts_nothing(folder):
    empty = external("b", "m.data", 20, 0)
    empty.dims[0] = 0
    assert open_onnx(write(folder / "m.onnx", [external("a", "m.data", 16), empty])).data == (folder / "m.data",)


@pytest.mark.parametrize("number", ["x", "-4", "+4", " 4", "1_0", "0x4", "1e1", "\u0664", "9" * 30])
@pytest.mark.parametrize("key", ["offset", "length"])
def test_a_number_that_readers_may_take_differently_is_refused(folder, number, key):
    with pytest.raises(QvggtError, match="offset or length is no number"):
        open_onnx(write(folder / "m.onnx", [external("a", "m.data", **{key: number})]))


@pytest.mark.parametrize(("key", "other"), [("location", "other"), ("offset", "16"), ("length", "16")])
def test_a_key_given_twice_is_refused(folder, key, other):
    tensor = external("a", "m.data", offset=0)
    tensor.external_data.add(key=key, value=other)
    with pytest.raises(QvggtError, match=f"{key} is given twice"):
        open_onnx(write(folder / "m.onnx", [tensor]))
    del tensor.external_data[:-1]  # the second alone, in front of the others: the place does not matter
    for rest in external("a", "m.data", offset=0).external_data:
        tensor.external_data.add(key=rest.key, value=rest.value)
    with pytest.raises(QvggtError, match=f"{key} is given twice"):
        open_onnx(write(folder / "m.onnx", [tensor]))


@pytest.mark.parametrize("length", [0, 12, 20])
def test_a_length_that_does_not_fit_the_shape_is_refused(folder, length):
    with pytest.raises(QvggtError, match=rf"has a length of {length} bytes, its shape needs 16"):
        open_onnx(write(folder / "m.onnx", [external("a", "m.data", length=length)]))


@pytest.mark.parametrize(("count", "length"), [(4, 2), (5, 3), (1, 1)])
def test_packed_types_count_in_whole_bytes(folder, count, length):
    tensor = external("a", "m.data", length=length)
    tensor.data_type, tensor.dims[0] = TensorProto.INT4, count
    assert open_onnx(write(folder / "m.onnx", [tensor])).data
    tensor = external("a", "m.data", length=length + 1)
    tensor.data_type, tensor.dims[0] = TensorProto.INT4, count
    with pytest.raises(QvggtError, match="its shape needs"):
        open_onnx(write(folder / "m.onnx", [tensor]))


def test_every_onnx_type_has_a_size():
    """A type that onnx adds must be added to BITS, or its length goes unchecked."""
    assert set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED, TensorProto.STRING} <= set(BITS)


@pytest.mark.parametrize("kind", ["FLOAT", "DOUBLE", "BOOL", "BFLOAT16", "INT4", "UINT4", "FLOAT8E4M3FN", "INT64"])
def test_sizes_are_those_of_onnx(kind):
    data_type = TensorProto.DataType.Value(kind)
    packed = numpy_helper.from_array(np.zeros(6, helper.tensor_dtype_to_np_dtype(data_type)), "t")
    assert packed.data_type == data_type
    assert described(packed).nbytes == len(packed.raw_data)


def test_a_negative_dimension_is_no_crash(folder):
    tensor = external("a", "m.data", length=None)
    tensor.dims[0] = -4
    assert open_onnx(write(folder / "m.onnx", [tensor])).data == (folder / "m.data",)


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


@pytest.mark.parametrize("part", ["values", "indices"])
@pytest.mark.parametrize("place", ["initializer", "attribute"])
def test_sparse_tensors_are_checked(folder, place, part):
    """onnx.checker looks at their shapes, and no runtime at the files of both parts."""
    indices = numpy_helper.from_array(np.arange(4), "i")
    parts = {"values": numpy_helper.from_array(np.ones(4, np.float32), "v"), "indices": indices}
    parts[part] = external("a", "../secret")
    sparse = helper.make_sparse_tensor(parts["values"], parts["indices"], [8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node, initializers = helper.make_node("Identity", ["v"], ["y"]), [sparse]
    if place == "attribute":
        node, initializers = helper.make_node("Constant", [], ["y"], sparse_value=sparse), []
    graph = helper.make_graph([node], "g", [], [y], sparse_initializer=initializers)
    (folder / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(QvggtError, match=r"tensor a: external data '\.\./secret'"):
        open_onnx(folder / "m.onnx")


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
        open_onnx(write(folder / "m.onnx", [external("a", "m.data", 10**18 - 1)]))
    with pytest.raises(QvggtError, match="truncated"):
        open_onnx(write(folder / "m.onnx", [external("a", "m.data", 80, length=None)]))
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
        outcome = type(open_onnx(model).proto).__name__
    except QvggtError as error:
        outcome = str(error)
    assert "\n" not in outcome
