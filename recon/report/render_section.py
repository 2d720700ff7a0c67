"""The section with photos beside renders: a slider, depth, normals, error maps, and a chooser of photos."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vision3d.core import Vision3DError
from vision3d.recon.report.markup import jpeg_uri, number, shrunk, text
from vision3d.recon.report.page import Page, Section
from vision3d.recon.report.surface_data import Picture, RenderedView, Rgb, mean_psnr, mean_ssim
from vision3d.recon.report.view_pictures import ERROR_TOP, UNKNOWN, ramp

PICTURE_BYTES = 11_000_000  # of all pictures together, as base64
PICTURE_SIZE = 640  # px
MAX_VIEWS = 64
LARGE_PICTURES = 24  # so many views start at PICTURE_SIZE, more at 512 px
STEPS = ((640, 85), (640, 76), (640, 66), (512, 70), (448, 66), (384, 62), (320, 58), (256, 52), (192, 45))
THUMB_SIZE, THUMB_BYTES = 200, 14_000
KINDS = {"render": "Render", "depth": "Depth", "normal": "Normals", "error": "Error"}


@dataclass(frozen=True, slots=True)
class _Shown:
    """A view with its pictures as data URIs by kind ("photo" and KINDS), and its width and height in px."""

    view: RenderedView
    pictures: dict[str, str]
    thumb: str
    size: tuple[int, int]


def render_section(page: Page) -> Section | None:
    """One view at a time, the photo and what is beside it under a slider. None without any picture."""
    views = page.data.renders
    chosen = chosen_views(views)
    budget = PICTURE_BYTES // max(len(chosen), 1) - THUMB_BYTES
    steps = STEPS if len(chosen) <= LARGE_PICTURES else STEPS[3:]
    shown = [found for view in chosen if (found := _shown(view, budget, steps)) is not None]
    if not shown:
        return None
    first = next((i for i, s in enumerate(shown) if s.view.held_out), 0)
    kinds = [kind for kind in KINDS if any(kind in s.pictures for s in shown)]
    html = (
        f"{_figures(views)}"
        f'<div id="compare"><div class="compare-main">{_tabs(kinds)}{_stage(shown[first])}{_scales(shown[first])}</div>'
        f'<div class="chooser">{_tools(shown)}<ul>{"".join(_button(i, s, i == first) for i, s in enumerate(shown))}'
        f"</ul></div></div>{_note(len(views), len(shown))}"
    )
    state = {
        "first": first,
        "kinds": {"photo": "Photo", **KINDS},
        "views": [
            {
                "name": s.view.name,
                "note": _measured(s.view),
                "size": s.size,
                "near": None if s.view.depth_limits is None else s.view.depth_limits[0],
                "far": None if s.view.depth_limits is None else s.view.depth_limits[1],
                # the first view's photo and render are on the page already
                "pictures": {k: "" if i == first and k in _static(s) else uri for k, uri in s.pictures.items()},
            }
            for i, s in enumerate(shown)
        ],
    }
    return Section("renders", "Renders", html, state)


def chosen_views(views: Sequence[RenderedView], limit: int = MAX_VIEWS) -> list[RenderedView]:
    """At most `limit` views in their order: those held out first, the rest evenly spread."""
    held_out = _spread([i for i, v in enumerate(views) if v.held_out], limit)
    others = _spread([i for i, v in enumerate(views) if not v.held_out], limit - len(held_out))
    return [views[i] for i in sorted(held_out + others)]


def _spread(indices: list[int], limit: int) -> list[int]:
    if len(indices) <= limit:
        return indices
    return [indices[i * len(indices) // limit] for i in range(limit)]


def _shown(view: RenderedView, budget: int, steps: Sequence[tuple[int, int]]) -> _Shown | None:
    """The view's pictures in about `budget` bytes, None if it has none."""
    sources = {"photo": view.photo, **{kind: getattr(view, kind) for kind in KINDS}}
    pictures = {kind: rgb for kind, source in sources.items() if (rgb := _made(source)) is not None}
    if not pictures:
        return None
    uris, size = {}, (1, 1)
    left = budget
    for done, (kind, rgb) in enumerate(pictures.items()):
        share = 1.3 if kind in ("photo", "render") else 1.0  # smooth pictures need less, and hand on what they leave
        allowed = min(left, int(share * left / (len(pictures) - done)))
        uris[kind], width, height = jpeg_uri(shrunk(rgb, PICTURE_SIZE), allowed, steps)
        left -= len(uris[kind])
        size = max(size, (width, height))
    thumb = jpeg_uri(shrunk(pictures.get("render", next(iter(pictures.values()))), THUMB_SIZE), THUMB_BYTES)[0]
    return _Shown(view, uris, thumb, size)


def _made(source: Picture) -> Rgb | None:
    try:
        rgb = source() if callable(source) else source
    except (OSError, ValueError, Vision3DError):  # the file has gone since: the report is worth more than the picture
        return None
    return rgb if rgb is not None and rgb.size else None


