"""What the training loop asks of a task: a model, samples, a loss, a validation. No base class is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class TrainingSet(Protocol):
    """Samples that are a pure function of (index, epoch) and of the settings they were made with.

    Whatever is drawn at random comes from a generator made inside `sample`, such as
    `np.random.default_rng((seed, epoch, index))`: the same call gives the same sample in every process, so that a
    resumed run sees the data of an unbroken one. Must be picklable to be used with workers.
    """

    def __len__(self) -> int: ...

    def sample(self, index: int, epoch: int) -> Any:
        """Sample `index` in [0, len) as it looks in an epoch (0, 1, ...): augmentation may differ between epochs."""


@runtime_checkable
class Task(Protocol):
    """A model and how it is trained. The loop moves `model` to the device, trains it in place and saves it."""

    @property
    def model(self) -> nn.Module:
        """All that is trained and saved: whatever must survive a restart is a parameter or a buffer of it."""

    @property
    def dataset(self) -> TrainingSet:
        """The training samples."""

    @property
    def collate(self) -> Callable[[list[Any]], Any]:
        """Samples to a batch; runs in the workers, so a plain function or a staticmethod (a method would carry the
        model there). A batch is made of tensors, Batch, dataclasses, tuples, lists and dicts."""

    @property
    def main_metric(self) -> str:
        """The key of `validate()` by which weights are the best ones; higher is better."""

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Scalar losses of a batch on the model's device, always the same keys: "loss" is minimised, all are logged.

        Means over the batch, so that gradients may be averaged over processes. Calls `self.model` as usual. Runs
        under autocast with bf16-mixed; what needs float32 turns autocast off for itself. torch's, NumPy's and Python's
        global generators are seeded for every step.
        """

    def validate(self) -> dict[str, float]:
        """Metrics of `self.model`, which holds the averaged weights (EMA, if on), in eval mode and without gradients.

        Empty if there is nothing to validate on. Called on one process only.
        """


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters with a learning rate of `lr_scale` times the configured one; weight_decay None: as configured."""

    parameters: Sequence[nn.Parameter]
    lr_scale: float = 1.0
    weight_decay: float | None = None


@runtime_checkable
class WithParameterGroups(Protocol):
    """A task that divides its parameters; without it weights decay, biases and norms do not."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """Groups that hold every trained parameter once; parameters in none of them stay as they are."""
