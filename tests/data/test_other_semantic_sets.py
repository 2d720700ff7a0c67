"""PF-PASCAL, PF-WILLOW, CUB and AP-10K pairs on miniature copies of their layouts made here."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import scipy.io

from vision3d.cli.main import main
from vision3d.data.ap10k import read_ap10k
from vision3d.data.cub import read_cub
from vision3d.data.pf_pascal import read_pf_pascal
from vision3d.data.pf_willow import read_pf_willow
from vision3d.errors import UsageError, Vision3DError

NAN = float("nan")


def picture(file: Path, size: tuple[int, int] = (60, 40)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.full((size[1], size[0], 3), 90, np.uint8)).save(file)


def pf_pascal(root: Path, points_b=((11, 12), (NAN, NAN), (31, 35)), box=(5, 6, 45, 70), flip: str = "") -> Path:
    for name, size, points, bounds in (
        ("a", (60, 40), ((10, 12), (20, 22), (30, 20)), (5, 5, 50, 35)),
        ("b", (50, 80), points_b, box),
        ("c", (50, 80), ((NAN, NAN),) * 3, (5, 6, 45, 70)),
    ):
        picture(root / f"JPEGImages/{name}.jpg", size)
        (root / "Annotations/car").mkdir(parents=True, exist_ok=True)
        file = root / f"Annotations/car/{name}.mat"
        scipy.io.savemat(file, {"kps": np.array(points, float), "bbox": np.array([bounds], float)})
    rows = [
        f"PF-dataset-PASCAL/JPEGImages/{a}.jpg,PF-dataset-PASCAL/JPEGImages/{b}.jpg,7{flip}" for a, b in ("ab", "ac")
    ]
    header = "source_image,target_image,class" + (",flip" if flip else "")
    (root / f"{'trn' if flip else 'test'}_pairs.csv").write_text("\n".join([header, *rows]) + "\n")
    return root


def test_pf_pascal_from_annotations(tmp_path: Path) -> None:
    found = read_pf_pascal(pf_pascal(tmp_path))
    assert found.left_out == ("000001-a-c:car",) and len(found.pairs) == 1 and not found.synthetic
    pair = found.pairs[0]
    assert (pair.category, pair.size0, pair.size1) == ("car", (60, 40), (50, 80))
    assert pair.points0.tolist() == [[9.5, 11.5], [29.5, 19.5]] and pair.points1.tolist() == [
        [10.5, 11.5],
        [30.5, 34.5],
    ]
    assert pair.keypoint_ids == ("0", "2") and pair.box1 == (4.5, 5.5, 44.5, 69.5)
    assert pair.image1 == tmp_path / "JPEGImages/b.jpg"


def test_pf_pascal_training_rows_that_ask_for_mirrors_are_skipped(tmp_path: Path) -> None:
    assert len(read_pf_pascal(pf_pascal(tmp_path / "0", flip=",0"), "trn").pairs) == 1
    assert read_pf_pascal(pf_pascal(tmp_path / "1", flip=",1"), "trn").pairs == ()


def test_pf_pascal_from_columns(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / f"JPEGImages/{name}.jpg")
    row = "X/JPEGImages/a.jpg,X/JPEGImages/b.jpg,3,10;20;-1,12;22;-1,11;NaN;5,13;7;5"
    (tmp_path / "test_pairs_pf_pascal.csv").write_text(f"source_image,target_image,class,XA,YA,XB,YB\n{row}\n")
    (pair,) = read_pf_pascal(tmp_path).pairs
    assert (
        pair.category == "bird" and pair.points0.tolist() == [[9.5, 11.5]] and pair.points1.tolist() == [[10.5, 12.5]]
    )
    assert pair.box1 == (0, 0, 60, 40)
    (tmp_path / "test_pairs_pf_pascal.csv").write_text("source_image,target_image,class\na.jpg,b.jpg,3\n")
    with pytest.raises(Vision3DError, match="row 2: 3 columns, PF-PASCAL has 7"):
        read_pf_pascal(tmp_path)


def test_pf_pascal_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no PF-PASCAL folder"):
        read_pf_pascal(tmp_path)
    with pytest.raises(UsageError, match="splits of PF-PASCAL"):
        read_pf_pascal(tmp_path, "train")
    with pytest.raises(UsageError, match="category cow has no pairs"):
        read_pf_pascal(pf_pascal(tmp_path / "1"), categories=("cow",))
    with pytest.raises(Vision3DError, match="2 keypoints, they must be as many"):
        read_pf_pascal(pf_pascal(tmp_path / "2", points_b=((1, 2), (3, 4))))
    with pytest.raises(Vision3DError, match=r"b.mat: the box .* lies outside the image of 50x80"):
        read_pf_pascal(pf_pascal(tmp_path / "3", box=(60, 5, 90, 20)))
    root = pf_pascal(tmp_path / "4")
    (root / "Annotations/car/b.mat").write_bytes(b"no mat file at all" * 20)
    with pytest.raises(Vision3DError, match=r"cannot read the annotation .*b.mat"):
        read_pf_pascal(root)
    (root / "Annotations/car/b.mat").unlink()
    with pytest.raises(Vision3DError, match=r"cannot read the annotation .*b.mat"):
        read_pf_pascal(root)
    scipy.io.savemat(root / "Annotations/car/b.mat", {"kps": np.zeros((3, 2))})
    with pytest.raises(Vision3DError, match="the field 'bbox' is missing"):
        read_pf_pascal(root)
    (root / "JPEGImages/a.jpg").unlink()
    (root / "test_pairs.csv").write_text("h,h,h\nnew.jpg,b.jpg,99\n")
    with pytest.raises(Vision3DError, match="class is a number from 1 to 20, got '99'"):
        read_pf_pascal(root)
    (root / "test_pairs.csv").write_text("h,h,h\nnew.jpg,b.jpg,7\n")
    with pytest.raises(Vision3DError, match=r"new.jpg"):
        read_pf_pascal(root)


def pf_willow(root: Path, change: dict[int, str] | None = None, name: str = "PF-dataset/car(G)/") -> Path:
    for picture_name in "ab":
        picture(root / f"car(G)/{picture_name}.png")
    x, y = range(10, 50, 4), range(5, 35, 3)
    row = [f"{name}a.png", f"{name}b.png", *map(str, [*x, *y, *(v + 2 for v in x), *(v + 1 for v in y)])]
    for column, value in (change or {}).items():
        row[column] = value
    (root / "test_pairs.csv").write_text("a header\n" + ",".join(row) + "\n")
    return root


def test_pf_willow(tmp_path: Path) -> None:
    (pair,) = read_pf_willow(pf_willow(tmp_path / "0")).pairs
    assert pair.category == "car(G)" and pair.image0 == tmp_path / "0/car(G)/a.png" and len(pair.points0) == 10
    assert pair.points0[1].tolist() == [13.5, 7.5] and pair.points1[1].tolist() == [15.5, 8.5]
    assert pair.box1 == (11.5, 5.5, 47.5, 32.5)
    (pair,) = read_pf_willow(pf_willow(tmp_path / "1", {2: "-1", 12: "-1", 23: ""})).pairs  # two points lack
    assert pair.keypoint_ids == tuple("23456789") and len(pair.points1) == 8
    nothing = dict.fromkeys(range(2, 12), "nan")
    assert read_pf_willow(pf_willow(tmp_path / "2", nothing)).left_out == ("000000-a-b:car(G)",)


def test_pf_willow_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only the split test"):
        read_pf_willow(tmp_path, "val")
    with pytest.raises(UsageError, match="no PF-WILLOW folder"):
        read_pf_willow(tmp_path)
    with pytest.raises(Vision3DError, match="row 2: the keypoints are wrong"):
        read_pf_willow(pf_willow(tmp_path / "1", {9: "x"}))
    with pytest.raises(Vision3DError, match="is no picture's name"):
        read_pf_willow(pf_willow(tmp_path / "2", name=""))
    with pytest.raises(Vision3DError, match="does not name a file inside"):
        read_pf_willow(pf_willow(tmp_path / "3", {1: "PF-dataset/../x.png"}))
    (tmp_path / "3/test_pairs.csv").write_text("header\na,b,1\n")
    with pytest.raises(Vision3DError, match="3 columns, PF-WILLOW has 42"):
        read_pf_willow(tmp_path / "3")
    (tmp_path / "3/test_pairs.csv").write_text("header\n")
    with pytest.raises(UsageError, match="lists no pairs"):
        read_pf_willow(tmp_path / "3")


def cub(root: Path, box: str = "5 6 40 30", part: str = "3 2 21 17 1") -> Path:
    (root / "parts").mkdir(parents=True)
    names = ["001.Duck/a.jpg", "001.Duck/b.jpg", "001.Duck/c.jpg", "002.Owl/d.jpg", "001.Duck/e.jpg"]
    for name in names:
        picture(root / "images" / name)
    (root / "images.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    (root / "train_test_split.txt").write_text("1 0\n2 0\n3 0\n4 0\n5 1\n")
    (root / "bounding_boxes.txt").write_text("".join(f"{i} {box}\n" for i in range(1, 6)))
    seen = {(1, 1), (1, 2), (2, 1), (2, 2)}
    lines = [f"{i} {k} {10 * k + i} {15 + i} {int((i, k) in seen)}" for i in range(1, 6) for k in range(1, 4)]
    (root / "parts/part_locs.txt").write_text("\n".join([*lines, part]) + "\n")
    return root


def test_cub(tmp_path: Path) -> None:
    found = read_cub(cub(tmp_path))
    assert [pair.pair_id for pair in found.pairs] == [
        f"{a}-{b}:001.Duck" for a, b in ("12", "13", "21", "23", "31", "32")
    ]
    assert found.left_out == () and found.pairs[1].keypoint_ids == ("2",)
    pair = found.pairs[0]
    assert pair.points0.tolist() == [[10.5, 15.5], [20.5, 15.5]] and pair.points1.tolist() == [
        [11.5, 16.5],
        [21.5, 16.5],
    ]
    assert pair.box0 == (4.5, 5.5, 44.5, 35.5) and pair.image0 == tmp_path / "images/001.Duck/a.jpg"
    assert read_cub(tmp_path, "trn").pairs == ()  # the only picture of its species


def test_cub_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no CUB_200_2011 folder"):
        read_cub(tmp_path)
    with pytest.raises(UsageError, match="trn, test"):
        read_cub(tmp_path, "val")
    root = cub(tmp_path / "1", part="3 2 21 17 0")
    assert len(read_cub(root).left_out) == 4
    with pytest.raises(UsageError, match=r"category 009\.Emu has no pairs"):
        read_cub(root, categories=("009.Emu",))
    with pytest.raises(Vision3DError, match="lies outside the image"):
        read_cub(cub(tmp_path / "2", box="70 2 5 5"))
    with pytest.raises(Vision3DError, match=r"part_locs.txt, line 16: .*part from 1 to 15"):
        read_cub(cub(tmp_path / "3", part="3 16 21 17 1"))
    with pytest.raises(Vision3DError, match="not finite"):
        read_cub(cub(tmp_path / "4", part="3 2 nan 17 1"))
    (root / "bounding_boxes.txt").write_text("1 5 5 9 9\n")
    with pytest.raises(Vision3DError, match=r"bounding_boxes\.txt says nothing of picture 2"):
        read_cub(root)
    (root / "train_test_split.txt").write_text("1\n")
    with pytest.raises(Vision3DError, match="line 1: 1 columns, 2 are needed"):
        read_cub(root)


def ap10k(root: Path, split: str = "test", colon: str = ":", **changes) -> Path:
    for name, seen in (("a", (0, 1, 5)), ("b", (1, 5, 6)), ("c", (9,))):
        keypoints = [[10 + k, 12 + k, 2] if k in seen else [0, 0, 0] for k in range(17)]
        data = {"width": 60, "height": 40, "bbox": [5, 6, 40, 30], "keypoints": np.ravel(keypoints).tolist(), **changes}
        file = root / f"ImageAnnotation/Felidae/cat/{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(data))
        picture(root / f"JPEGImages/Felidae/cat/{name}.jpg")
    for a, b in ("ab", "ac"):
        paths = {
            f"{s}_json_path": f"data/ap-10k/ImageAnnotation/Felidae/cat/{n}.json" for s, n in (("src", a), ("trg", b))
        }
        (root / "PairAnnotation" / split).mkdir(parents=True, exist_ok=True)
        (root / "PairAnnotation" / split / f"{a}-{b}{colon}cat.json").write_text(json.dumps(paths))
    return root


@pytest.mark.parametrize("colon", [":", "_"])
def test_ap10k(tmp_path: Path, colon: str) -> None:
    found = read_ap10k(ap10k(tmp_path, colon=colon), categories=("cat",))
    assert found.left_out == (f"a-c{colon}cat",)
    (pair,) = found.pairs
    assert pair.category == "cat" and pair.keypoint_ids == ("1", "5") and pair.size1 == (60, 40)
    assert pair.points0.tolist() == [[11.5, 13.5], [15.5, 17.5]] and pair.box1 == (5.5, 6.5, 45.5, 36.5)
    assert pair.image1 == tmp_path / "JPEGImages/Felidae/cat/b.jpg"


def test_ap10k_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder of AP-10K pairs"):
        read_ap10k(tmp_path)
    with pytest.raises(UsageError, match="splits of AP-10K"):
        read_ap10k(tmp_path, "train")
    with pytest.raises(Vision3DError, match="17 keypoints, this one 1"):
        read_ap10k(ap10k(tmp_path / "1", keypoints=[1, 2, 2]))
    with pytest.raises(Vision3DError, match="a field is wrong"):
        read_ap10k(ap10k(tmp_path / "2", keypoints=[1, 2]))
    with pytest.raises(Vision3DError, match="lies outside"):
        read_ap10k(ap10k(tmp_path / "3", bbox=[70, 2, 4, 4]))
    root = ap10k(tmp_path / "4")
    (root / "ImageAnnotation/Felidae/cat/a.json").unlink()
    with pytest.raises(Vision3DError, match=r"cannot read the annotation .*a.json"):
        read_ap10k(root)
    pair = root / "PairAnnotation/test/a-b:cat.json"
    for text, words in (
        ('{"src_json_path": "ImageAnnotation/../../x.json"}', "does not name a file inside"),
        ('{"src_json_path": "x.json"}', "a path with ImageAnnotation in it"),
        ("{}", "'src_json_path' is missing"),
        ("[]", "JSON object"),
    ):
        pair.write_text(text)
        with pytest.raises(Vision3DError, match=words):
            read_ap10k(root)


def test_every_set_has_a_command_with_its_own_protocol(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, root, words in (
        ("pf-pascal", pf_pascal(tmp_path / "p"), "distance <= alpha max(w, h) of the target image"),
        ("pf-willow", pf_willow(tmp_path / "w"), "distance <= alpha max(w, h) of the target box"),
        ("cub", cub(tmp_path / "c"), "distance < alpha max(w, h) of the target box"),
        ("ap10k", ap10k(tmp_path / "a"), "distance < alpha max(w, h) of the target box"),
    ):
        out = str(tmp_path / f"{command}-out")
        words_in = ["evaluate", command, "--root", str(root), "--method", "position", "--out", out, "--workers", "1"]
        assert main(words_in) == 0
        text = capsys.readouterr().out
        assert words in text and "original resolution" in text
        assert ("1 pairs without common keypoints left out" in text) == (command in ("pf-pascal", "ap10k"))
