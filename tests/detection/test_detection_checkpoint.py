"""Checkpoints with OpenPCDet's names and shapes, made here from seeds: strict loading, layouts, refusals.

The names are facts from OpenPCDet's source (pcdet/models/backbones_3d/spconv_backbone*.py, backbones_2d/
base_bev_backbone.py, dense_heads/anchor_head_single.py, roi_heads/voxelrcnn_head.py).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vision3d.config import dump_config
from vision3d.core import UsageError, Vision3DError
from vision3d.detection.anchor_head import AnchorHeadConfig
from vision3d.detection.anchors import CAR
from vision3d.detection.backbone import BackboneConfig
from vision3d.detection.bev_backbone import BevConfig
from vision3d.detection.checkpoint import from_openpcdet, load_checkpoint, load_image_backbone
from vision3d.detection.detector import Detector, DetectorConfig, load_detector
from vision3d.detection.focal import FocalConfig
from vision3d.detection.roi_head import RoiHeadConfig

State = dict[str, Tensor]
ROI_BEV = BevConfig(channels=(64, 128), up_channels=(128, 128))


class Maker:
    """Seeded tensors by name."""

    def __init__(self, layout: str) -> None:
        self.layout = layout
        self.generator = torch.Generator().manual_seed(1)
        self.state: State = {}

    def tensor(self, name: str, *shape: int) -> None:
        self.state[name] = 0.05 * torch.randn(*shape, generator=self.generator)

    def sparse(self, name: str, inputs: int, outputs: int, size: tuple[int, int, int] = (3, 3, 3)) -> None:
        shape = (outputs, *size, inputs) if self.layout == "spconv2" else (*size, inputs, outputs)
        self.tensor(f"{name}.weight", *shape)

    def norm(self, name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean"):
            self.tensor(f"{name}.{part}", channels)
        self.state[f"{name}.running_var"] = torch.rand(channels, generator=self.generator) + 0.5
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def block(self, name: str, inputs: int, outputs: int, size: tuple[int, int, int] = (3, 3, 3)) -> None:
        self.sparse(f"{name}.0", inputs, outputs, size)
        self.norm(f"{name}.1", outputs)

    def focal(self, name: str, channels: int, seen: int, kernel: int = 3) -> None:
        self.sparse(f"{name}.conv", channels, channels, (kernel, kernel, kernel))
        self.norm(f"{name}.bn1", channels)
        self.sparse(f"{name}.conv_imp", seen, kernel**3)
        self.tensor(f"{name}.conv_imp.bias", kernel**3)

    def backbone(self, focal: bool = False, enlarge: int = 0) -> None:
        self.block("backbone_3d.conv_input", 4, 16)
        self.block("backbone_3d.conv1.0", 16, 16)
        widths = (16, 32, 64, 64)
        for stage in (2, 3, 4):
            inputs, outputs = widths[stage - 2], widths[stage - 1]
            self.block(f"backbone_3d.conv{stage}.0", inputs, outputs)
            self.block(f"backbone_3d.conv{stage}.1", outputs, outputs)
            self.block(f"backbone_3d.conv{stage}.2", outputs, outputs)
        self.block("backbone_3d.conv_out", 64, 128, (3, 1, 1))
        if focal:
            for stage, place in ((1, 1), (2, 3), (3, 3)):
                name = f"backbone_3d.conv{stage}.{place}"
                self.focal(name, widths[stage - 1], enlarge or widths[stage - 1])
                if enlarge:
                    self.block(f"{name}.conv_enlarge", widths[stage - 1], enlarge)

    def bev(self, channels: tuple[int, int], up: tuple[int, int]) -> None:
        for b, (inputs, outputs, stride) in enumerate(((256, channels[0], 1), (channels[0], channels[1], 2))):
            self.tensor(f"backbone_2d.blocks.{b}.1.weight", outputs, inputs, 3, 3)
            self.norm(f"backbone_2d.blocks.{b}.2", outputs)
            for k in range(5):
                self.tensor(f"backbone_2d.blocks.{b}.{4 + 3 * k}.weight", outputs, outputs, 3, 3)
                self.norm(f"backbone_2d.blocks.{b}.{5 + 3 * k}", outputs)
            self.tensor(f"backbone_2d.deblocks.{b}.0.weight", outputs, up[b], stride, stride)
            self.norm(f"backbone_2d.deblocks.{b}.1", up[b])

    def head(self, classes: int, inputs: int) -> None:
        for name, channels in (("cls", classes * classes * 2), ("box", classes * 14), ("dir_cls", classes * 4)):
            self.tensor(f"dense_head.conv_{name}.weight", channels, inputs, 1, 1)
            self.tensor(f"dense_head.conv_{name}.bias", channels)

    def roi(self) -> None:
        for k, inputs in enumerate((32, 64, 64)):
            name = f"roi_head.roi_grid_pool_layers.{k}"
            self.tensor(f"{name}.mlps_in.0.0.weight", 32, inputs, 1)
            self.tensor(f"{name}.mlps_pos.0.0.weight", 32, 3, 1, 1)
            self.tensor(f"{name}.mlps_out.0.0.weight", 32, 32, 1)
            for part in ("in", "pos", "out"):
                self.norm(f"{name}.mlps_{part}.0.1", 32)
        for name, width in (("shared_fc_layer", 216 * 96), ("cls_fc_layers", 256), ("reg_fc_layers", 256)):
            self.tensor(f"roi_head.{name}.0.weight", 256, width)
            self.norm(f"roi_head.{name}.1", 256)
            self.tensor(f"roi_head.{name}.4.weight", 256, 256)
            self.norm(f"roi_head.{name}.5", 256)
        for name, outputs in (("cls", 1), ("reg", 7)):
            self.tensor(f"roi_head.{name}_pred_layer.weight", outputs, 256)
            self.tensor(f"roi_head.{name}_pred_layer.bias", outputs)

    def images(self) -> None:
        """DeepLabV3's ResNet-50 up to its first stage, some of what comes after, the reduction, the fusing block."""
        root = "backbone_3d.semseg.ifn.model.backbone"
        self.tensor(f"{root}.conv1.weight", 64, 3, 7, 7)
        self.norm(f"{root}.bn1", 64)
        for b in range(3):
            for k, shape in enumerate(((64, 64 if b == 0 else 256, 1, 1), (64, 64, 3, 3), (256, 64, 1, 1)), 1):
                self.tensor(f"{root}.layer1.{b}.conv{k}.weight", *shape)
                self.norm(f"{root}.layer1.{b}.bn{k}", shape[0])
        self.tensor(f"{root}.layer1.0.downsample.0.weight", 256, 64, 1, 1)
        self.norm(f"{root}.layer1.0.downsample.1", 256)
        self.tensor(f"{root}.layer2.0.conv1.weight", 128, 256, 1, 1)
        self.tensor("backbone_3d.semseg.ifn.model.classifier.4.weight", 21, 256, 1, 1)
        self.tensor("backbone_3d.semseg.reduce_blocks.0.conv.weight", 16, 256, 1, 1)
        self.norm("backbone_3d.semseg.reduce_blocks.0.bn", 16)
        self.focal("backbone_3d.conv_focal_multimodal", 16, 32)


