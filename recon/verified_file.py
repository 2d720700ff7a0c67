"""Verified pairs on disk: one npz, written and read whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from vision3d.core import Correspondences, RigidTransform
from vision3d.recon.tracks import Pair
from vision3d.recon.verification import TwoViewGeometry
from vision3d.recon.view_graph import VerifiedPair


def write_verified(path: Path, pairs: Mapping[Pair, VerifiedPair]) -> None:
    """Writes pairs and everything known of them; `read_verified` gives them back exactly."""
    ordered = sorted(pairs)
    found = [pairs[pair] for pair in ordered]
    none = np.full((3, 3), np.nan)
    poses = [p.geometry.cam1_from_cam0 for p in found]
    np.savez(
        path,
        names=np.array(ordered, dtype=np.str_).reshape(-1, 2),
        kind=np.array([p.geometry.kind for p in found], dtype=np.str_),
        reason=np.array([p.geometry.reason or "" for p in found], dtype=np.str_),
        nfa=np.array([p.geometry.log10_nfa for p in found]),
        putative=np.array([p.putative for p in found], dtype=np.int64),
        count=np.array([len(p.matches) for p in found], dtype=np.int64),
        points0=np.concatenate([p.matches.points0.numpy() for p in found] or [np.zeros((0, 2))]),
        points1=np.concatenate([p.matches.points1.numpy() for p in found] or [np.zeros((0, 2))]),
        scores=np.concatenate([p.matches.scores.numpy() for p in found] or [np.zeros(0)]),
        inliers=np.concatenate([p.geometry.inliers.numpy() for p in found] or [np.zeros(0, bool)]),
        rotation=np.array([none if t is None else t.rotation.numpy() for t in poses]).reshape(-1, 3, 3),
        translation=np.array([none[0] if t is None else t.translation.numpy() for t in poses]).reshape(-1, 3),
        fundamental=np.array(
            [none if p.geometry.fundamental is None else p.geometry.fundamental.numpy() for p in found]
        ).reshape(-1, 3, 3),
    )


def read_verified(path: Path) -> dict[Pair, VerifiedPair]:
    """What `write_verified` wrote."""
    with np.load(path, allow_pickle=False) as file:
        data = {key: file[key] for key in file.files}
    ends = np.cumsum(data["count"])
    mask_ends = np.cumsum(data["putative"])
    result: dict[Pair, VerifiedPair] = {}
    for i, (name0, name1) in enumerate(data["names"]):
        part = slice(ends[i] - data["count"][i], ends[i])
        matches = Correspondences(*(torch.from_numpy(data[k][part]) for k in ("points0", "points1", "scores")))
        rotation, fundamental = data["rotation"][i], data["fundamental"][i]
        pose = None
        if np.isfinite(rotation).all():
            pose = RigidTransform(torch.from_numpy(rotation), torch.from_numpy(data["translation"][i]))
        geometry = TwoViewGeometry(
            str(data["kind"][i]),  # type: ignore[arg-type]
            torch.from_numpy(data["inliers"][mask_ends[i] - data["putative"][i] : mask_ends[i]]),
            pose,
            torch.from_numpy(fundamental) if np.isfinite(fundamental).all() else None,
            float(data["nfa"][i]),
            str(data["reason"][i]) or None,
        )
        result[str(name0), str(name1)] = VerifiedPair(matches, geometry, int(data["putative"][i]))
    return result


def fingerprint(pairs: Mapping[Pair, VerifiedPair]) -> str:
    """A hash of the matches of all pairs."""
    digest = hashlib.sha256()
    for pair in sorted(pairs):
        found = pairs[pair]
        digest.update(f"{pair!r} {found.geometry.kind} {found.putative}".encode())
        for tensor in (found.matches.points0, found.matches.points1, found.matches.scores):
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
