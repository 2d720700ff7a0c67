"""Moves dead surfels to where they are needed (Kheradmand et al., "3DGS as Markov Chain Monte Carlo", NeurIPS 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from vision3d.geometry.rotation import quaternion_to_matrix
from vision3d.recon.fit_state import SURFEL_PARAMETERS

DEAD = 0.01  # opacity below which a surfel adds nothing that can be seen


def relocate_dead(parameters: dict[str, Tensor], adam: torch.optim.Adam, seed: int) -> int:
    """Puts each dead surfel onto a living one that is drawn in proportion to opacity; returns how many moved.

    A surfel that is split into n keeps its look when each part has the opacity 1 - (1 - o)^(1/n) (section 4.3 there).
    The parts are shifted within the disk, so that they can part; their moments in Adam start anew. `parameters` are
    those of FitState and are changed in place.
    """
    with torch.no_grad():
        opacity = parameters["logit_opacities"].sigmoid()
        dead = (opacity < DEAD).nonzero()[:, 0]
        alive = (opacity >= DEAD).nonzero()[:, 0]
        if not len(dead) or not len(alive):
            return 0
        generator = torch.Generator().manual_seed(seed)
        drawn = alive[torch.multinomial(opacity[alive], len(dead), replacement=True, generator=generator)]
        parts = torch.ones_like(opacity).index_add_(0, drawn, torch.ones(len(drawn)))
        shared = (1 - (1 - opacity) ** (1 / parts)).clamp(DEAD, 1 - 1e-4)
        opacity = torch.where(parts > 1, shared, opacity)
        offset = torch.randn(len(dead), 2, generator=generator) * parameters["log_scales"][drawn].exp()
        axes = quaternion_to_matrix(torch.nn.functional.normalize(parameters["quats"][drawn], dim=1))
        for name in SURFEL_PARAMETERS:
            parameters[name][dead] = parameters[name][drawn]
        parameters["means"][dead] += (axes[:, :, :2] @ offset[:, :, None])[:, :, 0]
        opacity[dead] = opacity[drawn]
        parameters["logit_opacities"].copy_(opacity.logit())
        touched = torch.cat([dead, drawn])
        for name in SURFEL_PARAMETERS:
            state = adam.state.get(parameters[name], {})
            for moment in ("exp_avg", "exp_avg_sq"):
                if moment in state:
                    state[moment][touched] = 0
        return len(dead)
