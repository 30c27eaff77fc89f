"""Files broken on purpose: what the gate has to see (issue 13), one small function a fault.

A fault takes a good file in memory and breaks a copy of it, as a wrong exporter would have written it; what it returns
says where. Where a file has nothing of the kind, the fault does not apply. `tests/export/test_gate_faults.py` asks
that every fault applies to some file, changes what that file computes, and is found by the gate at its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from qvggt.models.family import find_family
from qvggt.onnx_view.metadata import ITERATION

ENCODER, FRAME, GLOBAL = "aggregator.patch_embed.blocks.0", "aggregator.frame_blocks.1", "aggregator.global_blocks.1"
CAMERA = "camera_head.iter.1.trunk.0"
BLOCKS = (ENCODER, FRAME, GLOBAL, CAMERA)
HEADS = ("depth_head", "point_head")
LINEARS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
OUTPUTS = {output: head.path for head in find_family().heads for output in head.outputs}
NAMES = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
INTEGERS = (TensorProto.INT4, TensorProto.INT8, TensorProto.INT64)
NOWHERE = None  # the fault does not apply to this file

Array = NDArray[np.generic]
Where = str | None
Break = Callable[["Draft", str], Where]


@dataclass(frozen=True)
class Broken:
    """place: the module that computes otherwise, or the one around all that do; "" for the whole network. Several, with
    "|" between them, where each of them does."""

    model: ModelProto
    place: str

    def at(self, path: str) -> bool:
        """Whether a finding about the module, block or node at `path` names the place."""
        path = OUTPUTS.get(path, path)
        return any(related(one, other) for one in self.place.split("|") for other in path.split("|"))


def related(place: str, path: str) -> bool:
    """Whether both are of one head, or in the trunk one lies inside of the other."""
    path, place = (ITERATION.sub("", p.partition("/")[0]) for p in (path, place))
    if place.partition(".")[0].endswith("_head"):
        return path.partition(".")[0] == place.partition(".")[0]
    return any(not inner or f"{outer}.".startswith(f"{inner}.") for inner, outer in ((place, path), (path, place)))


@dataclass(frozen=True)
class Fault:
    """frames: how many a sequence must have for the fault to change a number. unseen: why the gate does not find it.
    chance: why it finds it in some files and not in others."""

    name: str
    change: Break = field(repr=False)
    at: str = ""
    frames: int = 1
    unseen: str = ""
    chance: str = ""

    @property
    def title(self) -> str:
        """Its name without the place."""
        return self.name.partition(" @ ")[0]

    def __call__(self, good: ModelProto) -> Broken | None:
        """A broken copy of a file; None where the fault does not apply to it."""
        draft = Draft(good)
        place = self.change(draft, self.at)
        if place is None or draft.model == good:  # a zero, or less than the tensor's type can tell
            return None
        return Broken(draft.model, place)


FAULTS: dict[str, Fault] = {}


def fault(
    name: str, at: Iterable[str] = ("",), frames: int = 1, unseen: str = "", chance: str = ""
) -> Callable[[Break], Break]:
    """Register a way to break a file, once for each of the places `at`."""

    def register(change: Break) -> Break:
        for place in at:
            full = f"{name} @ {place}" if place else name
            assert full not in FAULTS, full
            # a softmax over one token is 1, whatever the scores of cameras
            needed = max(frames, 2) if place.startswith(CAMERA) else frames
            FAULTS[full] = Fault(full, change, place, needed, unseen, chance)
        return change

    return register


class Draft:
    """A copy of a file that can be changed by name."""

    def __init__(self, good: ModelProto) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(good)
        self.graph = self.model.graph
        self.tensors = {tensor.name: tensor for tensor in self.graph.initializer}
        self.by_name = {node.name: node for node in self.graph.node}

    @property
    def precision(self) -> str:
        """Float type of the network, by its metadata."""
        return next(entry.value for entry in self.model.metadata_props if entry.key == "qvggt.precision")

    def node(self, name: str) -> NodeProto | None:
        return self.by_name.get(name)

    def nodes(self, pattern: str) -> list[NodeProto]:
        """Those whose whole name matches."""
        return [node for node in self.graph.node if re.fullmatch(pattern, node.name)]

    def stored(self, pattern: str) -> list[str]:
        """Names of initializers that match as a whole."""
        return [name for name in self.tensors if re.fullmatch(pattern, name)]

    def value(self, name: str) -> Array | None:
        tensor = self.tensors.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor).copy()

    def store(self, name: str, value: Array) -> None:
        """Other numbers in the type the tensor has."""
        tensor = self.tensors[name]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        made = numpy_helper.from_array(np.asarray(value).astype(dtype, order="C"), name)
        assert (made.data_type, made.dims) == (tensor.data_type, tensor.dims), name
        tensor.CopyFrom(made)

    def change(self, name: str, by: Callable[[Array], Array | None]) -> bool:
        """Whether there is such a tensor, which then holds other numbers; `by` may work in place."""
        value = self.value(name)
        if value is None:
            return False
        wide = value.astype(np.int64 if self.tensors[name].data_type in INTEGERS else np.float64)
        changed = by(wide)
        self.store(name, wide if changed is None else changed)
        return True

    def own(self, node: NodeProto, index: int) -> str:
        """The initializer a node reads there, from now on its own: small constants are shared by many."""
        name = node.input[index]
        copy = self.graph.initializer.add()
        copy.CopyFrom(self.tensors[name])
        copy.name = f"{node.name}:own{index}"
        self.tensors[copy.name] = copy
        node.input[index] = copy.name
        return copy.name

    def constant(self, name: str, value: Array) -> str:
        tensor = self.graph.initializer.add()
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))
        self.tensors[name] = tensor
        return name

    def after(self, tensor: str, *made: NodeProto) -> None:
        """Put nodes behind a tensor: whatever else reads it reads what the last of them gives."""
        producer = next(i for i, node in enumerate(self.graph.node) if tensor in node.output)
        for node in self.graph.node:
            for i, name in enumerate(node.input):
                if name == tensor:
                    node.input[i] = made[-1].output[0]
        rest = list(self.graph.node)
        del self.graph.node[:]
        self.graph.node.extend([*rest[: producer + 1], *made, *rest[producer + 1 :]])
        self.by_name = {node.name: node for node in self.graph.node}

    def multiply(self, tensor: str, factor: float) -> None:
        name = f"{tensor}:factor"
        self.constant(name, np.array(factor, self.dtype(tensor)))
        self.after(tensor, make("Mul", [tensor, name], f"{tensor}:scaled"))

    def dtype(self, tensor: str) -> np.dtype[np.generic]:
        from qvggt.onnx_view.graph import tensor_types

        # no shape inference knows what follows an operator of ONNX Runtime, whose files are fp32
        return helper.tensor_dtype_to_np_dtype(tensor_types(self.model).get(tensor, TensorProto.FLOAT))

    def reader(self, tensor: str, op: str) -> NodeProto | None:
        return next((n for n in self.graph.node if n.op_type == op and tensor in n.input), None)


def make(op: str, inputs: Sequence[str], name: str, **attributes: object) -> NodeProto:
    """A node and what it makes, under one name as in every file of ours."""
    return helper.make_node(op, list(inputs), [name], name=name, **attributes)


def parameters(path: str) -> str:
    """Where the stored tensors of a block are: those of all iterations of the camera head are one."""
    return ITERATION.sub("", path)


def attribute(node: NodeProto, name: str, value: object) -> None:
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def get(node: NodeProto, name: str) -> object:
    return next(helper.get_attribute_value(a) for a in node.attribute if a.name == name)


def swapped(a: Array, first: int = 0, second: int = 1, axis: int = 0) -> Array:
    order = np.arange(a.shape[axis])
    order[[first, second]] = order[[second, first]]
    return a.take(order, axis)


def scaled(factor: float) -> Callable[[Array], Array]:
    return lambda a: a * factor


def one_entry(factor: float) -> Callable[[Array], Array]:
    """The largest entry times a factor: no fault hides in a zero."""

    def change(a: Array) -> Array:
        a.flat[np.abs(a).argmax()] *= factor
        return a

    return change


# RoPE: tables shared by all rounds


def _rope(draft: Draft, kind: str) -> str | None:
    return next(iter(draft.stored(f"rope_{kind}_\\d+")), None)


def _rope_change(draft: Draft, kinds: str, by: Callable[[Array], Array | None]) -> Where:
    names = [_rope(draft, kind) for kind in kinds.split()]
    if None in names:
        return NOWHERE
    for name in names:
        assert name is not None
        draft.change(name, by)
    return "aggregator.frame_blocks|aggregator.global_blocks"


def _set_row(row: int, column: int, factor: float) -> Callable[[Array], None]:
    def change(a: Array) -> None:
        a[row, 0, column] *= factor

    return change


@fault("RoPE entry x1.01")
def _(draft: Draft, at: str) -> Where:
    return _rope_change(draft, "sin", _set_row(-1, 1, 1.01))


@fault("RoPE cosine entry negative")
def _(draft: Draft, at: str) -> Where:
    return _rope_change(draft, "cos", _set_row(-2, 0, -1))


@fault("RoPE entry of a special token")
def _(draft: Draft, at: str) -> Where:
    def change(a: Array) -> None:
        a[1, 0, 2] = 0.01

    return _rope_change(draft, "sin", change)


@fault("RoPE frequency sign")
def _(draft: Draft, at: str) -> Where:
    def change(a: Array) -> None:
        a[..., [1, 1 + a.shape[-1] // 4]] *= -1  # both channels that turn with it

    return _rope_change(draft, "sin", change)


@fault("RoPE slowest frequency sign")
def _(draft: Draft, at: str) -> Where:
    def change(a: Array) -> None:
        quarter = a.shape[-1] // 4
        a[..., [quarter - 1, 2 * quarter - 1]] *= -1

    return _rope_change(draft, "sin", change)


@fault("RoPE rows and columns swapped")
def _(draft: Draft, at: str) -> Where:
    return _rope_change(draft, "cos sin", lambda a: np.roll(a, a.shape[-1] // 2, -1))


@fault("RoPE of two patches swapped")
def _(draft: Draft, at: str) -> Where:
    return _rope_change(draft, "cos sin", lambda a: swapped(a, -1, -2))


@fault("RoPE one patch late")
def _(draft: Draft, at: str) -> Where:
    def change(a: Array) -> None:
        a[6:] = a[5:-1].copy()

    return _rope_change(draft, "cos sin", change)


@fault("RoPE tables x1.005")
def _(draft: Draft, at: str) -> Where:
    """They carry the attention scale, which so is x1.01."""
    return _rope_change(draft, "cos sin", scaled(1.01**0.5))


@fault("RoPE turns the other way", (FRAME, GLOBAL))
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}.attn.q/Concat")
    if node is None:
        return NOWHERE
    inputs = list(node.input)
    negative = {draft.by_name[name].output[0]: draft.by_name[name].input[0] for name in (inputs[0], inputs[2])}
    turned = [negative.get(name, name) for name in inputs]
    del node.input[:]
    node.input.extend(turned)
    return f"{at}.attn"


@fault("RoPE left out for keys", (FRAME, GLOBAL))
def _(draft: Draft, at: str) -> Where:
    node, sine = draft.node(f"{at}.attn.k/Add"), draft.node(f"{at}.attn.k/Mul_1")
    if node is None or sine is None:
        return NOWHERE
    name = draft.own(sine, 1)
    draft.change(name, scaled(0))
    cosine = draft.node(f"{at}.attn.k/Mul")
    assert cosine is not None
    value = draft.value(cosine.input[1])
    assert value is not None
    draft.change(draft.own(cosine, 1), lambda a: np.full_like(a, value.astype(np.float64).max()))
    return f"{at}.attn"


# embeddings


def _stored(draft: Draft, name: str, by: Callable[[Array], Array | None], place: str | None = None) -> Where:
    return (name.rpartition(".")[0] if place is None else place) if draft.change(name, by) else NOWHERE


PATCHES = "aggregator.patch_embed"


@fault("positional embedding entry x1.01")
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, f"{PATCHES}.pos_embed", one_entry(1.01))


@fault("positional embedding: two patches swapped")
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, f"{PATCHES}.pos_embed", lambda a: swapped(a, -1, -2))


@fault("positional embedding transposed")
def _(draft: Draft, at: str) -> Where:
    """Columns first, as for an image that lies on its side."""
    size = next(entry.value for entry in draft.model.metadata_props if entry.key == "qvggt.size")
    rows, cols = (int(side) // 14 for side in size.split("x"))
    return _stored(
        draft,
        f"{PATCHES}.pos_embed",
        lambda a: a.reshape(rows, cols, -1).transpose(1, 0, 2).reshape(rows * cols, -1),
    )


@fault("positional embedding left out")
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, f"{PATCHES}.pos_embed", scaled(0))


@fault("class token entry x1.01")
def _(draft: Draft, at: str) -> Where:
    def change(a: Array) -> None:
        a[0, 0, np.abs(a[0, 0]).argmax()] *= 1.01

    return _stored(draft, f"{PATCHES}.prefix", change)


@fault("class token and a register swapped")
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, f"{PATCHES}.prefix", lambda a: swapped(a, axis=1))


@fault("two registers swapped")
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, f"{PATCHES}.prefix", lambda a: swapped(a, 3, 4, axis=1))


@fault("mean of a colour x1.01")
def _(draft: Draft, at: str) -> Where:
    """In a float stem it is part of the bias."""
    if _stored(draft, f"{PATCHES}.patch_embed.offset", one_entry(1.01)):
        return PATCHES
    return _stored(draft, f"{PATCHES}.patch_embed.proj.bias", lambda a: a + 0.01 * 0.485 / 0.229 * np.sign(a), PATCHES)


@fault("spread of a colour x1.01")
def _(draft: Draft, at: str) -> Where:
    if _stored(draft, f"{PATCHES}.patch_embed.factor", one_entry(1.01)):
        return PATCHES

    def change(a: Array) -> None:
        a[:, 1] *= 1.01

    return _stored(draft, f"{PATCHES}.patch_embed.proj.weight", change, PATCHES)


@fault("red and blue swapped")
def _(draft: Draft, at: str) -> Where:
    for name in ("weight", "weight_codes"):
        if draft.change(f"{PATCHES}.patch_embed.proj.{name}", lambda a: a[:, ::-1]):
            return PATCHES
    return NOWHERE


@fault("image on its side within a patch")
def _(draft: Draft, at: str) -> Where:
    for name in ("weight", "weight_codes"):
        if draft.change(f"{PATCHES}.patch_embed.proj.{name}", lambda a: a.swapaxes(2, 3)):
            return PATCHES
    return NOWHERE


@fault("camera and register token swapped", frames=1)
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, "aggregator.special_tokens.0", lambda a: swapped(a, axis=1))


@fault("registers of later frames swapped", frames=2)
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, "aggregator.special_tokens.1", lambda a: swapped(a, 1, 2, axis=1))


@fault("tokens of the first frame for all", frames=2)
def _(draft: Draft, at: str) -> Where:
    first = draft.value("aggregator.special_tokens.0")
    return NOWHERE if first is None else _stored(draft, "aggregator.special_tokens.1", lambda a: first)


@fault("tokens of later frames for the first")
def _(draft: Draft, at: str) -> Where:
    other = draft.value("aggregator.special_tokens.1")
    return NOWHERE if other is None else _stored(draft, "aggregator.special_tokens.0", lambda a: other)


@fault("camera token entry of later frames x1.01", frames=2)
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, "aggregator.special_tokens.1", one_entry(1.01))


def _rows_of_frames(draft: Draft, last: int) -> Where:
    """From frame `last` on, the special tokens are the first frame's again: a table of so many frames, read in turn."""
    node = draft.node("aggregator/Slice")
    if node is None:
        return NOWHERE
    late = "aggregator/late_"
    zero, one, end = (draft.constant(f"{late}{value}", np.array(value, np.int64)) for value in (0, 1, last))
    made = [
        make("Concat", [node.output[0], draft.by_name["aggregator/Concat_1"].input[0]], f"{late}rows", axis=0),
        make("Squeeze", [node.input[2]], f"{late}frames"),
        make("Range", [zero, f"{late}frames", one], f"{late}range"),
        make("Less", [f"{late}range", end], f"{late}early"),
        make("Where", [f"{late}early", f"{late}range", f"{late}frames"], f"{late}which"),
        make("Gather", [f"{late}rows", f"{late}which"], f"{late}tokens", axis=0),
    ]
    draft.after(node.output[0], *made)
    return "aggregator"


