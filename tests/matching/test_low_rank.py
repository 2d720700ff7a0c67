"""Low-rank adapters, the loss between similarity maps against a plain loop, a student's weights file as a matcher."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from spair_copies import photo
from torch import nn

from vision3d.core import Image
from vision3d.errors import UsageError, Vision3DError
from vision3d.matching.semantic.catalogue import make_semantic_matcher
from vision3d.matching.semantic.distillation_loss import joint_grid, similarity_cross_entropy
from vision3d.matching.semantic.low_rank import LowRankAdapters, LowRankConfig
from vision3d.matching.semantic.student import Student, StudentConfig, trained_student
from vision3d.train.folder import write_weights
from vision3d.weights import find_weights

needs_weights = pytest.mark.skipif(find_weights("efficientnet-lite0") is None, reason="weights are not installed")
CONFIG = "task: semantic_distillation\nsettings: {student: {size: 128, rank: 4, first_stage: 6}}\n"


def small_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.Flatten(), nn.Linear(6 * 25, 4)
    )


def disturb(adapters: nn.Module) -> None:
    for parameter in adapters.parameters():
        nn.init.normal_(parameter, std=0.2)


def test_adapters_start_at_the_network_and_merge_into_it() -> None:
    network, x = small_network(), torch.randn(2, 3, 5, 5)
    before = network(x)
    plain = {name: layer.weight.clone() for name, layer in network.named_children() if hasattr(layer, "weight")}
    adapters = LowRankAdapters(network, ("0", "2", "4"), LowRankConfig(rank=3, alpha=6.0))
    assert torch.equal(network(x), before)
    assert sum(p.numel() for p in adapters.parameters()) == 3 * (27 + 8) + 3 * (8 + 6) + 3 * (150 + 4)
    disturb(adapters)
    changed = network(x)
    assert not torch.allclose(changed, before, atol=0.05)
    # By hand: W + alpha / rank * B A.
    change = adapters.changes["2"]
    torch.testing.assert_close(
        network[2].weight[:, :, 0, 0],
        plain["2"][:, :, 0, 0] + 2.0 * change.up @ change.down,  # type: ignore[operator]
    )
    adapters.merge()
    torch.testing.assert_close(network(x), changed)
    assert type(network[0]) is nn.Conv2d and sorted(dict(network.named_parameters())) == sorted(
        f"{n}.{kind}" for n in ("0", "2", "4") for kind in ("weight", "bias")
    )


def test_only_adapters_learn() -> None:
    network = small_network()
    adapters = LowRankAdapters(network, ("2",), LowRankConfig(rank=2))
    network(torch.randn(2, 3, 5, 5)).square().sum().backward()
    assert adapters.changes["2"].up.grad is not None and float(adapters.changes["2"].up.grad.abs().max()) > 0
    learned = {id(p) for p in adapters.parameters()}
    assert all(p.grad is None and not p.requires_grad for p in network.parameters() if id(p) not in learned)
    assert all(name.startswith("changes.2.") for name in adapters.state_dict())


def test_layers_that_cannot_be_adapted() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Linear(2, 2))
    for wrong in ("0", "1", "7"):
        with pytest.raises(ValueError, match=f"{wrong} is no linear layer"):
            LowRankAdapters(network, (wrong,), LowRankConfig())
    with pytest.raises(ValueError, match="at least one"):
        LowRankAdapters(network, (), LowRankConfig())
    LowRankAdapters(network, ("2",), LowRankConfig())
    with pytest.raises(ValueError, match="adapters already"):
        LowRankAdapters(network, ("2",), LowRankConfig())
    for settings in ({"rank": 0}, {"alpha": 0.0}, {"alpha": float("nan")}):
        with pytest.raises(ValueError, match="rank must be"):
            LowRankConfig(**settings)  # type: ignore[arg-type]
    for settings in ({"size": 100}, {"first_stage": 8}):
        with pytest.raises(ValueError, match="got"):
            StudentConfig(**settings)  # type: ignore[arg-type]


def test_the_loss_equals_a_plain_loop() -> None:
    shapes = ((4, 2, 3), (4, 3, 2), (5, 2, 3), (5, 3, 2))
    t0, t1, s0, s1 = (F.normalize(torch.randn(shape), dim=0) for shape in shapes)
    temperature, total = 0.3, 0.0
    for ta, tb, sa, sb in ((t0, t1, s0, s1), (t1, t0, s1, s0)):
        ta, tb, sa, sb = (g.flatten(1).T.tolist() for g in (ta, tb, sa, sb))
        for row in range(6):
            wanted, logits = (
                [sum(u * v for u, v in zip(a[row], cell, strict=True)) / temperature for cell in b]
                for a, b in ((ta, tb), (sa, sb))
            )
            norm, log_sum = sum(map(math.exp, wanted)), math.log(sum(map(math.exp, logits)))
            total -= sum(math.exp(w) / norm * (v - log_sum) for w, v in zip(wanted, logits, strict=True)) / 12
    assert float(similarity_cross_entropy(t0, t1, s0, s1, temperature)) == pytest.approx(total, rel=1e-5)


def test_two_teachers_speak_as_one() -> None:
    a, b = torch.randn(4, 6, 6), torch.randn(7, 6, 6)
    joint = joint_grid([a, b], (6, 6)).flatten(1)
    cosines = [F.normalize(g, dim=0).flatten(1) for g in (a, b)]
    torch.testing.assert_close(joint.T @ joint, sum(c.T @ c for c in cosines) / 2)
    smaller = joint_grid([a, torch.randn(7, 12, 12)], (3, 3))
    assert smaller.shape == (11, 3, 3)
    torch.testing.assert_close(smaller.norm(dim=0), torch.ones(3, 3))


def trained(path: Path, config: str = CONFIG, task: str = "semantic_distillation") -> Student:
    """A student with adapters drawn at random, as if trained, and its file."""
    student = Student(StudentConfig(size=128, rank=4, first_stage=6))
    disturb(student)
    write_weights(path, student.state_dict(), {"task": task, "config": config})
    return student


@needs_weights
def test_the_matcher_of_a_file_is_the_student_in_memory(tmp_path: Path) -> None:
    rgb = torch.from_numpy(photo("cat").copy()).permute(2, 0, 1).float() / 255
    image = Image(rgb, "cat", (rgb.shape[2], rgb.shape[1]))
    square = F.interpolate(rgb[None], (128, 128), mode="bilinear", antialias=True).clamp(0, 1)
    frozen = make_semantic_matcher("efficientnet-lite0", size=128).describe(image).grid
    untrained = Student(StudentConfig(size=128))
    torch.testing.assert_close(untrained(untrained.trunk(square))[0].detach(), frozen, atol=1e-5, rtol=0)

    student = trained(tmp_path / "weights.safetensors")
    assert (tmp_path / "weights.safetensors").stat().st_size < 500_000  # adapters alone
    matcher = make_semantic_matcher(f"student:{tmp_path / 'weights.safetensors'}")
    assert matcher.name == "student-efficientnet-lite0" and matcher.max_size == 128
    grid = matcher.describe(image).grid
    torch.testing.assert_close(grid, student(student.trunk(square))[0].detach(), atol=1e-4, rtol=0)
    assert not torch.allclose(grid, frozen, atol=0.05)
    trained(tmp_path / "other.safetensors")
    assert trained_student(tmp_path / "other.safetensors").settings != matcher.settings


@needs_weights
def test_files_that_are_no_students(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    with pytest.raises(UsageError, match="no such weights file"):
        trained_student(file)
    trained(file, task="semantic_head")
    with pytest.raises(Vision3DError, match=r"(?s)no weights of a student .its task is semantic_head"):
        trained_student(file)
    trained(file, CONFIG.replace("size: 128", "sides: 128"))
    with pytest.raises(Vision3DError, match=r"(?s)no weights of a student .*sides"):
        trained_student(file)
    trained(file, CONFIG.replace("size: 128", "backbone: dinov2"))
    with pytest.raises(Vision3DError, match=r"(?s)no weights of a student .*dinov2"):
        trained_student(file)
    for wrong in ("rank: 8", "rank: 4, first_stage: 5"):
        trained(file, CONFIG.replace("rank: 4, first_stage: 6", wrong))
        with pytest.raises(Vision3DError, match="do not fit"):
            trained_student(file)
    with pytest.raises(UsageError, match="student:"):
        make_semantic_matcher("student")
