"""`vision3d detect`: boxes in a scan or a folder of scans."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from vision3d.errors import UsageError, Vision3DError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

    from vision3d.core import Boxes3D, PointCloud
    from vision3d.detection.detector import Detector


@dataclass(frozen=True, kw_only=True)
class DetectConfig:
    """Boxes in a LiDAR scan or a folder of scans, with pictures. Run it again to go on after a stop.

    Writes per scan OUT/boxes/NAME.json and OUT/pictures/NAME_above.png and, with a calibration, KITTI's lines
    OUT/results/NAME.txt (for `vision3d evaluate kitti-object`), with a photo OUT/pictures/NAME_photo.png, and
    OUT/clouds/NAME.ply for `vision3d view`.
    """

    scan: Annotated[Path, tyro.conf.Positional]
    """A scan (.bin, .ply, .pcd, .las, .npy), a folder of them, or a KITTI folder (velodyne, calib, image_2)."""
    weights: Path
    """Weights of a detector: of `vision3d train` (.safetensors) or OpenPCDet's."""
    out: Path
    """Folder to write."""
    config: Path | None = None
    """The detector's settings (default: config.yaml beside the weights)."""
    image: Path | None = None
    """The left colour photo, or a folder of photos named as the scans."""
    calib: Path | None = None
    """KITTI's calibration file, or a folder of files named as the scans."""
    whole: bool = False
    """Look at the whole scan where a photo is given (default: the part that it shows, as KITTI's detectors learn)."""
    min_score: float = 0.3
    """Least score of the boxes that are written."""
    clouds: bool = True
    """Write the coloured clouds."""
    json: bool = False
    """Print JSON."""
    quiet: bool = False
    """No progress on stderr."""


@dataclass(frozen=True, slots=True)
class _Frame:
    name: str
    scan: Path
    image: Path | None
    calib: Path | None


def run(config: DetectConfig) -> int:
    """Detects in every scan that is not done; 1 if a scan could not be read."""
    from vision3d.cli.progress import progress_bars
    from vision3d.detection.detector import load_detector
    from vision3d.io.atomic import atomic_write_json

    if not 0 <= config.min_score <= 1:
        raise UsageError(f"--min-score lies in 0..1, got {config.min_score}")
    frames = _frames(config)
    if not config.weights.is_file():
        raise UsageError(f"{config.weights}: no such weights file; `vision3d train` writes one, for example")
    settings_file = config.config or config.weights.parent / "config.yaml"
    if not settings_file.is_file():
        raise UsageError(f"{settings_file}: no such file; name the detector's settings with --config")
    detector = load_detector(config.weights, settings_file)
    if detector.config.image and not all(frame.image and frame.calib for frame in frames):
        raise UsageError("this detector takes a photo and a calibration with each scan: give --image and --calib")
    _take_folder(config, settings_file)
    summary: dict[str, object] = {}
    failed: dict[str, str] = {}
    with progress_bars(config.quiet) as progress:
        for done, frame in enumerate(frames):
            progress("detect", done, len(frames))
            result = config.out / "boxes" / f"{frame.name}.json"
            if not _is_done(result, frame):
                try:
                    atomic_write_json(result, _detect(frame, detector, config))
                except UsageError:
                    raise
                except (Vision3DError, ValueError) as error:
                    if len(frames) == 1:
                        raise Vision3DError(str(error)) from error
                    failed[frame.name] = str(error)
                    continue
            summary[frame.name] = json.loads(result.read_text())
        progress("detect", len(frames), len(frames))
    _print(config, summary, failed, any(frame.calib for frame in frames))
    if any(frame.calib is None for frame in frames) and not config.quiet:
        print("KITTI's lines need a calibration: give --calib (without one none are written)", file=sys.stderr)
    return 1 if failed else 0


def _inputs(frame: _Frame) -> dict[str, str | None]:
    """What a scan, its photo and its calibration hold: a result of other ones is not taken for theirs."""
    files = {"scan": frame.scan, "image": frame.image, "calib": frame.calib}
    try:
        return {k: None if f is None else hashlib.sha256(f.read_bytes()).hexdigest() for k, f in files.items()}
    except OSError as error:
        raise Vision3DError(f"{error.filename}: {error.strerror}") from error