@fault("tokens of the first frame from frame 3 on", frames=3)
def _(draft: Draft, at: str) -> Where:
    return _rows_of_frames(draft, 2)


@fault("tokens of the first frame from frame 6 on", frames=6)
def _(draft: Draft, at: str) -> Where:
    return _rows_of_frames(draft, 5)


@fault("tokens of the first frame from frame 9 on", frames=9, unseen="parts are proven at up to 6 frames")
def _(draft: Draft, at: str) -> Where:
    return _rows_of_frames(draft, 8)


@fault("patch rotation transposed")
def _(draft: Draft, at: str) -> Where:
    for name in ("weight", "weight_codes"):
        if draft.change(f"aggregator.patch_rotation.{name}", lambda a: a.T):
            return "aggregator.patch_rotation"
    return NOWHERE


@fault("norm of the encoder left out")
def _(draft: Draft, at: str) -> Where:
    return _bypassed(draft, f"{PATCHES}.norm/LayerNormalization")


def _bypassed(draft: Draft, name: str) -> Where:
    node = draft.node(name)
    if node is None:
        return NOWHERE
    node.op_type = "Identity"
    del node.input[1:]
    del node.attribute[:]
    return name.rpartition("/")[0]


# norms

NORMS = (
    *(f"{block}.norm{i}" for block in BLOCKS for i in (1, 2)),
    *(f"{block}.attn.{name}" for block in (FRAME, GLOBAL) for name in ("q_norm", "k_norm")),
    f"{PATCHES}.norm",
    "camera_head.token_norm",
    "camera_head.iter.0.adaln_norm",
    "camera_head.iter.1.trunk_norm",
    "depth_head.norm",
    "point_head.norm",
)


