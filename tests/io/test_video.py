"""Videos: what is read back resembles what was written, odd sizes, and no half-written file under the final name."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from vision3d.core import Vision3DError
from vision3d.io.video import write_video


def _frames(count: int, height: int, width: int) -> list[np.ndarray]:
    """A coloured gradient with a white bar that moves right."""
    y, x = np.mgrid[:height, :width]
    out = []
    for i in range(count):
        frame = np.stack([255 * x / width, 255 * y / height, 0 * x + 40], axis=-1).astype(np.uint8)
        frame[:, 3 * i : 3 * i + 12] = 255
        out.append(frame)
    return out


def _read(path: Path) -> tuple[list[np.ndarray], float]:
    video = cv2.VideoCapture(str(path))
    out = []
    while True:
        ok, frame = video.read()
        if not ok:
            return out, video.get(cv2.CAP_PROP_FPS)
        out.append(frame[..., ::-1])


@pytest.mark.parametrize(("height", "width"), [(96, 128), (95, 127)])
def test_reads_back_alike(tmp_path: Path, height: int, width: int) -> None:
    frames = _frames(20, height, width)
    write_video(tmp_path / "a.mp4", iter(frames), 12)
    back, fps = _read(tmp_path / "a.mp4")
    assert len(back) == 20 and fps == pytest.approx(12)
    for written, read in zip(frames, back, strict=True):
        assert read.shape == (96, 128, 3)
        error = np.abs(read[:height, :width].astype(int) - written)
        assert np.median(error) <= 4 and error.mean() < 8  # colour is halved in size: the bar's edges blur
    data = (tmp_path / "a.mp4").read_bytes()
    assert b"avc1" in data and data.index(b"moov") < data.index(b"mdat")  # H.264, and it plays while it loads
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_wrong_frames(tmp_path: Path) -> None:
    good = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="at least one"):
        write_video(tmp_path / "a.mp4", [], 10)
    for wrong, message in ((good.astype(np.int64), "of uint8"), (good[:, :14], "one size"), (good[:0], "of uint8")):
        with pytest.raises(ValueError, match=message):
            write_video(tmp_path / "a.mp4", iter([good, wrong]), 10)
    for fps in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="fps"):
            write_video(tmp_path / "a.mp4", [good], fps)
    assert not list(tmp_path.iterdir())


def test_a_renderer_that_fails_leaves_the_old_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"old")

    def frames() -> Iterator[np.ndarray]:
        yield from _frames(3, 32, 32)
        raise RuntimeError("render failed")

    with pytest.raises(RuntimeError, match="render failed"):
        write_video(tmp_path / "a.mp4", frames(), 10)
    assert (tmp_path / "a.mp4").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_encoder_that_is_missing_or_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "ffmpeg"
    fake.write_text("#!/bin/sh\necho first >&2; echo No space left on device >&2; exit 1\n")
    fake.chmod(0o755)
    out = tmp_path / "out"
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(fake))
    with pytest.raises(Vision3DError, match=r"cannot write .*a.mp4: .*No space left on device$"):
        write_video(out / "a.mp4", _frames(50, 64, 64), 10)
    assert not list(out.iterdir())
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))
    with pytest.raises(Vision3DError, match=r"does not start|no video encoder"):
        write_video(out / "a.mp4", _frames(2, 64, 64), 10)

    def missing() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", missing)
    with pytest.raises(Vision3DError, match="pip install imageio-ffmpeg"):
        write_video(out / "a.mp4", _frames(2, 64, 64), 10)