def _figures(views: Sequence[RenderedView]) -> str:
    parts = []
    for held_out, words in ((True, "held out from the optimisation"), (False, "used by the optimisation")):
        psnr, ssim = mean_psnr(views, held_out=held_out), mean_ssim(views, held_out=held_out)
        if psnr is not None:
            similar = f", SSIM {number(ssim, 3)}" if ssim is not None else ""
            photos = "photo" if psnr[1] == 1 else "photos"
            parts.append(f"<b>PSNR {number(psnr[0], 2)} dB</b>{similar} on {psnr[1]} {photos} {words}")
    return f'<p class="measured">{"<br>".join(parts)}</p>' if parts else ""


def _tabs(kinds: Sequence[str]) -> str:
    buttons = "".join(
        f'<button type="button" data-kind="{kind}" aria-pressed="{str(i == 0).lower()}">{KINDS[kind]}</button>'
        for i, kind in enumerate(kinds)
    )
    return f'<div class="segments" role="group" aria-label="Picture beside the photo">{buttons}</div>'


def _static(shown: _Shown) -> list[str]:
    """The kinds that the page shows before scripts run: photo and render where there are both."""
    beside = next((kind for kind in KINDS if kind in shown.pictures), None)
    return [kind for kind in ("photo", beside) if kind is not None and kind in shown.pictures]


def _stage(shown: _Shown) -> str:
    kinds, name = _static(shown), text(shown.view.name)
    under = kinds[-1]
    words = {"photo": "Photo", **KINDS}
    over = (
        f'<img class="over" src="{shown.pictures["photo"]}" alt="Photo {name}" draggable="false">'
        if len(kinds) == 2
        else '<img class="over" alt="" draggable="false" hidden>'
    )
    width, height = shown.size
    return (
        f'<div class="stage" style="--wide:{width / height:.4f};--cut:50%"><img class="under" '
        f'src="{shown.pictures[under]}" alt="{words[under]} {name}" draggable="false">{over}<span class="cut"></span>'
        f'<span class="side left">Photo</span><span class="side right">{words[under]}</span></div>'
    )


def _scales(shown: _Shown) -> str:
    """Caption, and the legends of depth, normals and error; scripts show the one that fits."""
    depth, error = (", ".join(f"rgb({r} {g} {b})" for r, g, b in ramp(kind)) for kind in ("depth", "error"))
    grey = f'<span class="unknown"><i style="background:rgb({UNKNOWN[0]} {UNKNOWN[1]} {UNKNOWN[2]})"></i>unknown</span>'
    return (
        f'<p class="caption" aria-live="polite"><strong>{text(shown.view.name)}</strong> '
        f"<span>{text(_measured(shown.view))}</span></p>"
        f'<p class="scale" data-scale="depth" hidden><span data-near>near</span>'
        f'<i style="background:linear-gradient(90deg,{depth})"></i><span data-far>far</span>{grey}</p>'
        f'<p class="scale" data-scale="error" hidden><span>no difference</span>'
        f'<i style="background:linear-gradient(90deg,{error})"></i><span>{ERROR_TOP:g} of full range</span>{grey}</p>'
        f'<p class="scale" data-scale="normal" hidden><span><i class="dot" style="background:rgb(255 128 128)"></i>'
        f'right</span><span><i class="dot" style="background:rgb(128 255 128)"></i>up</span><span>'
        f'<i class="dot" style="background:rgb(128 128 255)"></i>towards the viewer</span>{grey}</p>'
    )


def _tools(shown: Sequence[_Shown]) -> str:
    tools = ""
    if len({s.view.held_out for s in shown}) == 2 and len(shown) > 4:
        tools += '<label><input type="checkbox" data-only-held-out> held out only</label>'
    if sum(_finite(s.view.psnr) for s in shown) > 2:
        tools += '<label><input type="checkbox" data-worst-first> worst first</label>'
    return f'<div class="tools">{tools}</div>' if tools else ""


def _button(i: int, shown: _Shown, pressed: bool) -> str:
    view = shown.view
    psnr = f"{view.psnr:.1f} dB" if view.psnr is not None and math.isfinite(view.psnr) else ""
    tag = '<span class="tag">held out</span>' if view.held_out else ""
    key = f"{view.psnr:g}" if psnr else ""
    return (
        f'<li data-held-out="{int(view.held_out)}" data-psnr="{key}"><button type="button" data-view="{i}" '
        f'aria-pressed="{str(pressed).lower()}" title="{text(view.name)}"><img src="{shown.thumb}" alt="" '
        f'decoding="async"><span class="name">{text(view.name)}</span><span class="value">{tag}{psnr}</span>'
        f"</button></li>"
    )


def _measured(view: RenderedView) -> str:
    parts = ["held out"] if view.held_out else []
    if _finite(view.psnr):
        parts.append(f"PSNR {view.psnr:.2f} dB")
    if _finite(view.ssim):
        parts.append(f"SSIM {view.ssim:.3f}")
    return " · ".join(parts)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _note(total: int, shown: int) -> str:
    words = (
        "Drag across the picture to compare, or use the arrow keys once it has the focus. "
        "Page up and page down go from photo to photo."
    )
    if shown < total:
        words += f" {shown:,} of {total:,} photos are shown, so that the page stays small; the renders folder has all."
    return f'<p class="hint">{words}</p>'