@fault("LayerNorm eps x10", NORMS)
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/LayerNormalization")
    if node is None:
        return NOWHERE
    attribute(node, "epsilon", 10 * float(get(node, "epsilon")))  # type: ignore[arg-type]
    return at


AFFINE = tuple(path for path in NORMS if not path.endswith("adaln_norm"))


@fault("LayerNorm gain entry x1.01", AFFINE)
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, f"{parameters(at)}.weight", one_entry(1.01))


@fault("LayerNorm bias entry x1.01", AFFINE)
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, f"{parameters(at)}.bias", one_entry(1.01))


# blocks


@fault("GELU by tanh", (*(f"{block}.mlp" for block in BLOCKS), "camera_head.iter.0.pose_branch"))
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/Gelu")
    if node is None:
        return NOWHERE
    attribute(node, "approximate", "tanh")
    return at


@fault("GELU left out", (ENCODER, GLOBAL))
def _(draft: Draft, at: str) -> Where:
    return _bypassed(draft, f"{at}.mlp/Gelu")


@fault("LayerScale entry x1.01", (f"{GLOBAL}.ls1", f"{FRAME}.ls2", f"{ENCODER}.ls1", f"{CAMERA}.ls2"))
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, f"{parameters(at)}.gamma", one_entry(1.01), at.rpartition(".")[0])


@fault("LayerScale left out", (f"{FRAME}.ls1", f"{CAMERA}.ls1"))
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/Mul")
    if node is None:
        return NOWHERE
    node.op_type = "Identity"
    del node.input[1:]
    return at.rpartition(".")[0]


@fault("attention scale x1.01", BLOCKS)
def _(draft: Draft, at: str) -> Where:
    fused = draft.node(f"{at}.attn.context/MultiHeadAttention")
    if fused is not None:
        attribute(fused, "scale", 1.01 * float(get(fused, "scale")))  # type: ignore[arg-type]
        return f"{at}.attn"
    node = draft.node(f"{at}.attn.scores/MatMul")
    if node is None:
        return NOWHERE
    draft.multiply(node.output[0], 1.01)
    return f"{at}.attn"


@fault("attention scale missing on keys", (ENCODER, CAMERA))
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}.attn/Mul_1")
    if node is None or not node.input[1].startswith("attention_scale"):
        return NOWHERE
    draft.change(draft.own(node, 1), lambda a: np.ones_like(a))
    return f"{at}.attn"


def _attention_input(draft: Draft, at: str) -> NodeProto | None:
    return draft.node(f"{at}.attn/Split")


def _swap_outputs(node: NodeProto | None, first: int, second: int, place: str) -> Where:
    if node is None:
        return NOWHERE
    outputs = list(node.output)
    outputs[first], outputs[second] = outputs[second], outputs[first]
    del node.output[:]
    node.output.extend(outputs)
    return place


@fault("query and key swapped", BLOCKS)
def _(draft: Draft, at: str) -> Where:
    return _swap_outputs(_attention_input(draft, at), 0, 1, f"{at}.attn")


@fault("key and value swapped", BLOCKS)
def _(draft: Draft, at: str) -> Where:
    return _swap_outputs(_attention_input(draft, at), 1, 2, f"{at}.attn")


@fault("softmax over queries", (ENCODER, GLOBAL))
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}.attn/Softmax")
    if node is None:
        return NOWHERE
    attribute(node, "axis", -2)
    return f"{at}.attn"


@fault("two heads of the context swapped", BLOCKS)
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}.attn.context/MatMul")  # [N, heads, L, D]
    if node is None:
        return NOWHERE
    heads = _heads(draft, at)
    order = draft.constant(f"{at}:order", swapped(np.arange(heads), 1, 2))
    out = node.output[0]
    draft.after(out, make("Gather", [out, order], f"{out}:swapped", axis=1))
    return f"{at}.attn"


def _heads(draft: Draft, at: str) -> int:
    reshape = draft.by_name[f"{at}.attn/Reshape"]
    shape = draft.value(reshape.input[1])
    assert shape is not None
    return int(shape[2])


@fault("channels of a head in another order", (ENCODER, FRAME))
def _(draft: Draft, at: str) -> Where:
    """Head-major read as channel-major: the last transpose left out."""
    node = draft.node(f"{at}.attn.context/MatMul")
    last = None if node is None else draft.reader(node.output[0], "Transpose")
    if last is None or node is None:
        return NOWHERE
    attribute(last, "perm", [0, 2, 3, 1])
    return f"{at}.attn"


@fault("residual added twice", BLOCKS)
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/Add")
    if node is None:
        return NOWHERE
    double = make("Add", [node.input[0], node.input[0]], f"{at}:twice")
    before = next(i for i, other in enumerate(draft.graph.node) if other.name == node.name)
    draft.graph.node.insert(before, double)
    draft.graph.node[before + 1].input[0] = double.output[0]
    return at


@fault("residual left out", (FRAME, CAMERA))
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/Add_1") or draft.node(f"{at}.mlp/Add")
    if node is None:
        return NOWHERE
    node.op_type = "Identity"
    del node.input[0]
    return at


def _cast(draft: Draft, tensor: str, to: int, back: int) -> None:
    there, again = f"{tensor}:narrow", f"{tensor}:wide"
    draft.after(
        tensor,
        make("Cast", [tensor], there, to=to),
        make("Cast", [there], again, to=back),
    )


def _narrow(draft: Draft, name: str, to: int, place: str) -> Where:
    """In a file of that type: see "fp16 norm in an fp16 file"."""
    node = draft.node(name)
    types = None if node is None else draft.dtype(node.output[0])
    if node is None or types != np.float32 or draft.precision == NAMES[to]:
        return NOWHERE
    _cast(draft, node.output[0], to, TensorProto.FLOAT)
    return place


@fault("bf16 cast of the residual", BLOCKS)
def _(draft: Draft, at: str) -> Where:
    half = draft.node(f"{at}/Cast_1") is not None  # of a half type already
    return NOWHERE if half else _narrow(draft, f"{at}/Add", TensorProto.BFLOAT16, at)


@fault("fp16 cast of the residual", BLOCKS)
def _(draft: Draft, at: str) -> Where:
    half = draft.node(f"{at}/Cast_1") is not None
    return NOWHERE if half else _narrow(draft, f"{at}/Add_1", TensorProto.FLOAT16, at)


@fault("bf16 cast of an fp16 residual", (ENCODER, FRAME, GLOBAL))
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/Cast_1") or draft.node(f"{at}/Add")
    if node is None or draft.dtype(node.output[0]) != np.float16:
        return NOWHERE
    _cast(draft, node.output[0], TensorProto.BFLOAT16, TensorProto.FLOAT16)
    return at


