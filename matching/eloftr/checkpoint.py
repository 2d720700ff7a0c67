"""Reads published weights of Efficient LoFTR: the authors' layout (fused or not, with or without "matcher.") and that
of the transformers library, strictly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vision3d.errors import Vision3DError
from vision3d.matching.eloftr.config import EfficientLoFTRConfig
from vision3d.matching.eloftr.model import EfficientLoFTR
from vision3d.matching.lightglue import load_strictly
from vision3d.weights import load_weights

# transformers' names -> the authors', in the order in which they are applied
_TRANSFORMERS = (
    (r"^efficientloftr\.|^model\.", ""),
    (r"^backbone\.stages\.0\.blocks\.0\.", "backbone.layer0."),
    (r"^backbone\.stages\.(\d+)\.blocks\.", r"backbone.layer\1."),
    (r"\.conv1\.conv\.", ".rbr_dense.conv."),
    (r"\.conv1\.norm\.", ".rbr_dense.bn."),
    (r"\.conv2\.conv\.", ".rbr_1x1.conv."),
    (r"\.conv2\.norm\.", ".rbr_1x1.bn."),
    (r"\.identity\.", ".rbr_identity."),
    (r"\.aggregation\.q_aggregation\.", ".aggregate."),
    (r"\.aggregation\.norm\.", ".norm1."),
    (r"\.attention\.o_proj\.", ".merge."),
    (r"\.attention\.", "."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
    (r"\.mlp\.layer_norm\.", ".norm2."),
    (r"^refinement_layer\.out_conv\.", "fine_preprocess.layer3_outconv."),
)
_REFINEMENT = {"out_conv1": "outconv", "out_conv2": "outconv2.0", "batch_norm": "outconv2.1", "out_conv3": "outconv2.3"}


def build_eloftr(state: Mapping[str, Tensor], source: str, config: EfficientLoFTRConfig) -> EfficientLoFTR:
    """The network with the weights of a checkpoint of any published layout, in evaluation mode, not yet fused.

    A fused checkpoint gives a fused backbone. Vision3DError names the first tensor that is missing, unknown or of
    another shape; `source` names the checkpoint in it.
    """
    state = _authors_names(state)
    net = EfficientLoFTR(config).eval()
    fused = any(".rbr_reparam." in name for name in state)
    if fused:
        net.fuse()
    counters = [name for name in net.state_dict() if name.endswith("num_batches_tracked")]
    load_strictly(net, state, source, counters)
    return net.fuse() if fused else net  # what fusing prepared was made of the weights before


def load_eloftr(path: Path | None, config: EfficientLoFTRConfig) -> EfficientLoFTR:
    """The published network, or that of a file, fused for evaluation. Errors as `load_weights` and `build_eloftr`."""
    source = str(path) if path is not None else "efficientloftr"
    return build_eloftr(load_weights("efficientloftr", path), source, config).fuse()


def is_compact(path: Path) -> bool:
    """Whether a file holds the compact network, by its first block's width. Errors as `load_weights`."""
    state = _authors_names(load_weights("efficientloftr", path))
    firsts = [
        value for name, value in state.items() if re.match(r"backbone\.layer0\.rbr_(dense\.conv|reparam)\.weight", name)
    ]
    return bool(firsts) and firsts[0].shape[0] == EfficientLoFTRConfig.compact().widths[0]


def _authors_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = {name: re.sub(r"^(state_dict\.)?(matcher\.)?", "", name) for name in state}
    if any(".blocks." in name for name in names.values()):
        names = {name: transformers_name(known) for name, known in names.items()}
    renamed = {known: state[name] for name, known in names.items() if _is_weight(name)}
    if len(renamed) < sum(_is_weight(name) for name in state):
        raise Vision3DError("the checkpoint holds two tensors for the same place; it is no Efficient LoFTR checkpoint")
    return renamed


def _is_weight(name: str) -> bool:
    """False for what a training checkpoint holds beside the network (the state of its optimiser)."""
    return not re.match(r"(optimizer_states|lr_schedulers|callbacks|loops)\b", name)


def transformers_name(name: str) -> str:
    """The authors' name of a tensor that the transformers library calls `name`."""
    for pattern, replacement in _TRANSFORMERS:
        name = re.sub(pattern, replacement, name)
    layer = re.match(r"local_feature_transformer\.layers\.(\d+)\.(self|cross)_attention\.(.*)", name)
    if layer:
        return f"loftr_coarse.layers.{2 * int(layer[1]) + (layer[2] == 'cross')}.{layer[3]}"
    part = re.match(r"refinement_layer\.out_conv_layers\.(\d)\.(\w+)\.(.*)", name)
    if part and part[2] in _REFINEMENT:
        return f"fine_preprocess.layer{2 - int(part[1])}_{_REFINEMENT[part[2]]}.{part[3]}"
    return name
