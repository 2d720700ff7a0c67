"""Poses of all photos from verified pairs: several ways to map, the model that explains most matches wins.

The first attempt is COLMAP's incremental mapper; a clearly good model ends the search. Otherwise other settings, focal
lengths, look-alike pairs left out and a direct solver are tried, and a score without ground truth (model_score.py)
chooses. Pure functions: nothing is read or written but a temporary database.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pycolmap
import torch

from vision3d.core import Camera, CameraPrior, Correspondences, Progress, Scene, silent
from vision3d.io.colmap import rigid_from_colmap, scene_from_reconstruction
from vision3d.recon.camera_starts import (
    focal_starts,
    original_camera,
    start_cameras,
    with_distortion,
    with_focal,
    working_pairs,
)
from vision3d.recon.few_view import TreeConfig, rebuild, solve_by_tree
from vision3d.recon.gauge import canonical
from vision3d.recon.left_out import reasons_left_out
from vision3d.recon.mapping import MapperSettings, MappingProblem, run_mapper
from vision3d.recon.model_score import ModelScore, ScoreConfig, model_score
from vision3d.recon.refine import RefineConfig, adjust, refine_model
from vision3d.recon.tracks import Pair, TrackConfig, build_tracks
from vision3d.recon.verification import working_scale
from vision3d.recon.view_graph import VerifiedPair, pruned


@dataclass(frozen=True, slots=True, kw_only=True)
class SfmConfig:
    """Settings of estimate_poses.

    focal_starts: focal lengths to try where it is unknown, in longer sides; prune_ratios: inlier ratios below which
    pairs are left out in later attempts; wide_merge_px: merge radius of the attempt meant for semi-dense matches;
    tree_starts: start pairs for the direct solver; rebuilt: best models that are rebuilt from the pairs that they
    explain; min_points: a model with fewer is chance (learned matchers agree with each other even on noise);
    max_attempts: how many ways are tried at most (None: 60 for up to 20 photos, 12 for up to 60, 4 beyond). A
    clearly good model ends the search at once.
    """

    tracks: TrackConfig = field(default_factory=TrackConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    tree: TreeConfig = field(default_factory=TreeConfig)
    focal_starts: tuple[float, ...] = (2.4, 0.7)
    prune_ratios: tuple[float, ...] = (0.5, 0.65, 0.8)
    wide_merge_px: float = 3.0
    tree_starts: int = 3
    rebuilt: int = 3
    min_points: int = 40
    max_attempts: int | None = None
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way that was tried: registered photos, points, score (see ModelScore.value) and seconds."""

    name: str
    registered: int
    points: int
    score: float
    seconds: float


@dataclass(frozen=True, slots=True)
class SfmResult:
    """scene: None when no two photos could be placed; left_out: reason per photo without a pose; score of the model
    before the final adjustment; chosen: name of the winning attempt; intrinsics: which ones were adjusted."""

    scene: Scene | None
    left_out: Mapping[str, str]
    attempts: tuple[Attempt, ...]
    score: ModelScore | None
    chosen: str | None
    intrinsics: str | None


@dataclass(frozen=True, slots=True)
class _Way:
    name: str
    settings: MapperSettings | int  # int: the direct solver from that start pair
    pairs: frozenset[Pair] | None = None
    focal: float | None = None
    distortion: bool = False
    merge_px: float | None = None


@dataclass(frozen=True, slots=True)
class _Candidate:
    model: pycolmap.Reconstruction
    score: ModelScore
    name: str