@fault("fp16 attention scores", BLOCKS)
def _(draft: Draft, at: str) -> Where:
    return _narrow(draft, f"{at}.attn.scores/MatMul", TensorProto.FLOAT16, f"{at}.attn")


@fault("fp16 values", (GLOBAL, CAMERA))
def _(draft: Draft, at: str) -> Where:
    return _narrow(draft, f"{at}.attn/Transpose_2", TensorProto.FLOAT16, f"{at}.attn")


@fault("fp16 norm", (f"{FRAME}.norm1", f"{GLOBAL}.attn.k_norm", f"{PATCHES}.norm", "camera_head.token_norm"))
def _(draft: Draft, at: str) -> Where:
    return _narrow(draft, f"{at}/LayerNormalization", TensorProto.FLOAT16, at)


@fault(
    "fp16 norm in an fp16 file",
    (f"{FRAME}.norm1", "camera_head.token_norm"),
    unseen="half-precision files are run without rounding to their type",
)
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/LayerNormalization")
    if node is None or draft.precision != "fp16":
        return NOWHERE
    _cast(draft, node.output[0], TensorProto.FLOAT16, TensorProto.FLOAT)
    return at


@fault("global attention within each frame", frames=2)
def _(draft: Draft, at: str) -> Where:
    nodes = [draft.node(f"{GLOBAL}.attn/Reshape_{i}") for i in (3, 4, 5)]
    inner = draft.node(f"{GLOBAL}.attn/Reshape")
    if inner is None or None in nodes or draft.node(f"{GLOBAL}.attn.context/MatMul") is None:
        return NOWHERE
    for node in nodes:
        assert node is not None
        node.input[1] = inner.input[1]
    return f"{GLOBAL}.attn"


@fault("frame attention over all frames", frames=2)
def _(draft: Draft, at: str) -> Where:
    inner = draft.node(f"{FRAME}.attn.context/MatMul")
    first, other = draft.node(f"{FRAME}.attn.q/Add"), draft.node(f"{GLOBAL}.attn/Reshape_3")
    if inner is None or first is None or other is None:
        return NOWHERE
    for i in (0, 1, 2):
        transpose = draft.by_name[f"{FRAME}.attn/Transpose{f'_{i}' if i else ''}"]
        name = f"{FRAME}:together{i}"
        made = make("Reshape", [transpose.input[0], other.input[1]], name)
        before = next(k for k, node in enumerate(draft.graph.node) if node.name == transpose.name)
        draft.graph.node.insert(before, made)
        draft.graph.node[before + 1].input[0] = name
        draft.by_name = {node.name: node for node in draft.graph.node}
    return f"{FRAME}.attn"


@fault("global keys of the first frame only", frames=2)
def _(draft: Draft, at: str) -> Where:
    """The first frame's keys for every frame."""
    node = draft.node(f"{GLOBAL}.attn.k/Add")
    if node is None:
        return NOWHERE
    out, first = node.output[0], f"{GLOBAL}.attn/first_"
    zero = draft.constant(f"{first}frame", np.array([0], np.int64))
    made = [
        make("Gather", [out, zero], f"{first}keys", axis=0),
        make("Shape", [out], f"{first}shape"),
        make("Expand", [f"{first}keys", f"{first}shape"], f"{first}spread"),
    ]
    draft.after(out, *made)
    return f"{GLOBAL}.attn"


@fault("rounds: frame and global halves swapped")
def _(draft: Draft, at: str) -> Where:
    nodes = draft.nodes(r"aggregator\.round\.\d+/Concat")
    if not nodes:
        return NOWHERE
    inputs = list(nodes[-1].input)
    del nodes[-1].input[:]
    nodes[-1].input.extend(reversed(inputs))
    return ""


@fault("a block skipped", (FRAME,))
def _(draft: Draft, at: str) -> Where:
    last, first = draft.node(f"{at}/Cast_3") or draft.node(f"{at}/Add_1"), draft.node(f"{at}.norm1/LayerNormalization")
    before = draft.by_name.get(f"{at}.norm1/Cast", first)
    if last is None or before is None:
        return NOWHERE
    for node in draft.graph.node:
        for i, name in enumerate(node.input):
            if name == last.output[0]:
                node.input[i] = before.input[0]
    return "aggregator"


# quantized linears: centers, types, ranges, scales, codes


def _types(draft: Draft, linear: str, kind: str) -> list[str]:
    """The tables of a linear that hold a row per type, whichever way they are stored."""
    return draft.stored(re.escape(f"{parameters(linear)}.{kind}") + r"(\.(special|patch|\d))?")


TYPED = (f"{ENCODER}.attn.proj", f"{FRAME}.attn.proj", f"{GLOBAL}.mlp.fc1", f"{FRAME}.mlp.fc2")
TABLES = tuple(f"{path}:{kind}" for path in TYPED for kind in ("center", "kind_bias"))
APART = tuple(table for table in TABLES if not table.startswith(ENCODER))  # the first frame's types are its own


@fault("token types zeroed", TABLES)
def _(draft: Draft, at: str) -> Where:
    """What special tokens have beside the patches'; in a whole table, all rows become the patches'."""
    path, _, kind = at.partition(":")
    done = False
    for name in _types(draft, path, kind):
        if name.endswith((".special", ".0", ".1")):
            done |= draft.change(name, scaled(0))
        elif name.endswith(kind):
            done |= draft.change(name, lambda a: np.broadcast_to(a[-1], a.shape))
    return path if done else NOWHERE


@fault("token types: first and later frames swapped", APART)
def _(draft: Draft, at: str) -> Where:
    path, _, kind = at.partition(":")
    names = _types(draft, path, kind)
    for name in names:
        value = draft.value(name)
        assert value is not None
        if name.endswith(".special") and len(value) == 2:
            draft.change(name, lambda a: a[::-1])
            return path
        if name.endswith(".0") and f"{name[:-1]}1" in names:
            other = draft.value(f"{name[:-1]}1")
            assert other is not None
            draft.store(f"{name[:-1]}1", value)
            draft.store(name, other)
            return path
        if name.endswith(kind) and len(value) == 11:
            draft.change(name, lambda a: np.concatenate([a[5:10], a[:5], a[10:]]))
            return path
    return NOWHERE


@fault("token types: camera and register swapped", TABLES)
def _(draft: Draft, at: str) -> Where:
    path, _, kind = at.partition(":")
    for name in _types(draft, path, kind):
        if name.endswith((".special", ".0")):
            draft.change(name, lambda a: swapped(a, axis=1))
            return path
        if name.endswith(kind):
            draft.change(name, lambda a: swapped(a))
            return path
    return NOWHERE


@fault("token types x1.01", TABLES)
def _(draft: Draft, at: str) -> Where:
    path, _, kind = at.partition(":")
    done = False
    for name in _types(draft, path, kind):
        if not name.endswith(".patch"):
            done |= draft.change(name, scaled(1.01))
    return path if done else NOWHERE


