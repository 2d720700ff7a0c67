"""`vision3d register SOURCE TARGET --out DIR`: registers clouds; writes poses, the merged cloud, pictures."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from vision3d.errors import UsageError, Vision3DError

if TYPE_CHECKING:
    from vision3d.core import PointCloud

FILES = ("registration.json", "transform.txt", "merged.ply", "before.png", "after.png")


@dataclass(frozen=True, kw_only=True)
class RegisterArguments:
    """Registers point clouds (ply, pcd, las, bin, npy). Writes registration.json, transform.txt, merged.ply, before.png
    and after.png; exit code 1 where the clouds do not register."""

    clouds: Positional[tuple[Path, ...]]
    """The source, then the target; or three clouds and more, which are brought into the frame of the first."""
    out: Path
    """Folder for the results; new, empty, or that of an earlier registration."""
    voxel: str = "auto"
    """Edge of the voxels that the clouds are thinned to, in their unit; auto: from their size and spacing."""
    features: str | None = None
    """Learned features instead of FPFH: a weights file of `vision3d train` (task point_features), or a published model
    (fcgf-3dmatch-2.5cm, fcgf-3dmatch-5cm, fcgf-kitti-30cm). Needs --voxel, the size they were trained with."""
    votes: Path | None = None
    """Weights file of a vote network (task hough) that the peaks are sought by."""
    seed: int = 0
    """Of the sampling."""
    json: bool = False
    """Print the result as JSON."""


def run(arguments: RegisterArguments) -> int:
    """Runs the command; 0 if all clouds register, 1 if not."""
    import torch

    from vision3d.io.scans import read_scan
    from vision3d.matching.hough.learned import read_networks
    from vision3d.matching.hough.multiway import register_many
    from vision3d.matching.hough.register import RegisterConfig, register

    voxel = _check(arguments)
    features, votes = read_networks(arguments.features, arguments.votes)
    clouds = [_read(read_scan(path, invalid="drop, even all"), path) for path in arguments.clouds]
    config = RegisterConfig(voxel=voxel, seed=arguments.seed)
    start = time.perf_counter()
    summary: dict[str, Any]
    try:
        if len(clouds) == 2:
            found = register(clouds[0], clouds[1], config, features=features, votes=votes)
            summary = {
                "registered": found.registered,
                "target_from_source": found.target_from_source.matrix().tolist(),
                **found.evidence.as_json(),
                "timings": {k: round(v, 4) for k, v in found.timings.items()},
            }
            eye = torch.eye(4, dtype=torch.float64)
            matrices = [found.target_from_source.matrix(), eye]
            shown = [0, 1]
        else:
            many = register_many(clouds, config, _say, features=features, votes=votes)
            eye = torch.eye(4, dtype=torch.float64)
            matrices = [eye if pose is None else pose.matrix() for pose in many.first_from]
            shown = [k for k, pose in enumerate(many.first_from) if pose is not None]
            summary = many.as_json()
    except ValueError as error:
        raise Vision3DError(str(error)) from None
    summary |= {
        "clouds": [str(path) for path in arguments.clouds],
        "seed": arguments.seed,
        "features": arguments.features or "fpfh",
        "votes": None if arguments.votes is None else str(arguments.votes),
        "seconds": round(time.perf_counter() - start, 3),
    }
    _write(arguments, clouds, matrices, shown, summary)
    if arguments.json:
        print(json.dumps(summary, ensure_ascii=False, allow_nan=False))
    else:
        print(f"{'registered' if summary['registered'] else 'not registered'}: {summary['reason']}")
        for name in FILES:
            print(f"  {arguments.out / name}")
    if not summary["registered"]:
        print(f"vision3d: the clouds do not register: {summary['reason']}", file=sys.stderr)
        return 1
    return 0


def _say(stage: str, done: int, total: int) -> None:
    if done:
        print(f"{stage}: {done}/{total}", file=sys.stderr)


def _check(arguments: RegisterArguments) -> float | None:
    """The voxel, None for auto. UsageError for what makes no sense."""
    if len(arguments.clouds) < 2:
        raise UsageError("name two clouds or more: the source, then the target")
    for path in arguments.clouds:
        if not path.is_file():
            raise UsageError(f"{path} is no cloud: there is no such file")
    out = arguments.out
    if out.is_dir():
        foreign = sorted(p.name for p in out.iterdir() if p.name not in FILES)
        if foreign or out.resolve() == Path.cwd():
            raise UsageError(f"--out {out} holds something else; name a new or empty folder")
    elif out.exists():
        raise UsageError(f"--out {out} is a file; name a folder")
    if not 0 <= arguments.seed < 2**31:
        raise UsageError(f"--seed {arguments.seed}: name a number from 0 to {2**31 - 1}")
    if arguments.voxel == "auto":
        if arguments.features is not None:
            raise UsageError("--features needs --voxel: the size that they were trained with")
        return None
    try:
        voxel = float(arguments.voxel)
    except ValueError:
        voxel = math.nan
    if not 0 < voxel < math.inf:
        raise UsageError(f"--voxel {arguments.voxel}: name a length in the clouds' unit, or auto")
    return voxel


def _read(cloud: PointCloud, path: Path) -> PointCloud:
    return dataclasses.replace(cloud, points=cloud.points.double(), features=None, frame=path.name)


def _write(
    arguments: RegisterArguments,
    clouds: list[PointCloud],
    matrices: list[Any],
    shown: list[int],
    summary: dict[str, Any],
) -> None:
    import numpy as np
    import torch

    from vision3d.core import PointCloud, RigidTransform
    from vision3d.io.atomic import atomic_directory
    from vision3d.io.ply import write_ply
    from vision3d.matching.hough.pictures import cloud_color, draw_clouds, png

    moved = [RigidTransform.from_matrix(matrices[k].double()).apply(clouds[k].points) for k in shown]
    colors = [torch.from_numpy(np.tile(cloud_color(k) / np.float32(255), (len(clouds[k].points), 1))) for k in shown]
    verdict = "registered" if summary["registered"] else "NOT registered"
    with atomic_directory(arguments.out) as folder:
        (folder / "registration.json").write_text(
            json.dumps(summary, ensure_ascii=False, allow_nan=False, indent=1) + "\n", encoding="utf-8"
        )
        rows = [
            [f"{value:.12g}" for value in row]
            for k in (shown[:1] if len(clouds) == 2 else shown)
            for row in matrices[k].tolist()
        ]
        (folder / "transform.txt").write_text("\n".join(" ".join(row) for row in rows) + "\n", encoding="utf-8")
        write_ply(folder / "merged.ply", PointCloud(torch.cat(moved), torch.cat(colors).float()))
        before = draw_clouds([cloud.points.numpy() for cloud in clouds], "before: the clouds as given")
        (folder / "before.png").write_bytes(png(before))
        (folder / "after.png").write_bytes(png(draw_clouds([m.numpy() for m in moved], f"after: {verdict}")))
