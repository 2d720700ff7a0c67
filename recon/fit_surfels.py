"""Fits surfels, cameras and exposure to photos by gradient descent on renderings (Sparfels, ICCV 2025, section 3).

One photo a step, coarse to fine, Adam. Everything that depends on chance is a function of the seed and the step, so
that a run that goes on from a checkpoint ends as an unbroken one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core import Camera, Progress, Rendering, RigidTransform, Surfels, View, Vision3DError, silent
from vision3d.geometry.rigid import se3_exp
from vision3d.recon import fit_losses
from vision3d.recon.depth_normals import rays
from vision3d.recon.fit_config import TERMS, FitConfig, FitCurves, FitResult, check_config
from vision3d.recon.fit_state import FitState, Frame, load_checkpoint, save_checkpoint
from vision3d.recon.geometry_loss import geometry_losses
from vision3d.recon.likeness import psnr
from vision3d.recon.relocation import DEAD, relocate_dead
from vision3d.recon.splat2d import render_surfels
from vision3d.recon.ssim import RADIUS as SSIM_RADIUS
from vision3d.recon.ssim import SsimReference
from vision3d.recon.view_matches import ViewMatches
from vision3d.recon.views import shrunk

CHECKPOINT_SECONDS = 20.0


def fit_surfels(
    surfels: Surfels,
    views: Sequence[View],
    matches: ViewMatches,
    config: FitConfig,
    *,
    held_out: Sequence[View] = (),
    progress: Progress = silent,
    checkpoint: Path | None = None,
    key: str = "",
    max_time: float | None = None,
) -> FitResult:
    """Fits `surfels` to `views`.

    Args:
        surfels: where to start, world frame.
        views: photos to fit; their cameras may move.
        matches: between `views`, by index; they hold the cameras together.
        held_out: photos never learned from; their PSNR is only measured on the way.
        checkpoint: file that is written on the way and that a later call with the same `key` goes on from.
        max_time: seconds after which to stop, those of earlier calls included.

    Raises:
        UsageError: settings that cannot be. Vision3DError: no surfels or no views.
    """
    check_config(config)
    if not views or not any(bool(view.mask.any()) for view in views):
        raise Vision3DError("there is no pixel to fit surfels to: no views, or masks that hide everything")
    if not len(surfels):
        raise Vision3DError("there are no surfels to start from: the photos show nothing in common")
    if len(matches) and int(torch.maximum(matches.view0, matches.view1).max()) >= len(views):
        raise ValueError(f"the matches do not match views: there are {len(views)}, they name others")
    return _Fit(surfels, views, matches, config, held_out, progress, checkpoint, key, max_time).run()


@dataclass(frozen=True, slots=True)
class _Level:
    """The views at one size."""

    views: list[View]
    rays: list[Tensor]
    intrinsics: list[Tensor]
    references: list[SsimReference | None]

    @classmethod
    def of(cls, views: Sequence[View], factor: float) -> _Level:
        small = [shrunk(view, factor) for view in views]
        k = [intrinsics_of(view.camera) for view in small]
        ray = [rays(i, v.camera.width, v.camera.height) for i, v in zip(k, small, strict=True)]
        return cls(small, ray, k, [_reference(view) for view in small])


class _Fit:
    """One call: the state, its optimiser, and the loop."""

    def __init__(
        self,
        surfels: Surfels,
        views: Sequence[View],
        matches: ViewMatches,
        config: FitConfig,
        held_out: Sequence[View],
        progress: Progress,
        checkpoint: Path | None,
        key: str,
        max_time: float | None,
    ) -> None:
        self.views, self.held_out, self.config, self.progress = views, held_out, config, progress
        self.checkpoint, self.max_time = checkpoint, max_time
        self.key = f"{key} {asdict(config)}"
        self.total = config.iterations or min(3000, max(400, 60 * len(views)))
        self.frame = Frame.around(views, surfels)
        self.starts = [self.frame.pose(view.cam_from_world) for view in views]
        self.state = FitState.start(self.frame.surfels(surfels), len(views), config.sh_degree)
        for value in self.state.parameters.values():
            value.requires_grad_(True)
        self.size = float(self.state.parameters["log_scales"].detach().exp().median())
        self.adam = torch.optim.Adam(
            [{"params": [value], "name": name} for name, value in self.state.parameters.items()],
            lr=0.0,
            eps=1e-15,
            fused=True,
        )
        self.curves = FitCurves()
        self.matches = [matches.of_view(k) for k in range(len(views))]
        self.all_intrinsics = torch.stack([intrinsics_of(view.camera) for view in views])
        self.background = mean_color(views)
        self.levels: dict[float, _Level] = {}
        self.losses: list[float] = []  # per step
        self.round: list[dict[str, float]] = []  # the records since the last sample

    def run(self) -> FitResult:
        self._resume()
        started = time.perf_counter() - self.state.seconds
        saved = time.perf_counter()
        ended = "all steps done"
        self.progress("surfels", self.state.step, self.total)
        while self.state.step < self.total:
            record = self._step(self.state.step)
            self.state.step += 1
            self.state.seconds = time.perf_counter() - started
            self._record(record)
            self.progress("surfels", self.state.step, self.total)
            if self.max_time is not None and self.state.seconds > self.max_time:
                ended = f"--max-time {self.max_time:g} s is over after {self.state.step} of {self.total} steps"
                break
            if self._converged():
                ended = f"converged after {self.state.step} of {self.total} steps"
                break
            if self.checkpoint is not None and time.perf_counter() - saved > CHECKPOINT_SECONDS:
                self._save()
                saved = time.perf_counter()
        self.progress("surfels", self.total, self.total)
        return self._result(ended)

    def _step(self, step: int) -> dict[str, float]:
        config, state = self.config, self.state
        done = step / self.total
        factor = self._factor(step)
        if factor not in self.levels:
            self.levels = {factor: _Level.of(self.views, factor)}
        level = self.levels[factor]
        k = view_of_step(step, len(self.views), config.seed)
        view = level.views[k]
        self._set_rates(done)
        self.adam.zero_grad(set_to_none=True)
        pose = state.pose(self.starts[k], k)
        rendering = render_surfels(
            state.surfels(self._degree(done)),
            pose,
            level.intrinsics[k],
            (view.camera.width, view.camera.height),
            background=self.background,
        )
        mask, exposed = view.mask, state.exposed(rendering.color, k)
        normal, distortion, variance = geometry_losses(rendering, level.rays[k], mask).unbind()
        terms = {
            "photometric": fit_losses.photometric(exposed, view.rgb, mask, config.ssim, level.references[k]),
            "normal": config.normal * normal,
            "distortion": config.distortion * distortion,
            "variance": config.variance * 0.5 * (1 + math.cos(math.pi * done)) * variance,
            "correspondence": config.correspondence * self._correspondence(rendering, pose, k),
            "silhouette": config.silhouette * fit_losses.silhouette(rendering.alpha, mask),
        }
        loss = torch.stack(list(terms.values())).sum()
        record = {name: float(value.detach()) for name, value in terms.items()}
        if not bool(loss.isfinite()):
            raise Vision3DError(f"the loss is not a number at step {step}: {record}")
        torch.autograd.backward(loss)
        self.adam.step()
        if config.relocate and step % 100 == 99 and done < 0.8:
            relocate_dead(state.parameters, self.adam, config.seed + step)
        record["psnr"] = _or_nan(psnr(exposed.detach(), view.rgb, mask))
        return record

    def _correspondence(self, rendering: Rendering, pose: RigidTransform, k: int) -> Tensor:
        matches = self.matches[k]
        if not len(matches) or self.config.correspondence == 0:
            return rendering.depth.sum() * 0
        poses = RigidTransform.stack([self.state.pose(start, j) for j, start in enumerate(self.starts)])
        stacked = RigidTransform(poses.rotation[matches.view1], poses.translation[matches.view1])
        intrinsics = self.all_intrinsics[matches.view1]
        return fit_losses.correspondence(rendering, pose, stacked, self.views[k].camera, intrinsics, matches)

    def _factor(self, step: int) -> float:
        coarse = self.config.coarse
        early = self.config.coarse_share * self.total
        if len(coarse) == 1 or step >= early:
            return coarse[-1]
        return coarse[int(step / early * (len(coarse) - 1))]

    def _degree(self, done: float) -> int:
        return min(self.config.sh_degree, int(done * 5))

    def _set_rates(self, done: float) -> None:
        c = self.config
        fall = c.final_rate**done
        rates = {
            "means": c.rate_means * self.size,
            "quats": c.rate_quats,
            "log_scales": c.rate_scales,
            "logit_opacities": c.rate_opacities,
            "sh_dc": c.rate_sh,
            "sh_rest": c.rate_sh / 10,
            "poses": c.rate_poses if c.refine_cameras and len(self.views) > 1 else 0.0,
            "gains": c.rate_exposure if c.exposure else 0.0,
            "offsets": c.rate_exposure / 2 if c.exposure else 0.0,
        }
        for group in self.adam.param_groups:
            group["lr"] = rates[group["name"]] * fall

    def _record(self, record: dict[str, float]) -> None:
        """One sample for each round over the photos, of means over it."""
        self.losses.append(sum(record[name] for name in TERMS))
        self.round.append(record)
        if self.state.step % len(self.views) and self.state.step != self.total:
            return
        values = {name: _mean([r[name] for r in self.round]) for name in (*TERMS, "psnr")}
        self.round = []
        values["surfels"] = float((self.state.parameters["logit_opacities"].detach().sigmoid() > DEAD).sum())
        values["camera_movement_deg"] = self._movement_deg()
        due = len(self.curves.steps) % max(1, self.total // len(self.views) // 12) == 0
        values["longer_side_px"] = float(max(max(view.rgb.shape[1:]) for view in self._level_views()))
        values["psnr_held_out"] = self.held_out_psnr() if self.held_out and due else math.nan
        self.curves.add(self.state.step, self.state.seconds, values)

    def _level_views(self) -> list[View]:
        """The views at the size of the last step."""
        return next(iter(self.levels.values())).views

    def _movement_deg(self) -> float:
        poses = self.state.parameters["poses"].detach()
        return math.degrees(float(poses[:, 3:].norm(dim=1).median()))

    def held_out_psnr(self) -> float:
        """Mean PSNR of the held-out photos at half size from their starting poses, without exposure."""
        found = []
        for view in (shrunk(view, 0.5) for view in self.held_out):
            pose = self.frame.pose(view.cam_from_world)
            with torch.no_grad():
                color = render_surfels(
                    self.state.surfels(self.config.sh_degree),
                    RigidTransform(pose.rotation.float(), pose.translation.float()),
                    intrinsics_of(view.camera),
                    (view.camera.width, view.camera.height),
                    background=self.background,
                ).color
            found.append(_or_nan(psnr(color.clamp(0, 1), view.rgb, view.mask)))
        return _mean(found)

    def _converged(self) -> bool:
        span = self.total // 10
        if self.config.tolerance == 0 or self.state.step < self.config.coarse_share * self.total + 2 * span:
            return False
        if self.state.step % len(self.views):
            return False
        late, before = _mean(self.losses[-span:]), _mean(self.losses[-2 * span : -span])
        return before - late < self.config.tolerance * before

    def _save(self) -> None:
        assert self.checkpoint is not None
        state = {
            "parameters": {name: value.detach() for name, value in self.state.parameters.items()},
            "step": self.state.step,
            "seconds": self.state.seconds,
            "adam": self.adam.state_dict()["state"],
            "curves": asdict(self.curves),
            "losses": self.losses,
            "round": self.round,
        }
        save_checkpoint(self.checkpoint, self.key, state)

    def _resume(self) -> None:
        found: dict[str, Any] | None = load_checkpoint(self.checkpoint, self.key)
        if found is None:
            return
        with torch.no_grad():
            for name, value in self.state.parameters.items():
                value.copy_(found["parameters"][name])
        whole = self.adam.state_dict()
        whole["state"] = found["adam"]
        self.adam.load_state_dict(whole)
        self.state.step, self.state.seconds = found["step"], found["seconds"]
        self.curves = FitCurves(**found["curves"])
        self.losses = found["losses"]
        self.round = found["round"]

    def _result(self, ended: str) -> FitResult:
        with torch.no_grad():
            found = self.state.surfels(self.config.sh_degree)
            found = found.select(found.opacities > DEAD)
            found = self.frame.world_surfels(replace(found, quats=torch.nn.functional.normalize(found.quats, dim=1)))
            poses = {}
            for k, view in enumerate(self.views):
                increment = se3_exp(self.state.parameters["poses"][k].double())
                poses[view.name] = self.frame.world_pose(increment @ self.starts[k])
            gains, offsets = self.state.parameters["gains"].exp(), self.state.parameters["offsets"]
        exposure = {
            view.name: (tuple(gains[k].tolist()), tuple(offsets[k].tolist())) for k, view in enumerate(self.views)
        }
        return FitResult(found, poses, exposure, tuple(self.background.tolist()), self.curves, ended)


def intrinsics_of(camera: Camera) -> Float[Tensor, " 4"]:
    """fx, fy, cx, cy in px, float32."""
    return torch.tensor([*camera.focal, *camera.center], dtype=torch.float32)


def _reference(view: View) -> SsimReference | None:
    return SsimReference(view.rgb) if min(view.rgb.shape[1:]) > 2 * SSIM_RADIUS else None


def mean_color(views: Sequence[View]) -> Float[Tensor, " 3"]:
    """Mean colour of what the masks show: the background, so that a hole is least wrong."""
    total, count = torch.zeros(3, dtype=torch.float64), 0
    for view in views:
        total += view.rgb[:, view.mask].double().sum(dim=1)
        count += int(view.mask.sum())
    return (total / max(1, count)).float()


def view_of_step(step: int, views: int, seed: int) -> int:
    """Which view a step learns from: every view once a round, in an order that depends on seed and round alone."""
    order = np.random.default_rng((seed, step // views)).permutation(views)
    return int(order[step % views])


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
