"""Settings of ASIC: K. Gupta et al., "ASIC: Aligning Sparse in-the-wild Image Collections", ICCV 2023, section 3."""

from __future__ import annotations

from dataclasses import dataclass

from vision3d.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class AsicConfig:
    """How a collection is fitted. Lengths are in the canonical space, [-1, 1] along both axes.

    steps: of the optimisation. pairs: of pictures in a step. matches: pseudo-matches of a pair in a step, at most.
    channels: of the network. seed: of weights and draws. learning_rate: of the network; the embedding learns five times
    as fast. temperature: of the contrastive loss. match_temperature: of the softmax over cosines that weights a pair's
    matches. reconstruction, smoothness: weights of these losses beside the contrastive loss.
    """

    steps: int = 300
    pairs: int = 8
    matches: int = 128
    channels: int = 32
    seed: int = 0
    learning_rate: float = 3e-3
    temperature: float = 0.1
    match_temperature: float = 0.07
    reconstruction: float = 1.0
    smoothness: float = 2500.0

    def __post_init__(self) -> None:
        if self.steps < 0 or min(self.pairs, self.matches, self.channels) < 1 or not 0 <= self.seed < 2**31:
            raise UsageError("ASIC needs steps >= 0, pairs, matches and channels >= 1, and a seed of 0 to 2^31 - 1")
        if not min(self.learning_rate, self.temperature, self.match_temperature) > 0:
            raise UsageError("ASIC's learning rate and temperatures are above 0")
        if not min(self.reconstruction, self.smoothness) >= 0:
            raise UsageError("ASIC's weights of losses are 0 or more")
