"""Mutants that nobody could tell from the original, with the reason: judged by hand, not counted in the score."""

# ruff: noqa: E501 - the names are lines of source
from __future__ import annotations

# by the name that `tools/mutation.py` reports: file, the line before and after
EQUIVALENT: dict[str, str] = {
    "qvggt/formats/grid.py: return torch.from_numpy(pack(codes.cpu().numpy(), self.bits)) -> return torch.from_numpy(pack(codes.cpu(), self.bits))": "numpy makes an array of a tensor on the CPU by itself",
    "qvggt/quant/conv.py: torch.tensor(max(value, EPS), dtype=torch.float32, device=weight.device) -> torch.tensor(max(value, EPS), device=weight.device)": "fp32 is what PyTorch makes of a float, and no code of ours changes its default type",
    "qvggt/quant/transform.py: return self.rotation or self.scale or self.kinds > 0 -> return self.rotation or self.scale or self.kinds != 0": "a count is not negative",
    'qvggt/quant/hadamard.py: return (torch.eye(width, dtype=torch.float64, device="cpu") - 2 * torch.outer(v, v) / (v @ v))[:, 1:] -> return (torch.eye(width, device="cpu") - 2 * torch.outer(v, v) / (v @ v))[:, 1:]': "fp32 holds zeros and ones exactly, and minus a float64 matrix it is float64",
    "qvggt/quant/hadamard.py: check_residual_rotation(q) -> pass": "the construction guarantees what is checked; that the check bites has a test of its own",
    "eval/metrics.py: present = weight > 0 -> present = weight != 0": "weights are counts of pairs, never negative",
    'eval/metrics.py: groups = [categories.index(record.category) if metric.pooling == "categories" else 0 for record, _ in kept] -> groups = [categories.index(record.category) if metric.pooling == "categories" else 1 for record, _ in kept]': "one group under whatever number; group 0 is then empty, and empty groups are left out",
    "engines/manifest.py: @dataclass(frozen=True) -> @dataclass(frozen=False)": "nobody assigns to a field: mypy refuses it",
    "calib/gptq.py: for i, (row, s) in enumerate(zip(block, scales[start : start + LAZY], strict=True)): -> for i, (row, s) in enumerate(zip(block, scales[start : start + LAZY])):": "both are the same rows of two tensors of one shape",
    "eval/metrics.py: @dataclass(frozen=True) -> @dataclass()": "nobody assigns to a field: mypy refuses it",
    "eval/metrics.py: @dataclass(frozen=True) -> @dataclass(frozen=False)": "nobody assigns to a field: mypy refuses it",
    "engines/manifest.py: @dataclass(frozen=True) -> @dataclass()": "nobody assigns to a field: mypy refuses it",
    "qvggt/onnx_view/external_data.py: @dataclass(frozen=True) -> @dataclass()": "nobody assigns to a field: mypy refuses it",
    "qvggt/onnx_view/external_data.py: outside = status.st_nlink - self._names_inside(real, status) if status.st_nlink > 1 else 0 -> outside = status.st_nlink - self._names_inside(real, status) if status.st_nlink > 0 else 0": "a file of one name has that name in its own folder: it only lists the folder for nothing",
    "calib/gptq.py: for i, (row, s) in enumerate(zip(block, scales[start : start + LAZY], strict=True)): -> for i, (row, s) in enumerate(zip(block, scales[start : start + LAZY], strict=False)):": "both are the same rows of two tensors of one shape",
    "calib/gptq.py: rest, scales = (t.double().expand_as(weight).T[order].contiguous() for t in (weight, scale)) -> rest, scales = (t.double().expand_as(weight).T[order] for t in (weight, scale))": "the same values in another layout; indexing has made a copy already",
    "qvggt/quant/hadamard.py: while width > 1 and width % base == 0: -> while width > 0 and width % base == 0:": "1 is divided by no base, so the loop ends there in either case",
    "export/forms/convolution.py: scales = array(module.weight_scale)[:, 0].astype(np.float32) -> scales = array(module.weight_scale)[:, -1].astype(np.float32)": "a scale per row: the first of one is its last",
    "export/linear.py: x = b.reshape(site.cast(x, site.precision), (0, 0, rows, cols), site.path) -> x = b.reshape(site.cast(x, site.precision), ( -1, 0, rows, cols), site.path)": "0 copies the number of frames, -1 finds the same one from the rest",
}
