"""Image features at voxels, for Focals Conv-F (Chen et al., CVPR 2022, section 3.3): a small CNN and a projection.

The CNN is the stem and the first stage of DeepLabV3's ResNet-50 (256 channels at a quarter of the size), then a 1x1
convolution; parameter names as in OpenPCDet's semseg.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.models import resnet50  # type: ignore[import-untyped, unused-ignore]

from vision3d.detection.grid import VoxelGrid

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class VoxelImages:
    """features: of each image of the batch. sizes: (width, height) px of each before the features were computed.

    pixel_from_point: K [R | t] of each, from points (x, y, z, 1) of the cloud as the voxels see it (after any
    augmentation) to homogeneous px, the top-left pixel's centre at (0.5, 0.5).
    """

    features: Float[Tensor, "b c h w"]
    pixel_from_point: Float[Tensor, "b 3 4"]
    sizes: Float[Tensor, "b 2"]

    def onto(self, grid: VoxelGrid) -> _Sampler:
        """What gives the image features at voxels (batch, z, y, x) of stride 1."""
        return _Sampler(self, grid)

    def at(self, centers: Float[Tensor, "n 3"], batch: Int[Tensor, " n"]) -> Float[Tensor, "n c"]:
        """Bilinear features where the points lie in their images; 0 outside and behind the camera."""
        out = self.features.new_zeros(len(centers), self.features.shape[1])
        for b in range(len(self.features)):
            rows = (batch == b).nonzero()[:, 0]
            p = self.pixel_from_point[b].to(centers)
            x, y, depth = (centers[rows] @ p[:, :3].T + p[:, 3]).unbind(1)
            depth = torch.where(depth > 1e-3, depth, torch.nan)
            share = torch.stack([x / depth, y / depth], 1) / self.sizes[b].to(centers)
            inside = ((share >= 0) & (share < 1)).all(1)
            where = (2 * share[inside] - 1).to(self.features)[None, None]
            found = F.grid_sample(self.features[b : b + 1], where, padding_mode="border", align_corners=False)
            out = out.index_copy(0, rows[inside], found[0, :, 0].T)
        return out


@dataclass(frozen=True, slots=True)
class _Sampler:
    images: VoxelImages
    grid: VoxelGrid

    def __call__(self, indices: Int[Tensor, "n 4"]) -> Float[Tensor, "n c"]:
        return self.images.at(self.grid.centers(indices), indices[:, 0])


class _Reduce(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(x)).relu()
        return out


class ImageFeatures(nn.Module):
    """Photos to `channels` features at a quarter of their size. Weights are random until some are loaded."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        net = resnet50(weights=None)
        names = ("conv1", "bn1", "relu", "maxpool", "layer1")
        self.backbone = nn.Sequential()
        for name in names:
            self.backbone.add_module(name, getattr(net, name))
        self.reduce_blocks = nn.ModuleList([_Reduce(256, channels)])

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c u v"]:
        """RGB in [0, 1]."""
        mean, std = (images.new_tensor(v)[:, None, None] for v in (IMAGE_MEAN, IMAGE_STD))
        out: Tensor = self.reduce_blocks[0](self.backbone((images - mean) / std))
        return out


def stack_images(images: Sequence[Float[Tensor, "3 _h _w"]]) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 2"]]:
    """Photos of different sizes as one batch, filled with 0 to the right and below; and the size of all, (w, h) px.

    All get the common size: sampling goes by px from the top-left corner.
    """
    height, width = (max(int(image.shape[i]) for image in images) for i in (1, 2))
    padded = [F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image in images]
    size = images[0].new_tensor([width, height]).expand(len(images), 2)
    return torch.stack(padded), size
