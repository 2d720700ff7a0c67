"""Settings and results of registering one point cloud to another (J. Lee et al., "Deep Hough Voting for Robust Global
Registration", ICCV 2021, is the method around it; register.py runs it)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from vision3d.core import Correspondences, RigidTransform


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterConfig:
    """How to register. Every length follows `voxel`.

    voxel: edge of the grid both clouds are thinned to, in the clouds' unit; None: from the scene's extent and spacing.
    max_matched: at most so many points a side are matched by their features.
    triplets: compatible triplets of matches that vote.
    peaks: candidates of the vote that are compared on the geometry.
    refine: point-to-plane ICP from the voted pose; without it `target_from_source` is the voted pose.
    seed: of the triplets. The same clouds, settings and seed give the same result.
    """

    voxel: float | None = None
    max_matched: int = 5000
    triplets: int = 40_000
    peaks: int = 24
    refine: bool = True
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The numbers that the verdict rests on, and the verdict in words.

    reason: one sentence.
    voxel: the voxel that was used, in the clouds' unit (all lengths here are in that unit).
    source_points, target_points: points after thinning. dropped: points with NaN or infinite coordinates.
    matches, match_inliers, inlier_ratio: putative matches, and those that the pose brings within 1.5 voxels.
    votes: height of the peak in the Hough space.
    likeness: how much like the surface it lands on each cloud is, over all points: the mean of 0.35 - u over those that
    land on it, u being the rank of the features' distance among that to random points (0 best, 0.5 by chance).
    second_likeness: that of the best distinct motion; likeness_ratio: likeness / second_likeness, at most 1000.
    contradictions: points near the other surface but not on it, or across it, for each one that is on it.
    opposed: fraction of the points on the other surface whose normals (to the clouds' centres) point to its other side.
    overlap_source, overlap_target: fractions of either cloud that lie on the other's surface, normals agreeing.
    residual: root mean square distance to the other surface over these points.
    constraint: the smallest eigenvalue of the point-to-plane information, 1 for a box, 0 for a plane or sphere.
    ambiguous: another, distinct pose explains the clouds as well, or motions along the surface are free.
    """

    reason: str
    voxel: float = 0.0
    source_points: int = 0
    target_points: int = 0
    dropped: int = 0
    matches: int = 0
    match_inliers: int = 0
    inlier_ratio: float = 0.0
    votes: float = 0.0
    likeness: float = 0.0
    second_likeness: float = 0.0
    likeness_ratio: float = 1.0
    contradictions: float = 0.0
    opposed: float = 0.0
    overlap_source: float = 0.0
    overlap_target: float = 0.0
    residual: float = 0.0
    constraint: float = 0.0
    ambiguous: bool = False

    def as_json(self) -> dict[str, object]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What registering gave. Poses are float64, `target_from_source`, in the clouds' unit.

    registered: the verdict. Where it is False the pose is the best that was found, not to be trusted: identity only
    where there was nothing to begin with (too few points or matches), as `evidence.reason` then says.
    coarse: before the refinement: the peak of the votes that explains the clouds best, fitted to its matches and, for
    the comparison with other peaks, roughly to the surface (six rounds on 700 points).
    inliers: points0 in the source's frame, points1 in the target's.
    timings: seconds by stage.
    """

    registered: bool
    target_from_source: RigidTransform
    coarse: RigidTransform
    inliers: Correspondences
    evidence: Evidence
    timings: dict[str, float] = field(default_factory=dict)
