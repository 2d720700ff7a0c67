"""Core types: frozen dataclasses that cross module borders, and the errors people see."""

from vision3d.core.boxes import Boxes3D
from vision3d.core.camera import Camera, CameraPrior
from vision3d.core.correspondences import Correspondences, Warp
from vision3d.core.image import Image
from vision3d.core.mesh import Mesh
from vision3d.core.point_cloud import PointCloud
from vision3d.core.progress import Progress, silent
from vision3d.core.scene import PosedImage, Scene, Tracks
from vision3d.core.sparse_tensor import Sites, SparseTensor
from vision3d.core.surfels import Rendering, Surfels
from vision3d.core.transform import RigidTransform
from vision3d.core.views import DepthView, View
from vision3d.errors import MissingWeightsError, UsageError, Vision3DError

__all__ = [
    "Boxes3D",
    "Camera",
    "CameraPrior",
    "Correspondences",
    "DepthView",
    "Image",
    "Mesh",
    "MissingWeightsError",
    "PointCloud",
    "PosedImage",
    "Progress",
    "Rendering",
    "RigidTransform",
    "Scene",
    "Sites",
    "SparseTensor",
    "Surfels",
    "Tracks",
    "UsageError",
    "View",
    "Vision3DError",
    "Warp",
    "silent",
]
