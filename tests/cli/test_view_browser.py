"""The viewer in a real browser: it draws, its switches change the picture, clicks on cameras are understood."""

import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from browser import Page, open_page
from view_folder import write_view_folder

from vision3d.geometry.rotation import quaternion_to_matrix
from vision3d.view.contents import load_contents
from vision3d.view.server import Viewer

# viser's own splat geometry has corners of two coordinates, at which three.js grumbles once.
HARMLESS = "THREE.BufferGeometry.computeBoundingSphere(): Computed radius is NaN"
SCREENSHOTS = os.environ.get("VISION3D_SCREENSHOTS")  # a folder, to look at what the tests saw
SCENE = (0, 360)  # columns of the picture that the controls do not cover


def _picture(opened: Page) -> np.ndarray:
    shot = PIL.Image.open(io.BytesIO(opened.page.screenshot()))
    return np.asarray(shot.convert("RGB"))[150:, SCENE[0] : SCENE[1]].astype(int)


def _wait(opened: Page, done: Callable[[], bool], what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"timed out: {what}"
        opened.page.wait_for_timeout(100)


def _share(opened: Page, channel: int) -> float:
    """Share of the pixels where a colour channel stands out."""
    picture = _picture(opened)
    others = [c for c in range(3) if c != channel]
    return float((picture[..., channel] > picture[..., others].max(axis=-1) + 60).mean())


def _on_screen(viewer: Viewer, index: int) -> tuple[float, float]:
    """Where the middle of the picture in frustum `index` is on the page."""
    camera = next(iter(viewer.server.get_clients().values())).camera
    frustum = viewer.photos.frusta[index]
    turn = quaternion_to_matrix(torch.from_numpy(camera.wxyz)).numpy()
    x, y, z = turn.T @ (frustum.position + frustum.forward * viewer.display.frustum - camera.position)
    focal = camera.image_height / 2 / np.tan(camera.fov / 2)
    return camera.image_width / 2 + focal * x / z, camera.image_height / 2 + focal * y / z


def test_draws_switches_and_answers_clicks(tmp_path: Path) -> None:
    scale = 1e-4
    write_view_folder(tmp_path / "out", scale)
    with Viewer(load_contents(tmp_path / "out"), port=18080) as viewer, open_page(viewer.url, 760, 500) as opened:
        assert viewer.photos is not None and not viewer.notes
        assert viewer.photos.load_pictures() == []
        _wait(opened, lambda: _share(opened, 0) > 0.05, "red surfels")
        assert _share(opened, 1) < 0.01
        opened.page.get_by_label("Surfels (").first.click()
        _wait(opened, lambda: _share(opened, 0) < 0.01, "surfels off")
        opened.page.get_by_label("Mesh (").first.click()
        _wait(opened, lambda: _share(opened, 1) > 0.05, "green mesh")
        opened.page.get_by_label("Mesh in grey").first.click()
        _wait(opened, lambda: _share(opened, 1) < 0.01, "mesh in grey")
        opened.page.get_by_label("Mesh (").first.click()
        empty = _picture(opened)
        opened.page.get_by_label("Points (").first.click()
        _wait(opened, lambda: np.abs(_picture(opened) - empty).max() > 60, "points")

        before = next(iter(viewer.server.get_clients().values())).camera.position.copy()
        opened.page.mouse.click(*_on_screen(viewer, 1))
        _wait(opened, lambda: viewer.photos.chosen == 1, "camera 1 is chosen")
        text = viewer.photos.text
        _wait(opened, lambda: f"depth {4 * scale:.4g}" in text.content, "depth at the click")
        client = next(iter(viewer.server.get_clients().values()))
        there = viewer.photos.frusta[1].position
        _wait(opened, lambda: np.allclose(client.camera.position, there, atol=1e-3), "flight to camera 1")
        assert np.linalg.norm(before - there) > 0.1
        opened.page.locator("input[value='IMG_001.jpg']:visible").first.click()
        opened.page.get_by_role("option", name="IMG_004.jpg").click()
        _wait(opened, lambda: "No rendered depth" in text.content, "photo chosen from the list")
        assert viewer.photos.chosen == 4
        if SCREENSHOTS is not None:
            opened.page.screenshot(path=Path(SCREENSHOTS) / "view.png")
        assert [error for error in opened.errors if not error.startswith(HARMLESS)] == []
        assert opened.foreign == []
