"""Pictures of pairs with keypoints carried over: green lines where PCK counts them as found, red where it does not.

A white ring marks where a point should be, a thin white line how far off it was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import UInt8

from vision3d.core import Image, Progress, silent
from vision3d.data.photos import load_photo
from vision3d.data.semantic_pairs import SemanticPair
from vision3d.eval.pck import PredictedPair, correct
from vision3d.eval.semantic_predictions import predictions_path, read_predictions
from vision3d.eval.semantic_report import SemanticProtocol
from vision3d.io.atomic import atomic_write_bytes
from vision3d.io.pictures import draw_matches

MAX_SIDE = 640  # px of a picture
GREEN, RED = (70, 220, 90), (235, 60, 60)


def draw_pairs(
    pairs: Sequence[SemanticPair],
    method: str,
    out: Path,
    protocol: SemanticProtocol,
    count: int,
    progress: Progress = silent,
) -> list[Path]:
    """Draws `count` pairs, spread evenly, from saved predictions: OUT/pictures/METHOD/NUMBER.png, returned in order.

    Colours go by the first alpha of the protocol. Errors as in `read_predictions`.
    """
    found = read_predictions(pairs, method, out)
    folder = out / "pictures" / predictions_path(out, method).stem
    count = min(count, len(pairs))
    paths = []
    for i in range(count):
        number = i * len(pairs) // count
        pair = pairs[number]
        path = folder / f"{number:05d}-{pair.category}.png"
        picture = draw_pair(pair, found[pair.pair_id].found, protocol)
        ok, png = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        if not ok:
            raise RuntimeError("OpenCV could not encode the picture as PNG")
        atomic_write_bytes(path, bytes(png))
        paths.append(path)
        progress(f"pictures of {method}", i + 1, count)
    return paths


def draw_pair(pair: SemanticPair, found: np.ndarray, protocol: SemanticProtocol) -> UInt8[np.ndarray, "h w 3"]:
    """One pair side by side; found [n 2] px of image 1. Vision3DError if a picture cannot be read."""
    truth = pair.points1.double().numpy()
    hits = correct(PredictedPair(found, truth, pair.size1, pair.box1), protocol.alphas[0], protocol.rule("image"))
    image0, image1 = load_photo(pair.image0, MAX_SIDE), load_photo(pair.image1, MAX_SIDE)
    start = image0.from_original(pair.points0.double()).numpy()
    end = image1.from_original(torch.from_numpy(found)).numpy()
    target = _pixels(image1)
    for wanted, got in zip(image1.from_original(pair.points1.double()).numpy(), end, strict=True):
        centre, other = (tuple(np.rint((p - 0.5) * 16).astype(int).tolist()) for p in (wanted, got))
        cv2.line(target, centre, other, (255, 255, 255), 1, cv2.LINE_AA, 4)
        for radius, color in ((7, (0, 0, 0)), (6, (255, 255, 255))):
            cv2.circle(target, centre, radius * 16, color, 1, cv2.LINE_AA, 4)
    colors = np.where(hits[:, None], np.array([GREEN], np.uint8), np.array([RED], np.uint8))
    return draw_matches(_pixels(image0), target, start, end, colors, height=MAX_SIDE)


def _pixels(image: Image) -> UInt8[np.ndarray, "h w 3"]:
    return (image.rgb * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
