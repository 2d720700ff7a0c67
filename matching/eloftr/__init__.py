"""Efficient LoFTR (Wang et al., CVPR 2024): semi-dense matching of two photos."""

from vision3d.matching.eloftr.config import EfficientLoFTRConfig
from vision3d.matching.eloftr.model import CellMatches, EfficientLoFTR

__all__ = ["CellMatches", "EfficientLoFTR", "EfficientLoFTRConfig"]
