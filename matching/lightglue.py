"""LightGlue (Lindenberger et al., ICCV 2023): matches two sets of features by attention. kornia's modules.

Cross attention runs as two fused attentions instead of kornia's explicit similarity matrix: on a CPU that takes half
the time and memory stays linear in the number of keypoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from kornia.feature.lightglue import CrossBlock, LightGlue
from torch import Tensor, nn

from vision3d.errors import Vision3DError
from vision3d.matching.base import Features, Matches


class FusedCrossBlock(CrossBlock):  # type: ignore[misc]
    """kornia's cross attention with the same weights and results, without the similarity matrix in memory."""

    def forward(self, x0: Tensor, x1: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Messages between descriptors [b, m, d] and [b, n, d]; masks are not supported."""
        if mask is not None:
            raise ValueError("FusedCrossBlock takes no mask")

        def heads(t: Tensor) -> Tensor:
            return t.view(*t.shape[:2], self.heads, t.shape[2] // self.heads).transpose(1, 2).contiguous()

        qk0, qk1 = heads(self.to_qk(x0)), heads(self.to_qk(x1))
        v0, v1 = heads(self.to_v(x0)), heads(self.to_v(x1))
        m0 = F.scaled_dot_product_attention(qk0, qk1, v1)
        m1 = F.scaled_dot_product_attention(qk1, qk0, v0)
        m0 = self.to_out(m0.transpose(1, 2).flatten(start_dim=-2))
        m1 = self.to_out(m1.transpose(1, 2).flatten(start_dim=-2))
        return x0 + self.ffn(torch.cat([x0, m0], -1)), x1 + self.ffn(torch.cat([x1, m1], -1))


def build_lightglue(state: Mapping[str, Tensor], *, source: str, **config: object) -> LightGlue:
    """A LightGlue in evaluation mode with weights from a published checkpoint, strictly: every tensor must fit.

    Keys may have the prefix "matcher." and the old names "self_attn.I" for "transformers.I.self_attn". source: how
    error messages call the checkpoint. config: overrides kornia's `LightGlue.default_conf`. Vision3DError if the
    checkpoint has other or missing tensors.
    """
    net = LightGlue(None, **{"flash": False, **config})
    for layer in net.transformers:
        old = layer.cross_attn
        layer.cross_attn = FusedCrossBlock(old.to_qk.in_features, old.heads)
    mapped = {}
    for key, value in state.items():
        name = key.removeprefix("matcher.")
        part, _, rest = name.partition(".")
        if part in ("self_attn", "cross_attn"):
            index, _, rest = rest.partition(".")
            name = f"transformers.{index}.{part}.{rest}"
        if not name.endswith(".r"):  # unused scalars in the published DISK checkpoint
            mapped[name] = value
    load_strictly(net, mapped, source, derived={"confidence_thresholds"})
    return net.eval()


def load_strictly(net: nn.Module, state: Mapping[str, Tensor], source: str, derived: Iterable[str] = ()) -> None:
    """Loads `state`, which must hold every tensor of `net` (except the `derived` ones) and no other.

    Vision3DError names the first that does not fit.
    """
    own = net.state_dict()
    missing = sorted(set(own) - set(state) - set(derived))
    unexpected = sorted(set(state) - set(own))
    wrong = sorted(k for k in set(own) & set(state) if own[k].shape != state[k].shape)
    if missing or unexpected or wrong:
        what = "; ".join(
            f"{label} {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
            for label, names in (("lacks", missing), ("has an unknown", unexpected), ("has another shape of", wrong))
            if names
        )
        raise Vision3DError(f"weights {source} do not fit the model: the file {what}")
    net.load_state_dict(dict(state), strict=False)


def match_lightglue(net: LightGlue, features0: Features, features1: Features, device: torch.device) -> Matches:
    """Matches of two photos' features with LightGlue's confidences; empty where either photo has none."""
    if len(features0) == 0 or len(features1) == 0:
        return Matches.empty()

    def inputs(features: Features) -> dict[str, Tensor]:
        size = torch.tensor([features.image_size], dtype=torch.float32, device=device)
        keypoints = features.keypoints.to(device, torch.float32)[None]
        return {
            "keypoints": torch.minimum(keypoints.clamp(min=0), size[:, None]),
            "descriptors": features.descriptors.to(device, torch.float32)[None],
            "image_size": size,
        }

    with torch.inference_mode():
        out = net({"image0": inputs(features0), "image1": inputs(features1)})
    return Matches(out["matches"][0].cpu().clone(), out["scores"][0].float().cpu().clone())
