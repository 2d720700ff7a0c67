"""Fits ASIC to one collection: a network and a canonical embedding by Adam, resumable to the bit.

ASIC, sections 3.2 to 3.4. Each step takes pairs of pictures at random; nothing is labelled.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vision3d.core import Progress, silent
from vision3d.io.atomic import atomic_file
from vision3d.matching.semantic.asic.collection import Collection
from vision3d.matching.semantic.asic.config import AsicConfig
from vision3d.matching.semantic.asic.losses import keypoint_loss, reconstruction_loss, smoothness_loss
from vision3d.matching.semantic.asic.network import CanonicalEmbedding, CanonicalNetwork

FORMAT = 1  # of checkpoints
REDUCED = 48  # principal components of the features
CHECKPOINT_STEPS = 25
WARM_UP = 20  # steps
EMBEDDING_RATE = 5.0  # of the network's learning rate
LOSSES = ("keypoints", "reconstruction", "smoothness")


@dataclass(frozen=True, slots=True)
class Fitted:
    """coordinates: (x, y) in the canonical space of every cell. curve: the losses (unweighted, in the order of LOSSES)
    of every step. seconds: of optimisation, over all parts of the run. finished: not stopped by the clock."""

    coordinates: Float[Tensor, "n 2 h w"]
    curve: list[list[float]]
    seconds: float
    finished: bool


@dataclass(slots=True)
class _State:
    network: CanonicalNetwork
    embedding: CanonicalEmbedding
    optimiser: torch.optim.Adam
    generator: torch.Generator
    curve: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0


def fit_collection(
    collection: Collection,
    config: AsicConfig,
    *,
    checkpoint: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Progress = silent,
) -> Fitted:
    """Fits a collection.

    checkpoint: a file that a killed run goes on from, the result being that of an unbroken one; a file of another
        collection or other settings, or a damaged one, is replaced. stop: asked after every step; True ends the fit
        with what there is.

    Raises:
        Vision3DError: the checkpoint cannot be written.
    """
    reduced = reduced_features(collection)
    inputs = _inputs(collection, reduced)
    unit = F.normalize(reduced, dim=1)
    key = _key(collection, config)
    state = _start(inputs.shape[1], config)
    if checkpoint is not None:
        state = _restored(checkpoint, key, inputs.shape[1], config) or state
    pairs = list(collection.matches)
    start, before = time.perf_counter(), state.seconds
    finished = True
    progress("alignment", len(state.curve), config.steps)
    while pairs and len(state.curve) < config.steps:
        state.curve.append(_step(state, collection, inputs, unit, pairs, config))
        state.seconds = before + time.perf_counter() - start
        done = len(state.curve)
        progress("alignment", done, config.steps)
        finished = done == config.steps
        ending = finished or stop()
        if checkpoint is not None and (ending or done % CHECKPOINT_STEPS == 0):
            _save(checkpoint, key, state)
        if ending:
            break
    progress("alignment", config.steps, config.steps)
    with torch.no_grad():
        coordinates = collection.start + state.network(inputs)
    return Fitted(coordinates, state.curve, state.seconds, finished)


def reduced_features(collection: Collection) -> Float[Tensor, "n d h w"]:
    """The features' principal components over the objects, up to REDUCED, centred there."""
    features = collection.grids.permute(0, 2, 3, 1)
    objects = features[collection.mask].double()
    mean = objects.mean(dim=0)
    covariance = (objects - mean).T @ (objects - mean)
    vectors = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :REDUCED]
    strongest = vectors.abs().argmax(dim=0)
    vectors = vectors * vectors[strongest, torch.arange(vectors.shape[1])].sign()
    reduced: Tensor = ((features.double() - mean) @ vectors).float()
    return reduced.permute(0, 3, 1, 2).contiguous()


def _inputs(collection: Collection, reduced: Float[Tensor, "n d h w"]) -> Float[Tensor, "n e h w"]:
    spread = reduced.permute(0, 2, 3, 1)[collection.mask].std(dim=0, correction=0).clamp(min=1e-3)
    scaled = 0.5 * reduced / spread[:, None, None]
    return torch.cat([scaled, collection.start.clamp(-2, 2), collection.mask[:, None].float()], dim=1)


def _start(inputs: int, config: AsicConfig) -> _State:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = CanonicalNetwork(inputs, config.channels)
        embedding = CanonicalEmbedding(inputs - 3)
    optimiser = torch.optim.Adam([{"params": network.parameters()}, {"params": embedding.parameters()}])
    return _State(network, embedding, optimiser, torch.Generator().manual_seed(config.seed))


def _step(
    state: _State,
    collection: Collection,
    inputs: Float[Tensor, "n e h w"],
    unit: Float[Tensor, "n d h w"],
    pairs: list[tuple[int, int]],
    config: AsicConfig,
) -> list[float]:
    step = len(state.curve)
    rate = config.learning_rate * min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / config.steps))
    for group, factor in zip(state.optimiser.param_groups, (1.0, EMBEDDING_RATE), strict=True):
        group["lr"] = rate * factor
    chosen = [pairs[k] for k in torch.randint(len(pairs), (config.pairs,), generator=state.generator).tolist()]
    index = torch.tensor([i for i, _ in chosen] + [j for _, j in chosen])
    residual = state.network(inputs[index])
    coordinates = collection.start[index] + residual
    keypoints = torch.zeros(())
    for row, pair in enumerate(chosen):
        matches = collection.matches[pair].fitted()
        order = torch.randperm(len(matches.cells0), generator=state.generator)[: config.matches]
        ends0 = coordinates[row].flatten(1)[:, matches.cells0[order]].T
        ends1 = coordinates[config.pairs + row].flatten(1)[:, matches.cells1[order]].T
        weights = (matches.cosines[order] / config.match_temperature).softmax(dim=0)
        keypoints = keypoints + keypoint_loss(ends0, ends1, weights, config.temperature) / config.pairs
    rebuilt = reconstruction_loss(state.embedding(coordinates), unit[index], collection.mask[index])
    smoothness = smoothness_loss(residual)
    state.optimiser.zero_grad()
    torch.autograd.backward(keypoints + config.reconstruction * rebuilt + config.smoothness * smoothness)
    state.optimiser.step()
    return [float(loss.detach()) for loss in (keypoints, rebuilt, smoothness)]


def _key(collection: Collection, config: AsicConfig) -> str:
    digest = hashlib.blake2b(json.dumps([FORMAT, asdict(config)]).encode(), digest_size=16)
    digest.update(collection.grids.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _save(path: Path, key: str, state: _State) -> None:
    content = {
        "key": key,
        "network": state.network.state_dict(),
        "embedding": state.embedding.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "generator": state.generator.get_state(),
        "curve": state.curve,
        "seconds": state.seconds,
    }
    with atomic_file(path) as unfinished:
        torch.save(content, unfinished)


def _restored(path: Path, key: str, inputs: int, config: AsicConfig) -> _State | None:
    try:
        found: dict[str, Any] = torch.load(path, weights_only=True)
        if found["key"] != key:
            return None
        state = _start(inputs, config)
        state.network.load_state_dict(found["network"])
        state.embedding.load_state_dict(found["embedding"])
        state.optimiser.load_state_dict(found["optimiser"])
        state.generator.set_state(found["generator"])
        state.curve, state.seconds = found["curve"], found["seconds"]
    except Exception:  # missing, or damaged, which raises nearly anything: the fit starts again
        return None
    return state
