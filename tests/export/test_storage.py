from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor

from qvggt.errors import QvggtError
from qvggt.export.storage import ALIGNMENT, SMALL, Storage, model_files

LARGE = np.arange(SMALL + 2, dtype=np.float32)  # no multiple of the alignment


class BrokenError(Exception):
    pass


def write(path: Path, *, external: bool = True, model: bytes = b"model", broken: bool = False) -> list[TensorProto]:
    with model_files(path, external) as (storage, temporary):
        tensors = [storage.tensor(f"t{i}", LARGE + i) for i in range(3)]
        temporary.write_bytes(model)
        if broken:
            raise BrokenError
    return tensors


def test_inline_tensors_carry_their_bytes() -> None:
    tensor = Storage().tensor("x", LARGE.reshape(2, -1).T)
    assert not tensor.external_data
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), LARGE.reshape(2, -1).T)


def test_int4_tensors_are_packed() -> None:
    codes = np.array([[-8, 7, 0]], np.int8)
    tensor = Storage().tensor("x", codes.astype(ml_dtypes.int4))
    assert (tensor.data_type, list(tensor.dims), len(tensor.raw_data)) == (TensorProto.INT4, [1, 3], 2)
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.int8), codes)


@pytest.mark.parametrize("count", [4, 5])
def test_fp4_and_fp8_tensors(count: int) -> None:
    codes = np.array([-6, 0.5, -0.0, 3, 1.5], np.float32)[:count]
    for dtype, size in ((ml_dtypes.float4_e2m1fn, -(-count // 2)), (ml_dtypes.float8_e4m3fn, count)):
        tensor = Storage().tensor("x", codes.astype(dtype))
        assert (len(tensor.raw_data), list(tensor.dims)) == (size, [count])
        np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.float32), codes)
    assert tensor.data_type == TensorProto.FLOAT8E4M3FN


def test_external_tensors_lie_aligned_in_one_file_beside_the_model(tmp_path: Path) -> None:
    tensors = write(tmp_path / "m.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    end = 0
    for i, tensor in enumerate(tensors):
        info = ExternalDataInfo(tensor)
        assert info.location == "m.onnx.data"  # relative, no folder: nothing outside is ever read
        offset = int(info.offset or 0)
        assert offset % ALIGNMENT == 0
        assert end <= offset < end + ALIGNMENT
        assert info.length == LARGE.nbytes
        end = offset + LARGE.nbytes
        load_external_data_for_tensor(tensor, str(tmp_path))
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), LARGE + i)
    assert (tmp_path / "m.onnx.data").stat().st_size == end


def test_short_tensors_stay_in_the_model_where_shape_inference_reads_them(tmp_path: Path) -> None:
    with model_files(tmp_path / "m.onnx", external=True) as (storage, temporary):
        tensor = storage.tensor("shape", np.array([0, -1], np.int64))
        temporary.write_bytes(b"model")
    assert tensor.raw_data
    assert not tensor.external_data


def test_bytes_go_to_disk_as_they_come(tmp_path: Path) -> None:
    """Memory stays at about one tensor: what was written is not kept in the proto."""
    with model_files(tmp_path / "m.onnx", external=True) as (storage, temporary):
        temporary.write_bytes(b"model")
        tensor = storage.tensor("x", LARGE)
        assert tensor.ByteSize() < 200
        assert storage.data is not None
        assert storage.data.tell() == LARGE.nbytes


@pytest.mark.parametrize("external", [False, True])
def test_failure_leaves_nothing(tmp_path: Path, external: bool) -> None:
    with pytest.raises(BrokenError):
        write(tmp_path / "m.onnx", external=external, model=b"new", broken=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("external", [False, True])
def test_failure_leaves_an_earlier_export_as_it_was(tmp_path: Path, external: bool) -> None:
    write(tmp_path / "m.onnx", model=b"old")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(BrokenError):
        write(tmp_path / "m.onnx", external=external, model=b"new", broken=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_an_inline_export_removes_the_data_file_of_an_earlier_one(tmp_path: Path) -> None:
    write(tmp_path / "m.onnx")
    write(tmp_path / "m.onnx", external=False, model=b"small")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == b"small"


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(QvggtError, match=r"m\.bin: expected a file name ending in \.onnx"),
        model_files(tmp_path / "m.bin", external=False),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
