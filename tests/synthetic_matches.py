"""Scenes of random points with exact cameras, and the matches that a matcher would find between their photos."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from synthetic_photos import look_at

from vision3d.core import Camera, CameraPrior, Correspondences, RigidTransform
from vision3d.recon.verification import verify_pair
from vision3d.recon.view_graph import VerifiedPair

Pair = tuple[str, str]


@dataclass(frozen=True)
class PointScene:
    """Photos around random points; matches with noise and outliers."""

    camera: Camera
    poses: dict[str, RigidTransform]
    points: np.ndarray
    pixels: dict[str, np.ndarray]

    @property
    def names(self) -> list[str]:
        return sorted(self.poses)

    def priors(self, source: str = "given", focal: float | None = None) -> dict[str, CameraPrior]:
        """Priors of all photos, one shared camera; `focal` replaces the true focal length (px)."""
        camera = self.camera
        if source != "given":
            f = focal if focal is not None else 1.2 * camera.width
            camera = Camera(camera.width, camera.height, (f, f), (camera.width / 2, camera.height / 2))
        return {name: CameraPrior(camera, source, 0) for name in self.names}

    def matches(self, pair: Pair, rng: np.random.Generator, share: float = 0.5, outliers: int = 40) -> Correspondences:
        """A share of the points seen in both photos with 0.3 px of noise, and random wrong matches."""
        size = np.array([self.camera.width, self.camera.height])
        chosen = rng.random(len(self.points)) < share
        inside = [((self.pixels[n] >= 0) & (self.pixels[n] < size)).all(axis=1) for n in pair]
        index = np.flatnonzero(chosen & inside[0] & inside[1])
        ends = []
        for name in pair:
            noise = np.random.default_rng(sum(name.encode())).normal(scale=0.3, size=self.pixels[name].shape)
            wrong = rng.random((outliers, 2)) * size
            ends.append(torch.from_numpy(np.concatenate([(self.pixels[name] + noise)[index], wrong])))
        return Correspondences(ends[0], ends[1], torch.ones(len(ends[0])))

    def verified(self, calibrated: bool, share: float = 0.5, outliers: int = 40) -> dict[Pair, VerifiedPair]:
        """All pairs, matched and verified."""
        rng = np.random.default_rng(0)
        out = {}
        for pair in itertools.combinations(self.names, 2):
            found = self.matches(pair, rng, share, outliers)
            out[pair] = VerifiedPair.of(found, verify_pair(found, self.camera, self.camera, calibrated=calibrated))
        return out


def ring(
    count: int, *, step_deg: float = 15.0, points: int = 400, focal: float = 700.0, planar: bool = False
) -> PointScene:
    """`count` photos of 640x480 px on an arc around a cloud (or a plane) of points of radius 1."""
    rng = np.random.default_rng(7)
    cloud = rng.normal(size=(points, 3)) * 0.5
    if planar:
        cloud[:, 0] = 0.0
    camera = Camera(640, 480, (focal, focal), (320.0, 240.0))
    poses, pixels = {}, {}
    distance = 4.0 * focal / 700.0
    for i in range(count):
        angle = np.radians(step_deg * (i - (count - 1) / 2))
        center = distance * np.array([np.cos(angle), np.sin(angle), 0.2 * np.sin(2.5 * i)])
        pose = RigidTransform.from_matrix(torch.from_numpy(look_at(center, np.zeros(3))))
        name = f"photo {i:02d}.jpg"
        poses[name] = pose
        pixels[name] = camera.project(pose.apply(torch.from_numpy(cloud)))[0].numpy()
    return PointScene(camera, poses, cloud, pixels)


def worst_errors(estimated: dict[str, RigidTransform], truth: dict[str, RigidTransform]) -> tuple[float, float]:
    """Largest relative rotation and translation-direction error over all pairs, degrees."""
    worst = [0.0, 0.0]
    for a, b in itertools.combinations(sorted(estimated), 2):
        e = estimated[b] @ estimated[a].inverse()
        t = truth[b] @ truth[a].inverse()
        cosines = (
            ((e.rotation @ t.rotation.mT).trace() - 1) / 2,
            torch.nn.functional.cosine_similarity(e.translation, t.translation, dim=0),
        )
        for k, cosine in enumerate(cosines):
            worst[k] = max(worst[k], float(torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))))
    return worst[0], worst[1]
