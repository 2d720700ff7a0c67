"""`vision3d match A B --out DIR`: matches two photos and writes the matches and a picture of them."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from vision3d.errors import UsageError

if TYPE_CHECKING:
    from vision3d.core import Correspondences, Image
    from vision3d.matching.two_photos import TwoPhotoMatches

FILES = ("matches.npz", "matches.json", "matches.png")
MAX_LINES = 250  # in the picture
GOOD_INLIERS = 100  # `auto` is content with so many from SIFT


@dataclass(frozen=True, kw_only=True)
class MatchConfig:
    """Matches two photos. Writes matches.npz, matches.json and matches.png."""

    photo0: Positional[Path]
    """First photo."""
    photo1: Positional[Path]
    """Second photo."""
    out: Path
    """Folder for the results; new, empty, or that of an earlier match."""
    matcher: str = "auto"
    """sift, aliked-lightglue, disk-lightglue, xfeat-lighterglue, xfeat-semidense, eloftr or dkm; auto: SIFT, then
    ALIKED if that finds little and its weights are on this machine. semantic:NAME: the same parts of different things,
    without geometry; NAME as in `evaluate spair71k`, e.g. semantic:efficientnet-lite0, options at its end:
    semantic:efficientnet-lite0,rule=soft,flip,size=384."""
    weights: Path | None = None
    """Weights file of the matcher, where it takes one (eloftr, dkm); default: the published ones."""
    max_size: int | None = None
    """Longer side in px at which photos are matched (default: the matcher's own)."""
    threshold_px: float = 2.0
    """Error up to which a match agrees with the geometry, px at 1024 px."""
    turns: bool = True
    """Where photos hardly agree, also try photo 1 turned by 90, 180 and 270 degrees."""
    seed: int = 0
    """Of the robust estimation."""
    json: bool = False
    """Print the summary as JSON."""


@dataclass(frozen=True, slots=True)
class MatchResult:
    """What was found (see TwoPhotoMatches) and where it was written."""

    found: TwoPhotoMatches
    out: Path

    @property
    def related(self) -> bool:
        """Whether the photos show the same thing."""
        return self.found.related


def match_photos(config: MatchConfig) -> MatchResult:
    """Matches two photos and writes the results, all at once.

    UsageError for an unknown matcher or an output folder that holds something else; Vision3DError if a photo cannot be
    read, weights are missing or the folder cannot be written.
    """
    check_config(config)
    start = time.perf_counter()
    found, image0, image1, settings, note = _match(config)
    seconds = time.perf_counter() - start
    _write(config, found, image0, image1, {"settings": settings, "note": note, "seconds": round(seconds, 3)})
    return MatchResult(found, config.out)


def check_config(config: MatchConfig) -> None:
    """UsageError for photos that are not there, values that make no sense, or an output folder with something else."""
    for photo in (config.photo0, config.photo1):
        if not photo.is_file():
            raise UsageError(f"{photo} is no photo: there is no such file")
    if not config.threshold_px > 0 or config.threshold_px > 1000:
        raise UsageError(f"--threshold-px {config.threshold_px} makes no sense; 2 is usual")
    if config.max_size is not None and config.max_size < 16:
        raise UsageError(f"--max-size {config.max_size} is too small to match anything; 1024 is usual")
    if not 0 <= config.seed < 2**31:
        raise UsageError(f"--seed {config.seed}: name a number from 0 to {2**31 - 1}")
    _check_out(config.out)


def run(config: MatchConfig) -> int:
    """Runs the command; 0 if the photos match, 1 if they show nothing in common."""
    if config.matcher.startswith("semantic:"):
        from vision3d.cli.match_semantic import run_semantic

        return run_semantic(config)
    result = match_photos(config)
    summary = json.loads((result.out / "matches.json").read_text(encoding="utf-8"))
    summary.pop("matches")
    if config.json:
        print(json.dumps(summary, ensure_ascii=False))
    else:
        print(_sentence(summary))
        for name in FILES:
            print(f"  {result.out / name}")
    if not result.related:
        print(f"vision3d: {config.photo0} and {config.photo1} show nothing in common", file=sys.stderr)
        return 1
    return 0


def _match(config: MatchConfig) -> tuple[TwoPhotoMatches, Image, Image, dict[str, object], str]:
    from vision3d.data.photos import load_photo
    from vision3d.matching.catalogue import make_matcher, weights_on_disk, weights_options
    from vision3d.matching.two_photos import match_two_photos
    from vision3d.weights import WEIGHTS

    auto = config.matcher == "auto"
    names = ["sift", "aliked-lightglue"] if auto else [config.matcher]
    note = ""
    if auto and not weights_on_disk("aliked-lightglue"):
        names = names[:1]
        note = f"SIFT only: for hard pairs run `{WEIGHTS['aliked-n16'].install}`"
    options = weights_options(names, config.weights)
    done: list[tuple[TwoPhotoMatches, Image, Image, dict[str, object]]] = []
    for name in names:
        matcher = make_matcher(name, **options[name])
        size = matcher.max_size if config.max_size is None else config.max_size
        image0, image1 = load_photo(config.photo0, size), load_photo(config.photo1, size)
        found = match_two_photos(
            image0,
            image1,
            matcher,
            turns=(0, 1, 2, 3) if config.turns and name != "sift" else (0,),
            threshold_px=config.threshold_px,
            seed=config.seed,
        )
        done.append((found, image0, image1, {**matcher.settings, "max_size": size}))
        if found.related and found.agreement.num_inliers >= GOOD_INLIERS:
            break
    return (*max(done, key=lambda d: (d[0].related, d[0].agreement.num_inliers)), note)


def _check_out(out: Path) -> None:
    if out.is_dir():
        if out.resolve() == Path.cwd():
            raise UsageError(f"--out {out} is the current folder; name another")
        foreign = sorted(p.name for p in out.iterdir() if p.name not in FILES)
        if foreign:
            raise UsageError(f"--out {out} holds something else ({foreign[0]}); name a new or empty folder")
    elif out.exists():
        raise UsageError(f"--out {out} is a file; name a folder")


def _write(config: MatchConfig, found: TwoPhotoMatches, image0: Image, image1: Image, extra: dict[str, Any]) -> None:
    import numpy as np

    from vision3d.io.atomic import atomic_directory

    matches, agreed = found.matches, found.agreement
    arrays: dict[str, Any] = {
        "points0": matches.points0.double().numpy(),
        "points1": matches.points1.double().numpy(),
        "scores": matches.scores.double().numpy(),
        "inliers": agreed.inliers.numpy(),
    }
    rows = np.column_stack([arrays["points0"], arrays["points1"], arrays["scores"]]).round(3).tolist()
    summary = {
        "related": found.related,
        "photos": [
            {"path": str(path), "size": list(image.original_size), "matched_at": list(image.size)}
            for path, image in ((config.photo0, image0), (config.photo1, image1))
        ],
        "matcher": found.matcher,
        "turn1_deg": 90 * found.turn1,
        "count": len(matches),
        "inliers": agreed.num_inliers,
        "model": agreed.model,
        "matrix": None if agreed.matrix is None else agreed.matrix.tolist(),
        "independent_inliers": agreed.independent,
        "log10_nfa": agreed.log10_nfa if np.isfinite(agreed.log10_nfa) else None,
        "estimator": "poselib LO-RANSAC, the better of fundamental matrix and homography by NFA",
        "threshold_px": round(agreed.threshold_px, 3),
        "seed": config.seed,
        **extra,
        "versions": versions(),
        "matches_are": "[x0, y0, x1, y1, score, inlier], px of the upright originals, top-left pixel centre (0.5, 0.5)",
        "matches": [[*row, inlier] for row, inlier in zip(rows, agreed.inliers.tolist(), strict=True)],
    }
    with atomic_directory(config.out) as folder:
        with (folder / "matches.npz").open("wb") as stream:
            np.savez_compressed(stream, **arrays)
        (folder / "matches.json").write_text(
            json.dumps(summary, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
        )
        (folder / "matches.png").write_bytes(_picture(found, image0, image1))


def _picture(found: TwoPhotoMatches, image0: Image, image1: Image) -> bytes:
    """PNG: the matches that agree, or all of them in red where the photos show nothing in common."""
    shown = found.matches.select(found.agreement.inliers) if found.related else found.matches
    return matches_png(shown, image0, image1, color=None if found.related else (230, 60, 60))


def matches_png(
    shown: Correspondences,
    image0: Image,
    image1: Image,
    color: tuple[int, int, int] | None = None,
    max_lines: int = MAX_LINES,
) -> bytes:
    """PNG of both photos side by side with their matches as lines, in one colour or by height in photo 0."""
    import cv2
    import numpy as np
    import torch

    from vision3d.io.pictures import draw_matches

    rgb0, rgb1 = (
        (image.rgb * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        for image in (image0, image1)
    )
    picture = draw_matches(
        rgb0,
        rgb1,
        image0.from_original(shown.points0.double()).numpy(),
        image1.from_original(shown.points1.double()).numpy(),
        None if color is None else np.tile(np.array([color], np.uint8), (len(shown), 1)),
        max_lines=max_lines,
    )
    ok, png = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not ok:
        raise RuntimeError("OpenCV could not encode the picture as PNG")
    return bytes(png)


def versions() -> dict[str, str]:
    """Of vision3d and of what matching rests on."""
    from importlib.metadata import version

    import cv2  # its distribution may be opencv-python or opencv-python-headless

    return {"opencv": cv2.__version__} | {name: version(name) for name in ("vision3d", "torch", "kornia", "poselib")}


def _sentence(summary: dict[str, Any]) -> str:
    model = "one fundamental matrix" if summary["model"] == "fundamental" else "one homography"
    turned = (
        f", photo 1 turned by {summary['turn1_deg']} degrees" if summary["turn1_deg"] and summary["related"] else ""
    )
    text = f"{summary['inliers']} of {summary['count']} matches agree on {model}"
    if not summary["related"]:
        text = f"nothing in common: {text}, as by chance" if summary["inliers"] else "nothing in common"
    note = f"\n  {summary['note']}" if summary["note"] else ""
    return f"{text} ({summary['matcher']}{turned}, {summary['seconds']:.1f} s){note}"
