"""Matches between undistorted views, from the tracks of a scene: what moves the cameras while surfels are fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vision3d.core import Scene, View


@dataclass(frozen=True, slots=True)
class ViewMatches:
    """Match i: the point at `xy0[i]` px of view `view0[i]` is at `xy1[i]` px of view `view1[i]`; both directions."""

    view0: Int[Tensor, " n"]
    view1: Int[Tensor, " n"]
    xy0: Float[Tensor, "n 2"]
    xy1: Float[Tensor, "n 2"]

    def __len__(self) -> int:
        return int(self.view0.shape[0])

    def of_view(self, view: int) -> ViewMatches:
        """Those that begin in one view."""
        keep = self.view0 == view
        return ViewMatches(self.view0[keep], self.view1[keep], self.xy0[keep], self.xy1[keep])


def matches_from_tracks(scene: Scene, views: Sequence[View], per_pair: int = 1500, seed: int = 0) -> ViewMatches:
    """All pairs of observations of one point, at most `per_pair` drawn for each pair of views.

    1,500 matches per pair are Sparfels' number. Observations outside the undistorted picture or its mask are left out.
    """
    index = {view.name: k for k, view in enumerate(views)}
    tracks = scene.tracks
    observed: list[dict[int, np.ndarray]] = [{} for _ in views]
    for number, name in enumerate(tracks.images):
        if name not in index:
            continue
        view = views[index[name]]
        mine = tracks.image == number
        rays = scene.camera_of(name).unproject(tracks.xy[mine].double())
        xy, _ = view.camera.project(torch.cat([rays, torch.ones_like(rays[:, :1])], dim=1))
        column, row = xy.floor().long().unbind(1)
        inside = (column >= 0) & (row >= 0) & (column < view.camera.width) & (row < view.camera.height)
        inside[inside.clone()] = view.mask[row[inside], column[inside]]
        points = tracks.point[mine]
        observed[index[name]] = {int(p): at for p, at in zip(points[inside].tolist(), xy[inside].numpy(), strict=True)}
    rng = np.random.default_rng(seed)
    rows: list[np.ndarray] = []
    for a in range(len(views)):
        for b in range(a + 1, len(views)):
            common = sorted(observed[a].keys() & observed[b].keys())
            if len(common) > per_pair:
                common = [common[k] for k in sorted(rng.choice(len(common), per_pair, replace=False))]
            if not common:
                continue
            first = np.array([observed[a][p] for p in common])
            second = np.array([observed[b][p] for p in common])
            ones = np.ones((len(common), 1))
            rows.append(np.hstack([a * ones, b * ones, first, second]))
            rows.append(np.hstack([b * ones, a * ones, second, first]))
    table = torch.from_numpy(np.concatenate(rows) if rows else np.zeros((0, 6)))
    return ViewMatches(table[:, 0].long(), table[:, 1].long(), table[:, 2:4].float(), table[:, 4:6].float())
