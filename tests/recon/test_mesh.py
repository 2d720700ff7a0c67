"""Depth maps to a mesh: spheres and planes in closed form, seams, orientation, cleaning, limits."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from depth_scenes import AROUND, plane, scaled, sphere, view_of

from vision3d.core import DepthView, Mesh, Vision3DError
from vision3d.recon.mesh import PIXELS_PER_VOXEL, MeshConfig, fuse_depths
from vision3d.recon.mesh_clean import faces_of_large_components, without_unused


def _trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices.double().numpy(), mesh.faces.numpy(), process=False)


def _open_edges(mesh: Mesh) -> np.ndarray:
    """Middles of the edges that only one face has; fails on edges of three faces."""
    faces = mesh.faces.numpy()
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    unique, count = np.unique(edges, axis=0, return_counts=True)
    assert set(Counter(count.tolist())) <= {1, 2}
    return mesh.vertices.numpy()[unique[count == 1]].mean(1)


@pytest.mark.parametrize("factor", [1.0, 1e-4, 1e5])
def test_a_sphere_is_closed_and_round(factor: float) -> None:
    views = [scaled(view_of(sphere(), center), factor) for center in AROUND]
    mesh = fuse_depths(views, MeshConfig(voxel=0.03 * factor))
    found = _trimesh(mesh)
    assert found.is_watertight and found.is_winding_consistent and found.euler_number == 2
    radius = mesh.vertices.double().norm(dim=1) / factor
    assert float((radius - 1).abs().mean()) < 0.01 * 0.03 and float((radius - 1).abs().max()) < 0.03 * 0.03
    assert abs(found.volume / factor**3 - 4 / 3 * np.pi) < 0.01  # positive: faces are seen from outside
    assert mesh.colors is not None and float((mesh.colors - 0.5 - 0.25 * mesh.vertices / factor).abs().max()) < 0.01


def test_the_voxel_follows_from_the_pixels() -> None:
    views = [view_of(sphere(), center, 80) for center in AROUND]
    mesh = fuse_depths(views)
    edges = _trimesh(mesh).edges_unique_length
    pixel = 2.0 / 98  # at the median depth
    assert 0.3 * PIXELS_PER_VOXEL * pixel < np.median(edges) < 1.5 * PIXELS_PER_VOXEL * pixel
    assert _trimesh(mesh).is_watertight


def test_no_seams_inside_a_plane() -> None:
    # 90 voxels across: three pieces of marching cubes along each side
    view = view_of(plane((0.1, 0.05, 1), 0.0), (0.1, 0.2, 2.0), 150)
    mesh = fuse_depths([view], MeshConfig(voxel=0.018))
    vertices = mesh.vertices.numpy()
    assert np.ptp(vertices[:, 0]) > 80 * 0.018
    pixels, _ = view.camera.project(view.cam_from_world.apply(torch.from_numpy(_open_edges(mesh)).double()))
    border = torch.minimum(pixels, 150 - pixels).amin(1)
    assert len(border) > 100 and float(border.max()) < 6
    assert np.abs(vertices @ [0.1, 0.05, 1]).max() < 0.002
    normal = _trimesh(mesh).face_normals.mean(0)
    assert normal[2] > 0.9  # towards the camera


def test_no_skirts_between_foreground_and_background() -> None:
    view = view_of(plane((0, 0, 1), 0.0), (0.01, 0.0, 2.0), 150)
    inner = (slice(50, 100),) * 2
    view.depth[inner] = view.depth[inner] - 0.6
    mesh = fuse_depths([view], MeshConfig(voxel=0.02))
    z = mesh.vertices[:, 2]
    assert float(torch.minimum(z.abs(), (z - 0.6).abs()).max()) < 0.01
    assert int((z > 0.5).sum()) > 300 and int((z < 0.1).sum()) > 2000


def test_threads_do_not_matter() -> None:
    views = [view_of(sphere(), center, 60) for center in AROUND[:6]]
    before = torch.get_num_threads()
    meshes = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            meshes.append(fuse_depths(views))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(meshes[0].vertices, meshes[1].vertices) and torch.equal(meshes[0].faces, meshes[1].faces)
    assert meshes[0].colors is not None and meshes[1].colors is not None
    assert torch.equal(meshes[0].colors, meshes[1].colors)


def test_views_must_agree_where_that_is_asked_for() -> None:
    views = [view_of(sphere(), center, 80) for center in AROUND[:1] + AROUND[2:3]]
    one, two = (fuse_depths(views, MeshConfig(voxel=0.03, min_views=n)) for n in (1, 2))
    seen = [
        (_trimesh(two).triangles_center @ (np.array(c) / np.linalg.norm(c)) > 0).mean() for c in (AROUND[0], AROUND[2])
    ]
    assert 0.2 * len(one.faces) < len(two.faces) < 0.6 * len(one.faces) and min(seen) > 0.99


def test_small_pieces_go() -> None:
    view = view_of(plane((0, 0, 1), 0.0), (0.01, 0.0, 2.0), 120)
    view.depth[40:50, 40:50] -= 0.7
    whole = fuse_depths([view], MeshConfig(voxel=0.025, min_component=0.0))
    cleaned = fuse_depths([view], MeshConfig(voxel=0.025, min_component=0.05))
    assert float(whole.vertices[:, 2].max()) > 0.6 and float(cleaned.vertices[:, 2].max()) < 0.1
    assert cleaned.faces.unique().numel() == len(cleaned.vertices)


def test_components_and_unused_vertices() -> None:
    faces = np.array([[0, 1, 2], [1, 2, 3], [5, 6, 7]])
    assert faces_of_large_components(faces, 8, 0.5).tolist() == [True, True, False]
    assert faces_of_large_components(faces, 8, 0.0).all()
    renumbered, kept = without_unused(faces[1:], 8)
    assert kept.tolist() == [1, 2, 3, 5, 6, 7] and renumbered.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert not len(faces_of_large_components(np.zeros((0, 3), np.int64), 0, 0.1))


def test_nothing_seen_gives_an_empty_mesh() -> None:
    view = view_of(sphere(), AROUND[0], 40)
    for depth in (torch.zeros(40, 40), torch.full((40, 40), float("nan"))):
        mesh = fuse_depths([replace(view, depth=depth)])
        assert mesh.vertices.shape == (0, 3) and mesh.faces.shape == (0, 3)
    lone = torch.zeros(40, 40)
    lone[20, 20] = 2.0
    assert torch.isfinite(fuse_depths([replace(view, depth=lone)]).vertices).all()


def test_nan_in_depth_weight_and_color_does_not_come_out() -> None:
    views = [view_of(sphere(), center, 60) for center in AROUND]
    for view in views:
        view.depth[::7, ::5] = float("nan")
        view.weight[::11, ::13] = float("nan")
        view.color[:, ::9, ::9] = float("nan")
    mesh = fuse_depths(views)
    assert len(mesh.faces) > 1000 and mesh.colors is not None
    assert bool(torch.isfinite(mesh.vertices).all()) and bool(torch.isfinite(mesh.colors).all())


def test_wrong_use_is_explained() -> None:
    views = [view_of(sphere(), AROUND[0], 60)]
    with pytest.raises(ValueError, match="one depth map or more"):
        fuse_depths([])
    with pytest.raises(Vision3DError, match="choose a larger voxel"):
        fuse_depths(views, MeshConfig(voxel=0.005, max_memory_mb=4))
    with pytest.raises(Vision3DError, match="choose a smaller voxel"):
        fuse_depths(views, MeshConfig(voxel=30.0))
    for wrong in ({"voxel": -1.0}, {"voxel": float("nan")}, {"truncation": 0.5}, {"min_views": 0}):
        with pytest.raises(ValueError):
            MeshConfig(**wrong)
    pose = views[0].cam_from_world
    broken: DepthView = replace(views[0], cam_from_world=replace(pose, translation=pose.translation * float("nan")))
    with pytest.raises(ValueError, match="pose"):
        fuse_depths([broken])


def test_an_automatic_voxel_keeps_the_memory_limit() -> None:
    views = [view_of(sphere(), center, 170) for center in AROUND]
    small = fuse_depths(views, MeshConfig(max_memory_mb=1))
    assert 100 < len(small.faces) < len(fuse_depths(views).faces) / 2
