"""The outcome of the pose stage on disk: a COLMAP model and a JSON file beside it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from vision3d.io.colmap import read_colmap, write_colmap
from vision3d.recon.model_score import ModelScore
from vision3d.recon.sfm import Attempt, SfmResult


def write_result(folder: Path, result: SfmResult) -> None:
    """Writes model/ (if there is one) and result.json; `read_result` gives it back."""
    if result.scene is not None:
        write_colmap(folder / "model", result.scene)
    score = None
    if result.score is not None:
        score = asdict(result.score) | {"pair_share": [[*pair, s] for pair, s in result.score.pair_share.items()]}
    content = {
        "left_out": dict(result.left_out),
        "attempts": [asdict(attempt) for attempt in result.attempts],
        "score": score,
        "chosen": result.chosen,
        "intrinsics": result.intrinsics,
    }
    (folder / "result.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def read_result(folder: Path) -> SfmResult:
    """What `write_result` wrote."""
    content = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    score = content["score"]
    if score is not None:
        score["pair_share"] = {(a, b): share for a, b, share in score["pair_share"]}
        score["contradicting"] = tuple((a, b) for a, b in score["contradicting"])
        score = ModelScore(**score)
    model = folder / "model"
    return SfmResult(
        read_colmap(model) if model.is_dir() else None,
        content["left_out"],
        tuple(Attempt(**attempt) for attempt in content["attempts"]),
        score,
        content["chosen"],
        content["intrinsics"],
    )