def second(layout: str) -> State:
    maker = Maker(layout)
    maker.backbone()
    maker.bev((128, 256), (256, 256))
    maker.head(3, 512)
    maker.state["global_step"] = torch.tensor([5])
    return maker.state


def voxel_rcnn(layout: str, focal: bool, images: bool = False, enlarge: int = 0) -> State:
    maker = Maker(layout)
    maker.backbone(focal, enlarge)
    maker.bev((64, 128), (128, 128))
    maker.head(1, 256)
    maker.roi()
    if images:
        maker.images()
    maker.state["global_step"] = torch.tensor([5])
    return maker.state


def rcnn_config(focal: FocalConfig | None, image: bool = False) -> DetectorConfig:
    head = AnchorHeadConfig(classes=(CAR,))
    return DetectorConfig(
        bev=ROI_BEV, head=head, refine=RoiHeadConfig(), backbone=BackboneConfig(focal=focal), image=image
    )


CASES = {
    "second": (second, DetectorConfig()),
    "voxel-rcnn": (lambda layout: voxel_rcnn(layout, False), rcnn_config(None)),
    "focals": (lambda layout: voxel_rcnn(layout, True), rcnn_config(FocalConfig())),
    "focals-lidar": (lambda layout: voxel_rcnn(layout, True, enlarge=64), rcnn_config(FocalConfig(enlarge=64))),
    "focals-f": (lambda layout: voxel_rcnn(layout, True, True), rcnn_config(FocalConfig(), True)),
}


