"""The sections of the page. Each is a function from Page to Section, or to None where it has nothing to show."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np

from vision3d.io.pictures import draw_matches
from vision3d.recon.report.data import Attempt, PhotoRow, ReportData, duration
from vision3d.recon.report.markup import jpeg_uri, number, packed, shrunk, text
from vision3d.recon.report.overview import draw_overview
from vision3d.recon.report.page import Page, Section, statistics_of
from vision3d.recon.report.plots import bars, histogram
from vision3d.recon.report.scene_view import FIELD_OF_VIEW, view_of
from vision3d.recon.report.statistics import track_lengths, triangulation_angles_deg, weakly_tied
from vision3d.recon.report.surface_data import mean_psnr
from vision3d.recon.report.surface_view import surface_of

MAX_DRAWN_PAIRS = 12


def header(data: ReportData) -> str:
    """Title, verdict, key figures and warnings."""
    registered, total = sum(row.registered for row in data.photos), len(data.photos)
    kind, label = "good", "complete"
    if data.scene is None or not registered:
        kind, label = "bad", "nothing registered"
    elif registered < total:
        kind, label = "warn", f"{total - registered} left out"
    warnings = "".join(f"<li>{text(warning)}</li>" for warning in data.warnings)
    return (
        f'<p class="pill {kind}">{label}</p><h1>{text(data.title)}</h1><p class="verdict">{text(data.verdict())}.</p>'
        f"{_tiles(data, registered, total)}"
        + (f'<div class="warnings" role="note"><h2>Please note</h2><ul>{warnings}</ul></div>' if warnings else "")
    )


def scene_section(page: Page) -> Section:
    """Interactive view of cameras and points, with a still picture where scripts do not run."""
    scene = page.data.scene
    if scene is None or not (len(scene.images) or len(scene.points)):
        words = "No camera could be placed, so there is nothing to show in 3D. The tables below say what was tried."
        return Section("scene", "Cameras and points", f'<p class="empty">{words}</p>')
    view = view_of(scene)
    photos = {row.name: thumb.rgb for row, thumb in zip(page.data.photos, page.thumbnails, strict=True) if thumb}
    still, width, height = jpeg_uri(draw_overview(scene, (1280, 720), photos), 400_000)
    state: dict[str, object] = {
        "points": packed(view.points.astype(np.float32)),
        "colors": packed(view.colors),
        "cameras": [
            {
                "photo": page.index.get(f.name, -1),
                "name": f.name,
                "center": f.center.tolist(),
                "corners": f.corners.tolist(),
            }
            for f in view.frustums
        ],
        "framing": packed(view.framing.astype(np.float32)),
        "axes": view.axes.tolist(),
        "near": view.near,
        "floor": view.floor,
        "pointSize": view.point_size,
        "yaw": view.yaw,
        "pitch": view.pitch,
        "fieldOfView": FIELD_OF_VIEW,
    }
    state["surface"], surface_note = surface_of(view, page.data)
    shown = len(view.points)
    note = f" {shown:,} of {len(scene.points):,} points are shown." if shown < len(scene.points) else ""
    note += surface_note
    alt = f"Still picture of {len(view.frustums)} cameras and {shown:,} points"
    html = (
        f'<div id="viewer"><img class="still" src="{still}" width="{width}" height="{height}" alt="{text(alt)}"></div>'
        f'<p class="hint">Drag to turn, shift-drag or two fingers to move, scroll or pinch to zoom, double-click to '
        f"look closer. Point at a camera for its name, click it for its photo.{note}</p>"
    )
    title = "Cameras and surface" if state["surface"] else "Cameras and points"
    return Section("scene", title, html, state)


def photos_section(page: Page) -> Section | None:
    """A row per photo, sortable; those left out stand out with their reason."""
    if not page.data.photos:
        return None
    statistics = statistics_of(page)
    most = max((seen for seen, _ in statistics.values()), default=0)
    doubted = page.data.scene if page.data.held_by_points else None
    weak = weakly_tied(doubted) if doubted is not None else {}
    rows = "".join(_photo_row(page, i, statistics, most, weak) for i in range(len(page.data.photos)))
    titles = ("Photo", "Status", "Size", "Focal length", "Keypoints", "Observations", "Mean error", "Turned")
    heads = "".join(f'<th scope="col"><button type="button">{title}</button></th>' for title in titles)
    left_out = sum(not row.registered for row in page.data.photos)
    only = f'<label><input type="checkbox" id="photo-left-out"> only the {left_out} left out</label>'
    tools = (
        '<div class="tools"><input type="search" id="photo-filter" placeholder="Filter by name" '
        f'aria-label="Filter photos by name">{only if left_out else ""}</div>'
        if len(page.data.photos) > 12 or left_out
        else ""
    )
    html = f'{tools}<table id="photo-table"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    return Section("photos", "Photos", html)


def matrix_section(page: Page) -> Section | None:
    """Heat map of verified matches over all pairs of photos."""
    pairs = []
    for (name0, name1), count in page.data.pair_inliers.items():
        if name0 in page.index and name1 in page.index and name0 != name1:
            pairs.append([page.index[name0], page.index[name1], int(count)])
    if len(page.data.photos) < 2:
        return None
    linked = sum(count > 0 for _, _, count in pairs)
    possible = len(page.data.photos) * (len(page.data.photos) - 1) // 2
    html = (
        f"<p>{linked:,} of {possible:,} possible pairs share verified matches.</p>"
        '<div id="matrix"><p class="empty">The match matrix needs scripts.</p></div>'
    )
    return Section("matches", "Match matrix", html, {"pairs": pairs})


def pairs_section(page: Page) -> Section | None:
    """Examples of verified pairs, their matches drawn as lines."""
    figures = []
    for pair in page.data.drawn_pairs[:MAX_DRAWN_PAIRS]:
        picture = draw_matches(pair.rgb0, pair.rgb1, pair.points0, pair.points1, height=520, max_lines=200)
        uri, width, height = jpeg_uri(shrunk(picture, 1500), 330_000)
        count = len(pair.points0) if pair.count is None else pair.count
        kind = f'<span class="tag">{text(pair.kind)}</span> ' if pair.kind else ""
        names = f"{text(pair.name0)} – {text(pair.name1)}"
        figures.append(
            f'<figure><button type="button" class="zoom" data-caption="{names}"><img src="{uri}" width="{width}" '
            f'height="{height}" alt="Matches between {names}"></button>'
            f"<figcaption>{kind}{names}<b>{count:,} matches</b></figcaption></figure>"
        )
    if not figures:
        return None
    return Section("pairs", "Matched pairs", f'<div class="pairs">{"".join(figures)}</div>')


def quality_section(page: Page) -> Section | None:
    """Histograms of reprojection error, track length and triangulation angle."""
    scene = page.data.scene
    if scene is None or not len(scene.points):
        return None
    plots = (
        histogram(scene.errors.double().numpy(), "Reprojection error of points", "px")
        + histogram(track_lengths(scene), "Photos that see a point", "photos", integer=True)
        + histogram(triangulation_angles_deg(scene), "Largest angle between the rays to a point", "°")
    )
    return Section("quality", "Quality", f'<div class="plots">{plots}</div>')


def run_section(page: Page) -> Section | None:
    """Time per stage, and what was tried."""
    data, parts = page.data, []
    if data.timings:
        rows = [(name, seconds, duration(seconds)) for name, seconds in data.timings.items()]
        total = duration(sum(data.timings.values()))
        parts.append(f'<div class="half"><h3>Time by stage <small>{total} in all</small></h3>{bars(rows)}</div>')
    if data.attempts:
        parts.append(
            f'<div class="half"><h3>What was tried</h3><div class="scroll">{_attempts(data.attempts)}</div></div>'
        )
    return Section("run", "The run", f'<div class="halves">{"".join(parts)}</div>') if parts else None


def settings_section(page: Page) -> Section | None:
    """Versions, machine and seed as a list; settings as folded JSON."""
    data = page.data
    facts = {**data.versions, **data.machine}
    if data.seed is not None:
        facts["seed"] = str(data.seed)
    parts = ""
    if facts:
        parts += "".join(f"<div><dt>{text(key)}</dt><dd>{text(value)}</dd></div>" for key, value in facts.items())
        parts = f'<dl class="facts">{parts}</dl>'
    if data.settings:
        shown = json.dumps(_sorted(data.settings), indent=2, ensure_ascii=False, default=str)
        parts += f"<details><summary>All settings</summary><pre>{text(shown)}</pre></details>"
    return Section("settings", "Settings and versions", parts) if parts else None


def _tiles(data: ReportData, registered: int, total: int) -> str:
    tiles = [(f"{registered}<small> of {total}</small>", "photos registered")]
    if data.scene is not None:
        lengths = track_lengths(data.scene)
        errors = data.scene.errors[data.scene.errors.isfinite()]
        tiles.append((number(len(data.scene.points)), "points"))
        tiles.append((number(len(data.scene.tracks.point)), "observations"))
        if len(lengths):
            tiles.append((number(float(lengths.mean()), 1), "photos per point"))
        if len(errors):
            tiles.append((f"{number(float(errors.mean()), 2)}<small> px</small>", "mean reprojection error"))
    linked = sum(count > 0 for count in data.pair_inliers.values())
    tiles.append((number(linked), "verified pairs"))
    figures = data.figures()
    if figures.surfels is not None:
        tiles.append((number(figures.surfels), "surfels"))
    if figures.faces is not None:
        tiles.append((number(figures.faces), "faces of the mesh"))
    for held_out, label in ((True, "PSNR of held-out photos"), (False, "PSNR of renders")):
        if (psnr := mean_psnr(data.renders, held_out=held_out)) is not None:
            tiles.append((f"{number(psnr[0], 1)}<small> dB</small>", label))
            break
    if data.timings:
        tiles.append((text(duration(sum(data.timings.values()))), "total time"))
    kind = "tiles many" if len(tiles) > 8 else "tiles"
    return f'<ul class="{kind}">' + "".join(f"<li><b>{value}</b>{label}</li>" for value, label in tiles) + "</ul>"


def _attempts(attempts: Sequence[Attempt]) -> str:
    """A table with the columns that at least one attempt fills."""
    columns = {
        "Photos": [number(a.registered) for a in attempts],
        "Points": [number(a.points) for a in attempts],
        "Error (px)": [number(a.mean_error_px, 2) for a in attempts],
        "Score": [number(a.score, 2) for a in attempts],
        "Time": ["–" if a.seconds is None else duration(a.seconds) for a in attempts],
    }
    columns = {title: cells for title, cells in columns.items() if set(cells) != {"–"}}
    heads = "".join(f'<th scope="col">{title}</th>' for title in ("Attempt", *columns))
    rows = ""
    for i, attempt in enumerate(attempts):
        tag = '<span class="tag">chosen</span>' if attempt.chosen else ""
        note = f"<small>{text(attempt.note)}</small>" if attempt.note else ""
        cells = "".join(f"<td>{values[i]}</td>" for values in columns.values())
        kind = ' class="chosen"' if attempt.chosen else ""
        rows += f'<tr{kind}><th scope="row">{text(attempt.name)}{tag}{note}</th>{cells}</tr>'
    return f'<table class="plain"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'


def _photo_row(
    page: Page, i: int, statistics: Mapping[str, tuple[int, float]], most: int, weak: Mapping[str, int]
) -> str:
    row, thumb = page.data.photos[i], page.thumbnails[i]
    seen, error = statistics.get(row.name, (None, None))
    seen = row.observations if row.observations is not None else seen
    error = row.mean_error_px if row.mean_error_px is not None else error
    focal, source = _focal(page, row)
    name = text(row.name)
    picture = '<span class="blank"></span>'
    if thumb is not None:
        picture = (
            f'<button type="button" class="thumb" data-photo="{i}" aria-label="Show {name}"><img id="thumb-{i}" '
            f'src="{thumb.uri}" width="{thumb.width}" height="{thumb.height}" alt="" decoding="async"></button>'
        )
    status = "registered" if row.registered else f'<b>left out</b> <span class="reason">{text(row.reason)}</span>'
    if row.registered and row.name in weak:
        status = '<b>weakly tied</b> <span class="reason">few points hold its pose: do not rely on it</span>'
    size = f"{row.size[0]} × {row.size[1]}" if row.size else "–"
    area = row.size[0] * row.size[1] if row.size else -1
    shown = f"{number(focal)} px" if focal is not None and math.isfinite(focal) else "–"
    share = f' style="--share:{min(100, 100 * seen / most):.0f}%"' if seen and most else ""
    cells = (
        _cell("", int(row.registered), status, "status"),
        _cell("Size", area, size),
        _cell("Focal length", focal, f"{shown}{f' <small>{text(source)}</small>' if source and focal else ''}"),
        _cell("Keypoints", row.keypoints, number(row.keypoints)),
        _cell("Observations", seen, f'<span class="meter"{share}>{number(seen)}</span>'),
        _cell("Mean error", error, f"{number(error, 2)}{' px' if error is not None and math.isfinite(error) else ''}"),
        _cell("Turned", row.turn_deg, f"{row.turn_deg}°" if row.turn_deg else "–"),
    )
    kind = ' class="left-out"' if not row.registered else ' class="weak"' if row.name in weak else ""
    return (
        f'<tr{kind} data-name="{name}"><th scope="row" data-sort="{name}">'
        f"<div>{picture}<span>{name}</span></div></th>"
        f"{''.join(cells)}</tr>"
    )


def _cell(label: str, key: float | None, html: str, kind: str = "") -> str:
    sort = "" if key is None or not math.isfinite(key) else f"{key:g}" if isinstance(key, float) else str(key)
    return f'<td class="{kind or "figure"}" data-label="{label}" data-sort="{sort}">{html}</td>'


def _focal(page: Page, row: PhotoRow) -> tuple[float | None, str]:
    scene = page.data.scene
    if row.focal_px is None and scene is not None and row.name in scene.images:
        return scene.camera_of(row.name).focal[0], row.focal_source
    return row.focal_px, row.focal_source


def _sorted(settings: Mapping[str, object]) -> dict[str, object]:
    """Nested mappings as plain dicts, in the order given."""
    return {str(key): _sorted(value) if isinstance(value, Mapping) else value for key, value in settings.items()}
