"""PSNR and SSIM of saved renders: closed form, scikit-image, masks, folders, the command."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vision3d.cli.main import main
from vision3d.core import UsageError, Vision3DError
from vision3d.eval.views import evaluate_views
from vision3d.recon.likeness import MAX_PSNR, psnr, ssim


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)


def _pair(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    photo = generator.integers(20, 230, (40, 50, 3)).astype(np.uint8)
    return (photo + generator.integers(-15, 16, photo.shape)).astype(np.uint8), photo


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two photos learned from and one held out, which has a mask of its left half; outside, its render is black."""
    for i, group in enumerate(("train", "train", "heldout")):
        render, photo = _pair(i)
        if group == "heldout":
            mask = np.zeros(photo.shape[:2], np.uint8)
            mask[:, :25] = 255
            render[:, 25:] = 0
            _save(tmp_path / "renders" / group / f"p{i}_mask.png", mask)
        _save(tmp_path / "renders" / group / f"p{i}_render.png", render)
        _save(tmp_path / "renders" / group / f"p{i}_photo.png", photo)
    return tmp_path


def test_as_scikit_image(run: Path) -> None:
    report = evaluate_views(run)
    by_name = {photo.name: photo for photo in report.photos}
    for i in (0, 1):
        render, photo = _pair(i)
        found = by_name[f"p{i}"]
        assert found.psnr is not None and found.ssim is not None and found.counted == 1
        assert abs(found.psnr - peak_signal_noise_ratio(photo, render)) < 1e-4
        _, full = structural_similarity(
            photo, render, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=2, full=True
        )
        assert abs(found.ssim - full.mean()) < 1e-4
    psnrs = [by_name["p0"].psnr, by_name["p1"].psnr]
    assert report.mean("train", "psnr") == pytest.approx(np.mean(psnrs))
    assert [photo.group for photo in report.photos] == ["heldout", "train", "train"]


def test_a_mask_hides_the_rest(run: Path) -> None:
    found = evaluate_views(run).photos[0]
    render, photo = _pair(2)
    assert found.counted == 0.5 and found.psnr is not None and found.ssim is not None
    assert abs(found.psnr - peak_signal_noise_ratio(photo[:, :25], render[:, :25])) < 1e-4
    half = render.copy()
    half[:, 25:] = photo[:, 25:]
    _, full = structural_similarity(
        photo, half, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=2, full=True
    )
    assert abs(found.ssim - full[:, :25].mean()) < 1e-4


def test_closed_forms() -> None:
    a = torch.full((3, 20, 20), 0.5)
    assert psnr(a, a) == MAX_PSNR and abs((psnr(a + 0.1, a) or 0) - 20) < 1e-4
    nothing = torch.zeros(20, 20, dtype=torch.bool)
    assert psnr(a, a, nothing) is None and ssim(a, a, nothing) is None
    assert abs((ssim(a, a) or 0) - 1) < 1e-4
    assert ssim(a[:, :8], a[:, :8]) is None and psnr(a[:, :8], a[:, :8]) == MAX_PSNR
    # Constant pictures: (2 ab + C1) / (a^2 + b^2 + C1)
    expected = (2 * 0.5 * 0.7 + 1e-4) / (0.25 + 0.49 + 1e-4)
    assert abs((ssim(torch.full_like(a, 0.7), a) or 0) - expected) < 1e-3


def test_the_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "views", str(run), "--json", "--out", str(run / "views.json")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["mean"]["heldout"]["psnr"] == report["photos"][0]["psnr"] and len(report["photos"]) == 3
    assert json.loads((run / "views.json").read_text()) == report
    assert main(["evaluate", "views", str(run)]) == 0
    out = capsys.readouterr().out
    assert "held out" in out and "trained on" in out and "masked in 1 of 3 photos" in out and "50x40" in out


def test_only_training_photos(run: Path) -> None:
    for path in (run / "renders" / "heldout").iterdir():
        path.unlink()
    report = evaluate_views(run)
    assert report.mean("heldout", "psnr") is None and len(report.tables()[0].rows) == 1
    json.dumps(report.json(), allow_nan=False)


def test_wrong_input(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no renders"):
        evaluate_views(tmp_path / "absent")
    photo = run / "renders" / "train" / "p0_photo.png"
    _save(photo, np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(Vision3DError, match="different sizes: 50x40 and 10x10"):
        evaluate_views(run)
    photo.write_bytes(b"no picture")
    with pytest.raises(Vision3DError, match="cannot read the picture"):
        evaluate_views(run)
    photo.unlink()
    with pytest.raises(Vision3DError, match="p0_photo"):
        evaluate_views(run)