@pytest.mark.parametrize("layout", ["spconv1", "spconv2"])
@pytest.mark.parametrize("name", CASES)
def test_every_tensor_finds_its_place(name: str, layout: str, tmp_path: Path) -> None:
    make, config = CASES[name]
    state = make(layout)
    file = tmp_path / "checkpoint.pth"
    torch.save({"model_state": state, "epoch": 80, "it": 1, "version": "pcdet+0.6.0"}, file)
    detector = Detector(config)
    load_checkpoint(detector, file)
    own = detector.state_dict()
    ours = own["backbone_3d.conv3.0.0.weight"]  # [z y x in out]
    theirs = state["backbone_3d.conv3.0.0.weight"]
    theirs = theirs.permute(1, 2, 3, 4, 0) if layout == "spconv2" else theirs
    assert torch.equal(ours, theirs)
    assert torch.equal(own["dense_head.conv_box.weight"], state["dense_head.conv_box.weight"])
    assert torch.equal(own["backbone_3d.conv4.2.1.running_var"], state["backbone_3d.conv4.2.1.running_var"])
    if "roi_head.cls_pred_layer.weight" in state:
        key = "roi_head.roi_grid_pool_layers.1.mlps_pos.0.0.weight"
        assert torch.equal(own[key], state[key][:, :, 0, 0])
    if config.image:
        key = "layer1.0.conv1.weight"
        assert torch.equal(own[f"semseg.backbone.{key}"], state[f"backbone_3d.semseg.ifn.model.backbone.{key}"])


def test_numbers_of_parameters() -> None:
    """As published for VoxelBackBone8x."""
    detector = Detector(DetectorConfig())
    assert sum(p.numel() for p in detector.backbone_3d.parameters()) == 711_872
    assert len(second("spconv2")) == 163  # "loaded 163/163" of SECOND


def test_with_the_optimiser_beside(tmp_path: Path) -> None:
    state = second("spconv2")
    file = tmp_path / "checkpoint.pth"
    torch.save({"model_state": state, "optimizer_state": {"state": {"a": torch.zeros(3)}}}, file)
    assert not load_detector(file, DetectorConfig()).training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("dense_head.conv_box.bias"), "lacks dense_head.conv_box.bias"),
        (lambda s: s.update(extra=torch.zeros(3)), "has an unknown extra"),
        (lambda s: s.update({"dense_head.conv_cls.bias": torch.zeros(2)}), r"conv_cls.bias is \[2\] instead of \[18\]"),
    ],
)
def test_refusals(change: object, message: str, tmp_path: Path) -> None:
    state = second("spconv2")
    change(state)  # type: ignore[operator]
    file = tmp_path / "checkpoint.pth"
    torch.save({"model_state": state}, file)
    with pytest.raises(Vision3DError, match=message):
        load_checkpoint(Detector(DetectorConfig()), file)


