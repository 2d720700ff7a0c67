"""Puts sections together into one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np
from jaxtyping import UInt8

from vision3d.core import Vision3DError
from vision3d.io.atomic import atomic_write_text
from vision3d.recon.report.data import PhotoRow, ReportData
from vision3d.recon.report.markup import jpeg_uri, json_script, shrunk, text
from vision3d.recon.report.statistics import photo_statistics

THUMBNAIL_BYTES = 7_000_000  # of all thumbnails together, as base64
SCRIPTS = (
    "page.js",
    "viewer.js",
    "viewer_surface.js",
    "viewer_input.js",
    "compare.js",
    "curves.js",
    "matrix.js",
    "table.js",
)
STYLES = ("report.css", "surface.css")
LARGE_THUMBNAILS = 24  # so many photos are shown at 640 px, more at 320 px


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small photo, as pixels and as data URI."""

    rgb: UInt8[np.ndarray, "_h _w 3"]
    uri: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Page:
    """What sections draw from: the data, a thumbnail per photo (None where there is none), photo numbers by name."""

    data: ReportData
    thumbnails: tuple[Thumbnail | None, ...]
    index: dict[str, int]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: html goes into <section id>, state reaches scripts as JSON under `data-{id}`."""

    id: str
    title: str
    html: str
    state: object = None


SectionMaker = Callable[[Page], Section | None]


def prepare(data: ReportData) -> Page:
    """Makes the thumbnails, and fills what rows leave to the scene: observations, error, focal length."""
    longest = 640 if len(data.photos) <= LARGE_THUMBNAILS else 320
    budget = min(90_000, THUMBNAIL_BYTES // max(len(data.photos), 1))
    thumbnails = tuple(_thumbnail(row, longest, budget) for row in data.photos)
    return Page(data, thumbnails, {row.name: i for i, row in enumerate(data.photos)})


def statistics_of(page: Page) -> dict[str, tuple[int, float]]:
    """Observations and mean error in px by photo name."""
    return photo_statistics(page.data.scene) if page.data.scene is not None else {}


def render(page: Page, header: str, makers: Sequence[SectionMaker]) -> str:
    """The whole page. A maker that returns None leaves its section out."""
    sections = [section for make in makers if (section := make(page)) is not None]
    body = "".join(
        f'<section id="{s.id}"><h2><a href="#{s.id}">{text(s.title)}</a></h2>{s.html}</section>' for s in sections
    )
    links = "".join(f'<a href="#{s.id}">{text(s.title)}</a>' for s in sections)
    photos = [{"name": row.name, "registered": row.registered} for row in page.data.photos]
    state = json_script("data-photos", photos)
    state += "".join(json_script(f"data-{s.id}", s.state) for s in sections if s.state is not None)
    return Template(_asset("page.html")).substitute(
        title=text(page.data.title),
        style="\n".join(_asset(name) for name in STYLES),
        header=header,
        links=links,
        body=body,
        state=state,
        script="\n".join(_asset(name) for name in SCRIPTS),
    )


def save(html: str, path: str | Path) -> None:
    """Writes the page in one go. Vision3DError if that fails; an earlier page then stays as it was."""
    atomic_write_text(path, html)


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _thumbnail(row: PhotoRow, longest: int, budget: int) -> Thumbnail | None:
    try:
        rgb = row.thumbnail() if callable(row.thumbnail) else row.thumbnail
    except (OSError, ValueError, Vision3DError):  # the photo has gone since: the report is worth more than its picture
        return None
    if rgb is None or not rgb.size:
        return None
    small = shrunk(rgb, longest)
    return Thumbnail(small, *jpeg_uri(small, budget))