def _is_done(result: Path, frame: _Frame) -> bool:
    """Whether there is a whole result of these very files."""
    try:
        return bool(json.loads(result.read_text())["inputs"] == _inputs(frame))
    except (OSError, ValueError, KeyError, TypeError, Vision3DError):
        return False


def _frames(config: DetectConfig) -> list[_Frame]:
    """The scans and what belongs to them. UsageError: nothing there, or a photo or calibration is missing."""
    from vision3d.io.scans import SCAN_EXTENSIONS

    scan, image, calib = config.scan, config.image, config.calib
    of_image, of_calib = "--image: a photo", "--calib: a calibration file of KITTI"
    if scan.is_file():
        scans = [scan]
    elif scan.is_dir():
        if not (scan / "velodyne").is_dir() and (scan / "training" / "velodyne").is_dir():
            scan = scan / "training"
        if (scan / "velodyne").is_dir():
            whole = f"every scan of a KITTI folder has one; name {scan / 'velodyne'} to go without"
            of_image, of_calib = (of if given else whole for of, given in ((of_image, image), (of_calib, calib)))
            image = image or (scan / "image_2" if (scan / "image_2").is_dir() else None)
            calib = calib or (scan / "calib" if (scan / "calib").is_dir() else None)
            scan = scan / "velodyne"
        scans = sorted(path for path in scan.iterdir() if path.suffix.lower() in SCAN_EXTENSIONS)
        if not scans:
            raise UsageError(f"{scan} holds no scans ({', '.join(SCAN_EXTENSIONS)})")
    else:
        raise UsageError(f"there is no {scan}: name a scan or a folder of scans")
    names = [path.stem for path in scans]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{scan} holds several scans called {twice[0]}: their results would overwrite each other")
    if image is not None and calib is None:
        raise UsageError("a photo needs its calibration: give --calib too")
    for option, path in (("--image", image), ("--calib", calib)):
        if len(scans) > 1 and path is not None and path.is_file():
            raise UsageError(
                f"{option} {path} is one file for {len(scans)} scans: give a folder of files named as they"
            )
    return [
        _Frame(
            path.stem,
            path,
            _beside(of_image, image, path.stem, (".png", ".jpg")),
            _beside(of_calib, calib, path.stem, (".txt",)),
        )
        for path in scans
    ]


def _beside(wanted: str, given: Path | None, name: str, endings: tuple[str, ...]) -> Path | None:
    """The file itself, or that of a folder which is called as the scan."""
    if given is None or given.is_file():
        return given
    for ending in endings:
        if (path := given / f"{name}{ending}").is_file():
            return path
    missing = f"{given / name}{endings[0]}" if given.is_dir() else given
    also = ", or a folder of such files named as the scans" if wanted.startswith("--") else ""
    raise UsageError(f"there is no {missing}; {wanted}{also}")