@fault("token types of later frames x1.01", APART, frames=2)
def _(draft: Draft, at: str) -> Where:
    path, _, kind = at.partition(":")

    def change(a: Array) -> None:
        a[len(a) // 2 if len(a) == 2 else 5 :] *= 1.01

    for name in _types(draft, path, kind):
        value = draft.value(name)
        assert value is not None
        if name.endswith(".special") and len(value) == 2:
            draft.change(name, change)
            return path
        if name.endswith(".1"):
            draft.change(name, scaled(1.01))
            return path
        if name.endswith(kind) and len(value) == 11:
            draft.change(name, lambda a: np.concatenate([a[:5], 1.01 * a[5:10], a[10:]]))
            return path
    return NOWHERE


@fault("types of the first frame for all", frames=2)
def _(draft: Draft, at: str) -> Where:
    node = draft.node("aggregator.kinds/Min")
    if node is None or "int_1" not in node.input:
        return NOWHERE
    node.input[1] = "int_0"
    return "aggregator"


@fault("types of the first frame for every other frame", frames=3)
def _(draft: Draft, at: str) -> Where:
    node = draft.node("aggregator.kinds/Min")
    if node is None or "int_1" not in node.input:
        return NOWHERE
    node.op_type = "Mod"
    node.input[1] = draft.constant("two", np.array(2, np.int64))
    return "aggregator"


@fault("places of special tokens: the last left out")
def _(draft: Draft, at: str) -> Where:
    def change(a: Array) -> None:
        a[0, -1] = a[0, -2]

    return _stored(draft, "aggregator.kinds.special.places", change, "aggregator")


@fault("types of tokens: a patch taken for a register")
def _(draft: Draft, at: str) -> Where:
    def change(a: Array) -> None:
        a[:, 7] = a[:, 4]

    return _stored(draft, "aggregator.kinds.rows", change, "aggregator")


CENTERED = tuple(f"{block}.{name}" for block in (ENCODER, FRAME, GLOBAL) for name in LINEARS)


@fault("centre of the patches x1.05", CENTERED)
def _(draft: Draft, at: str) -> Where:
    """Folded into the norm before qkv and fc1 and into the value rows before proj; a vector of its own before fc2."""
    block, _, name = at.rpartition(".attn.") if ".attn." in at else at.rpartition(".mlp.")
    if not _types(draft, at, "center"):
        return NOWHERE
    if name == "fc2":
        if draft.change(f"{at}.center.patch", scaled(1.05)):
            return at
        return _stored(draft, f"{at}.center", lambda a: np.concatenate([a[:-1], 1.05 * a[-1:]]), at)
    if name in ("qkv", "fc1"):
        norm = "norm1" if name == "qkv" else "norm2"
        return _stored(draft, f"{block}.{norm}.bias", scaled(1.05), block)
    for bias in (f"{block}.attn.qkv.kind_bias.patch", f"{block}.attn.qkv.bias", f"{block}.attn.qkv.kind_bias"):
        value = draft.value(bias)
        if value is not None:
            width = value.shape[-1] // 3

            def change(a: Array, width: int = width, table: bool = bias.endswith("kind_bias")) -> None:
                rows = a[-1:] if table else a
                rows[..., -width:] *= 1.05

            draft.change(bias, change)
            return block
    return NOWHERE


@fault("token-range floor 1e-2")
def _(draft: Draft, at: str) -> Where:
    """Only a token whose largest value is below sees it."""
    return _stored(draft, "token_range_floor", lambda a: np.full_like(a, 1e-2), "")


@fault(
    "token-range floor of one linear left out",
    (f"{GLOBAL}.attn.proj", f"{FRAME}.mlp.fc1"),
    chance="a token of zeros gets codes of no meaning, times a range of zero",
)
def _(draft: Draft, at: str) -> Where:
    """A token of zeros is then divided by zero."""
    node = next((n for n in draft.nodes(re.escape(at) + r"/Max(_1)?") if "token_range_floor" in n.input), None)
    if node is None or "zero_fp8" in draft.tensors:  # whose codes keep the NaN
        return NOWHERE
    draft.change(draft.own(node, list(node.input).index("token_range_floor")), scaled(0))
    return at


ANY = (f"{ENCODER}.mlp.fc1", f"{FRAME}.attn.qkv", f"{GLOBAL}.attn.proj", f"{GLOBAL}.mlp.fc2", f"{CAMERA}.attn.qkv")


DYNAMIC = ANY[:3]  # linears whose clips calibration moves from 1


@fault("activation clip x1.01", DYNAMIC)
def _(draft: Draft, at: str) -> Where:
    node = next((n for n in draft.nodes(re.escape(at) + r"/Mul(_1)?") if n.input[1].startswith("clip_")), None)
    if node is None:
        return NOWHERE
    draft.change(draft.own(node, 1), scaled(1.01))
    return at


@fault("activation clips of both signs swapped", DYNAMIC)
def _(draft: Draft, at: str) -> Where:
    nodes = [n for n in draft.nodes(re.escape(at) + r"/Mul(_1)?") if n.input[1].startswith("clip_")]
    if len(nodes) != 2 or nodes[0].input[1] == nodes[1].input[1]:
        return NOWHERE
    nodes[0].input[1], nodes[1].input[1] = nodes[1].input[1], nodes[0].input[1]
    return at


@fault("activation grid a code too wide", ANY[:4])
def _(draft: Draft, at: str) -> Where:
    """Codes up to 8 in a grid that ends at 7: the clip before the 8-bit container left out."""
    node = draft.node(f"{at}/Clip")
    if node is None:
        return NOWHERE
    value = draft.value(node.input[2])
    assert value is not None
    draft.change(draft.own(node, 2), lambda a: a * 8 / 7)
    draft.change(draft.own(node, 1), lambda a: a * 8 / 7)
    # dynamic ranges end at the bound: what lies beyond needs a range that was clipped
    return at


@fault("activation step x1.001", ANY)
def _(draft: Draft, at: str) -> Where:
    """On both sides of the integers, so that only the rounding moves."""
    quantize = draft.node(f"{at}/QuantizeLinear")
    if quantize is None or not quantize.input[1].startswith("step_"):
        return NOWHERE
    draft.change(draft.own(quantize, 1), scaled(1.001))
    dequantize = draft.reader(quantize.output[0], "DequantizeLinear")
    if dequantize is not None and dequantize.input[1].startswith("step_"):
        draft.change(draft.own(dequantize, 1), scaled(1.001))
    return at


@fault("a weight code off by one", ANY)
def _(draft: Draft, at: str) -> Where:
    def change(a: Array) -> None:
        a[:, 0] += np.where(a[:, 0] < 7, 1, -1).astype(a.dtype)  # one alone may meet inputs of code 0

    return _stored(draft, f"{parameters(at)}.weight_codes", change, at)


@fault("two rows of weights swapped", ANY)
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, f"{parameters(at)}.weight_codes", lambda a: swapped(a, 2, 3), at)


@fault("a weight scale x1.001", ANY)
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, f"{parameters(at)}.weight_scale", one_entry(1.001), at)


@fault("weight scales: each its neighbour's", ANY)
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, f"{parameters(at)}.weight_scale", lambda a: np.roll(a, 1, -1), at)


@fault("a bias entry x1.01", ANY)
def _(draft: Draft, at: str) -> Where:
    for name in ("bias", "bias_negative", "kind_bias.patch"):
        if draft.change(f"{parameters(at)}.{name}", one_entry(1.01)):
            return at
    return _stored(draft, f"{parameters(at)}.kind_bias", lambda a: np.vstack([a[:-1], one_entry(1.01)(a[-1:])]), at)


@fault("a float weight x1.001", ANY)
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, f"{parameters(at)}.weight", one_entry(1.001), at)


ONLINE = (f"{ENCODER}.mlp.fc2", f"{GLOBAL}.mlp.fc2")


@fault("online rotation: a sign", ONLINE)
def _(draft: Draft, at: str) -> Where:
    def change(a: Array) -> None:
        a[3] *= -1

    return _stored(draft, f"{at}.transform.signs", change, at)


@fault("online rotation: an entry of a factor", ONLINE)
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, f"{at}.transform.left", one_entry(1.01), at)


@fault("online smoothing entry x1.01", ONLINE)
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, f"{at}.transform.scale", one_entry(1.01), at)


# camera head

FLOATS = tuple(f"camera_head.{name}" for name in ("pose_branch.fc1", "pose_branch.fc2", "embed_pose"))


@fault("camera weights x1.01", FLOATS)
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, f"{at}.weight", scaled(1.01))


@fault("camera weights: a row of zeros", FLOATS)
def _(draft: Draft, at: str) -> Where:
    def change(a: Array) -> None:
        a[:, 3] = 0

    return _stored(draft, f"{at}.weight", change)


@fault("camera bias entry x1.01", FLOATS)
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, f"{at}.bias", one_entry(1.01))


MODULATION = tuple(f"camera_head.iter.0.{name}" for name in ("shift", "scale", "gate"))


@fault("first modulation entry x1.01", MODULATION)
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, at, one_entry(1.01), "camera_head")


@fault("modulation: scale without 1 +", ("camera_head.iter.1",))
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/Add")
    if node is None or "one" not in node.input:
        return NOWHERE
    node.op_type = "Identity"
    del node.input[1:]
    return at


@fault("modulation: shift and gate swapped", ("camera_head.iter.1",))
def _(draft: Draft, at: str) -> Where:
    return _swap_outputs(draft.node(f"{at}/Split"), 0, 2, at)


@fault("modulation: the gate left out", ("camera_head.iter.1",))
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/Mul_1")
    if node is None:
        return NOWHERE
    node.op_type = "Identity"
    del node.input[0]
    return at


