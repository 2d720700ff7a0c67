"""Mesh and surfels made small for the interactive view: thinned by vertex clustering, quantised to 8 and 16 bits.

The clustering is Rossignac and Borrel's ("Multi-resolution 3D approximations", 1993) with the mean of each cell's
vertices as its representative.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, UInt16

from vision3d.core import Mesh, Surfels
from vision3d.recon.report.data import ReportData
from vision3d.recon.report.markup import packed
from vision3d.recon.report.scene_view import SceneView

MAX_FACES = 60_000
MAX_SURFELS = 60_000
MAX_CLUSTERS = 2_000_000  # an int64 holds the cube of it
FARTHEST = 12.0  # in the view frame, where most points lie within 1 of the origin
DISK_ALPHA = 0.3  # surfels are drawn as disks up to where they are this opaque
SH_CONSTANT = 0.28209479177387814  # the first spherical harmonic
GREY = 178


def surface_of(view: SceneView, data: ReportData) -> tuple[dict[str, object] | None, str]:
    """What viewer_surface.js draws of the report's mesh and surfels, and a sentence about what is left out."""
    state, note = dict[str, object](), ""
    if data.mesh is not None and (mesh := mesh_state(view, data.mesh)) is not None:
        state["mesh"] = mesh[0]
        if mesh[1] < len(data.mesh.faces):
            note += f" The mesh is thinned to {mesh[1]:,} of {len(data.mesh.faces):,} triangles."
    if data.surfels is not None and (surfels := surfel_state(view, data.surfels)) is not None:
        state["surfels"] = surfels[0]
        if surfels[1] < len(data.surfels):
            note += f" {surfels[1]:,} of {len(data.surfels):,} surfels are shown."
    return state or None, note


def mesh_state(view: SceneView, mesh: Mesh, max_faces: int = MAX_FACES) -> tuple[dict[str, object], int] | None:
    """What viewer_surface.js draws of a mesh, and the number of its triangles. None if nothing of it is near."""
    vertices = view.of_world(mesh.vertices.detach().cpu().double().numpy())
    faces = mesh.faces.detach().cpu().numpy().astype(np.int64)
    colors = np.full((len(vertices), 3), GREY / 255)
    if mesh.colors is not None:
        colors = np.nan_to_num(mesh.colors.detach().cpu().double().numpy(), nan=GREY / 255).clip(0, 1)
    with np.errstate(invalid="ignore"):
        near = (np.abs(vertices) < FARTHEST).all(axis=1)
    faces = faces[near[faces].all(axis=1)] if len(faces) else faces
    if not len(faces):
        return None
    vertices, faces, colors = clustered(vertices, faces, colors, max_faces)
    if not len(faces):  # nothing but slivers
        return None
    low, span, quantised = _quantised(vertices)
    index = faces.astype(np.uint16 if len(vertices) <= 65_536 else np.uint32)
    state = {
        "low": low.tolist(),
        "span": span.tolist(),
        "vertices": packed(quantised),
        "faces": packed(index),
        "wide": index.dtype == np.uint32,
        "colors": packed(np.rint(colors * 255).astype(np.uint8)),
        "colored": mesh.colors is not None,
    }
    return state, len(faces)


