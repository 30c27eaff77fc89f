"""QV90x, each on a graph that breaks it, with what TensorRT-RTX makes of that graph."""

from __future__ import annotations

import pytest
from attention_graphs import FORMS
from rtx import Build, Lint

BROKEN = {
    "fp8_31": "QV904",
    "fp8_float32": "QV902",
    "fp8_without_v": "QV901",
    "fp8_without_p": "QV901",
    "fp8_scores_alone": "QV901",
    "fp8_values_alone": "QV901",
    "int8_output_float": "QV903",
    "int8_513": "QV903",
}


@pytest.mark.parametrize("name", FORMS)
def test_one_kernel_or_stored_scores(name: str, rules: Lint, build: Build) -> None:
    model = FORMS[name].model()
    assert rules(model) - {"QV402"} == ({BROKEN[name]} if name in BROKEN else set())
    kernels = build(model).kernels
    code = "Half" if name == "fp16" else "Int8" if name.startswith("int8") else "FP8"
    fused = [kernel for kernel in kernels if kernel.kind == "kgen" and kernel.inputs == (code,) * 3]
    assert len(fused) == (name not in BROKEN)