def test_another_architecture_and_broken_files(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pth"
    torch.save({"model_state": voxel_rcnn("spconv2", True)}, file)
    with pytest.raises(Vision3DError, match="another architecture"):
        load_detector(file, DetectorConfig())
    with pytest.raises(Vision3DError, match="no such weights file"):
        load_detector(tmp_path / "nowhere.pth", DetectorConfig())
    file.write_bytes(b"not weights")
    with pytest.raises(Vision3DError, match="not a readable weights file"):
        load_detector(file, DetectorConfig())


def test_our_own_weights_come_back(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    one, two = Detector(DetectorConfig()), Detector(DetectorConfig())
    save_file(one.state_dict(), tmp_path / "weights.safetensors")
    load_checkpoint(two, tmp_path / "weights.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_image_backbone(tmp_path: Path) -> None:
    """DeepLabV3's state as torchvision names it."""
    maker = Maker("spconv2")
    maker.images()
    prefix = "backbone_3d.semseg.ifn.model."
    state = {k.removeprefix(prefix): v for k, v in maker.state.items() if k.startswith(prefix)}
    torch.save(state, tmp_path / "deeplab.pth")
    detector = Detector(rcnn_config(FocalConfig(), True))
    load_image_backbone(detector, tmp_path / "deeplab.pth")
    assert detector.semseg is not None
    key = "layer1.2.conv3.weight"
    assert torch.equal(detector.semseg.backbone.state_dict()[key], state[f"backbone.{key}"])
    state.pop(f"backbone.{key}")
    torch.save(state, tmp_path / "deeplab.pth")
    with pytest.raises(Vision3DError, match=r"layer1\.2\.conv3\.weight is missing"):
        load_image_backbone(detector, tmp_path / "deeplab.pth")
    with pytest.raises(ValueError, match="takes no images"):
        load_image_backbone(Detector(DetectorConfig()), tmp_path / "deeplab.pth")


def test_settings_from_files(tmp_path: Path) -> None:
    """Those of a training run, and those alone; what is wrong is named."""
    configs = Path(__file__).parents[2] / "configs" / "detection"
    file = tmp_path / "checkpoint.pth"
    torch.save({"model_state": voxel_rcnn("spconv2", False)}, file)
    detector = load_detector(file, configs / "voxel-rcnn-car.yaml")
    assert detector.config == dataclasses.replace(rcnn_config(None), suppression=detector.config.suppression)
    assert detector.config.suppression.min_score == 0.3
    alone = tmp_path / "alone.yaml"
    alone.write_text(dump_config(detector.config))
    assert load_detector(file, alone).config == detector.config
    alone.write_text("max_point: 3")
    with pytest.raises(UsageError, match="max_points"):
        load_detector(file, alone)
    alone.write_text("task: detector")
    with pytest.raises(UsageError, match="no settings under settings"):
        load_detector(file, alone)


def test_kernel_axes_are_z_y_x(tmp_path: Path) -> None:
    """A kernel element off centre in the checkpoint's first kernel axis moves features along z."""
    from vision3d.core import SparseTensor

    state = second("spconv2")
    weight = torch.zeros_like(state["backbone_3d.conv_input.0.weight"])
    weight[0, 0, 1, 1, 0] = 1.0  # output 0 reads input 0 of the neighbour at z - 1
    state["backbone_3d.conv_input.0.weight"] = weight
    detector = Detector(DetectorConfig())
    detector.load_state_dict(from_openpcdet(detector, state))
    layer = detector.backbone_3d.conv_input[0]
    x = SparseTensor(
        torch.tensor([[5.0, 0, 0, 0], [7.0, 0, 0, 0]]),
        torch.tensor([[0, 3, 8, 9], [0, 4, 8, 9]]).int(),
        (41, 1600, 1408),
        1,
    )
    assert layer(x).features[:, 0].tolist() == [0.0, 5.0]
