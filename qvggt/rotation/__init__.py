"""Rotations and smoothing scales that fold into the weights: the outputs stay, the activations lose their outliers."""

from qvggt.models.fold_config import FoldConfig
from qvggt.models.folded import applied_fold, fold_structure_
from qvggt.quant.hadamard import head_rotation, residual_rotation
from qvggt.quant.kronecker import KroneckerHadamard
from qvggt.rotation.cost import CostTable
from qvggt.rotation.fold import fold_, rotate_streams_
from qvggt.rotation.smoothing import fold_smoothing_

__all__ = [
    "CostTable",
    "FoldConfig",
    "KroneckerHadamard",
    "applied_fold",
    "fold_",
    "fold_smoothing_",
    "fold_structure_",
    "head_rotation",
    "residual_rotation",
    "rotate_streams_",
]
