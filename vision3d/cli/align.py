"""`vision3d align DIR --out DIR`: brings a small collection of photos into one canonical space by ASIC."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from vision3d.errors import UsageError, Vision3DError

if TYPE_CHECKING:
    import torch

    from vision3d.core import Image, Progress
    from vision3d.matching.semantic.asic.alignment import CanonicalFeatures
    from vision3d.matching.semantic.asic.collection import Collection
    from vision3d.matching.semantic.asic.fit import Fitted

FILES = ("report.json", "correspondences.npz", "canonical.png", "overview.png", "fit.ckpt")
FOLDERS = ("coordinates", "points")
POINTS = 7  # of the grid on the first photo's object, along its longer side


@dataclass(frozen=True, kw_only=True)
class AlignArguments:
    """Aligns 2 to 50 photos of one category of things, without labels. Writes report.json, correspondences.npz,
    canonical.png, overview.png, and folders of pictures: coordinates and points."""

    folder: Positional[Path]
    """Folder of photos."""
    out: Path
    """Folder for the results; new, empty, or that of an earlier alignment. A killed run goes on where it stopped."""
    backbone: Literal["efficientnet-lite0", "xfeat-dense"] = "efficientnet-lite0"
    """Frozen features that the photos are aligned by."""
    steps: int = 300
    """Of the optimisation."""
    guided: bool = True
    """Carry points by features and canonical coordinates together; else by coordinates alone, as in the paper."""
    max_time: float | None = None
    """Seconds after which the optimisation stops with what there is; run again without it to finish."""
    seed: int = 0
    """Of the optimisation."""
    json: bool = False
    """Print the report as JSON."""


def run(arguments: AlignArguments) -> int:
    """Runs the command; 0 if the photos align, 1 if they do not (the results are written all the same)."""
    from vision3d.cli.progress import progress_bars

    _check(arguments)
    with progress_bars() as progress:
        report = align_photos(arguments, progress)
    if arguments.json:
        print(json.dumps(report, ensure_ascii=False, allow_nan=False))
    else:
        state = "aligned" if report["aligned"] else "not aligned"
        print(f"{state}: {len(report['photos'])} photos, {report['summary']} ({report['seconds']['total']:.1f} s)")
        for name in (*FILES[:-1], *FOLDERS):
            print(f"  {arguments.out / name}")
    for skipped in report["left_out"]:
        print(f"vision3d: left out {skipped['name']}: {skipped['reason']}", file=sys.stderr)
    if not report["finished"]:
        print("vision3d: stopped by --max-time; the same command without it goes on", file=sys.stderr)
    if not report["aligned"]:
        print(f"vision3d: warning: {report['warning']}", file=sys.stderr)
        return 1
    return 0


def align_photos(arguments: AlignArguments, progress: Progress) -> dict[str, Any]:
    """Aligns and writes everything; returns what report.json holds.

    Raises:
        UsageError: fewer than 2 or more than 50 photos that can be read. Vision3DError: weights are missing, or the
            folder cannot be written.
    """
    from vision3d.data.photos import load_photo, scan_folder
    from vision3d.io.atomic import recover_leftovers
    from vision3d.matching.semantic.asic.alignment import CanonicalFeatures
    from vision3d.matching.semantic.asic.collection import MOST, make_collection
    from vision3d.matching.semantic.asic.config import AsicConfig
    from vision3d.matching.semantic.asic.fit import fit_collection
    from vision3d.matching.semantic.asic.matcher import AsicMatcher
    from vision3d.matching.semantic.backbones import BACKBONES

    start = time.perf_counter()
    photos, skipped = scan_folder(arguments.folder, exclude=arguments.out)
    left_out = [asdict(photo) for photo in skipped]
    if not 2 <= len(photos) <= MOST:
        why = f"; left out {left_out[0]['name']}: {left_out[0]['reason']}" if left_out else ""
        raise UsageError(f"{arguments.folder} has {len(photos)} different photos, align takes 2 to {MOST}{why}")
    recover_leftovers(arguments.out)
    matcher = AsicMatcher(
        BACKBONES[arguments.backbone](),
        AsicConfig(seed=arguments.seed, steps=arguments.steps),
        guided=arguments.guided,
    )
    images, grids = [], []
    for number, photo in enumerate(photos):
        progress("features", number, len(photos))
        image = load_photo(photo.path, matcher.max_size, name=photo.name)
        try:
            grids.append(matcher.grid(image))
        except ValueError as error:
            raise Vision3DError(str(error)) from None
        images.append(image)
    progress("features", len(photos), len(photos))
    collection = make_collection(grids, progress)
    prepared = time.perf_counter()
    limit = arguments.max_time

    def stop() -> bool:
        return limit is not None and time.perf_counter() - start >= limit

    fitted = fit_collection(
        collection, matcher.config, checkpoint=arguments.out / "fit.ckpt", stop=stop, progress=progress
    )
    optimised = time.perf_counter()
    described = [
        CanonicalFeatures(grid, image.original_size, coordinates=fitted.coordinates[i], mask=collection.mask[i])
        for i, (grid, image) in enumerate(zip(grids, images, strict=True))
    ]
    files = _write_results(arguments.out, images, described, guided=arguments.guided)
    report = _report(collection, fitted) | {
        "photos": [
            {"name": photo.name, "size": list(photo.size), "pictures": name}
            for photo, name in zip(photos, files, strict=True)
        ],
        "left_out": left_out,
        "settings": matcher.settings,
        "seconds": {
            "features and pseudo-matches": round(prepared - start, 3),
            "optimisation, all parts of the run": round(fitted.seconds, 3),
            "maps and pictures": round(time.perf_counter() - optimised, 3),
            "total": round(time.perf_counter() - start, 3),
        },
    }
    from vision3d.io.atomic import atomic_write_json

    atomic_write_json(arguments.out / "report.json", report)
    return report


def _check(arguments: AlignArguments) -> None:
    out = arguments.out
    if arguments.steps < 1:
        raise UsageError(f"--steps is 1 or more, got {arguments.steps}")
    if arguments.max_time is not None and not arguments.max_time > 0:
        raise UsageError(f"--max-time is in seconds and above 0, got {arguments.max_time:g}")
    if not arguments.folder.is_dir():
        raise UsageError(f"{arguments.folder} is no folder of photos")
    if out.is_dir():
        if out.resolve() in (Path.cwd(), arguments.folder.resolve()):
            raise UsageError(f"--out {out} is the current folder or that of the photos; name another")
        known = (*FILES, *FOLDERS)
        foreign = sorted(
            p.name
            for p in out.iterdir()
            if p.name not in known and not (p.name[0] == "." and p.suffix in (".tmp", ".old"))
        )
        if foreign:
            raise UsageError(f"--out {out} holds something else ({foreign[0]}); name a new or empty folder")
    elif out.exists():
        raise UsageError(f"--out {out} is a file; name a folder")


def _report(collection: Collection, fitted: Fitted) -> dict[str, Any]:
    from importlib.metadata import version

    from vision3d.matching.semantic.asic.alignment import (
        LEAST_CONSISTENCY,
        LEAST_MATCHED,
        consistency,
        matched_share,
    )
    from vision3d.matching.semantic.asic.fit import LOSSES

    agree, share = consistency(collection, fitted.coordinates), matched_share(collection)
    aligned = agree is not None and agree >= LEAST_CONSISTENCY and share >= LEAST_MATCHED
    text = "no matches" if agree is None else f"consistency {agree:.2f}"
    return {
        "aligned": aligned,
        "summary": f"{text} (0.5 is chance), {100 * share:.0f} % of the objects matched",
        "consistency": agree,
        "matched_share": share,
        "limits": {"consistency": LEAST_CONSISTENCY, "matched_share": LEAST_MATCHED},
        "warning": None
        if aligned
        else (
            f"these photos do not seem to show things of one kind ({text}, {share:.2f} matched; limits "
            f"{LEAST_CONSISTENCY:.2f} and {LEAST_MATCHED:.2f}): do not trust the maps; results are written to look at"
        ),
        "finished": fitted.finished,
        "steps": len(fitted.curve),
        "losses": {name: [round(row[k], 6) for row in fitted.curve] for k, name in enumerate(LOSSES)},
        "versions": {name: version(name) for name in ("vision3d", "torch")},
    }


def _write_results(out: Path, images: list[Image], described: list[CanonicalFeatures], *, guided: bool) -> list[str]:
    """Everything but the report; returns the name of each photo's pictures."""
    import numpy as np
    import torch

    from vision3d.io.atomic import atomic_directory, atomic_file, atomic_write_bytes
    from vision3d.matching.semantic.asic import pictures
    from vision3d.matching.semantic.asic.alignment import at_cells, carry_canonical, dense_maps

    first = described[0]
    points = _object_points(first)
    places = at_cells(first.coordinates, first.to_cells(points))
    colors = pictures.code(places.numpy()[None])[0]
    found = [
        points if i == 0 else carry_canonical(first, target, points, guided=guided)
        for i, target in enumerate(described)
    ]
    names = [f"{i:02d}-{Path(image.name).stem}.png" for i, image in enumerate(images)]
    photos = [pictures.pixels(image.rgb) for image in images]
    drawn, tinted = [], []
    for photo, image, target, there in zip(photos, images, described, found, strict=True):
        inside = at_cells(target.mask[None].float(), target.to_cells(there))[:, 0] > 0.25
        drawn.append(pictures.points_picture(photo, image.from_original(there).numpy(), colors, inside.numpy()))
        tinted.append(pictures.coordinates_picture(photo, target.coordinates, target.mask))
    for folder, made in (("coordinates", tinted), ("points", drawn)):
        with atomic_directory(out / folder) as unfinished:
            for name, picture in zip(names, made, strict=True):
                (unfinished / name).write_bytes(pictures.png(picture))
    coordinates, mask = (torch.stack([getattr(d, key) for d in described]) for key in ("coordinates", "mask"))
    canonical = pictures.canonical_picture(photos, coordinates, mask)
    atomic_write_bytes(out / "canonical.png", pictures.png(canonical))
    rows = [group[k : k + 8] for k in range(0, len(photos), 8) for group in (photos, tinted, drawn)]
    atomic_write_bytes(out / "overview.png", pictures.png(pictures.sheet([*rows, [canonical]])))
    with atomic_file(out / "correspondences.npz") as unfinished, unfinished.open("wb") as stream:
        np.savez_compressed(
            stream,
            names=np.array([image.name for image in images]),
            sizes=np.array([image.original_size for image in images], np.int64),
            coordinates=coordinates.numpy(),
            mask=mask.numpy(),
            maps=dense_maps(described, guided=guided).numpy(),
            points=torch.stack(found).numpy(),
        )
    return names


def _object_points(first: CanonicalFeatures) -> torch.Tensor:
    """A grid of points [n 2] on the first photo's object, px of its original."""
    import torch

    rows, columns = first.mask.nonzero().T
    low = torch.stack([columns.min(), rows.min()])
    extent = torch.stack([columns.max(), rows.max()]) - low + 1
    step = max(1.0, float(extent.max()) / POINTS)
    x, y = (torch.arange(float(low[k]), float(low[k] + extent[k]), step) for k in (0, 1))
    cells = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
    kept = cells[first.mask[cells[:, 1].long(), cells[:, 0].long()]]
    if not len(kept):
        kept = torch.stack([columns, rows], dim=1)[:1].float()
    return first.to_pixels(kept)