def estimate_poses(
    priors: Mapping[str, CameraPrior],
    pairs: Mapping[Pair, VerifiedPair],
    config: SfmConfig | None = None,
    progress: Progress = silent,
    scratch: Path | None = None,
) -> SfmResult:
    """Cameras, points and reasons for photos left out. `pairs` may hold rejected ones: they explain reasons.

    scratch: folder for temporary databases, None for the system's.
    """
    config = config or SfmConfig()
    problem, matches, weights = mapping_problem(priors, pairs, config)
    problem = replace(problem, scratch=scratch)
    attempts: list[Attempt] = []
    found: list[_Candidate] = []
    reached, since, patience = -math.inf, 0, _patience(len(priors))
    budget = config.max_attempts or _budget(len(priors))
    progress("poses", 0, budget)
    for number, way in enumerate(_ways(problem, pairs, priors, matches, config)):
        if number >= budget or not matches:
            break
        started = time.perf_counter()
        for model in _run(way, problem, matches, pairs, config):
            score = score_model(model, problem, matches, weights, config)
            if not score.good(config.score):
                adjust(model, _fixed_ids(problem), replace(config.refine, rounds=1, threads=config.threads))
                score = score_model(model, problem, matches, weights, config)
            if model.num_points3D() >= config.min_points:
                found.append(_Candidate(model, score, way.name))
            seconds = time.perf_counter() - started
            attempts.append(Attempt(way.name, score.registered, model.num_points3D(), score.value, seconds))
        progress("poses", number + 1, budget)
        best = max(found, key=lambda c: c.score.value, default=None)
        if best is None:
            continue
        if best.score.value > reached + 0.005:
            reached, since = best.score.value, 0
        else:
            since += 1
        if best.score.good(config.score) or (best.score.fair(config.score) and since >= patience):
            break
    found.sort(key=lambda c: -c.score.value)
    for candidate in found[: config.rebuilt] if len(attempts) > 1 else []:
        started = time.perf_counter()
        better = _consistent(candidate, problem, matches, weights, config)
        if better is not None:
            found.append(better)
            seconds = time.perf_counter() - started
            score = better.score
            attempts.append(Attempt(better.name, score.registered, better.model.num_points3D(), score.value, seconds))
    best = max(found, key=lambda c: c.score.value, default=None)
    progress("poses", budget, budget)
    if best is None:
        return SfmResult(None, reasons_left_out(priors, pairs, frozenset()), tuple(attempts), None, None, None)
    refine = replace(config.refine, threads=config.threads)
    model, words = refine_model(best.model, _fixed_ids(problem), refine)
    registered = frozenset(model.images[i].name for i in model.reg_image_ids())
    left_out = reasons_left_out(priors, pairs, registered)
    return SfmResult(canonical(original_scene(model, priors)), left_out, tuple(attempts), best.score, best.name, words)


def original_scene(model: pycolmap.Reconstruction, priors: Mapping[str, CameraPrior]) -> Scene:
    """A model in working px as a Scene in px of the original photos."""
    scene = scene_from_reconstruction(model)
    sizes = {posed.camera_id: priors[name].camera for name, posed in scene.images.items()}
    cameras = {i: original_camera(camera, sizes[i]) for i, camera in scene.cameras.items() if i in sizes}
    scales = [working_scale(priors[n].camera.width, priors[n].camera.height) for n in scene.tracks.images]
    factor = scene.tracks.xy.new_tensor(scales)[scene.tracks.image] if scales else scene.tracks.xy.new_zeros(0)
    tracks = replace(scene.tracks, xy=scene.tracks.xy * factor[:, None])
    mean = sum(scales) / len(scales) if scales else 1.0
    return replace(scene, cameras=cameras, tracks=tracks, errors=scene.errors * mean)


def mapping_problem(
    priors: Mapping[str, CameraPrior], pairs: Mapping[Pair, VerifiedPair], config: SfmConfig
) -> tuple[MappingProblem, dict[Pair, Correspondences], dict[Pair, float]]:
    """The accepted pairs as a problem for a mapper; their matches in working px; their weight per match in a score."""
    accepted = {pair: p for pair, p in sorted(pairs.items()) if p.accepted}
    matches = working_pairs(priors, {pair: p.matches for pair, p in accepted.items()})
    names = sorted({name for pair in accepted for name in pair})
    graph = build_tracks(names, matches, config.tracks)
    used = {name: priors[name] for name in names}
    problem = MappingProblem(
        cameras=start_cameras(used),
        group_of={name: prior.group for name, prior in used.items()},
        fixed=frozenset(p.group for p in used.values() if p.source == "given"),
        prior_focal=frozenset(p.group for p in used.values() if p.source != "guess"),
        graph=graph,
        geometry={pair: p.geometry for pair, p in accepted.items()},
    )
    return problem, matches, {pair: p.inlier_ratio**2 for pair, p in accepted.items()}


def _ways(
    problem: MappingProblem,
    pairs: Mapping[Pair, VerifiedPair],
    priors: Mapping[str, CameraPrior],
    matches: Mapping[Pair, Correspondences],
    config: SfmConfig,
) -> Iterator[_Way]:
    """Attempts in the order of their chance of success; evaluated lazily, so that easy sets pay for one only."""
    few = len(problem.names) <= 3
    base = MapperSettings(threads=config.threads, seed=config.seed, two_view_tracks=few)
    both = replace(base, two_view_tracks=True)
    yield _Way("incremental", base)
    yield _Way("incremental, tracks of " + ("three" if few else "two"), replace(base, two_view_tracks=not few))
    # Semi-dense matchers find other points in a photo for every partner (measured: AUC@30 33 -> 95 on three photos).
    yield _Way("incremental, points merged widely", both, merge_px=config.wide_merge_px)
    starts: list[float | None] = [None]
    if any(prior.source == "guess" for prior in priors.values()):
        starts += focal_starts(problem, matches, config.focal_starts)
    subsets: list[frozenset[Pair] | None] = [None]
    taken = [frozenset(matches)]
    for ratio in config.prune_ratios:
        subset = pruned(pairs, ratio)
        if subset not in taken:
            taken.append(subset)
            subsets.append(subset)
    for chosen in subsets:
        for focal in starts:
            suffix = "" if chosen is None else f", {len(chosen)} best pairs"
            suffix += "" if focal is None else f", focal {focal:.2f}"
            for start in range(config.tree_starts):
                yield _Way(f"tree {start}" + suffix, start, chosen, focal)
            if chosen is not None or focal is not None:
                yield _Way("incremental" + suffix, both, chosen, focal)
    yield _Way("incremental with distortion", base, None, None, True)
    yield _Way("global", replace(both, method="global"))


