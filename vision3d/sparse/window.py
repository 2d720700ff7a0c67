"""Which inputs an output of a convolution sees: kernel size, stride, padding and dilation of every dimension.

Output u sees input u * stride - padding + k * dilation through kernel element k (0 <= k < kernel size), as in dense
convolution. Kernel elements are numbered row by row: the last dimension runs fastest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from vision3d.core.sparse_tensor import MAX_DIMENSIONS, MAX_EXTENT

PerDimension = int | Sequence[int]


def per_dimension(name: str, value: PerDimension, dimensions: int, least: int) -> tuple[int, ...]:
    """One number for all dimensions, or one each; ValueError if there are too many, too few or too small ones."""
    values = (value,) * dimensions if isinstance(value, int) else tuple(value)
    if len(values) != dimensions or any(v < least for v in values):
        raise ValueError(f"{name} must be at least {least}, one number or {dimensions}, got {value!r}")
    return values


@dataclass(frozen=True, slots=True)
class Window:
    """Kernel size, stride, padding (on both sides) and dilation, D numbers each."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def of(
        cls,
        dimensions: int,
        kernel_size: PerDimension,
        stride: PerDimension = 1,
        padding: PerDimension = 0,
        dilation: PerDimension = 1,
    ) -> Window:
        """From numbers that stand for all dimensions, or one each."""
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise ValueError(f"dimensions must be 1 to {MAX_DIMENSIONS}, got {dimensions}")
        return cls(
            per_dimension("kernel_size", kernel_size, dimensions, 1),
            per_dimension("stride", stride, dimensions, 1),
            per_dimension("padding", padding, dimensions, 0),
            per_dimension("dilation", dilation, dimensions, 1),
        )

    @classmethod
    def submanifold(cls, dimensions: int, kernel_size: PerDimension, dilation: PerDimension = 1) -> Window:
        """Stride 1 and the padding that puts kernel element kernel_size // 2 on the output itself."""
        window = cls.of(dimensions, kernel_size, 1, 0, dilation)
        padding = tuple(k // 2 * d for k, d in zip(window.kernel_size, window.dilation, strict=True))
        return cls(window.kernel_size, window.stride, padding, window.dilation)

    @property
    def volume(self) -> int:
        """Number K of kernel elements."""
        return math.prod(self.kernel_size)

    @property
    def is_symmetric(self) -> bool:
        """Whether element K - 1 - k looks opposite to element k, at stride 1."""
        return all(
            s == 1 and 2 * p == (k - 1) * d
            for k, s, p, d in zip(self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        )

    def elements(self) -> list[tuple[int, ...]]:
        """The K kernel elements in their order."""
        return list(product(*(range(k) for k in self.kernel_size)))

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Grid after the convolution; ValueError if the window does not fit into the padded grid."""
        out = tuple(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(shape, self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        )
        if min(out) < 1:
            raise ValueError(f"a grid of {shape} is smaller than the window {self}")
        return _in_range(out)

    def cells(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Grid of the cells of stride^D sites, the last ones perhaps not whole."""
        return tuple((n - 1) // s + 1 for n, s in zip(shape, self.stride, strict=True))

    def transposed_shape(self, shape: tuple[int, ...], output_padding: tuple[int, ...]) -> tuple[int, ...]:
        """Grid after the transposed convolution."""
        out = tuple(
            (n - 1) * s - 2 * p + d * (k - 1) + 1 + extra
            for n, k, s, p, d, extra in zip(
                shape, self.kernel_size, self.stride, self.padding, self.dilation, output_padding, strict=True
            )
        )
        if min(out) < 1:
            raise ValueError(f"padding {self.padding} leaves nothing of a grid of {shape}")
        return _in_range(out)


def _in_range(shape: tuple[int, ...]) -> tuple[int, ...]:
    if max(shape) > MAX_EXTENT:
        raise ValueError(f"the output grid {shape} has an extent beyond 2^31-1")
    return shape
