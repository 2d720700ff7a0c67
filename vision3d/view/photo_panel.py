"""Cameras as frusta with their photos, and the panel of the chosen one: photo, rendered depth, depth at a click."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import torch
import viser
from jaxtyping import Float, UInt8

from vision3d.core import Vision3DError
from vision3d.data.photos import load_photo
from vision3d.view.contents import PosedPhoto
from vision3d.view.display import Display, Frustum, point_at

FRUSTUM_PICTURE, PANEL_PICTURE = 320, 960  # longer side, px
_MARGIN = 1.3  # of the field of view about a photo
_PLAIN, _CHOSEN = (60, 90, 150), (240, 120, 30)
_ADVICE = "Click a camera in the view, or choose one here."


class PhotoPanel:
    """Frusta in the scene, and folders "Cameras" and "Photo" in the controls.

    A click on a camera chooses it and goes there; a click on the photo of the chosen one reads the depth at that point.
    """

    def __init__(self, server: viser.ViserServer, photos: tuple[PosedPhoto, ...], display: Display) -> None:
        self._server, self._photos, self._display = server, photos, display
        self.frusta = [Frustum.of(photo, display) for photo in photos]
        self._pictures: dict[int, UInt8[np.ndarray, "h w 3"]] = {}
        self._lock = threading.RLock()  # viser calls back from several threads
        self.chosen: int | None = None
        self._marker: viser.SceneNodeHandle | None = None
        gui = server.gui
        with gui.add_folder("Cameras"):
            self._shown = gui.add_checkbox(f"Cameras ({len(photos)})", True)
            self._with_photos = gui.add_checkbox("Photos in them", True)
            self._size = gui.add_slider("Camera size", 0.1, 5.0, 0.1, 1.0)
        with gui.add_folder("Photo"):
            self._choice = gui.add_dropdown("Photo", ("none", *(photo.name for photo in photos)))
            self._go = gui.add_button("Go to this camera", disabled=True)
            self._hide = gui.add_checkbox("Hide this photo", False, disabled=True, hint="to compare it with the scene")
            self.text = gui.add_markdown(_ADVICE)
            blank = np.full((2, 3, 3), 255, np.uint8)
            self._photo_image = gui.add_image(blank, label="Photo", visible=False)
            self._depth_image = gui.add_image(blank, label="Rendered depth", visible=False)
        self._root = server.scene.add_frame("/cameras", show_axes=False)
        self.handles = [self._add_frustum(i) for i in range(len(photos))]
        self._shown.on_update(lambda _: setattr(self._root, "visible", self._shown.value))
        self._with_photos.on_update(lambda _: self._hang_pictures())
        self._size.on_update(lambda _: self._resize())
        self._choice.on_update(lambda _: self._choose_by_name(self._choice.value))
        self._go.on_click(lambda event: self._visit(event.client, self.chosen))
        self._hide.on_update(lambda _: self._hide_chosen())

    def load_pictures(self) -> list[str]:
        """Read the photos and hang them into the frusta; it takes a while, the view can be used meanwhile.

        Returns one line per photo that could not be read.
        """
        problems = []
        for i, photo in enumerate(self._photos):
            if photo.photo_file is None:
                continue
            try:
                picture = read_picture(photo.photo_file, FRUSTUM_PICTURE)
            except Vision3DError as error:
                problems.append(str(error))
                continue
            with self._lock:
                if i not in self._pictures:  # it may have been chosen already, and be there in large
                    self._pictures[i] = picture
                    self.handles[i].image = picture if self._with_photos.value else None
        return problems

    def choose(self, index: int) -> None:
        """Show photo `index` in the panel."""
        with self._lock:
            self.chosen = index
            photo = self._photos[index]
            for i, handle in enumerate(self.handles):
                handle.color = _CHOSEN if i == index else _PLAIN
            self._forget_marker()
            if self._choice.value != photo.name:
                self._choice.value = photo.name  # type: ignore[misc]
            self._go.disabled = self._hide.disabled = False
            self._hide_chosen()
            lines = [f"{photo.camera.width} x {photo.camera.height} px, focal length {photo.camera.focal[0]:.0f} px"]
            lines.append(
                "Click the photo in the view for its depth at that point."
                if photo.depth_file is not None
                else "No rendered depth belongs to this photo."
            )
            large = self._show(self._photo_image, photo.photo_file, lines)
            self._show(self._depth_image, photo.depth_picture, lines)
            if large is not None:
                self._pictures[index] = large
                if self._with_photos.value:
                    self.handles[index].image = large
            self.text.content = "\n\n".join(lines)

    def read_depth(self, index: int, u: float, v: float) -> str:
        """The depth of photo `index` at share (u, v) of its width and height as a sentence; marks the point."""
        photo = self._photos[index]
        where = f"at ({u * photo.camera.width:.0f}, {v * photo.camera.height:.0f}) px"
        if photo.depth_file is None:
            return f"{where}: no rendered depth belongs to this photo"
        try:
            depth = read_depth_file(photo.depth_file)
        except Vision3DError as error:
            return str(error)
        z = float(depth[int(v * depth.shape[0]), int(u * depth.shape[1])])
        if not z > 0 or not np.isfinite(z):
            return f"{where}: nothing was reconstructed there"
        point = point_at(photo, u, v, z)
        with self._lock:
            self._forget_marker()
            self._marker = self._server.scene.add_icosphere(
                "/clicked", 0.06 * self._depth_of_frusta(), _CHOSEN, position=self._display.apply(point)
            )
        return f"**depth {z:.4g}** {where}; point ({', '.join(f'{c:.4g}' for c in point.tolist())})"

    def _add_frustum(self, index: int) -> viser.CameraFrustumHandle:
        frustum = self.frusta[index]
        handle = self._server.scene.add_camera_frustum(
            f"/cameras/{index}",
            frustum.fov,
            frustum.aspect,
            scale=frustum.viser_scale(self._depth_of_frusta()),
            thickness=1.5,
            thickness_units="screen",
            color=_PLAIN,
            wxyz=frustum.wxyz,
            position=frustum.position,
            cast_shadow=False,
            receive_shadow=False,
        )
        handle.on_click(lambda event: self._clicked(index, event))
        return handle

    def _clicked(self, index: int, event: viser.SceneNodePointerEvent) -> None:
        new = index != self.chosen
        if new:
            self.choose(index)
            self._visit(event.client, index)
        at = self.frusta[index].hit(np.array(event.ray_origin), np.array(event.ray_direction), self._depth_of_frusta())
        if at is not None and self._photos[index].depth_file is not None:
            self.text.content = self.read_depth(index, *at)

    def _choose_by_name(self, name: str) -> None:
        names = [photo.name for photo in self._photos]
        if name in names and names.index(name) != self.chosen:
            self.choose(names.index(name))

    def _visit(self, client: viser.ClientHandle | None, index: int | None) -> None:
        """Stand where the camera stood, all of its picture in sight: the photo lies exactly over the scene."""
        if client is None or index is None:
            return
        frustum = self.frusta[index]
        # What is turned about afterwards is the middle of the scene, as far ahead.
        ahead = max(float(frustum.forward @ (0 - frustum.position)), 2 * self._depth_of_frusta())
        with client.atomic():
            client.camera.position = frustum.position
            client.camera.look_at = frustum.position + ahead * frustum.forward
            client.camera.wxyz = frustum.wxyz
            wide = max(1.0, frustum.aspect / client.camera.aspect)
            client.camera.fov = 2 * float(np.arctan(_MARGIN * np.tan(frustum.fov / 2) * wide))

    def _hide_chosen(self) -> None:
        for i, handle in enumerate(self.handles):
            handle.visible = not (self._hide.value and i == self.chosen)

    def _show(
        self, image: viser.GuiImageHandle, file: Path | None, lines: list[str]
    ) -> UInt8[np.ndarray, "_h _w 3"] | None:
        image.visible = False
        if file is None:
            return None
        try:
            picture = read_picture(file, PANEL_PICTURE)
        except Vision3DError as error:
            lines.append(str(error))
            return None
        image.image = picture
        image.visible = True
        return picture

    def _hang_pictures(self) -> None:
        with self._lock:
            for i, picture in self._pictures.items():
                self.handles[i].image = picture if self._with_photos.value else None

    def _resize(self) -> None:
        for frustum, handle in zip(self.frusta, self.handles, strict=True):
            handle.scale = frustum.viser_scale(self._depth_of_frusta())

    def _depth_of_frusta(self) -> float:
        return self._display.frustum * float(self._size.value)

    def _forget_marker(self) -> None:
        if self._marker is not None:
            self._marker.remove()
            self._marker = None


def read_picture(file: Path, size: int) -> UInt8[np.ndarray, "h w 3"]:
    """A picture with the longer side at most `size` px. Vision3DError where it cannot be read."""
    rgb = load_photo(file, size).rgb
    return np.ascontiguousarray((rgb * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy())


def read_depth_file(file: Path) -> Float[np.ndarray, "h w"]:
    """ "depth" of an npz. Vision3DError where it is missing or damaged."""
    try:
        with np.load(file, allow_pickle=False) as content:
            depth = np.asarray(content["depth"], dtype=np.float32)
    except Exception as error:  # NumPy and zipfile raise nearly anything on a damaged file
        raise Vision3DError(f"{file} holds no depth: {str(error)[:200]}") from None
    if depth.ndim != 2 or not depth.size:
        raise Vision3DError(f"{file} holds no depth: its shape is {depth.shape}")
    return depth
