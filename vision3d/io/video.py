"""H.264 videos that browsers play, through the encoder (ffmpeg) that the package imageio-ffmpeg carries."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import UInt8

from vision3d.errors import Vision3DError
from vision3d.io.atomic import atomic_file

_QUALITY = "20"  # x264's constant rate factor: 18 is hard to tell from the original, 23 is its default


def write_video(path: str | Path, frames: Iterable[UInt8[np.ndarray, "_h _w 3"]], fps: float) -> None:
    """Write RGB frames as mp4 (H.264, yuv420p, index in front); an odd side gets its last row or column twice.

    Frames are taken one by one, so any number of them fits into memory.

    Raises:
        ValueError: no frames, frames of different sizes or not 8-bit RGB, fps that is not positive.
        Vision3DError: there is no encoder, or the file cannot be written; `path` is as it was.
    """
    if not 0 < fps < 1000:
        raise ValueError(f"fps must be positive, got {fps}")
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise ValueError("a video needs at least one frame")
    _check(first, first.shape)
    encoder = _encoder()
    height, width = first.shape[0] + first.shape[0] % 2, first.shape[1] + first.shape[1] % 2
    # The colours of HD video, and saying so: without it players guess from the size.
    colors = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
    with atomic_file(path) as temporary, tempfile.TemporaryFile() as complaints:
        command = [encoder, "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
        command += ["-s", f"{width}x{height}", "-r", f"{fps}", "-i", "-", "-an", "-c:v", "libx264", "-crf", _QUALITY]
        command += ["-vf", "scale=out_color_matrix=bt709:out_range=tv", "-pix_fmt", "yuv420p", *colors]
        command += ["-movflags", "+faststart", "-f", "mp4", str(temporary)]
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=complaints)
        except OSError as error:
            raise Vision3DError(f"the video encoder {encoder} does not start: {error.strerror}") from None
        try:
            broken = _feed(process, chain([first], iterator), first.shape)
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if broken or code != 0:
            raise Vision3DError(f"cannot write {path}: the video encoder failed: {_last_line(complaints)}")


def _feed(
    process: subprocess.Popen[bytes], frames: Iterable[UInt8[np.ndarray, "_h _w 3"]], shape: tuple[int, ...]
) -> bool:
    """Hand the frames over; True where the encoder stopped listening."""
    assert process.stdin is not None
    pad = ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0))
    for frame in frames:
        _check(frame, shape)
        try:
            process.stdin.write(np.ascontiguousarray(np.pad(frame, pad, mode="edge")).data)
        except OSError:
            return True
    try:
        process.stdin.close()
    except OSError:
        return True
    return False


def _check(frame: np.ndarray, shape: tuple[int, ...]) -> None:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        raise ValueError(f"frames must be h x w x 3 of uint8, got {frame.shape} of {frame.dtype}")
    if frame.shape != shape:
        raise ValueError(f"frames must have one size, got {frame.shape} after {shape}")


def _encoder() -> str:
    """Path of ffmpeg: that of the package, or of the system (imageio-ffmpeg looks for both)."""
    try:
        import imageio_ffmpeg  # type: ignore[import-untyped]

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        raise Vision3DError(
            "no video encoder found: run `pip install imageio-ffmpeg`, or install ffmpeg and put it on the PATH"
        ) from None


def _last_line(stream: IO[bytes]) -> str:
    stream.seek(0)
    lines = stream.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "it gave no reason"
