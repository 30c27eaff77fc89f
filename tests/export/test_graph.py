from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort

from qvggt.export.graph import IR_VERSION, OPSET, GraphBuilder


def model(builder: GraphBuilder) -> onnx.ModelProto:
    return builder.model("test", {"key": "value"}, "1.2.3")


def test_names_follow_the_path_and_stay_unique() -> None:
    builder = GraphBuilder()
    x = builder.input("x", ["n", 4])
    assert builder.op("Relu", [x], "a.b") == "a.b/Relu"
    assert builder.op("Relu", [x], "a.b") == "a.b/Relu_1"
    assert builder.op("Relu", [x], "a.c") == "a.c/Relu"
    parts = builder.ops("Split", [x], "a.b", 2, axis=-1, num_outputs=2)
    assert len(set(parts)) == 2
    assert [n.name for n in builder.nodes] == ["a.b/Relu", "a.b/Relu_1", "a.c/Relu", "a.b/Split"]


def test_constants_of_one_name_are_stored_once() -> None:
    builder = GraphBuilder()
    weight = np.ones((2, 3), np.float32)
    assert builder.constant("w", weight) == builder.constant("w", weight) == "w"
    assert builder.ints(0, -1, 3) == builder.ints(0, -1, 3) != builder.ints(0, 1, 3)
    assert list(builder.initializers) == ["w", builder.ints(0, -1, 3), builder.ints(0, 1, 3)]


def test_model_header() -> None:
    builder = GraphBuilder()
    builder.output(builder.op("Relu", [builder.input("x", ["n"])], "a"), "y", ["n"])
    proto = model(builder)
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", OPSET)] == [("", 21)]
    assert proto.ir_version == IR_VERSION == 10
    assert {p.key: p.value for p in proto.metadata_props} == {"key": "value"}
    assert (proto.producer_name, proto.producer_version) == ("qvggt", "1.2.3")
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"
    onnx.checker.check_model(proto, full_check=True)


def test_reshape_and_slice_compute_what_they_say() -> None:
    builder = GraphBuilder()
    x = builder.input("x", ["n", 6])
    y = builder.slice(builder.reshape(x, (0, 3, -1), "a"), 1, 1, 3, "a")
    builder.output(y, "y", ["n", 2, 2])
    session = ort.InferenceSession(model(builder).SerializeToString(), providers=["CPUExecutionProvider"])
    data = np.arange(12, dtype=np.float32).reshape(2, 6)
    np.testing.assert_array_equal(session.run(None, {"x": data})[0], data.reshape(2, 3, 2)[:, 1:3])
