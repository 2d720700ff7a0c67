"""The whole detector: its layers against the bench's table, bad input, batches, images, and that it learns."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from vision3d.bench.sparse_backbone import SHAPE, backbone
from vision3d.core import Boxes3D, Image, PointCloud, SparseTensor
from vision3d.data.kitti_object import LEFT, KittiObjectDataset
from vision3d.detection.anchor_head import AnchorHeadConfig
from vision3d.detection.anchors import CAR, PEDESTRIAN
from vision3d.detection.backbone import BackboneConfig, SparseBackbone
from vision3d.detection.bev_backbone import BevConfig
from vision3d.detection.detector import Detector, DetectorConfig
from vision3d.detection.focal import FocalConfig
from vision3d.detection.grid import VoxelGrid
from vision3d.detection.image_features import ImageFeatures, VoxelImages
from vision3d.detection.roi_head import RoiHeadConfig
from vision3d.detection.roi_targets import RoiTargetConfig
from vision3d.detection.sample import DetectionSample, collate_samples, pixel_from_lidar
from vision3d.detection.suppression import SuppressionConfig
from vision3d.geometry.boxes_overlap import iou_3d
from vision3d.sparse.layers import ConvolutionLayer

TINY = DetectorConfig(
    grid=VoxelGrid(low=(0.0, -8.0, -3.0), high=(16.0, 8.0, 1.0), size=(0.2, 0.2, 0.2)),
    backbone=BackboneConfig(channels=(8, 8, 16, 16, 16), strides=((2, 2, 2), (1, 1, 1), (2, 2, 2))),
    bev=BevConfig(layers=(1, 1), channels=(16, 16), up_channels=(16, 16)),
    head=AnchorHeadConfig(classes=(CAR, PEDESTRIAN)),
    suppression=SuppressionConfig(min_score=0.0, max_overlap=0.1, most=20),
)
FOCAL = dataclasses.replace(TINY, backbone=dataclasses.replace(TINY.backbone, focal=FocalConfig()))
TWO_STAGES = dataclasses.replace(
    FOCAL, refine=RoiHeadConfig(cells=2, channels=8, hidden=16, targets=RoiTargetConfig(count=16))
)
FUSED = dataclasses.replace(FOCAL, image=True)
KINDS = {"plain": TINY, "focal": FOCAL, "two-stages": TWO_STAGES}


def car_scene(seed: int = 0, ground: int = 3000) -> tuple[PointCloud, Boxes3D]:
    """The visible sides of a car and the ground."""
    generator = torch.Generator().manual_seed(seed)
    box = Boxes3D(
        torch.tensor([[8.0, 1.0, -1.0]]), torch.tensor([[4.0, 1.7, 1.5]]), torch.tensor([0.4]), torch.tensor([0])
    )
    surface = (torch.rand(1500, 3, generator=generator) - 0.5) * box.sizes
    side = torch.arange(1500) % 2
    surface[side == 0, 1] = -0.85
    surface[side == 1, 0] = -2.0
    c, s = math.cos(0.4), math.sin(0.4)
    surface = surface @ torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T + box.centers
    below = torch.rand(ground, 3, generator=generator) * torch.tensor([16.0, 16, 0.05]) - torch.tensor([0, 8.0, 1.8])
    points = torch.cat([surface, below])
    return PointCloud(points, torch.rand(len(points), 1, generator=generator), "lidar"), box


def test_backbone_is_the_published_table() -> None:
    """Layer by layer the same as the bench's backbone, with the same weights on the same voxels."""
    theirs = backbone().eval()
    ours = SparseBackbone(BackboneConfig(), VoxelGrid()).eval()
    mine = [m for m in ours.modules() if isinstance(m, ConvolutionLayer)]
    for a, b in zip(mine, [m for m in theirs if isinstance(m, ConvolutionLayer)], strict=True):
        a.weight.data.copy_(b.weight.data)
    indices = torch.unique(torch.randint(0, 30, (300, 3)), dim=0)
    indices = torch.nn.functional.pad(indices, (1, 0)).int()
    x = SparseTensor(torch.randn(len(indices), 4), indices, SHAPE, 1)
    with torch.no_grad():
        out = ours(x)
        wanted = theirs(x)
    assert wanted.spatial_shape == (2, 200, 176) and out.bev.shape == (1, 256, 200, 176)
    where = wanted.indices.long().T
    got = out.bev.reshape(1, 128, 2, 200, 176)[0, :, where[1], where[2], where[3]].T
    torch.testing.assert_close(got, wanted.features, rtol=1e-4, atol=1e-4)
    assert out.strides == ((1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 8))
    assert [s.spatial_shape for s in out.stages] == [(41, 1600, 1408), (21, 800, 704), (11, 400, 352), (5, 200, 176)]


