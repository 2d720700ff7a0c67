"""The section about the surface: its figures, a video that orbits it, and links to the files with it."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import quote

from vision3d.recon.report.data import ReportData
from vision3d.recon.report.markup import number, text
from vision3d.recon.report.page import Page, Section
from vision3d.recon.report.surface_data import ResultFile

VIDEO_BYTES = 3_000_000  # larger videos are not put into the page, which then needs the file beside it


def surface_section(page: Page) -> Section | None:
    """None where there is neither a figure, a video nor a file."""
    data = page.data
    facts, video, files = _facts(data), _video(data.orbit), _files(data)
    if not (facts or video or files):
        return None
    side = facts + files
    html = f'<div class="surface">{video}{f"<div>{side}</div>" if side else ""}</div>'
    return Section("surface", "Surface", html)


def _facts(data: ReportData) -> str:
    figures = data.figures()
    facts = {
        "surfels": number(figures.surfels),
        "vertices": number(figures.vertices),
        "faces": number(figures.faces),
        "voxel size": "–" if figures.voxel_size is None else f"{figures.voxel_size:.3g} scene units",
        **figures.notes,
    }
    rows = "".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in facts.items() if v != "–")
    return f'<dl class="facts">{rows}</dl>' if rows else ""


def _video(path: Path | None) -> str:
    """The video itself where it is small, else a link to it; nothing if it cannot be read."""
    if path is None:
        return ""
    try:
        size = path.stat().st_size
        embedded = size <= VIDEO_BYTES
        source, preload = f"./{quote(path.name)}", "metadata"
        if embedded:
            preload = "auto"  # shows its first frame
            source = f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"
    except OSError:
        return ""
    link = f'<a href="./{quote(path.name)}">{text(path.name)}</a>'
    return (
        f'<figure class="orbit"><video controls loop muted playsinline preload="{preload}" src="{source}">'
        "</video>"
        f"<figcaption>A flight around the surface. If it does not play here, open {link}.</figcaption></figure>"
    )


def _files(data: ReportData) -> str:
    rows = "".join(f"<li>{_link(file)}</li>" for file in data.files)
    return f'<ul class="files">{rows}</ul>' if rows else ""


def _link(file: ResultFile) -> str:
    size = f"<b>{_bytes(file.bytes)}</b>" if file.bytes is not None else ""
    note = f"<small>{text(file.note)}</small>" if file.note else ""
    return f'<a href="./{quote(file.path)}"><span>{text(file.path)}</span>{note}</a>{size}'


def _bytes(size: int) -> str:
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= limit:
            return f"{size / limit:.1f} {unit}" if size < 100 * limit else f"{size / limit:.0f} {unit}"
    return f"{size} bytes"
