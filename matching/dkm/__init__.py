"""DKM v3: dense matching by kernelised regression and warp refinement (Edstedt et al., CVPR 2023)."""

from vision3d.matching.dkm.config import DKMConfig
from vision3d.matching.dkm.model import DKM

__all__ = ["DKM", "DKMConfig"]