@fault("SiLU by ReLU", ("camera_head.iter.1.silu",))
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/Mul")
    if node is None:
        return NOWHERE
    node.op_type = "Relu"
    del node.input[1:]
    return "camera_head"


@fault("refinement: the pose so far not added", ("camera_head.iter.1",))
def _(draft: Draft, at: str) -> Where:
    """The last Add of an iteration."""
    nodes = draft.nodes(re.escape(at) + r"/Add(_\d)?")
    if not nodes:
        return NOWHERE
    nodes[-1].op_type = "Identity"
    del nodes[-1].input[0]
    return "camera_head"


@fault("refinement: one iteration less")
def _(draft: Draft, at: str) -> Where:
    first, sums = draft.node("camera_head.iter.0.pose_branch.fc2/Add"), draft.nodes(r"camera_head\.iter\.1/Add(_\d)?")
    if first is None or not sums:
        return NOWHERE
    for node in draft.nodes(r"camera_head/Slice(_\d)?"):
        node.input[:] = [first.output[0] if name == sums[-1].output[0] else name for name in node.input]
    return "camera_head"


@fault("camera reads a register")
def _(draft: Draft, at: str) -> Where:
    node = draft.node("camera_head/Slice")
    if node is None or node.input[1] != "ints_0":
        return NOWHERE
    node.input[1] = draft.constant("ints:one", np.array([1], np.int64))
    node.input[2] = draft.constant("ints:two", np.array([2], np.int64))
    return "camera_head"


def _pose(draft: Draft, tensor_of: str, factors: Sequence[float] | None, order: Sequence[int] | None) -> Where:
    node = draft.node(tensor_of)
    if node is None:
        return NOWHERE
    out = node.output[0]
    if factors is not None:
        draft.constant("camera_head/pose_factors", np.array(factors, np.float32))
        draft.after(
            out,
            make("Mul", [out, "camera_head/pose_factors"], "camera_head/pose_changed"),
        )
    else:
        draft.constant("camera_head/pose_order", np.array(order, np.int64))
        made = make("Gather", [out, "camera_head/pose_order"], "camera_head/pose_changed", axis=-1)
        draft.after(out, made)
    return "camera_head"


@fault("quaternion: its real part negative")
def _(draft: Draft, at: str) -> Where:
    return _pose(draft, "camera_head/Concat", [1, 1, 1, 1, 1, 1, -1, 1, 1], None)


@fault("quaternion: the other sign, the same rotation")
def _(draft: Draft, at: str) -> Where:
    return _pose(draft, "camera_head/Concat", [1, 1, 1, -1, -1, -1, -1, 1, 1], None)


@fault("quaternion: wxyz")
def _(draft: Draft, at: str) -> Where:
    return _pose(draft, "camera_head/Concat", None, [0, 1, 2, 6, 3, 4, 5, 7, 8])


@fault("fields of view swapped")
def _(draft: Draft, at: str) -> Where:
    return _pose(draft, "camera_head/Concat", None, [0, 1, 2, 3, 4, 5, 6, 8, 7])


@fault("translation x1.001")
def _(draft: Draft, at: str) -> Where:
    return _pose(draft, "camera_head/Concat", [1.001, 1, 1, 1, 1, 1, 1, 1, 1], None)


@fault("field of view without ReLU")
def _(draft: Draft, at: str) -> Where:
    """Seen where one is negative."""
    return "camera_head" if _bypassed(draft, "camera_head/Relu") else NOWHERE


@fault("feedback of the activated pose")
def _(draft: Draft, at: str) -> Where:
    """The next refinement reads fields of view after their ReLU."""
    node = draft.node("camera_head.iter.0.pose_branch.fc2/Add")
    if node is None:
        return NOWHERE
    out = node.output[0]
    draft.constant("camera_head/pose_floor", np.array([-1e9] * 7 + [0, 0], np.float32))
    draft.after(
        out,
        make("Max", [out, "camera_head/pose_floor"], "camera_head/pose_floored"),
    )
    return "camera_head"


# dense heads


@fault("position map entry", (f"{head}.{name}" for head in HEADS for name in ("projects.0", "scratch")))
def _(draft: Draft, at: str) -> Where:
    """Of one head: the tables are shared."""
    node = draft.node(f"{at}.position/Add")
    if node is None:
        return NOWHERE

    def change(a: Array) -> None:
        a[0, 1, 0, 2] *= 1.1

    draft.change(draft.own(node, 1), change)
    return at


@fault("position map: rows and columns swapped", ("depth_head.projects.1",))
def _(draft: Draft, at: str) -> Where:
    first, second = draft.node(f"{at}.position/Add"), draft.node(f"{at}.position/Add_1")
    if first is None or second is None:
        return NOWHERE
    names = [draft.own(node, 1) for node in (first, second)]
    for name in names:
        draft.change(name, lambda a: np.roll(a, a.shape[1] // 2, 1))
    return at


@fault("position map left out", ("point_head.projects.3",))
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}.position/Add_1")
    if node is None:
        return NOWHERE
    draft.change(draft.own(node, 1), scaled(0))
    return at


RESIZES = tuple(f"{head}.scratch.{name}" for head in HEADS for name in ("refinenet4", "refinenet1", "resize"))


@fault("resize: nearest", RESIZES)
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/Resize")
    if node is None:
        return NOWHERE
    attribute(node, "mode", "nearest")
    return at


@fault("resize: corners not aligned", RESIZES)
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/Resize")
    if node is None:
        return NOWHERE
    attribute(node, "coordinate_transformation_mode", "half_pixel")
    return at


@fault("exp of 1.001 times the value", HEADS)
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}.activate/Transpose")
    if node is None:
        return NOWHERE
    draft.multiply(node.output[0], 1.001)
    return at


@fault("depth linear instead of exp")
def _(draft: Draft, at: str) -> Where:
    return "depth_head" if _bypassed(draft, "depth_head.activate/Exp_1") else NOWHERE


@fault("confidence without 1 +", HEADS)
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}.activate/Add")
    if node is None:
        return NOWHERE
    node.op_type = "Identity"
    del node.input[1:]
    return at


@fault("points: tanh of y x0.499")
def _(draft: Draft, at: str) -> Where:
    node = draft.node("point_head.activate/Mul")
    if node is None:
        return NOWHERE
    draft.change(draft.own(node, 1), lambda a: a * 0.998)
    return "point_head"


@fault("points: x and y swapped")
def _(draft: Draft, at: str) -> Where:
    node = draft.node("point_head.activate/Mul_1")
    if node is None:
        return NOWHERE
    out = node.output[0]
    draft.constant("point_head/xyz_order", np.array([1, 0, 2], np.int64))
    draft.after(
        out,
        make("Gather", [out, "point_head/xyz_order"], "point_head/xyz_swapped", axis=-1),
    )
    return "point_head"


@fault("head reads from a special token on", HEADS)
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}.norm/Slice")
    if node is None:
        return NOWHERE
    for i in (1, 2):
        draft.change(draft.own(node, i), lambda a: a - 1)
    return at


@fault("two levels swapped", HEADS)
def _(draft: Draft, at: str) -> Where:
    first, second = draft.node(f"{at}.norm/Slice"), draft.node(f"{at}.norm/Slice_1")
    if first is None or second is None:
        return NOWHERE
    first.input[0], second.input[0] = second.input[0], first.input[0]
    return at


@fault(
    "skip without ReLU", (f"{head}.scratch.refinenet{i}.resConfUnit2" for head, i in zip(HEADS, (2, 1), strict=True))
)
def _(draft: Draft, at: str) -> Where:
    node, relu = draft.node(f"{at}/Add"), draft.node(f"{at}/Relu")
    if node is None or relu is None:
        return NOWHERE
    node.input[:] = [relu.input[0] if name == relu.output[0] else name for name in node.input]
    return at


@fault("lateral left out", ("depth_head.scratch.refinenet3", "point_head.scratch.refinenet1"))
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/Add")
    if node is None:
        return NOWHERE
    node.op_type = "Identity"
    del node.input[1:]
    return at


@fault("lateral twice", ("point_head.scratch.refinenet2",))
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/Add")
    if node is None:
        return NOWHERE
    node.input[0] = node.input[1]
    return at


CONVS = (
    "depth_head.projects.2",
    "point_head.resize_layers.3",
    "depth_head.scratch.layer1_rn",
    "point_head.scratch.output_conv1",
    "depth_head.scratch.output_conv2.0",
    "point_head.scratch.output_conv2.2",
)


