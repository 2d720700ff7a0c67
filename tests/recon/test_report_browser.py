"""The report in a real browser: scripts run without errors, draw, and do what people ask of them.

Skipped where no Chromium or no playwright is installed.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browser import open_page
from report_scenes import arc_scene, ball_mesh, ball_surfels, rendered, report_data, some_curves

from vision3d.recon.report import PhotoRow, ReportData, write_report

TOOLS = """
  const find = (words) => document.querySelector(words);
  const texts = (words) => [...document.querySelectorAll(words)].map((node) => node.textContent);
  const settled = async () => { // past the finer frame that is drawn once things stand still
    await new Promise((done) => setTimeout(done, 400));
    for (let i = 0; i < 2; i++) await new Promise((done) => requestAnimationFrame(done));
  };
"""


@contextmanager
def opened(data: ReportData, folder: Path, size: tuple[int, int] = (1200, 900)) -> Iterator[Any]:
    """The report as a page of playwright; it must not log an error nor ask for anything outside its file."""
    write_report(data, folder / "report.html")
    with open_page((folder / "report.html").as_uri(), *size) as opened:
        opened.page.add_script_tag(content=TOOLS)
        opened.page.evaluate("settled()")
        yield opened.page
        assert not opened.errors and not opened.foreign


@pytest.mark.parametrize("case", ["scene", "nothing"])
def test_scripts_run_without_errors(tmp_path, case):
    data = report_data(arc_scene(6, 300))
    if case == "nothing":
        data = report_data(None, photos=[PhotoRow(name="a</script>.jpg", reason="no matches"), PhotoRow(name="b.jpg")])
    with opened(data, tmp_path) as page:
        assert page.evaluate("find('.matrix-side') !== null")
        if case == "scene":
            assert page.evaluate("find('#viewer').className") == "live"
            assert page.evaluate("document.querySelectorAll('canvas').length") == 2


def test_many_photos_of_which_none_is_left_out_can_be_filtered(tmp_path):
    with opened(report_data(arc_scene(14, 50)), tmp_path) as page:
        page.locator("#photo-filter").fill("IMG_003")
        assert page.locator("#photo-table tbody tr:visible").count() == 1


def test_mesh_and_surfels_can_be_switched(tmp_path):
    count = """async (...toggled) => {
      for (const words of toggled) {
        [...document.querySelectorAll(".viewer-bar label")].find((label) => label.textContent === words).click();
      }
      await settled();
      const [canvas, copy] = [find("#viewer canvas"), document.createElement("canvas").getContext("2d")];
      [copy.canvas.width, copy.canvas.height] = [canvas.width, canvas.height];
      copy.drawImage(canvas, 0, 0);
      const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
      const shares = { red: 0, green: 0, grey: 0 };
      for (let i = 0; i < data.length; i += 4) {
        const [r, g, b] = [data[i], data[i + 1], data[i + 2]];
        const kind = r > 60 && g < r / 3 && b < r / 3 ? "red" : g > 60 && r < g / 1.5 && b < g / 1.5 ? "green" :
          data[i + 3] === 255 && r > 100 && Math.abs(r - g) < 8 && Math.abs(g - b) < 10 ? "grey" : "";
        if (kind) shares[kind] += 4 / data.length;
      }
      return shares;
    }"""
    data = report_data(arc_scene(5, 300), mesh=ball_mesh(), surfels=ball_surfels(2000))
    with opened(data, tmp_path) as page:
        labels = page.evaluate("texts('.viewer-bar label:has(input:checked)')")
        assert labels == ["Mesh", "Colours", "Cameras", "Photos", "Ground"]
        mesh = page.evaluate(f"({count})('Cameras')")
        assert mesh["red"] > 0.01 > 10 * max(mesh["green"], mesh["grey"])
        clay = page.evaluate(f"({count})('Colours')")
        assert clay["grey"] > 0.01 > 10 * max(clay["green"], clay["red"])
        surfels = page.evaluate(f"({count})('Mesh', 'Surfels')")
        assert surfels["green"] > 0.01 > 10 * max(surfels["red"], surfels["grey"])
        both = page.evaluate(f"({count})('Mesh', 'Colours')")
        assert both["red"] + both["green"] > 0.01 > 10 * both["grey"], "one hides the other"
        nothing = page.evaluate(f"({count})('Mesh', 'Surfels')")
        assert max(nothing.values()) < 0.002


VIEWS = [
    rendered("a.jpg", psnr=22.0),
    rendered("b.jpg", psnr=21.0, held_out=True),
    rendered("c.jpg", psnr=float("nan"), photo=None),
    rendered("d.jpg", psnr=19.5),
    rendered("e.jpg", psnr=23.0),
]
RED, BLUE, GREEN, YELLOW, WHITE = [2, 0, 0], [0, 0, 2], [0, 2, 0], [2, 2, 0], [2, 2, 2]
STAGE = """
  const stage = find(".stage");
  const [under, over] = stage.querySelectorAll("img");
  const color = async (image) => {
    await image.decode();
    const context = document.createElement("canvas").getContext("2d");
    context.drawImage(image, 0, 0);
    return [...context.getImageData(5, 5, 1, 1).data.slice(0, 3)].map((value) => Math.round(value / 128));
  };
