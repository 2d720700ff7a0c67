"""`vision3d evaluate views`: PSNR and SSIM of a result's renders beside the photos."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class EvaluateViewsConfig:
    """PSNR and SSIM of the saved renders, held-out photos apart from those that were learned from."""

    result: Positional[Path]
    """Output folder of `reconstruct`, with renders/heldout and renders/train."""
    out: Path | None = None
    """Also write the JSON to this file."""
    json: bool = False
    """Print JSON instead of tables."""


def run_views(config: EvaluateViewsConfig) -> int:
    """Prints how like the photos the renders are."""
    from vision3d.eval.tables import print_tables
    from vision3d.eval.views import evaluate_views
    from vision3d.io.atomic import atomic_write_json

    report = evaluate_views(config.result)
    if config.out is not None:
        atomic_write_json(config.out, report.json())
    if config.json:
        print(json.dumps(report.json(), indent=1, ensure_ascii=False))
    else:
        print_tables(report.tables())
    return 0
