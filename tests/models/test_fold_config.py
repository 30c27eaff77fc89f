from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from qvggt.errors import QvggtError
from qvggt.mapping import from_mapping
from qvggt.rotation import FoldConfig


def read(text: str) -> FoldConfig:
    return from_mapping(FoldConfig, json.loads(text), "fold")


def test_survives_json() -> None:
    config = FoldConfig(seed=7, residual=False, value=False, camera_value=True)
    assert read(json.dumps(asdict(config))) == config
    assert read('{"seed": 3}') == FoldConfig(seed=3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"seed": -1}', "seed -1, expected 0 or more"),
        ('{"seed": true}', "seed: expected an integer, got bool 'True'"),
        ('{"value": 1}', "value: expected true or false, got int '1'"),
        ('{"layer_scale": false}', "residual needs layer_scale"),
        ('{"version": 2}', "version 2, expected 1"),
        ('{"speed": 1}', "unknown key 'speed'"),
        ("[]", "expected an object, got list"),
    ],
)
def test_errors_are_one_line(text: str, words: str) -> None:
    with pytest.raises(QvggtError, match=words) as error:
        read(text)
    assert "\n" not in str(error.value)
