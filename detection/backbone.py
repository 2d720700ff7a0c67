"""The sparse 3D backbone: SECOND's (Yan et al., Sensors 2018, section 3.2), plain or with focal convolutions.

Layers as OpenPCDet's VoxelBackBone8x (711,872 numbers) and VoxelBackBone8xFocal, and its names of parameters, so that
checkpoints fit; focal convolutions end the first stages (Chen et al., "Focal Sparse Convolutional Networks for 3D
Object Detection", CVPR 2022, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from vision3d.core import SparseTensor
from vision3d.detection.focal import FocalConfig, FocalConv, Importance
from vision3d.detection.grid import Steps, VoxelGrid
from vision3d.detection.image_features import VoxelImages
from vision3d.sparse import SparseBatchNorm, SparseConv, SparseReLU, SparseSequential, SubmanifoldConv, Window, to_dense


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """channels: of the four stages and of the last layer. strides: (z, y, x) of stages 2 to 4; height after stage 4
    shrinks by 2 once more. focal: what ends the stages that it names; None: plain."""

    channels: tuple[int, int, int, int, int] = (16, 32, 64, 64, 128)
    strides: tuple[Steps, Steps, Steps] = ((2, 2, 2), (2, 2, 2), (2, 2, 2))
    focal: FocalConfig | None = None


@dataclass(frozen=True, slots=True)
class BackboneOutput:
    """bev: [b c y x], height folded into channels. stages: the four stages' tensors, strides: their total strides
    (z, y, x). importances: what the focal convolutions predicted, in order."""

    bev: Float[Tensor, "b c y x"]
    stages: tuple[SparseTensor, ...]
    strides: tuple[Steps, ...]
    importances: tuple[Importance, ...]


class SparseBackbone(nn.Module):
    """Four stages of sparse convolutions, and the tensor seen from above.

    Args:
        in_channels: numbers per voxel. image_channels: of the image features that an extra focal convolution behind
            stage 1 takes (Focals Conv-F); 0: none.

    Raises:
        ValueError: image features without focal convolutions, strides too large for the grid.
    """

    def __init__(self, config: BackboneConfig, grid: VoxelGrid, in_channels: int = 4, image_channels: int = 0) -> None:
        super().__init__()
        c1, c2, c3, c4, c_out = config.channels
        focal = config.focal
        if image_channels and focal is None:
            raise ValueError("image features enter by focal convolutions: set backbone.focal")
        first, second, third = config.strides
        self.config = config
        self.strides = _totals(config.strides)
        self.grid = grid
        self.conv_input = _block(SubmanifoldConv(3, in_channels, c1, 3, bias=False))
        self.conv1 = nn.ModuleList([_block(SubmanifoldConv(3, c1, c1, 3, bias=False))])
        self.conv2 = nn.ModuleList(_stage(c1, c2, first, (1, 1, 1)))
        self.conv3 = nn.ModuleList(_stage(c2, c3, second, (1, 1, 1)))
        self.conv4 = nn.ModuleList(_stage(c3, c4, third, (0, 1, 1)))
        self.conv_out = _block(SparseConv(3, c4, c_out, (3, 1, 1), (2, 1, 1), 0, bias=False))
        self.conv_focal_multimodal: FocalConv | None = None
        if focal is not None:
            for number, (stage, channels) in enumerate(((self.conv1, c1), (self.conv2, c2), (self.conv3, c3)), 1):
                if number in focal.stages:
                    stage.append(FocalConv(channels, channels, focal))
            if image_channels:
                self.conv_focal_multimodal = FocalConv(c1, c1, focal.for_images(), image_channels)
        self.bev_channels = c_out * self._bev_height()
        for name, layer in self.named_modules():
            if isinstance(layer, SubmanifoldConv | SparseConv) and not name.endswith("conv_imp"):
                nn.init.kaiming_normal_(layer.weight.data.flatten(0, -2).T, nonlinearity="relu")

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of the four stages."""
        return self.config.channels[:4]

    def forward(self, x: SparseTensor, images: VoxelImages | None = None) -> BackboneOutput:
        """Voxel features on the grid to features seen from above. ValueError: images asked for and not given."""
        if (images is None) != (self.conv_focal_multimodal is None):
            raise ValueError("images go with a detector that fuses them (config.image), and are needed there")
        importances: list[Importance] = []
        stages: list[SparseTensor] = []
        x = self.conv_input(x)
        for number, stage in enumerate((self.conv1, self.conv2, self.conv3, self.conv4)):
            for layer in stage:
                if isinstance(layer, FocalConv):
                    x, importance = layer(x, self.strides[number])
                    importances.append(importance)
                else:
                    x = layer(x)
            if number == 0 and images is not None and self.conv_focal_multimodal is not None:
                x, importance = self.conv_focal_multimodal(x, self.strides[0], images.onto(self.grid))
                importances.append(importance)
            stages.append(x)
        dense = to_dense(self.conv_out(x))
        return BackboneOutput(dense.flatten(1, 2), tuple(stages), self.strides, tuple(importances))

    def _bev_height(self) -> int:
        """Layers of the last tensor, from the windows alone."""
        shape = self.grid.spatial_shape
        padding = ((1, 1, 1), (1, 1, 1), (0, 1, 1))
        windows = [Window.of(3, 3, stride, pad) for stride, pad in zip(self.config.strides, padding, strict=True)]
        try:
            for window in (*windows, Window.of(3, (3, 1, 1), (2, 1, 1), 0)):
                z, y, x = window.output_shape(shape)
                shape = (z, y, x)
        except ValueError as error:
            raise ValueError(f"a grid of {self.grid.spatial_shape} (z, y, x) is too small here: {error}") from None
        return shape[0]


def _block(conv: SubmanifoldConv | SparseConv) -> SparseSequential:
    return SparseSequential(conv, SparseBatchNorm(conv.out_channels, eps=1e-3, momentum=0.01), SparseReLU())


def _stage(inputs: int, outputs: int, stride: Steps, padding: Steps) -> list[SparseSequential]:
    return [
        _block(SparseConv(3, inputs, outputs, 3, stride, padding, bias=False)),
        _block(SubmanifoldConv(3, outputs, outputs, 3, bias=False)),
        _block(SubmanifoldConv(3, outputs, outputs, 3, bias=False)),
    ]


def _totals(strides: tuple[Steps, ...]) -> tuple[Steps, ...]:
    totals: list[Steps] = [(1, 1, 1)]
    for z, y, x in strides:
        last = totals[-1]
        totals.append((last[0] * z, last[1] * y, last[2] * x))
    return tuple(totals)