@pytest.mark.parametrize("kind", KINDS)
def test_clouds_of_a_batch_do_not_mix(kind: str) -> None:
    torch.manual_seed(0)
    detector = Detector(KINDS[kind]).eval()
    clouds = [car_scene(seed)[0] for seed in (0, 1)]
    together = detector.detect_batch(collate_samples([detector.sample(cloud) for cloud in clouds]))
    for cloud, boxes in zip(clouds, together, strict=True):
        alone = detector.detect(cloud)
        assert len(alone) == len(boxes) > 0
        torch.testing.assert_close(alone.centers, boxes.centers, rtol=1e-3, atol=1e-3)
        assert alone.scores is not None and bool((alone.scores[1:] <= alone.scores[:-1]).all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("points", [[], [[5.0, 0.0, 0.0]], [[500.0, 0.0, 0.0]]])
def test_hardly_any_points(kind: str, points: list[list[float]]) -> None:
    cloud = PointCloud(torch.tensor(points).reshape(-1, 3), None, "lidar")
    detector = Detector(KINDS[kind]).eval()
    boxes = detector.detect(cloud)
    assert boxes.scores is not None and boxes.frame == "lidar"
    assert len(boxes) == 0 if len(points) == 0 or points[0][0] > 100 else len(boxes) <= 20
    batch = collate_samples([DetectionSample("", detector.sample(cloud).voxels, Boxes3D.empty())])
    loss = detector.train().losses(batch).total()
    loss.backward()
    assert bool(torch.isfinite(loss))


def test_errors_say_what_to_do() -> None:
    detector = Detector(TINY)
    cloud, _ = car_scene()
    with pytest.raises(ValueError, match="call eval"):
        detector.detect(cloud)
    detector.eval()
    with pytest.raises(ValueError, match="frame 'lidar'"):
        detector.detect(PointCloud(cloud.points, cloud.features, "world"))
    with pytest.raises(ValueError, match="takes 1 features"):
        detector.detect(PointCloud(cloud.points, torch.zeros(len(cloud.points), 3), "lidar"))
    broken = cloud.points.clone()
    broken[7, 1] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        detector.detect(PointCloud(broken, cloud.features, "lidar"))
    with pytest.raises(ValueError, match="image and its calibration"):
        Detector(FUSED).eval().detect(cloud)
    with pytest.raises(ValueError, match=r"set backbone\.focal"):
        Detector(dataclasses.replace(TINY, image=True))
    with pytest.raises(ValueError, match="too small"):
        Detector(dataclasses.replace(TINY, grid=VoxelGrid(low=(0, 0, 0), high=(16, 16, 0.4), size=(0.2, 0.2, 0.2))))
    with pytest.raises(ValueError, match="at least one sample"):
        collate_samples([])


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind: str) -> None:
    torch.manual_seed(0)
    detector = Detector(KINDS[kind]).train()
    cloud, box = car_scene()
    batch = collate_samples([DetectionSample("", detector.sample(cloud).voxels, box, seed=3)])
    losses = detector.losses(batch)
    losses.total().backward()
    without = [n for n, p in detector.named_parameters() if p.grad is None or not bool(torch.isfinite(p.grad).all())]
    assert not without
    total = sum(float(v.detach()) for v in losses.terms().values())
    assert float(losses.total().detach()) == pytest.approx(total)
    assert (losses.importance is None) == (kind == "plain") and (losses.roi_scores is None) == (kind != "two-stages")


