"""The viewer: contents in a scene of viser, with switches, and a panel for the photo that was clicked."""

from __future__ import annotations

import contextlib
import io
import socket
from collections.abc import Iterator

import numpy as np
import viser

from vision3d.core import Mesh, Vision3DError
from vision3d.view.contents import Contents
from vision3d.view.display import MAX_POINTS, MAX_SURFELS, RADIUS, display_of, even_subset, splats
from vision3d.view.photo_panel import PhotoPanel
from vision3d.view.unlit_glb import unlit_glb

PORTS_TRIED = 100
_GREY = (190, 190, 190)
UP_AXES = {"+x": (1, 0, 0), "-x": (-1, 0, 0), "+y": (0, 1, 0), "-y": (0, -1, 0), "+z": (0, 0, 1), "-z": (0, 0, -1)}


class Viewer:
    """A running server that shows `contents`; `stop` ends it, as leaving a `with` block does.

    photos is the panel of the posed photos, None where there are none. notes: what of the contents is not shown.
    """

    def __init__(self, contents: Contents, host: str = "127.0.0.1", port: int = 8080) -> None:
        """Bind to the first free port from `port` on. Vision3DError where none can be had."""
        self.display = display_of(contents)
        self.notes = list(contents.left_out)
        port = free_port(host, port)
        with _quiet():
            self.server = viser.ViserServer(host=host, port=port, label=contents.title, verbose=False)
        shown = "localhost" if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.server.get_port()}"
        self.server.gui.configure_theme(control_width="large", show_logo=False, show_share_button=False)
        self.server.scene.set_up_direction(self.display.up.numpy())
        self._set_first_camera(contents)
        with self.server.gui.add_folder("Show"):
            self._add_layers(contents)
            self._add_up()
        self.photos = PhotoPanel(self.server, contents.photos, self.display) if contents.photos else None

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server and its threads."""
        with _quiet():
            self.server.stop()

    def _set_first_camera(self, contents: Contents) -> None:
        """Behind the middle camera and a little above, looking where it looks; without cameras from ahead and above."""
        display, first = self.display, self.server.initial_camera
        up = display.up.numpy()
        if contents.photos:
            centers = np.stack([display.apply(p.cam_from_world.center()) for p in contents.photos])
            middle = contents.photos[int(np.linalg.norm(centers - np.median(centers, axis=0), axis=1).argmin())]
            eye, turn = display.apply(middle.cam_from_world.center()), middle.cam_from_world.rotation.numpy()
            distance = max(float(turn[2] @ (0 - eye)), 0.3 * RADIUS)
            look_at = eye + turn[2] * distance
            first.position = look_at + (eye - look_at) * 1.35 + up * distance * 0.25
            first.look_at = look_at
        else:
            side = np.cross(up, np.eye(3)[int(np.abs(up).argmin())])
            side /= np.linalg.norm(side)
            first.position = 1.6 * RADIUS * (0.9 * np.cross(side, up) + 0.3 * side + 0.4 * up)
            first.look_at = np.zeros(3)
        first.up = up
        first.fov = float(np.radians(55))
        first.near, first.far = 0.01, 100 * RADIUS

    def _add_layers(self, contents: Contents) -> None:
        """Points, mesh and surfels with a switch each; the best of them is switched on."""
        scene, gui, display = self.server.scene, self.server.gui, self.display
        if contents.surfels is not None:
            shown = splats(contents.surfels, display)
            if len(shown.centers) < len(contents.surfels):
                self.notes.append(f"the {MAX_SURFELS} largest of {len(contents.surfels)} surfels are shown")
            # The corners of viser's own splat have two coordinates: three.js logs a NaN radius in the browser, no harm.
            layer = scene.add_gaussian_splats(
                "/surfels", shown.centers, shown.covariances, shown.colors, shown.opacities
            )
            self._add_switch(f"Surfels ({len(shown.centers):,})", layer, True)
        if contents.mesh is not None:
            self._add_mesh(contents.mesh, contents.surfels is None)
        if contents.cloud is not None:
            points, features = contents.cloud.points, contents.cloud.features
            keep = even_subset(len(points), MAX_POINTS)
            if len(points) > MAX_POINTS:
                self.notes.append(f"{MAX_POINTS} of {len(points)} points are shown, chosen at random")
            colored = features is not None and features.shape[1] == 3
            alone = contents.surfels is None and contents.mesh is None
            dots = scene.add_point_cloud(
                "/points",
                display.apply(points[keep]),
                features[keep].clamp(0, 1).float().numpy() if features is not None and colored else (90, 130, 200),
                point_size=0.0025 * RADIUS,
                point_shape="circle",
                precision="float32",
                point_shading="flat",
                visible=alone,
            )
            self._add_switch(f"Points ({int(keep.sum()):,})", dots, alone)
            size = gui.add_slider("Point size", 0.1, 5.0, 0.1, 1.0)
            size.on_update(lambda _: setattr(dots, "point_size", 0.0025 * RADIUS * size.value))

    def _add_mesh(self, mesh: Mesh, on: bool) -> None:
        """The mesh in the photos' colours, as they are, or in grey under lamps, which shows the shape."""
        vertices, faces = self.display.apply(mesh.vertices), mesh.faces.numpy()
        scene, root = self.server.scene, self.server.scene.add_frame("/mesh", show_axes=False, visible=on)
        self._add_switch(f"Mesh ({len(faces):,} triangles)", root, on)
        if mesh.colors is None:
            scene.add_mesh_simple("/mesh/grey", vertices, faces, color=_GREY, side="double", cast_shadow=False)
            return
        colored = scene.add_glb("/mesh/colored", unlit_glb(vertices, faces, mesh.colors.numpy()), cast_shadow=False)
        plain = self.server.gui.add_checkbox("Mesh in grey", False, hint="shows the shape without the photos' colours")
        grey: list[viser.MeshHandle] = []

        @plain.on_update
        def _(_: object) -> None:
            if not grey:  # sent to the browser when it is first asked for
                grey.append(
                    scene.add_mesh_simple("/mesh/grey", vertices, faces, color=_GREY, side="double", cast_shadow=False)
                )
            grey[0].visible, colored.visible = plain.value, not plain.value

    def _add_switch(self, label: str, layer: viser.SceneNodeHandle, on: bool) -> None:
        box = self.server.gui.add_checkbox(label, on)
        box.on_update(lambda _: setattr(layer, "visible", box.value))

    def _add_up(self) -> None:
        choice = self.server.gui.add_dropdown("Up", ("as the photos", *UP_AXES), hint="which way of the world is up")

        @choice.on_update
        def _(_: object) -> None:
            up = self.display.up.numpy() if choice.value not in UP_AXES else np.array(UP_AXES[choice.value], float)
            self.server.scene.set_up_direction(up)
            for client in self.server.get_clients().values():
                client.camera.up_direction = up


def free_port(host: str, port: int) -> int:
    """The first port from `port` on that can be bound on `host`. Vision3DError where there is none, or no such host."""
    problem: OSError | None = None
    for candidate in range(port, min(port + PORTS_TRIED, 65536)):
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, candidate, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            with socket.socket(family, kind, protocol) as probe:
                # As servers do: a port whose last connections are only fading away counts as free.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
            return candidate
        except socket.gaierror as error:
            raise Vision3DError(f"there is no host {host!r} to listen on ({error.strerror})") from None
        except OSError as error:
            problem = error
    reason = problem.strerror if problem is not None else "ports end at 65535"
    raise Vision3DError(f"cannot listen on {host}, ports {port} to {port + PORTS_TRIED - 1}: {reason}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """viser prints banners of its own."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
