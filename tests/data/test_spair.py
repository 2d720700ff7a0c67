"""SPair-71k's layout on a miniature copy made here; what is wrong in it is said by name."""

import json
from pathlib import Path

import pytest
import torch

from vision3d.data.spair import read_spair, read_spair_image, spair_images
from vision3d.errors import UsageError, Vision3DError


def annotation(**changes) -> dict:
    return {
        "pair_id": 1, "src_imname": "a.jpg", "trg_imname": "b.jpg", "src_imsize": [60, 40, 3],
        "trg_imsize": [50, 80, 3], "src_bndbox": [5, 5, 50, 35], "trg_bndbox": [0, 10, 45, 70], "category": "cat",
        "src_kps": [[10, 12], [30, 20]],
        "trg_kps": [[11, 13], [31, 50]], "kps_ids": ["0", "7"], "mirror": 0, "viewpoint_variation": 1,
        "scale_variation": 2, "truncation": 3, "occlusion": 0, **changes,
    }  # fmt: skip


def write(root: Path, pairs: dict[str, dict], colon: str = ":", split: str = "test") -> Path:
    for folder in (root / "PairAnnotation" / split, root / "Layout" / "large", root / "ImageAnnotation" / "cat"):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "Layout/large" / f"{split}.txt").write_text("".join(f"{name}\n" for name in pairs))
    for name, data in pairs.items():
        (root / "PairAnnotation" / split / f"{name.replace(':', colon)}.json").write_text(json.dumps(data))
    for name, size in (("a", (60, 40)), ("b", (50, 80))):
        (root / f"ImageAnnotation/cat/{name}.json").write_text(
            json.dumps(
                {
                    "image_width": size[0],
                    "image_height": size[1],
                    "bndbox": [0, 0, 40, 30],
                    "kps": {"0": [10, 12], "3": None, "10": [30, 20]},
                }
            )
        )
    return root


@pytest.mark.parametrize("colon", [":", "_", "%3A"])
def test_a_pair_is_read(tmp_path: Path, colon: str) -> None:
    found = read_spair(write(tmp_path, {"000001-a-b:cat": annotation()}, colon))
    assert len(found.pairs) == 1 and not found.left_out and found.overhanging == 0 and not found.synthetic
    pair = found.pairs[0]
    assert (pair.pair_id, pair.category, pair.size0, pair.size1) == ("000001-a-b:cat", "cat", (60, 40), (50, 80))
    assert pair.image0 == tmp_path / "JPEGImages/cat/a.jpg" and pair.image1 == tmp_path / "JPEGImages/cat/b.jpg"
    assert pair.points0.tolist() == [[10.5, 12.5], [30.5, 20.5]]
    assert pair.points1.tolist() == [
        [11.5, 13.5],
        [31.5, 50.5],
    ]
    assert pair.box1 == (0.5, 10.5, 45.5, 70.5) and pair.keypoint_ids == ("0", "7")
    assert pair.difficulty is not None
    assert (pair.difficulty.viewpoint, pair.difficulty.scale, pair.difficulty.truncation) == (1, 2, 3)


def test_pairs_without_common_keypoints_are_left_out_and_boxes_that_stick_out_are_counted(tmp_path: Path) -> None:
    none = annotation(src_kps=[], trg_kps=[], kps_ids=[])
    wide = annotation(trg_bndbox=[-3, 10, 45, 90])
    (tmp_path / "synthetic.json").write_text("{}")
    found = read_spair(write(tmp_path, {"1-a-b:cat": none, "2-a-b:cat": wide, "3-b-a:cat": annotation()}))
    assert [pair.pair_id for pair in found.pairs] == ["2-a-b:cat", "3-b-a:cat"]
    assert found.left_out == ("1-a-b:cat",) and found.overhanging == 1 and found.synthetic
    assert [image.image.stem for image in spair_images(tmp_path, found.pairs)] == ["a", "b"]


def test_a_picture_has_all_its_keypoints(tmp_path: Path) -> None:
    write(tmp_path, {"1-a-b:cat": annotation()})
    image = read_spair_image(tmp_path, "cat", "a")
    assert image.keypoint_ids == ("0", "3", "10") and image.size == (60, 40)
    assert image.visible.tolist() == [True, False, True]
    torch.testing.assert_close(image.points, torch.tensor([[10.5, 12.5], [0, 0], [30.5, 20.5]]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trg_kps": [[1, 1]]}, "2 and 1 keypoints with 2 ids"),
        ({"trg_bndbox": [10, 10, 10, 20]}, "is empty"),
        ({"trg_bndbox": [60, 10, 90, 20]}, "lies outside the image of 50x80"),
        ({"src_kps": [[float("nan"), 1], [2, 2]]}, "not finite"),
        ({"src_kps": [[10, 12], [300, 20]]}, r"\[300, 20\] lies far outside the image of 60x40 px: correct the file"),
        ({"trg_kps": [[11, -9], [31, 50]]}, r"\[11, -9\] lies far outside the image of 50x80 px"),
        ({"category": "unicorn"}, "the category is 'unicorn', but the pair's name says 'cat': correct the file"),
        ({"mirror": 1}, "mirrored"),
        ({"occlusion": None}, "a field is wrong"),
    ],
)
def test_wrong_annotations_are_named(tmp_path: Path, changes: dict, words: str) -> None:
    write(tmp_path, {"1-a-b:cat": annotation(**changes)})
    with pytest.raises(Vision3DError, match=words) as caught:
        read_spair(tmp_path)
    assert "1-a-b:cat.json" in str(caught.value)


def test_keypoints_may_stick_out_a_little(tmp_path: Path) -> None:
    found = read_spair(write(tmp_path, {"1-a-b:cat": annotation(src_kps=[[-2, 12], [63, 20]])}))
    assert found.pairs[0].points0.tolist() == [[-1.5, 12.5], [63.5, 20.5]]
    file = tmp_path / "ImageAnnotation/cat/a.json"
    file.write_text(file.read_text().replace("[30, 20]", "[30, 200]"))
    with pytest.raises(Vision3DError, match=r"cat/a.json: the keypoint \[30, 200\] lies far outside"):
        read_spair_image(tmp_path, "cat", "a")


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no SPair-71k folder"):
        read_spair(tmp_path)
    with pytest.raises(UsageError, match="splits of SPair-71k are trn, val, test"):
        read_spair(tmp_path, "train")
    write(tmp_path, {"1-a-b:cat": annotation()})
    with pytest.raises(UsageError, match="category dog has no pairs"):
        read_spair(tmp_path, categories=("dog",))
    data = annotation()
    del data["trg_imsize"]
    write(tmp_path, {"1-a-b:cat": data})
    with pytest.raises(Vision3DError, match="field 'trg_imsize' is missing"):
        read_spair(tmp_path)
    (tmp_path / "PairAnnotation/test/1-a-b:cat.json").unlink()
    with pytest.raises(Vision3DError, match="also with _ or %3A"):
        read_spair(tmp_path)
    (tmp_path / "Layout/large/test.txt").write_text("\n")
    with pytest.raises(UsageError, match="lists no pairs"):
        read_spair(tmp_path)