def surfel_state(
    view: SceneView, surfels: Surfels, max_surfels: int = MAX_SURFELS
) -> tuple[dict[str, object], int] | None:
    """What viewer_surface.js draws of surfels, and how many they are. None if none is both solid and near.

    Each is a disk with half axes where its alpha has fallen to DISK_ALPHA; where there are too many, an even subset is
    drawn larger by as much as closes the gaps.
    """
    means = view.of_world(surfels.means.detach().cpu().double().numpy())
    opacities = surfels.opacities.detach().cpu().double().numpy()
    scales = surfels.scales.detach().cpu().double().numpy() * view.scale
    quats = surfels.quats.detach().cpu().double().numpy()
    with np.errstate(invalid="ignore"):
        keep = (np.abs(means) < FARTHEST).all(axis=1) & (opacities > DISK_ALPHA)
        keep &= (scales > 0).all(axis=1) & (scales < FARTHEST).all(axis=1) & (np.linalg.norm(quats, axis=1) > 1e-9)
    rows = np.flatnonzero(keep)
    if not len(rows):
        return None
    grow = 1.0
    if len(rows) > max_surfels:
        grow = float(np.sqrt(len(rows) / max_surfels))
        rows = np.sort(np.random.default_rng(0).choice(rows, max_surfels, replace=False))
    reach = np.sqrt(2 * np.log(opacities[rows].clip(max=1.0) / DISK_ALPHA))
    axes = scales[rows] * (grow * reach)[:, None]
    rotation = view.axes.T @ _matrices(quats[rows])
    color = surfels.sh[rows, 0].detach().cpu().double().numpy() * SH_CONSTANT + 0.5
    low, span, quantised = _quantised(means[rows])
    longest = float(axes.max())
    state = {
        "low": low.tolist(),
        "span": span.tolist(),
        "means": packed(quantised),
        # the two tangents as bytes, the lengths of the half axes as logarithms: 255 is `longest`, 0 is 1/1000 of it
        "tangents": packed(np.rint(rotation[:, :, :2].transpose(0, 2, 1) * 127).astype(np.int8)),
        "axes": packed(np.rint(255 * (1 + np.log10(np.maximum(axes / longest, 1e-3)) / 3)).astype(np.uint8)),
        "longest": longest,
        "colors": packed(np.rint(np.nan_to_num(color, nan=0.5).clip(0, 1) * 255).astype(np.uint8)),
    }
    return state, len(rows)


def clustered(
    vertices: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "m 3"], colors: Float[np.ndarray, "n 3"], max_faces: int
) -> tuple[Float[np.ndarray, "n2 3"], Int[np.ndarray, "m2 3"], Float[np.ndarray, "n2 3"]]:
    """At most `max_faces` triangles: vertices in one cell of a grid become one, with the finest grid that does it.

    Faces keep their order and orientation; vertices without a face are dropped.
    """
    vertices, faces, colors = _used(vertices, faces, colors)
    if len(faces) <= max_faces:
        return vertices, faces, colors
    corners = vertices[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
    extent = float(np.ptp(vertices, axis=0).max())
    cell = max(float(np.sqrt(2 * area / max(max_faces, 1))), extent * 1e-6, 1e-12)  # 2 to 3 triangles per cell passed
    while True:
        keys = np.floor((vertices - vertices.min(axis=0)) / cell).astype(np.int64)
        across = keys.max(axis=0) + 1
        _, of_vertex = np.unique((keys[:, 0] * across[1] + keys[:, 1]) * across[2] + keys[:, 2], return_inverse=True)
        of_vertex = of_vertex.reshape(-1)
        clusters = int(of_vertex.max()) + 1
        if clusters > MAX_CLUSTERS:
            cell *= 1.5
            continue
        merged = of_vertex[faces]
        distinct = (merged != np.roll(merged, 1, axis=1)).all(axis=1)
        merged = merged[distinct]
        a, b, c = np.sort(merged, axis=1).T
        _, first = np.unique((a * clusters + b) * clusters + c, return_index=True)
        if len(first) <= max_faces:
            break
        cell *= max(1.05, float(np.sqrt(len(first) / max(max_faces, 1))))
    count = np.bincount(of_vertex)[:, None]
    means = [
        np.stack([np.bincount(of_vertex, values[:, k]) for k in range(3)], axis=1) / count
        for values in (vertices, colors)
    ]
    return _used(means[0], merged[np.sort(first)], means[1])


def _used(
    vertices: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "m 3"], colors: Float[np.ndarray, "n 3"]
) -> tuple[Float[np.ndarray, "n2 3"], Int[np.ndarray, "m 3"], Float[np.ndarray, "n2 3"]]:
    rows, index = np.unique(faces, return_inverse=True)
    return vertices[rows], index.reshape(-1, 3), colors[rows]


def _quantised(
    points: Float[np.ndarray, "n 3"],
) -> tuple[Float[np.ndarray, " xyz"], Float[np.ndarray, " xyz"], UInt16[np.ndarray, "n 3"]]:
    """low and span, so that points = low + span * quantised / 65535."""
    low = points.min(axis=0)
    span = np.maximum(np.ptp(points, axis=0), 1e-12)
    return low, span, np.rint((points - low) / span * 65_535).astype(np.uint16)


def _matrices(quats: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 3 3"]:
    w, x, y, z = (quats / np.linalg.norm(quats, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)
