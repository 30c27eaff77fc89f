from __future__ import annotations

import pytest

from qvggt.errors import QvggtError
from qvggt.rotation import FoldConfig


def test_survives_json() -> None:
    config = FoldConfig(seed=7, residual=False, value=False, camera_value=True)
    assert FoldConfig.from_json(config.to_json()) == config
    assert FoldConfig.from_dict({"seed": 3}) == FoldConfig(seed=3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"seed": -1}', "seed -1, expected 0 or more"),
        ('{"seed": true}', "key 'seed' expected int, got True"),
        ('{"value": 1}', "key 'value' expected bool, got 1"),
        ('{"layer_scale": false}', "residual needs layer_scale"),
        ('{"version": 2}', "version 2, expected 1"),
        ('{"speed": 1}', "unknown key 'speed'"),
        ("[]", "expected a JSON object, got list"),
        ("{", "not JSON"),
    ],
)
def test_errors_are_one_line(text: str, words: str) -> None:
    with pytest.raises(QvggtError, match=words) as error:
        FoldConfig.from_json(text)
    assert "\n" not in str(error.value)
