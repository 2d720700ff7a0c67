"""report.html: what it says, that it stands alone, stays small, and survives any input."""

import re
from dataclasses import replace

import numpy as np
import pytest
from report_html import NAMES, written
from report_scenes import arc_scene, photo, report_data

from vision3d.core import Vision3DError
from vision3d.recon.report import Attempt, DrawnPair, PhotoRow, write_report
from vision3d.recon.report.data import duration
from vision3d.recon.report.markup import json_script, text


def test_everything_is_on_the_page(tmp_path):
    left_out = PhotoRow(name="far.jpg", size=(320, 240), reason="no verified pair", keypoints=77, turn_deg=90)
    points = np.random.default_rng(0).uniform(0, 48, (30, 2))
    data = report_data(
        arc_scene(5),
        drawn_pairs=[
            DrawnPair(
                name0="IMG_000.jpg",
                name1="IMG_001.jpg",
                rgb0=photo(),
                rgb1=photo(1, 60, 90),
                points0=points,
                points1=points,
                kind="strongest",
                count=1234,
            )
        ],
        timings={"matching": 21.0, "mapping": 2.2},
        settings={"matcher": "sift", "deep": {"ratio": 0.8}},
        versions={"torch": "9.8.7"},
        machine={"CPU": "abacus"},
        seed=42,
        attempts=[
            Attempt(name="global", note="too few", score=0.5),
            Attempt(name="incremental", chosen=True, score=0.9),
        ],
        warnings=["One photo was left out."],
    )
    data = replace(data, photos=[*data.photos, left_out])
    page = written(data, tmp_path)
    mean = float(data.scene.errors.mean())
    assert f"5 of 6 photos registered, 400 points, mean reprojection error {mean:.2f} px, 23 s" in page.text
    for words in (
        "One photo was left out.",
        "no verified pair",
        "90°",
        "strongest",
        "1,234 matches",
        "10 of 15 possible pairs",
        "Reprojection error of points",
        "median 5 photos",
        "21 s",
        "2.2 s",
        "too few",
        "chosen",
        '"ratio": 0.8',
        "9.8.7",
        "abacus",
        "42",
        "640 × 480",
        "600 px",
        "0.00 px",  # the observations of the made-up scene are exact
    ):
        assert words in page.text, words
    assert {"scene", "photos", "matches", "pairs", "quality", "run", "settings"} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_the_page_needs_nothing_but_itself(tmp_path):
    page = written(report_data(arc_scene(3)), tmp_path)
    assert page.sources
    assert all(source.startswith(("data:image/", "#")) for source in page.sources)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"@import|url\(|https?://|\bimport\(|fetch\(|<link", html)


def test_names_and_texts_cannot_become_markup(tmp_path):
    plain = written(report_data(None, photos=[PhotoRow(name=f"{i}") for i in range(len(NAMES))]), tmp_path)
    (tmp_path / "report.html").unlink()
    data = report_data(
        None,
        title=NAMES[2],
        photos=[PhotoRow(name=name, reason=name, focal_px=1.0, focal_source=name) for name in NAMES],
        warnings=NAMES,
        settings={n: n for n in NAMES},
        pair_inliers={(NAMES[0], NAMES[3]): 5},
        versions={n: n for n in NAMES},
        timings=dict.fromkeys(NAMES, 1.0),
        attempts=[Attempt(name=n, note=n) for n in NAMES],
    )
    page = written(data, tmp_path)
    for tag in ("script", "img"):
        assert page.tags.count(tag) == plain.tags.count(tag)
    assert "ü ö.jpg" in page.text and "<script>alert(1)</script>.jpg" in page.text and "b\ufffd\ufffd.jpg" in page.text


def test_300_photos_stay_small(tmp_path):
    rows = [PhotoRow(name=f"{i}.jpg", size=(9, 9), thumbnail=lambda i=i: photo(i, 320, 240)) for i in range(300)]
    pairs = {(f"{i}.jpg", f"{j}.jpg"): i for i in range(300) for j in range(i)}
    written(report_data(None, photos=rows, pair_inliers=pairs), tmp_path)
    size = (tmp_path / "report.html").stat().st_size
    assert 1e6 < size < 15e6, "thumbnails of noise, the worst case, must fit"


@pytest.mark.parametrize("photos", [0, 1, 2])
def test_few_photos(tmp_path, photos):
    page = written(report_data(arc_scene(photos, 1)), tmp_path)
    assert f"{photos} of {photos} {'photo' if photos == 1 else 'photos'} registered, 1 point" in page.text


def test_nothing_registered_says_so(tmp_path):
    rows = [PhotoRow(name="a.jpg", reason="unreadable"), PhotoRow(name="b.jpg", reason="no matches")]
    page = written(report_data(None, photos=rows), tmp_path)
    assert "nothing registered" in page.text and "No camera could be placed" in page.text
    assert "unreadable" in page.text and "0 of 2 photos registered." in page.text
    assert "0 of 0 photos registered." in written(report_data(None), tmp_path).text


def test_numbers_that_are_none(tmp_path):
    scene = arc_scene(4, 60, scale=1e5)
    scene.points[::3] = float("nan")
    scene.points[1] = float("inf")
    scene.errors[::2] = float("nan")
    rows = [PhotoRow(name=n, registered=True, mean_error_px=float("nan"), focal_px=float("inf")) for n in scene.images]
    page = written(report_data(scene, photos=rows, timings={"x": float("nan")}, settings={"x": float("nan")}), tmp_path)
    assert "nan" not in page.text.replace('"x": NaN', "").lower()
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    for script in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', html):
        assert "NaN" not in script and "Infinity" not in script


def test_a_photo_that_has_gone_costs_only_its_picture(tmp_path):
    def gone() -> np.ndarray:
        raise FileNotFoundError("gone")

    page = written(report_data(None, photos=[PhotoRow(name="a.jpg", thumbnail=gone)]), tmp_path)
    assert "a.jpg" in page.text and "img" in page.tags  # the large view's, not a thumbnail
    assert not any(source.startswith("data:") for source in page.sources)


def test_a_page_that_cannot_be_written_is_an_error_for_people(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(Vision3DError, match="cannot write"):
        write_report(report_data(None), tmp_path / "file" / "report.html")


def test_durations_and_markup():
    times = [duration(s) for s in (0.04, 9.94, 23.4, 245, 7380, float("nan"))]
    assert times == ["0.0 s", "9.9 s", "23 s", "4 min 05 s", "2 h 03 min", "–"]
    assert text("<a href='x'>\x07\udc80") == "&lt;a href=&#x27;x&#x27;&gt;\ufffd\ufffd"
    assert json_script("i", {"a": ["</script>", float("nan"), np.int64(3)]}) == (
        '<script type="application/json" id="i">{"a":["\\u003c/script>",null,3]}</script>'
    )