def _run(
    way: _Way,
    problem: MappingProblem,
    matches: Mapping[Pair, Correspondences],
    pairs: Mapping[Pair, VerifiedPair],
    config: SfmConfig,
) -> list[pycolmap.Reconstruction]:
    started = problem if way.focal is None else with_focal(problem, way.focal)
    if way.distortion:
        started = with_distortion(started)
    if way.pairs is not None or way.merge_px is not None:
        # Tracks anew: wrong pairs would tie right tracks together.
        chosen = {pair: m for pair, m in matches.items() if way.pairs is None or pair in way.pairs}
        tracks = config.tracks if way.merge_px is None else replace(config.tracks, merge_radius_px=way.merge_px)
        started = replace(started, graph=build_tracks(started.names, chosen, tracks))
    if isinstance(way.settings, int):
        solved = solve_by_tree(started, pairs, replace(config.tree, start=way.settings), config.seed)
        models = [solved] if solved is not None else []
    else:
        models = run_mapper(started, way.settings)
    return [m for m in models if m.num_points3D() > 0]


def _consistent(
    candidate: _Candidate,
    problem: MappingProblem,
    matches: Mapping[Pair, Correspondences],
    weights: Mapping[Pair, float],
    config: SfmConfig,
) -> _Candidate | None:
    """The model rebuilt from the pairs that it explains, where that leaves some out."""
    wrong = set(candidate.score.contradicting)
    if not wrong:
        return None
    kept = {pair: m for pair, m in matches.items() if pair not in wrong}
    graph = build_tracks(problem.names, kept, config.tracks)
    model = rebuild(replace(problem, graph=graph), candidate.model, config.tree)
    if model is None:
        return None
    adjust(model, _fixed_ids(problem), replace(config.refine, rounds=1, threads=config.threads))
    return _Candidate(model, score_model(model, problem, matches, weights, config), candidate.name + ", rebuilt")


def score_model(
    model: pycolmap.Reconstruction,
    problem: MappingProblem,
    matches: Mapping[Pair, Correspondences],
    weights: Mapping[Pair, float],
    config: SfmConfig,
) -> ModelScore:
    """How well a model in working px explains the verified matches."""
    images = [model.images[i] for i in model.reg_image_ids()]
    poses = {image.name: rigid_from_colmap(image.cam_from_world()) for image in images}
    cameras = {
        image.name: Camera.from_colmap(
            image.camera.model.name, image.camera.width, image.camera.height, tuple(map(float, image.camera.params))
        )
        for image in images
    }
    return model_score(
        poses,
        cameras,
        matches,
        weights,
        len(problem.names),
        float(model.compute_mean_reprojection_error()),
        min((image.num_points3D for image in images), default=0),
        _multi_view_share(model, problem),
        config.score,
    )


def _multi_view_share(model: pycolmap.Reconstruction, problem: MappingProblem) -> float:
    """Points seen in three photos or more, per track of the problem that has as many."""
    tracks = torch.cat([t[t >= 0] for t in problem.graph.track.values()])
    possible = int((torch.bincount(tracks, minlength=1) >= 3).sum())
    seen = sum(point.track.length() >= 3 for point in model.points3D.values())
    return min(1.0, seen / possible) if possible else 0.0


def _fixed_ids(problem: MappingProblem) -> frozenset[int]:
    """COLMAP ids (they count from 1 in the order of groups) of cameras whose intrinsics are given."""
    return frozenset(i + 1 for i, group in enumerate(sorted(problem.cameras)) if group in problem.fixed)


def _budget(photos: int) -> int:
    return 60 if photos <= 20 else 12 if photos <= 60 else 4


def _patience(photos: int) -> int:
    """Attempts without a better model after which a fair one is taken."""
    return 12 if photos <= 10 else 4 if photos <= 20 else 1
