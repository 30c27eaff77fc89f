"""MACs against the numbers of spec/quantvggt.md section 6."""

from __future__ import annotations

import pytest

from qvggt.models.vggt.config import VGGT_1B, VGGTConfig
from qvggt.rotation import CostTable

TABLE = CostTable(VGGT_1B)
#        MACs       dense R     FWHT adds Kronecker R bytes in MiB
SPEC = {
    "qkv": (3_145_728, 1_048_576, 10_240, 65_536, 4),
    "proj": (1_048_576, 1_048_576, 10_240, 65_536, 4),
    "fc1": (4_194_304, 1_048_576, 10_240, 65_536, 4),
    "fc2": (4_194_304, 16_777_216, 49_152, 524_288, 64),
}


def test_linears() -> None:
    got = {x.name: (x.macs, x.dense, x.hadamard_adds, x.kronecker, x.dense_bytes / 2**20) for x in TABLE.linears}
    assert got == SPEC


def test_block() -> None:
    assert TABLE.block == 12_582_912
    assert TABLE.block_dense == 19_922_944
    assert TABLE.block_dense / TABLE.block == pytest.approx(1.583, abs=5e-4)
    assert TABLE.block_folded == 0


def test_online_rotation_of_fc2() -> None:
    table = CostTable(VGGT_1B, kronecker=True)
    assert table.block_folded / table.linears[-1].macs == 0.125
    assert table.block_folded / table.block == pytest.approx(0.042, abs=5e-4)


def test_the_two_linears() -> None:
    assert [(a.width**2, a.per) for a in TABLE.added] == [(1024**2, "patch"), (2048**2, "frame")]
    assert [a.per for a in CostTable(VGGT_1B.replace(heads=("depth",))).added] == ["patch"]
    assert TABLE.frame(518, 518) == 12_582_912 * 72 * 1374
    assert TABLE.frame_folded(518, 518) == 1369 * 1024**2 + 2048**2
    assert TABLE.frame_folded(518, 518) / TABLE.frame(518, 518) == pytest.approx(0.00116, abs=1e-5)


def test_dense_rotations_of_ten_frames() -> None:
    """26.28 TFLOP for the 48 aggregator blocks, against 16.60 in their linears."""
    tokens = 10 * 1374
    assert 2 * TABLE.block * tokens * 48 == pytest.approx(16.60e12, rel=1e-3)
    assert 2 * TABLE.block_dense * tokens * 48 == pytest.approx(26.28e12, rel=1e-3)


def test_markdown() -> None:
    text = TABLE.to_markdown(518, 518)
    assert "| block | | 12,582,912 | 19,922,944 (158.3 %) | 0 |" in text
    assert "| fc2 | 4096 -> 1024 | 4,194,304 | 16,777,216 (400.0 %) | 0 |" in text
    assert "524,288 (12.5 %)" in CostTable(VGGT_1B, kronecker=True).to_markdown(518, 518)
    CostTable(VGGTConfig(embed_dim=96, num_heads=4)).to_markdown(70, 56)