@fault("convolution: an entry x1.01", CONVS)
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, f"{at}.weight", one_entry(1.01))


@fault("convolution: a code off by one", CONVS[:4])
def _(draft: Draft, at: str) -> Where:
    def change(a: Array) -> None:
        a.flat[5] += 1 if a.flat[5] < 7 else -1

    return _stored(draft, f"{at}.weight_codes", change)


@fault("convolution: kernel on its side", CONVS[1:5])
def _(draft: Draft, at: str) -> Where:
    for name in ("weight", "weight_codes"):
        value = draft.value(f"{at}.{name}")
        if value is not None and value.ndim == 4 and value.shape[-1] > 1:
            draft.change(f"{at}.{name}", lambda a: a.swapaxes(2, 3))
            return at
    return NOWHERE


@fault("convolution: a bias entry x1.01", (*CONVS[:2], *CONVS[3:]))
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, f"{at}.bias", one_entry(1.01))


@fault("convolution: output step x1.01", CONVS[:4])
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/QuantizeLinear_1")
    if node is None:
        return NOWHERE
    draft.change(draft.own(node, 1), scaled(1.01))
    return at


@fault("transposed convolution: kernel flipped", ("depth_head.resize_layers.0", "point_head.resize_layers.1"))
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/ConvTranspose")
    return NOWHERE if node is None else _stored(draft, f"{at}.weight", lambda a: a[:, :, ::-1, ::-1])


@fault("pixels spread in the other order", ("depth_head.resize_layers.0", "point_head.resize_layers.1"))
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/DepthToSpace")
    if node is None:
        return NOWHERE
    attribute(node, "mode", "DCR")
    return at


@fault("maps of the head on their side", HEADS)
def _(draft: Draft, at: str) -> Where:
    """Tokens to a map column by column."""
    node = draft.node(f"{at}.norm/Reshape")
    shape = None if node is None else draft.value(node.input[1])
    if node is None or shape is None:
        return NOWHERE
    out, count = node.output[0], int(shape[2] * shape[3])
    places = np.arange(count).reshape(shape[3], shape[2]).T.reshape(-1)
    transpose = draft.by_name[f"{at}.norm/Transpose"]
    draft.constant(f"{at}:places", places.astype(np.int64))
    made = make("Gather", [transpose.output[0], f"{at}:places"], f"{at}:turned", axis=2)
    draft.after(transpose.output[0], made)
    assert out
    return at


@fault("maps of two heads exchanged")
def _(draft: Draft, at: str) -> Where:
    first, second = draft.node("depth_conf/Identity"), draft.node("world_points_conf/Identity")
    if first is None or second is None:
        return NOWHERE
    first.input[0], second.input[0] = second.input[0], first.input[0]
    return ""


# subtle ones: seen only at several frames, in one use of a module, at one end of a grid, or not at all


def _reversed(draft: Draft, name: str, place: str) -> Where:
    """What a node makes [S, ...], its frames in reverse."""
    node = draft.node(name)
    if node is None:
        return NOWHERE
    out = node.output[0]
    path = name.rpartition("/")[0]
    ends = [
        draft.constant(f"{path}/{end}", np.array([value], np.int64))
        for end, value in (("last", -1), ("before", -(1 << 40)), ("frames", 0), ("back", -1))
    ]
    draft.after(out, make("Slice", [out, *ends], f"{path}/reversed"))
    return place


@fault("frames reversed for the cameras", frames=2)
def _(draft: Draft, at: str) -> Where:
    return _reversed(draft, "camera_head/Slice", "camera_head")


@fault("frames reversed in a dense head", HEADS, frames=2)
def _(draft: Draft, at: str) -> Where:
    return _reversed(draft, f"{at}.scratch.output_conv2.2/Conv", at)


@fault("keys of another frame", (FRAME, GLOBAL), frames=2)
def _(draft: Draft, at: str) -> Where:
    return _reversed(draft, f"{at}.attn.k/Add", f"{at}.attn")


def _first_for_all(draft: Draft, tensor: str, path: str) -> Where:
    zero = draft.constant(f"{path}/zero", np.array([0], np.int64))
    made = [
        make("Gather", [tensor, zero], f"{path}/first", axis=0),
        make("Shape", [tensor], f"{path}/shape"),
        make("Expand", [f"{path}/first", f"{path}/shape"], f"{path}/spread"),
    ]
    draft.after(tensor, *made)
    return path


@fault("a linear gives all frames the first's", (f"{FRAME}.attn.proj", f"{GLOBAL}.mlp.fc1"), 2)
def _(draft: Draft, at: str) -> Where:
    """By nodes under the quantized linear's own name."""
    node = draft.node(f"{at}/MatMul") if f"{at}.weight_codes" in draft.tensors else None
    return NOWHERE if node is None else _first_for_all(draft, node.output[0], at)


@fault("a convolution gives all frames the first's", CONVS[1:4:2], 2)
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/Conv") if f"{at}.weight_codes" in draft.tensors else None
    return NOWHERE if node is None else _first_for_all(draft, node.output[0], at)


@fault("special tokens one frame late", frames=2)
def _(draft: Draft, at: str) -> Where:
    node = draft.node("aggregator/Concat_1")
    if node is None:
        return NOWHERE
    node.input.insert(1, node.input[0])
    return "aggregator"


@fault("types one frame late", frames=2)
def _(draft: Draft, at: str) -> Where:
    node = draft.node("aggregator.kinds/Min")
    if node is None or "int_1" not in node.input:
        return NOWHERE
    rows, late = node.input[0], "aggregator.kinds/late"
    less = make("Sub", [rows, "int_1"], late)
    made = make("Max", [late, "int_0"], f"{late}_0")
    before = next(i for i, other in enumerate(draft.graph.node) if other.name == node.name)
    draft.graph.node.insert(before, made)
    draft.graph.node.insert(before, less)
    draft.graph.node[before + 2].input[0] = made.name
    return "aggregator"


@fault("made for two frames alone", (f"{FRAME}.attn", "camera_head"), frames=3)
def _(draft: Draft, at: str) -> Where:
    """A Reshape with their number in it."""
    node = draft.node(f"{at}/Reshape")
    shape = None if node is None else draft.value(node.input[1])
    if node is None or shape is None:
        return NOWHERE
    draft.change(draft.own(node, 1), lambda a: np.where(a == -1, 2, a))
    return at


@fault("positional embedding one row late")
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, f"{PATCHES}.pos_embed", lambda a: np.roll(a, 4, 0))


@fault("weights of two blocks exchanged")
def _(draft: Draft, at: str) -> Where:
    done = False
    for name in ("weight", "weight_codes", "weight_scale"):
        first, second = (f"{block}.mlp.fc1.{name}" for block in (FRAME, GLOBAL))
        values = draft.value(first), draft.value(second)
        if values[0] is not None and values[1] is not None:
            draft.store(first, values[1])
            draft.store(second, values[0])
            done = True
    return f"{FRAME}.mlp|{GLOBAL}.mlp" if done else NOWHERE


@fault("norms of queries and keys exchanged", (FRAME, GLOBAL))
def _(draft: Draft, at: str) -> Where:
    first, second = (
        draft.node(f"{at}.attn.q_norm/LayerNormalization"),
        draft.node(f"{at}.attn.k_norm/LayerNormalization"),
    )
    if first is None or second is None:
        return NOWHERE
    for i in (1, 2):
        first.input[i], second.input[i] = second.input[i], first.input[i]
    return f"{at}.attn"


@fault("depth and confidence exchanged")
def _(draft: Draft, at: str) -> Where:
    first, second = draft.node("depth_head.activate/Slice"), draft.node("depth_head.activate/Slice_1")
    if first is None or second is None:
        return NOWHERE
    for i in (1, 2):
        first.input[i], second.input[i] = second.input[i], first.input[i]
    return "depth_head"


@fault("the last token not attended", BLOCKS)
def _(draft: Draft, at: str) -> Where:
    keys, values = draft.node(f"{at}.attn.scores/MatMul"), draft.node(f"{at}.attn.context/MatMul")
    if keys is None or values is None:
        return NOWHERE
    zero, last = (draft.constant(f"{at}.attn/{n}", np.array([v], np.int64)) for n, v in (("zero", 0), ("last", -1)))
    for node, axis in ((keys, 3), (values, 2)):
        place = draft.constant(f"{at}.attn/axis{axis}", np.array([axis], np.int64))
        tensor = node.input[1]
        draft.after(tensor, make("Slice", [tensor, zero, last, place], f"{at}.attn/shorter{axis}"))
    return f"{at}.attn"