def _take_folder(config: DetectConfig, settings_file: Path) -> None:
    """Makes OUT, or goes on in one that was made with the same settings."""
    from vision3d import __version__
    from vision3d.io.atomic import atomic_write_json, write_error

    settings = {
        "weights_sha256": hashlib.sha256(config.weights.read_bytes()).hexdigest(),
        "config_sha256": hashlib.sha256(settings_file.read_bytes()).hexdigest(),
        "min_score": config.min_score,
        "whole": config.whole,
    }
    run_file = config.out / "run.json"
    if run_file.is_file():
        try:
            before = json.loads(run_file.read_text())["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{run_file} is damaged: choose another --out, or remove that folder") from error
        if changed := sorted(key for key in settings if before.get(key) != settings[key]):
            raise UsageError(f"{config.out} holds results of another {changed[0]}: choose another --out")
        return
    try:
        for folder in ("boxes", "pictures", "results", "clouds"):
            (config.out / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(config.out, error) from error
    atomic_write_json(run_file, {"settings": settings, "weights": str(config.weights), "version": __version__})


def _detect(frame: _Frame, detector: Detector, config: DetectConfig) -> dict[str, object]:
    """Writes all but the boxes' own file of a scan, which its result says is done."""
    from vision3d.data.decoding import load_photo
    from vision3d.data.kitti_object import crop_to_view
    from vision3d.detection.pictures import cloud_with_boxes, draw_from_above, draw_in_photo
    from vision3d.io.kitti import boxes_to_kitti, read_calibration
    from vision3d.io.kitti_labels import write_objects
    from vision3d.io.ply import write_ply

    for stale in (config.out / "pictures" / f"{frame.name}_photo.png", config.out / "results" / f"{frame.name}.txt"):
        stale.unlink(missing_ok=True)  # of an earlier call with a photo or a calibration
    inputs = _inputs(frame)
    cloud = read_cloud(frame.scan)
    calibration = read_calibration(frame.calib) if frame.calib is not None else None
    image = load_photo(frame.image) if frame.image is not None else None
    seen = cloud
    if image is not None and calibration is not None and not config.whole:
        seen = crop_to_view(cloud, calibration, image.original_size)
    boxes = detector.detect(seen, image, calibration)
    assert boxes.scores is not None
    boxes = boxes.select(boxes.scores >= config.min_score)
    classes = detector.config.classes
    grid = detector.config.grid
    area = (*grid.low[:2], *grid.high[:2])
    write_picture(config.out / "pictures" / f"{frame.name}_above.png", draw_from_above(cloud, boxes, classes, area))
    if calibration is not None:
        if image is not None:
            write_picture(
                config.out / "pictures" / f"{frame.name}_photo.png", draw_in_photo(image, calibration, boxes, classes)
            )
        width, height = image.original_size if image is not None else KITTI_SIZE
        objects = boxes_to_kitti(boxes, classes, calibration, width, height)
        write_objects(config.out / "results" / f"{frame.name}.txt", objects)
    if config.clouds:
        write_ply(config.out / "clouds" / f"{frame.name}.ply", cloud_with_boxes(cloud, boxes))
    return {**_described(frame, cloud, boxes, classes), "inputs": inputs}


KITTI_SIZE = (1242, 375)  # px of KITTI's photos, where only a calibration is given


def read_cloud(path: Path) -> PointCloud:
    """A scan without points that are not finite, intensities as detectors learn them: in [0, 1]."""
    from vision3d.core import PointCloud
    from vision3d.io.scans import read_scan

    cloud = read_scan(path, "drop")
    if cloud.features is None or float(cloud.features.max()) <= 1:
        return cloud
    # 8 or 16 bit, as LAS and many PCD files have them
    scale = 255.0 if float(cloud.features.max()) <= 255 else 65535.0
    return PointCloud(cloud.points, (cloud.features / scale).clamp(0, 1), cloud.frame)


def write_picture(path: Path, rgb: UInt8[np.ndarray, "h w 3"]) -> None:
    """A PNG, whole or not at all."""
    import cv2

    from vision3d.io.atomic import atomic_write_bytes

    _, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    atomic_write_bytes(path, data.tobytes())


def _described(frame: _Frame, cloud: PointCloud, boxes: Boxes3D, classes: tuple[str, ...]) -> dict[str, object]:
    assert boxes.scores is not None
    rows = zip(boxes.labels.tolist(), boxes.scores.tolist(), boxes.centers.tolist(), boxes.sizes.tolist(),
               boxes.yaw.tolist(), strict=True)  # fmt: skip
    found = [
        {"class": classes[label], "score": score, "center": center, "size": size, "yaw": yaw}
        for label, score, center, size, yaw in rows
    ]
    units = "metres and radians in the LiDAR's frame: x forward, y left, z up; size: length, width, height"
    return {"scan": str(frame.scan), "points": len(cloud.points), "units": units, "boxes": found}


def _print(config: DetectConfig, summary: dict[str, object], failed: dict[str, str], with_lines: bool) -> None:
    if config.json:
        print(json.dumps({"out": str(config.out), "scans": summary, "failed": failed}))
    else:
        for name, found in summary.items():
            counts: dict[str, int] = {}
            for box in found["boxes"]:  # type: ignore[index]
                counts[box["class"]] = counts.get(box["class"], 0) + 1
            print(f"{name}: " + (", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())) or "nothing found"))
        kinds = ["boxes", "pictures"] + ["clouds"] * config.clouds + ["KITTI lines (results)"] * with_lines
        print(f"{', '.join(kinds[:-1])} and {kinds[-1]} are in {config.out}")
    for name, reason in failed.items():
        print(f"{name} left out: {reason}", file=sys.stderr)
