"""`vision3d view OUT`: shows a result in the browser."""

from __future__ import annotations

import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from vision3d.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Shows cameras with their photos, points, surfels and mesh in a browser on this machine."""

    path: Positional[Path]
    """Output folder of `reconstruct`, a COLMAP model's folder, or one file: .ply (points, surfels, mesh), .glb, .obj,
    cameras.json, transforms.json."""
    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0 shows it to everybody who can reach this machine."""
    port: int = 8080
    """Port; if it is taken, the next free one."""


def run(config: ViewConfig) -> int:
    """Serves until it is interrupted or terminated; 0 then. UsageError where there is nothing to show."""
    if not 1 <= config.port <= 65535:
        raise UsageError(f"--port {config.port}: name a number from 1 to 65535")
    from vision3d.view.contents import load_contents
    from vision3d.view.server import Viewer

    contents = load_contents(config.path)
    # As Ctrl-C; pycolmap, imported above, took the signal to print a native trace.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Viewer(contents, config.host, config.port) as viewer:
        for note in viewer.notes:
            print(f"vision3d: {note}", file=sys.stderr)
        print(f"open {viewer.url} in a browser; Ctrl-C ends it", flush=True)
        try:
            for problem in viewer.photos.load_pictures() if viewer.photos is not None else []:
                print(f"vision3d: {problem}", file=sys.stderr)
            threading.Event().wait()
        except KeyboardInterrupt:
            return 0
    return 0