@fault("GELU twice", (ENCODER, FRAME))
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}.mlp/Gelu")
    if node is None:
        return NOWHERE
    draft.after(node.output[0], make("Gelu", [node.output[0]], f"{at}.mlp/Gelu_1", approximate="none"))
    return f"{at}.mlp"


@fault("activation step x1.001 before the rounding only", ANY, chance="some value has to be near a boundary")
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/QuantizeLinear")
    if node is None or not node.input[1].startswith("step_"):
        return NOWHERE
    draft.change(draft.own(node, 1), scaled(1.001))
    return at


@fault("zero point 1", ANY, chance="some value has to have the largest code")
def _(draft: Draft, at: str) -> Where:
    """On both sides of the integers: only the largest code is lost."""
    quantize = draft.node(f"{at}/QuantizeLinear")
    dequantize = None if quantize is None else draft.reader(quantize.output[0], "DequantizeLinear")
    if quantize is None or dequantize is None or draft.node(f"{at}/Clip") is not None:
        return NOWHERE
    for node in (quantize, dequantize):
        draft.change(draft.own(node, 2), lambda a: a + 1)
    return at


@fault("activation grid a code too low", ANY[:4], chance="some value has to be below the grid")
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/Clip")
    if node is None:
        return NOWHERE
    draft.change(draft.own(node, 1), scaled(8 / 7))
    return at


@fault("weight scales along the other side", (f"{FRAME}.attn.proj", "aggregator.patch_rotation"))
def _(draft: Draft, at: str) -> Where:
    """Of a square weight."""
    node = draft.node(f"{at}/DequantizeLinear_1")
    if node is None or not draft.tensors[node.input[1]].dims or node.input[1].startswith("power"):
        return NOWHERE
    attribute(node, "axis", 1 - int(get(node, "axis")))  # type: ignore[call-overload]
    return at


@fault("ranges over all tokens", (f"{FRAME}.attn.qkv", f"{GLOBAL}.mlp.fc1"))
def _(draft: Draft, at: str) -> Where:
    nodes = draft.nodes(re.escape(at) + "/Reduce(Max|Min)")
    for node in nodes:
        axes = draft.constant(f"{node.name}:axes", np.array([-2, -1], np.int64))
        node.input[1] = axes
    return at if nodes else NOWHERE


@fault("bias not negated where it is subtracted", (f"{CAMERA}.mlp.fc1", f"{GLOBAL}.mlp.fc1"))
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, f"{parameters(at)}.bias_negative", scaled(-1), at)


@fault("a weight of one refinement alone x1.01", ("camera_head.iter.1.pose_branch.fc1",))
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/MatMul")
    if node is None:
        return NOWHERE
    draft.change(draft.own(node, 1), one_entry(1.01))
    return at


@fault("weight codes of one refinement alone", (f"{CAMERA}.attn.proj", f"{CAMERA}.mlp.fc2"))
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/MatMul")
    dequantize = None if node is None else next((n for n in draft.graph.node if n.output[0] == node.input[1]), None)
    if node is None or dequantize is None or not dequantize.input[0].endswith(".weight_codes"):
        return NOWHERE

    def change(a: Array) -> None:
        a[:, 0] += np.where(a[:, 0] < 7, 1, -1).astype(a.dtype)  # one alone may meet inputs of code 0

    draft.change(draft.own(dequantize, 0), change)
    return at


@fault("residual x1.00003", BLOCKS)
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/Add")
    if node is None or draft.dtype(node.output[0]) != np.float32:
        return NOWHERE
    draft.multiply(node.output[0], 1.00003)
    return at


@fault("residual x1.000003", (FRAME,), unseen="3e-6 of an output")
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/Add")
    if node is None or draft.dtype(node.output[0]) != np.float32:
        return NOWHERE
    draft.multiply(node.output[0], 1.000003)
    return at


@fault("residual clipped at 1e4", (GLOBAL,), unseen="no token reaches it")
def _(draft: Draft, at: str) -> Where:
    node = draft.node(f"{at}/Add")
    if node is None or draft.dtype(node.output[0]) != np.float32:
        return NOWHERE
    out = node.output[0]
    ends = [draft.constant(f"{at}/{name}", np.array(v, np.float32)) for name, v in (("low", -1e4), ("high", 1e4))]
    draft.after(out, make("Clip", [out, *ends], f"{at}/clipped"))
    return at


@fault("an output left out")
def _(draft: Draft, at: str) -> Where:
    """With the nodes that nothing else needs."""
    last = draft.node("world_points_conf/Identity")
    if last is None:
        return NOWHERE
    kept = [value for value in draft.graph.output if value.name != "world_points_conf"]
    del draft.graph.output[:]
    draft.graph.output.extend(kept)
    nodes = [node for node in draft.graph.node if node.name != last.name]
    while True:
        read = {name for node in nodes for name in node.input} | {value.name for value in kept}
        alive = [node for node in nodes if read.intersection(node.output)]
        if len(alive) == len(nodes):
            break
        nodes = alive
    del draft.graph.node[:]
    draft.graph.node.extend(nodes)
    return "point_head"


# formats of floats, and attention on codes


@fault("block scales: each its neighbour's", ANY[:4])
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, f"{parameters(at)}.block_scale", lambda a: np.roll(a, 1, 0), at)


@fault("a block scale one code down", ANY[:4])
def _(draft: Draft, at: str) -> Where:
    """E4M3 has eight steps from one power of two to the next."""
    return _stored(draft, f"{parameters(at)}.block_scale", one_entry(0.875), at)


@fault("scales of all rows x1.01", ANY)
def _(draft: Draft, at: str) -> Where:
    return _stored(draft, f"{parameters(at)}.weight_scale", scaled(1.01), at)


@fault("activation headroom: scales twice as wide", ANY)
def _(draft: Draft, at: str) -> Where:
    """On both sides of the codes of blocks' scales, or of the codes themselves."""
    nodes = [
        node
        for node in draft.nodes(re.escape(at) + r"/(Quantize|Dequantize)Linear(_\d)?")
        if node.input[1].startswith("step_")
    ]
    for node in nodes:
        draft.change(draft.own(node, 1), scaled(2))
    return at if nodes else NOWHERE


@fault("unit of the blocks' scales x1.01", ANY[:4])
def _(draft: Draft, at: str) -> Where:
    node = next((n for n in draft.nodes(re.escape(at) + r"/Mul(_\d)?") if n.input[1].startswith("unit_")), None)
    if node is None:
        return NOWHERE
    draft.change(draft.own(node, 1), scaled(1.01))
    return at


@fault("attention codes: scale x1.01", (f"{FRAME}:0", f"{GLOBAL}:1", f"{GLOBAL}:2"))
def _(draft: Draft, at: str) -> Where:
    """Of queries, keys or values, on both sides of the codes."""
    block, _, which = at.partition(":")
    suffix = "" if which == "0" else f"_{which}"
    nodes = [draft.node(f"{block}.attn/{op}{suffix}") for op in ("QuantizeLinear", "DequantizeLinear")]
    for node in nodes:
        if node is None:
            return NOWHERE
        draft.change(draft.own(node, 1), scaled(1.01))
    return f"{block}.attn"


@fault("attention codes: probabilities to twice the range", (FRAME, GLOBAL))
def _(draft: Draft, at: str) -> Where:
    nodes = [draft.node(f"{at}.attn/{op}_3") for op in ("QuantizeLinear", "DequantizeLinear")]
    for node in nodes:
        if node is None:
            return NOWHERE
        draft.change(draft.own(node, 1), scaled(2))
    return f"{at}.attn"


@fault("attention codes left out for values", (GLOBAL,))
def _(draft: Draft, at: str) -> Where:
    quantize, dequantize = (draft.node(f"{at}.attn/{op}_2") for op in ("QuantizeLinear", "DequantizeLinear"))
    if quantize is None or dequantize is None:
        return NOWHERE
    dequantize.op_type = "Cast"
    dequantize.input[:] = [quantize.input[0]]
    attribute(dequantize, "to", TensorProto.FLOAT16)
    return f"{at}.attn"
