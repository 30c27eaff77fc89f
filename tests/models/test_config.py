"""A config is checked field by field: a damaged one must not take memory or end in a traceback."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qvggt.errors import QvggtError
from qvggt.models.vggt.config import VGGT_1B, VGGTConfig


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_heads": None}, "num_heads: expected an integer, got null"),
        ({"num_heads": True}, "num_heads: expected an integer, got bool 'True'"),
        ({"embed_dim": 1 << 40}, "embed_dim: expected an integer from 1 to 65536, got int '1099511627776'"),
        ({"vit_depth": 100_000}, "vit_depth: expected an integer from 1 to 1024, got int '100000'"),
        ({"aa_depth": 0}, "aa_depth: expected an integer from 1 to 1024, got int '0'"),
        ({"num_register_tokens": -1}, "num_register_tokens: expected an integer from 0"),
        ({"rope_base": "x"}, "rope_base: expected a number, got str 'x'"),
        ({"layer_scale": float("nan")}, "layer_scale: expected a finite number, got float 'nan'"),
        ({"dpt_layers": [0, 1]}, "dpt_layers: expected four integers, got list"),
        ({"dpt_layers": [0, 1, 2, "3"]}, "dpt_layers: expected four integers"),
        ({"dpt_layers": [0, 1, 2, -1]}, "dpt_layers[3]: expected an integer from 0"),
        ({"heads": [3]}, "heads: expected a list of strings"),
        ({"heads": "camera"}, "heads: expected a list of strings, got str"),
        ({"track": 3}, "track: expected an object, got int '3'"),
        ({"track": {"depth": "x"}}, "track.depth: expected an integer, got str 'x'"),
        ({"patch_size": 600}, "patch_size 600 exceeds"),
        ({"camera_num_heads": 7}, "must split into 7 heads"),
    ],
)
def test_values_that_cannot_be(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(QvggtError) as caught:
        VGGTConfig.from_dict(changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_released_config_is_read_back() -> None:
    assert VGGTConfig.from_dict(json.loads(VGGT_1B.to_json())) == VGGT_1B
    assert VGGTConfig.from_dict({"num_register_tokens": 0}).num_register_tokens == 0