@pytest.mark.parametrize(("kind", "steps"), [("plain", 60), ("focal", 40)])
def test_learns_one_car(kind: str, steps: int) -> None:
    torch.manual_seed(0)
    detector = Detector(KINDS[kind])
    for layer in detector.modules():
        if isinstance(layer, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            layer.momentum = 0.2  # so few steps would not reach the running statistics
    cloud, box = car_scene(ground=200)
    batch = collate_samples([DetectionSample("", detector.sample(cloud).voxels, box)])
    optimiser = torch.optim.Adam(detector.parameters(), lr=5e-3)
    detector.train()
    for _ in range(steps):
        optimiser.zero_grad()
        detector.losses(batch).total().backward()
        optimiser.step()
    found = detector.eval().detect(cloud).select(torch.tensor([0]))
    assert found.labels.tolist() == [0] and float(found.scores[0]) > 0.4  # type: ignore[index]
    assert float(iou_3d(found, box)[0, 0]) > 0.6
    assert math.cos(float(found.yaw[0]) - 0.4) > 0.95


def test_image_features_are_those_of_the_pixel(test_data: Path) -> None:
    """Projected through the calibration: the colour at a labelled car's centre, found at its voxel."""
    frame = KittiObjectDataset(test_data / "kitti", ["000008"], classes=("Car",), images=(LEFT,))[0]
    assert frame.image_left is not None and frame.boxes is not None
    width, height = frame.image_left.size
    matrix = pixel_from_lidar(frame.calibration, frame.image_left)
    centers = frame.boxes.centers
    pixels, front = frame.calibration.camera(LEFT, width, height).project(
        frame.calibration.cam_from_velo(LEFT).apply(centers.double())
    )
    assert bool(front.all())
    # An image whose features are its own pixel coordinates.
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    images = VoxelImages(torch.stack([x, y])[None], matrix[None], torch.tensor([[width, height]]).float())
    got = images.at(centers, torch.zeros(len(centers), dtype=torch.int64))
    shown = ((pixels > 1) & (pixels < pixels.new_tensor([width - 1, height - 1]))).all(1)
    assert int(shown.sum()) >= 3
    torch.testing.assert_close(got[shown], pixels[shown].float(), atol=0.01, rtol=0)
    behind = images.at(-centers, torch.zeros(len(centers), dtype=torch.int64))
    assert not bool(behind.any())


def test_a_resized_image_is_projected_onto_its_pixels(test_data: Path) -> None:
    frame = KittiObjectDataset(test_data / "kitti", ["000008"], images=(LEFT,))[0]
    image = frame.image_left
    assert image is not None
    small = Image(image.rgb[:, ::2, ::4], "", image.original_size, (4.0, 2.0), (10.0, 6.0))
    point = torch.tensor([20.0, 3.0, -1.0, 1.0])
    full, resized = (m @ point for m in (pixel_from_lidar(frame.calibration, i) for i in (image, small)))
    full, resized = full[:2] / full[2], resized[:2] / resized[2]
    torch.testing.assert_close(small.to_original(resized), full, atol=1e-2, rtol=0)


def test_fusion_uses_the_image(test_data: Path) -> None:
    torch.manual_seed(0)
    frame = KittiObjectDataset(test_data / "kitti", ["000008"], images=(LEFT,), in_view=True)[0]
    image = frame.image_left
    assert image is not None
    small = Image(image.rgb[:, ::4, ::4].contiguous(), "", image.original_size, (4.0, 4.0))
    detector = Detector(FUSED).eval()
    one = detector.sample(frame.cloud, small, frame.calibration)
    black = dataclasses.replace(one, rgb=torch.zeros_like(small.rgb))
    with torch.no_grad():
        seen, unseen = (detector(collate_samples([s])).anchors.classes for s in (one, black))
    assert not torch.allclose(seen, unseen)
    assert len(detector.backbone_3d(_voxels(detector, one), _images(detector, one)).importances) == 4
    detector.train()
    detector.losses(collate_samples([one, one])).total().backward()
    assert detector.semseg is not None
    gradient = detector.semseg.backbone.conv1.weight.grad
    assert gradient is not None and float(gradient.abs().max()) > 0


def test_image_network_has_256_channels_at_a_quarter() -> None:
    net = ImageFeatures(16).eval()
    assert net.backbone(torch.rand(1, 3, 64, 96)).shape == (1, 256, 16, 24)
    assert net(torch.rand(1, 3, 64, 96)).shape == (1, 16, 16, 24)


def _voxels(detector: Detector, sample: DetectionSample) -> SparseTensor:
    batch = collate_samples([sample])
    return SparseTensor(batch.means, batch.indices, detector.config.grid.spatial_shape, 1)


def _images(detector: Detector, sample: DetectionSample) -> VoxelImages:
    batch = collate_samples([sample])
    assert detector.semseg is not None and batch.images is not None
    assert batch.pixel_from_point is not None and batch.image_sizes is not None
    return VoxelImages(detector.semseg(batch.images), batch.pixel_from_point, batch.image_sizes)
