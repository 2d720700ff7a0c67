"""What is learned while surfels are fitted to photos: surfel parameters, camera increments, exposure; kept on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core import RigidTransform, Surfels, View
from vision3d.geometry.rigid import se3_exp
from vision3d.io.atomic import atomic_write_bytes

SURFEL_PARAMETERS = ("means", "quats", "log_scales", "logit_opacities", "sh_dc", "sh_rest")
OPACITY_RANGE = (1e-4, 1 - 1e-4)


@dataclass(slots=True)
class FitState:
    """Parameters by name, in the normalised frame of `Frame`.

    The surfels' are those of SURFEL_PARAMETERS; `poses` [v 6] are se(3) increments that act on cam_from_world from the
    left, `gains` and `offsets` [v 3] the exposure of each photo: photo = exp(gain) * colour + offset.
    """

    parameters: dict[str, Tensor]
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def start(cls, surfels: Surfels, views: int, sh_degree: int) -> FitState:
        """From initial surfels; spherical harmonics beyond theirs start at 0."""
        n, k = len(surfels), (sh_degree + 1) ** 2
        rest = torch.zeros(n, k - 1, 3)
        given = surfels.sh[:, 1:k]
        rest[:, : given.shape[1]] = given
        parameters = {
            "means": surfels.means,
            "quats": torch.nn.functional.normalize(surfels.quats, dim=1),
            "log_scales": surfels.scales.clamp(min=1e-12).log(),
            "logit_opacities": surfels.opacities.clamp(*OPACITY_RANGE).logit(),
            "sh_dc": surfels.sh[:, :1],
            "sh_rest": rest,
            "poses": torch.zeros(views, 6),
            "gains": torch.zeros(views, 3),
            "offsets": torch.zeros(views, 3),
        }
        return cls({name: value.detach().float().clone() for name, value in parameters.items()})

    def surfels(self, sh_degree: int) -> Surfels:
        """The surfels with spherical harmonics up to a degree."""
        p = self.parameters
        sh = torch.cat([p["sh_dc"], p["sh_rest"][:, : (sh_degree + 1) ** 2 - 1]], dim=1)
        return Surfels(p["means"], p["quats"], p["log_scales"].exp(), p["logit_opacities"].sigmoid(), sh)

    def pose(self, start: RigidTransform, view: int) -> RigidTransform:
        """cam_from_world of a view, moved by its increment; float32."""
        increment = se3_exp(self.parameters["poses"][view])
        return increment @ RigidTransform(start.rotation.float(), start.translation.float())

    def exposed(self, color: Float[Tensor, "3 h w"], view: int) -> Float[Tensor, "3 h w"]:
        """A rendering with the exposure of a photo."""
        gain = self.parameters["gains"][view].exp()[:, None, None]
        return color * gain + self.parameters["offsets"][view][:, None, None]


@dataclass(frozen=True, slots=True)
class Frame:
    """A similarity that puts the scene near the origin with depths near 1: x_here = (x_world - shift) / unit."""

    shift: Float[Tensor, " 3"]
    unit: float

    @classmethod
    def around(cls, views: Sequence[View], surfels: Surfels) -> Frame:
        """Origin in the middle of the surfels, unit their median depth over the views (1 where there are none)."""
        means = surfels.means.double()
        if not len(means):
            return cls(torch.zeros(3, dtype=torch.float64), 1.0)
        shift = means.median(dim=0).values
        depths = torch.cat([view.cam_from_world.apply(means)[:, 2] for view in views])
        ahead = depths[depths > 0]
        return cls(shift, float(ahead.median()) if len(ahead) else 1.0)

    def pose(self, cam_from_world: RigidTransform) -> RigidTransform:
        """cam_from_world of the normalised world."""
        moved = cam_from_world.translation + cam_from_world.rotation @ self.shift
        return RigidTransform(cam_from_world.rotation, moved / self.unit)

    def world_pose(self, cam_from_here: RigidTransform) -> RigidTransform:
        """The inverse of `pose`."""
        translation = cam_from_here.translation * self.unit - cam_from_here.rotation @ self.shift
        return RigidTransform(cam_from_here.rotation, translation)

    def surfels(self, surfels: Surfels) -> Surfels:
        """Surfels of the world in the normalised frame."""
        means = ((surfels.means.double() - self.shift) / self.unit).float()
        scales = (surfels.scales.double() / self.unit).float()
        return Surfels(means, surfels.quats.float(), scales, surfels.opacities.float(), surfels.sh.float())

    def world_surfels(self, surfels: Surfels) -> Surfels:
        """The inverse of `surfels`."""
        means = (surfels.means.double() * self.unit + self.shift).float()
        scales = (surfels.scales.double() * self.unit).float()
        return Surfels(means, surfels.quats, scales, surfels.opacities, surfels.sh)


def save_checkpoint(path: Path, key: str, tensors: Mapping[str, object]) -> None:
    """Writes a checkpoint atomically; `key` says what it belongs to."""
    stream = BytesIO()
    torch.save({"key": key, **tensors}, stream)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, stream.getvalue())


def load_checkpoint(path: Path | None, key: str) -> dict[str, object] | None:
    """The checkpoint if it is there, whole and of the same key; else None."""
    if path is None or not path.is_file():
        return None
    try:
        found: dict[str, object] = torch.load(path, weights_only=True)
    except Exception:  # damaged files raise nearly anything; the work is then done again
        return None
    return found if found.get("key") == key else None
