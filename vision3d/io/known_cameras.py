"""Read cameras and poses by photo name from whichever of the supported files a person has."""

from __future__ import annotations

from pathlib import Path

from vision3d.core import UsageError
from vision3d.io.cameras_json import KnownCamera, known_cameras, parse_cameras_json, read_json
from vision3d.io.colmap import find_model, read_colmap
from vision3d.io.nerfstudio import parse_transforms


def read_known_cameras(path: Path) -> dict[str, KnownCamera]:
    """Photo name -> camera and pose from a cameras.json, a transforms.json (nerfstudio) or a COLMAP model folder.

    Raises:
        UsageError: nothing is there, or it is none of the three.
        Vision3DError: the file is broken.
    """
    if path.is_dir():
        model = find_model(path)
        if model is not None:
            return known_cameras(read_colmap(model))
        for name in ("cameras.json", "transforms.json"):
            if (path / name).is_file():
                return read_known_cameras(path / name)
        raise UsageError(f"{path} holds no COLMAP model, cameras.json or transforms.json")
    if not path.is_file():
        raise UsageError(f"the file of cameras {path} does not exist")
    if path.suffix.lower() != ".json":
        raise UsageError(f"{path}: give a cameras.json, a transforms.json or the folder of a COLMAP model")
    content = read_json(path)
    if "images" in content:
        return parse_cameras_json(path, content)
    if "frames" in content:
        return parse_transforms(path, content)
    raise UsageError(f'{path} has neither "images" (cameras.json) nor "frames" (transforms.json of nerfstudio)')
