"""The processes of a training run: one, several on this machine, or those of torchrun; through Lightning Fabric."""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from typing import Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy

from vision3d.errors import UsageError
from vision3d.sparse.microkernels import HAS_BFLOAT16
from vision3d.train.config import TrainConfig

# One process validates while the others wait for it.
PATIENCE = timedelta(hours=12)


def emulates_bfloat16(device: str) -> bool:
    """Whether bfloat16 would take ten times the time of float32 on this kind of device: a CPU without its products."""
    return device == "cpu" and not HAS_BFLOAT16


def launch(config: TrainConfig) -> Fabric:
    """Starts the processes and gives each its handle. UsageError if there is no such device."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    accelerator: Literal["cpu", "cuda"] = "cuda" if config.device == "cuda" else "cpu"
    if config.device == "auto" and torch.cuda.is_available():
        accelerator = "cuda"
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda: torch sees no GPU here; use --train.device cpu")
    torchrun = TorchElasticEnvironment.detect()
    local = int(os.environ["LOCAL_WORLD_SIZE"]) if torchrun else config.processes
    nodes = int(os.environ["WORLD_SIZE"]) // local if torchrun else 1
    if accelerator == "cuda" and local > torch.cuda.device_count():
        raise UsageError(f"{local} processes need as many GPUs, torch sees {torch.cuda.device_count()}")
    # Parameters without a gradient are normal: a second stage without proposals, say.
    parallel = DDPStrategy(find_unused_parameters=True, timeout=PATIENCE)
    half = config.precision == "bf16-mixed" and not emulates_bfloat16(accelerator)
    fabric = Fabric(
        accelerator=accelerator,
        devices=local,
        num_nodes=nodes,
        strategy=parallel if local * nodes > 1 else "auto",
        precision="bf16-mixed" if half else "32-true",
        plugins=[TorchElasticEnvironment() if torchrun else LightningEnvironment()],
    )
    fabric.launch()
    return fabric
