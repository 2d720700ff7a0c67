"""`vision3d match A B --matcher semantic:NAME`: the same parts of different things; nothing geometric is asked."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from vision3d.cli.match import FILES, check_config, matches_png, versions
from vision3d.data.photos import load_photo
from vision3d.errors import UsageError
from vision3d.io.atomic import atomic_directory
from vision3d.matching.semantic.catalogue import make_semantic_matcher
from vision3d.matching.semantic.grid_matches import grid_matches

if TYPE_CHECKING:
    from vision3d.cli.match import MatchConfig

PREFIX = "semantic:"
LINES = 80  # in the picture
NO_EVIDENCE = "any two pictures get semantic matches: they are no evidence that both show the same thing"


def run_semantic(config: MatchConfig) -> int:
    """Matches two pictures, writes matches.npz, matches.json and matches.png, all at once; 1 if nothing matches.

    UsageError for an unknown matcher or an output folder that holds something else; Vision3DError if a picture cannot
    be read, weights are missing or the folder cannot be written.
    """
    check_config(config)
    if config.weights is not None:
        raise UsageError("semantic matchers are told their files by name, semantic:NAME:SOURCE; leave out --weights")
    name = config.matcher.removeprefix(PREFIX)
    if name.partition(",")[0].partition(":")[0] in ("asic", "asic-canonical"):
        raise UsageError("ASIC aligns collections, not two pictures: `vision3d align DIR` takes a folder of them")
    matcher = make_semantic_matcher(name)
    size = matcher.max_size if config.max_size is None else config.max_size
    start = time.perf_counter()
    image0, image1 = load_photo(config.photo0, size), load_photo(config.photo1, size)
    matches, tried = grid_matches(matcher, image0, image1)
    seconds = time.perf_counter() - start
    points0, points1, scores = (t.double().numpy() for t in (matches.points0, matches.points1, matches.scores))
    summary: dict[str, Any] = {
        "photos": [
            {"path": str(path), "size": list(image.original_size), "matched_at": list(image.size)}
            for path, image in ((config.photo0, image0), (config.photo1, image1))
        ],
        "matcher": config.matcher,
        "count": len(matches),
        "tried": tried,
        "kept": "grid points that come back to within a step of the grid; no geometry is asked",
        "note": NO_EVIDENCE,
        "settings": {**matcher.settings, "max_size": size},
        "seconds": round(seconds, 3),
        "versions": versions(),
        "matches_are": "[x0, y0, x1, y1, score], px of the upright originals, top-left pixel centre (0.5, 0.5)",
    }
    rows = np.column_stack([points0, points1, scores]).round(3).tolist()
    with atomic_directory(config.out) as folder:
        with (folder / "matches.npz").open("wb") as stream:
            np.savez_compressed(stream, points0=points0, points1=points1, scores=scores)
        text = json.dumps({**summary, "matches": rows}, ensure_ascii=False, allow_nan=False)
        (folder / "matches.json").write_text(text + "\n", encoding="utf-8")
        (folder / "matches.png").write_bytes(matches_png(matches, image0, image1, max_lines=LINES))
    if config.json:
        print(json.dumps(summary, ensure_ascii=False))
    else:
        print(f"{len(matches)} of {tried} grid points come back ({config.matcher}, {seconds:.1f} s)")
        print(f"  {NO_EVIDENCE}")
        for name in FILES:
            print(f"  {config.out / name}")
    if not len(matches):
        print(f"vision3d: {config.photo0} and {config.photo1} have no parts in common", file=sys.stderr)
        return 1
    return 0
