"""Batch normalisation (Ioffe and Szegedy, ICML 2015) and ReLU of the features of active sites."""

from __future__ import annotations

from torch import nn

from vision3d.core.sparse_tensor import SparseTensor
from vision3d.sparse.layers import SparseModule


class SparseBatchNorm(nn.BatchNorm1d, SparseModule):
    """Batch norm over all active sites; state as torch's. Empty and single-site tensors pass in training as well.

    Where training statistics cannot be taken (fewer than two sites) the running ones are used and left as they are.
    """

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override, unused-ignore]
        """Normalised features on the same sites. ValueError for another number of channels."""
        if x.channels != self.num_features:
            raise ValueError(f"batch norm of {self.num_features} channels got {x.channels}")
        if len(x) > 1 or not self.training:
            return x.with_features(super().forward(x.features))
        if self.running_mean is None or self.running_var is None:
            return x
        features = nn.functional.batch_norm(
            x.features, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )
        return x.with_features(features)


class SparseReLU(SparseModule):
    """max(0, features)."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        """On the same sites."""
        return x.with_features(x.features.relu())
