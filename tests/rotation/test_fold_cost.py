"""MACs against the numbers of spec/quantvggt.md section 6."""

from __future__ import annotations

import pytest

from qvggt.models.vggt.config import VGGT_1B, VGGTConfig
from qvggt.rotation import CostTable
from qvggt.rotation.cost import branch_macs, kronecker_macs

TABLE = CostTable(VGGT_1B)
MACS, ADDED, _ = TABLE.block
#        MACs       dense R     Kronecker R bytes in MiB
SPEC = {
    "qkv": (3_145_728, 1_048_576, 65_536, 4),
    "proj": (1_048_576, 1_048_576, 65_536, 4),
    "fc1": (4_194_304, 1_048_576, 65_536, 4),
    "fc2": (4_194_304, 16_777_216, 524_288, 64),
}


def test_linears() -> None:
    got = {name: (i * o, i * i, kronecker_macs(i), 4 * i * i / 2**20) for name, (i, o) in TABLE.linears.items()}
    assert got == SPEC


def test_block() -> None:
    assert TABLE.block == (12_582_912, 19_922_944, 0)
    ratio = ADDED / MACS
    assert ratio == pytest.approx(1.583, abs=5e-4)


def test_online_rotation_of_fc2() -> None:
    online = CostTable(VGGT_1B, kronecker=True).block[2]
    assert online / SPEC["fc2"][0] == 0.125
    assert online / MACS == pytest.approx(0.042, abs=5e-4)


def test_the_two_linears() -> None:
    assert [(linear.width, linear.per) for linear in TABLE.outside] == [(1024, "patch"), (2048, "frame")]
    assert [linear.width for linear in CostTable(VGGT_1B.replace(heads=("depth",))).outside] == [1024]
    total, ours, outside = TABLE.frame(518, 518)
    assert total == 12_582_912 * 72 * 1374
    assert ours == outside == 1369 * 1024**2 + 2048**2
    assert ours / total == pytest.approx(0.00116, abs=1e-5)


def test_dense_rotations_of_ten_frames() -> None:
    """26.28 TFLOP for the 48 aggregator blocks, against 16.60 in their linears."""
    tokens = 10 * 1374
    assert 2 * MACS * tokens * 48 == pytest.approx(16.60e12, rel=1e-3)
    assert 2 * ADDED * tokens * 48 == pytest.approx(26.28e12, rel=1e-3)


def test_markdown() -> None:
    text = TABLE.to_markdown(518, 518)
    assert "| block | | 12,582,912 | 19,922,944 (158.3 %) | 0 |" in text
    assert "| fc2 | 4096 -> 1024 | 4,194,304 | 16,777,216 (400.0 %) | 0 |" in text
    assert "524,288 (12.5 %)" in CostTable(VGGT_1B, kronecker=True).to_markdown(518, 518)
    CostTable(VGGTConfig(embed_dim=96, num_heads=4)).to_markdown(70, 56)


def test_branches() -> None:
    """Of rank 64 at 1024 channels: two products with the basis, one with what it carries."""
    table = CostTable(VGGT_1B, branch=64)
    assert table.online == {name: 64 * (2 * i + o) for name, (i, o) in table.linears.items()}
    assert table.block == (MACS, ADDED, 64 * 23 * 1024)
    assert branch_macs(64, 1024, 4096, whole=True) == 64 * (1024 + 4096)
    assert "| fc1 | 1024 -> 4096 | 4,194,304 | 1,048,576 (25.0 %) | 393,216 (9.4 %) |" in table.to_markdown(518, 518)
