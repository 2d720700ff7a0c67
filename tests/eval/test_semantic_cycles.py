"""k-CyPCK of a set: the points of a matcher with a known error, around cycles of pictures."""

from pathlib import Path

import pytest
import torch
from spair_copies import write_copies

from vision3d.cli.main import main
from vision3d.data.semantic_pairs import SemanticPair
from vision3d.errors import UsageError
from vision3d.eval import semantic_cycles
from vision3d.eval.semantic_cycles import evaluate_cycles
from vision3d.eval.semantic_report import SemanticProtocol


class Drifting:
    """Every step moves points by (6, 0) px; pictures are their own features."""

    def __init__(self, matcher: object) -> None:
        self.matcher = self

    def __call__(self, file: Path, size: tuple[int, int]) -> Path:
        return file

    def transfer(self, source: Path, target: Path, points: torch.Tensor) -> torch.Tensor:
        return points + torch.tensor([6.0, 0.0])


def pair(a: str, b: str, ids: tuple[str, ...]) -> SemanticPair:
    points = torch.tensor([[10.0 + int(k), 20.0] for k in ids])
    box = (0.0, 0.0, 100.0, 50.0)
    return SemanticPair(f"{a}{b}", "cat", Path(a), Path(b), (200, 100), (200, 100), box, box, points, points, ids)


def test_drift_is_counted_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic_cycles, "Describer", Drifting)
    pairs = [pair("a", "b", ("0", "1", "2")), pair("b", "c", ("1", "2"))]
    table = evaluate_cycles(pairs, "set", ["position"], tmp_path, SemanticProtocol(alphas=(0.13,)), 40)
    # Within 13 px are the first two steps: all of k = 2, two of three, and no cycle of four of three pictures.
    assert [row[0] for row in table.rows] == ["cat", "all"] and table.rows[0][1:] == table.rows[1][1:]
    two, three, four = table.rows[0][1:]
    assert two == 100 and four is None
    assert isinstance(three, float) and 66.6 < three < 80  # keypoint 0 leaves at c, before its third step
    assert (tmp_path / "cycles" / "position.json").is_file()
    with pytest.raises(UsageError, match="cycles are 1 or more"):
        evaluate_cycles(pairs, "set", ["position"], tmp_path, SemanticProtocol(), 0)


def test_the_command_reports_cycles_where_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_copies(tmp_path / "set")
    out = tmp_path / "out"
    command = ["evaluate", "spair71k", "--root", str(root), "--method", "position", "--out", str(out), "--workers", "1"]
    assert main(command) == 0 and "k-CyPCK" not in capsys.readouterr().out
    assert main([*command, "--cycles", "5"]) == 0
    assert "k-CyPCK" in capsys.readouterr().out and "k-CyPCK" in (out / "report.md").read_text()
    assert main([*command, "--cycles", "-1"]) == 2
