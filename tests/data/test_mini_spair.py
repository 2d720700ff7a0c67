"""The miniature SPair: official layout, pure in its seed, no mesh in two splits, keypoints on what is seen."""

import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from vision3d.cli.main import main
from vision3d.data.spair import SPLITS, read_spair, read_spair_image
from vision3d.errors import UsageError


def _box(low: tuple, high: tuple, first: int) -> str:
    corners = [(x, y, z) for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])]
    faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    lines = [f"v {x} {y} {z}" for x, y, z in corners]
    return "\n".join(lines + ["f " + " ".join(str(first + i) for i in face) for face in faces])


def _table(width: float) -> str:
    """A top and four legs; y is up."""
    boxes = [((-width, 0.7, -0.5), (width, 0.75, 0.5))]
    boxes += [
        ((x - 0.04, 0, z - 0.04), (x + 0.04, 0.7, z + 0.04))
        for x in (-width + 0.04, width - 0.04)
        for z in (-0.46, 0.46)
    ]
    return "\n".join(_box(*box, 1 + 8 * k) for k, box in enumerate(boxes)) + "\n"


@pytest.fixture
def furniture(tmp_path: Path) -> Path:
    folder = tmp_path / "furniture"
    folder.mkdir()
    rows = []
    with zipfile.ZipFile(folder / "a.sh3f", "w") as archive:
        for k in range(1, 11):
            values = {
                "name": f"Table {k} table", "category": "Living room", "model": f"/a/{k}.obj", "width": 80 + 8 * k,
                "depth": 100, "height": 75, "movable": "true", "doorOrWindow": "false",
            }  # fmt: skip
            rows += [f"{key}#{k}={value}\n" for key, value in values.items()]
            archive.writestr(f"a/{k}.obj", _table(0.4 + 0.04 * k))
        archive.writestr("PluginFurnitureCatalog.properties", "".join(rows))
    return folder


def test_the_set_is_true_to_its_layout(furniture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    command = [
        "simulate",
        "spair",
        "--furniture",
        str(furniture),
        "--categories",
        "table",
        "--views",
        "2",
        "--pairs",
        "12",
        "--quiet",
        "--json",
    ]
    assert main([*command, "--out", str(out)]) == 0
    counts = json.loads(capsys.readouterr().out)["pairs"]
    meshes: dict[str, set[str]] = {}
    for split in SPLITS:
        found = read_spair(out, split)
        assert found.synthetic and len(found.pairs) == counts[split] and not found.left_out
        meshes[split] = {file.stem[:4] for pair in found.pairs for file in (pair.image0, pair.image1)}
        for pair in found.pairs:
            assert len(pair.points0) >= 3 and pair.difficulty is not None
    assert counts["trn"] == counts["test"] == 12
    assert not meshes["trn"] & meshes["test"] and not meshes["val"] & (meshes["trn"] | meshes["test"])
    seen = 0
    for file in sorted((out / "JPEGImages/table").glob("*.jpg")):
        image = read_spair_image(out, "table", file.stem)
        mask = cv2.imread(str(out / f"Segmentation/table/{file.stem}.png"), 0)
        assert cv2.imread(str(file)).shape[:2] == mask.shape == image.size[::-1] and len(image.points) == 30
        near = cv2.dilate(mask, np.ones((9, 9), np.uint8))
        for x, y in image.points[image.visible].tolist():
            assert near[int(y), int(x)] > 0, f"{file.stem}: a keypoint beside the table"
            assert image.box[0] - 1 <= x <= image.box[2] + 1 and image.box[1] - 1 <= y <= image.box[3] + 1
            seen += 1
    assert seen > 60
    assert main([*command, "--out", str(tmp_path / "again")]) == 0
    for file in sorted(path for path in out.rglob("*") if path.is_file()):
        assert file.read_bytes() == (tmp_path / "again" / file.relative_to(out)).read_bytes()


def test_wrong_use_is_said(furniture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/mine.txt").write_text("kept")
    assert (
        main(["simulate", "spair", "--furniture", str(furniture), "--out", str(tmp_path / "set")])
        == UsageError("").exit_code
    )
    assert "not empty" in capsys.readouterr().err and (tmp_path / "set/mine.txt").read_text() == "kept"
    assert main(["simulate", "spair", "--furniture", str(tmp_path), "--out", str(tmp_path / "new")]) == 2
    assert "apt-get download sweethome3d-furniture" in capsys.readouterr().err
    few = ["simulate", "spair", "--out", str(tmp_path / "new"), "--categories", "cat", "--animals", "1", "--views", "1"]
    assert main([*few, "--width", "64", "--height", "48"]) == 2  # one cat has no partner
    assert "no pair" in capsys.readouterr().err and not (tmp_path / "new").exists()
