"""Poses of real photos against their ground truth: SIFT, verification and mapping on half-size photos."""

import itertools
import json
from pathlib import Path

import cv2
import pytest
import torch
from synthetic_matches import worst_errors

from vision3d.core import Camera, CameraPrior, Image, RigidTransform
from vision3d.matching.classical import Sift
from vision3d.recon.sfm import estimate_poses
from vision3d.recon.upright import turn_votes, upright_turns
from vision3d.recon.verification import verify_pair
from vision3d.recon.view_graph import VerifiedPair


def _read(folder: Path, names: list[str], turned: frozenset[str] = frozenset()) -> list[Image]:
    photos = []
    for name in names:
        bgr = cv2.imread(str(folder / "images" / name), cv2.IMREAD_COLOR)
        rgb = torch.from_numpy(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)).permute(2, 0, 1).float() / 255
        rgb = torch.nn.functional.interpolate(rgb[None], scale_factor=0.5, mode="area")[0]
        if name in turned:
            rgb = torch.rot90(rgb, -1, (1, 2)).contiguous()
        height, width = rgb.shape[1:]
        photos.append(Image(rgb, name, (2 * width, 2 * height), (2.0, 2.0)))
    return photos


@pytest.mark.parametrize("known", [True, False])
def test_herz_jesus(test_data: Path, known: bool) -> None:
    folder = test_data / "multiview" / "herz-jesus-p8"
    truth = json.loads((folder / "cameras.json").read_text())["images"]
    names = sorted(truth)[:5]
    sift = Sift()
    features = dict(zip(names, sift.extract(_read(folder, names)), strict=True))
    priors = {}
    for name in names:
        width, height = truth[name]["width"], truth[name]["height"]
        camera = Camera.from_matrix(width, height, torch.tensor(truth[name]["K"], dtype=torch.float64))
        if not known:
            camera = Camera(width, height, (1.2 * width,) * 2, (width / 2, height / 2))
        priors[name] = CameraPrior(camera, "given" if known else "guess", 0)
    pairs = {}
    for a, b in itertools.combinations(names, 2):
        matches = sift.match_features(features[a], features[b]).correspondences(features[a], features[b])
        geometry = verify_pair(matches, priors[a].camera, priors[b].camera, calibrated=known)
        pairs[a, b] = VerifiedPair.of(matches, geometry)
    result = estimate_poses(priors, pairs)
    assert result.scene is not None
    assert result.left_out == {}
    assert result.score is not None and result.score.explained > 0.9
    poses = {
        n: RigidTransform.from_matrix(torch.tensor(truth[n]["cam_from_world"], dtype=torch.float64)) for n in names
    }
    worst = worst_errors({n: p.cam_from_world for n, p in result.scene.images.items()}, poses)
    assert max(worst) < (0.5 if known else 1.5)


def test_a_turned_photo_is_recognised(test_data: Path) -> None:
    folder = test_data / "multiview" / "dtu-scan24"
    names = ["000023.jpg", "000024.jpg", "000033.jpg"]
    sift = Sift()
    features = dict(zip(names, sift.extract(_read(folder, names, frozenset(names[1:2]))), strict=True))
    votes = {}
    for a, b in itertools.combinations(names, 2):
        matches = sift.match_features(features[a], features[b])
        votes[a, b] = turn_votes(features[a], features[b], matches)
    assert upright_turns(names, votes) == {names[0]: 0, names[1]: 1, names[2]: 0}