"""


@pytest.mark.parametrize("width", [400, 1400])
def test_the_slider_uncovers_what_is_beside_the_photo(tmp_path, width):
    with opened(report_data(arc_scene(3, 50), renders=VIEWS), tmp_path, (width, 900)) as page:
        page.add_script_tag(content=STAGE)
        page.evaluate("stage.scrollIntoView({ block: 'center', behavior: 'instant' })")
        left, top, wide, high = page.evaluate(
            "(({ x, y, width, height }) => [x, y, width, height])(stage.getBoundingClientRect())"
        )
        assert wide > 0.5 * width or wide == pytest.approx(860, abs=60)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than the page"

        def cut() -> float:
            assert page.evaluate("getComputedStyle(over).clipPath").startswith("inset(0px ")
            share = page.evaluate("Number(stage.getAttribute('aria-valuenow'))")
            line = page.evaluate("find('.stage .cut').getBoundingClientRect().x - stage.getBoundingClientRect().x")
            assert line / wide * 100 == pytest.approx(share, abs=1.0)
            return share

        def shown(share: float) -> str:
            """Whether the photo or what is beside it shows at a share of the width, from the clip path."""
            right = page.evaluate(
                "parseFloat(getComputedStyle(over).clipPath.match(/calc\\(100% - ([\\d.]+)%/)?.[1] ?? '0')"
            )
            clip = page.evaluate("getComputedStyle(over).clipPath")
            visible = right if "calc" in clip else 100 - float(re.search(r"([\d.]+)%", clip)[1]) if "%" in clip else 100
            return "photo" if 100 * share < visible else "beside"

        assert cut() == 50 and shown(0.4) == "photo" and shown(0.6) == "beside"
        page.mouse.move(left + 0.9 * wide, top + high / 2)
        page.mouse.up()
        assert cut() == 50, "only a press moves it"
        page.mouse.move(left + 0.2 * wide, top + high / 2)
        page.mouse.down()
        assert cut() == pytest.approx(20, abs=1) and shown(0.4) == "beside"
        page.mouse.move(left + 0.7 * wide, top + high / 3)
        assert cut() == pytest.approx(70, abs=1) and shown(0.6) == "photo"
        page.mouse.up()
        page.mouse.move(left + 0.1 * wide, top + high / 3)
        assert cut() == pytest.approx(70, abs=1)
        page.evaluate("stage.focus()")
        page.keyboard.press("ArrowLeft")
        assert cut() == pytest.approx(66, abs=1)
        page.keyboard.press("Home")
        assert cut() == 0 and shown(0.01) == "beside"
        page.keyboard.press("End")
        assert cut() == 100 and shown(0.99) == "photo"


def test_pictures_and_photos_can_be_chosen(tmp_path):
    with opened(report_data(arc_scene(3, 50), renders=VIEWS), tmp_path) as page:
        page.add_script_tag(content=STAGE)
        name, note = "find('.caption strong').textContent", "find('.caption span').textContent"
        assert page.evaluate(name) == "b.jpg" and page.evaluate(note) == "held out · PSNR 21.00 dB · SSIM 0.750"
        assert page.evaluate("color(over)") == RED
        legends = {
            "render": "",
            "depth": "near, 1.5far, 9",
            "normal": "towards the viewer",
            "error": "0.25 of full range",
        }
        for (kind, legend), color in zip(legends.items(), (BLUE, GREEN, YELLOW, WHITE), strict=True):
            page.evaluate(f"find('[data-kind={kind}]').click()")
            assert page.evaluate("color(under)") == color
            seen = page.evaluate("texts('[data-scale]:not([hidden])').join()")
            assert legend in seen and bool(legend) == bool(seen)
        page.evaluate("find('[data-view=\"0\"]').click()")
        assert page.evaluate(name) == "a.jpg" and page.evaluate("color(under)") == WHITE, "the kind stays"
        page.evaluate("stage.focus()")
        page.keyboard.press("PageDown")
        assert page.evaluate(name) == "b.jpg"
        page.keyboard.press("PageDown")
        assert page.evaluate(name) == "c.jpg" and page.evaluate("over.hidden") and page.evaluate(note) == "SSIM 0.750"
        page.evaluate("find('[data-worst-first]').click()")
        assert page.evaluate("texts('.chooser .name')") == ["d.jpg", "b.jpg", "a.jpg", "e.jpg", "c.jpg"]
        page.evaluate("find('[data-only-held-out]').click()")
        assert page.evaluate("texts('.chooser li:not([hidden]) .name')") == ["b.jpg"]


def test_curves_tell_their_values(tmp_path):
    with opened(report_data(arc_scene(2, 20), curves=some_curves()), tmp_path) as page:
        box = "(({ x, y, width }) => [x, y, width])(find('[data-plot=\"1\"] svg').getBoundingClientRect())"
        page.evaluate("find('[data-plot=\"1\"]').scrollIntoView({ block: 'center', behavior: 'instant' })")
        left, top, wide = page.evaluate(box)
        page.mouse.move(left + 0.5 * wide, top + 40)
        tip = page.evaluate("find('#tip').textContent")
        assert int(re.match(r"iteration (\d+) · [\d.]+ sheld-out photos", tip)[1]) == pytest.approx(449, abs=6)
        assert tip.endswith("20.4 dB"), "the last one measured by then"
        assert page.evaluate("getComputedStyle(find('[data-plot=\"1\"] .at')).visibility") == "visible"
        axes = "[...document.querySelectorAll('[data-plot=\"1\"] g[data-x]')]"
        axes += ".filter((group) => getComputedStyle(group).display !== 'none').map((group) => group.dataset.x)"
        assert page.evaluate(axes) == ["iteration"]
        page.evaluate("find('[data-axis=seconds]').click()")
        assert page.evaluate(axes) == ["seconds"]
        page.mouse.move(left + wide - 2, top + 40)
        tip = page.evaluate("find('#tip').textContent")
        assert tip.startswith("iteration 999 · 99.9 s") and tip.endswith("20.9 dB")
        page.mouse.move(left - 30, top - 60)
        assert page.evaluate("find('#tip').hidden")
