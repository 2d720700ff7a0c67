"""The rulebook of a sparse convolution: for every kernel element, which input row meets which output row."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class KernelMap:
    """Pairs of kernel element k are rows starts[k] to starts[k + 1]; within k, out_rows rise and every row stands once.

    starts is a tuple so that looping over kernel elements never waits for a device. A map is symmetric if swapping
    in_rows and out_rows gives the same map with the kernel elements in reverse (submanifold, odd kernel sizes).
    """

    in_rows: Int[Tensor, " p"]
    out_rows: Int[Tensor, " p"]
    starts: tuple[int, ...]
    inputs: int
    outputs: int
    symmetric: bool = False
    cache: dict[str, object] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return int(self.in_rows.shape[0])

    @property
    def volume(self) -> int:
        """Number K of kernel elements."""
        return len(self.starts) - 1

    def transposed(self) -> KernelMap:
        """The same pairs from outputs to inputs: of the transposed convolution and of the gradient. Kept for later."""
        found = self.cache.get("transposed")
        if isinstance(found, weakref.ref):
            found = found()
        if isinstance(found, KernelMap):
            return found
        in_rows, out_rows = self.out_rows, self.in_rows
        element = torch.repeat_interleave(
            torch.arange(self.volume, device=in_rows.device),
            torch.tensor([b - a for a, b in zip(self.starts, self.starts[1:], strict=False)], device=in_rows.device),
        )
        order = element * max(self.inputs, 1) + out_rows
        if not bool((order[1:] > order[:-1]).all()):
            order = order.argsort()
            in_rows, out_rows = in_rows[order], out_rows[order]
        out = KernelMap(in_rows, out_rows, self.starts, self.outputs, self.inputs)
        out.cache["transposed"] = weakref.ref(self)  # a strong one would be a cycle, freed late
        self.cache["transposed"] = out
        return out
