"""ASIC on made-up features whose common space is known: losses against loops, the fit, resuming, its file format."""

import math
from pathlib import Path

import pytest
import torch

from vision3d.errors import UsageError, Vision3DError
from vision3d.matching.semantic.asic.alignment import (
    Alignment,
    CanonicalFeatures,
    at_cells,
    carry_canonical,
    consistency,
    dense_maps,
    matched_share,
)
from vision3d.matching.semantic.asic.collection import Collection, make_collection, pseudo_matches
from vision3d.matching.semantic.asic.config import AsicConfig
from vision3d.matching.semantic.asic.fit import fit_collection, reduced_features
from vision3d.matching.semantic.asic.foreground import foreground, object_coordinates, otsu
from vision3d.matching.semantic.asic.losses import keypoint_loss, reconstruction_loss, smoothness_loss

CELLS, THING, CHANNELS = 20, 10, 24
CORNERS = ((3, 4), (7, 2), (5, 8), (2, 6))  # of the thing in each picture: column, row
QUICK = AsicConfig(steps=60)


def toy_grids(noise: float = 0.3, seed: int = 0) -> list[torch.Tensor]:
    """One thing of smooth features at other places of pictures whose background is alike everywhere."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, CHANNELS, 4, 4, generator=generator)
    thing = torch.nn.functional.interpolate(coarse, (THING, THING), mode="bicubic", align_corners=True)[0]
    ground = torch.randn(CHANNELS, 1, 1, generator=generator)
    grids = []
    for x, y in CORNERS:
        grid = ground + 0.1 * torch.randn(CHANNELS, CELLS, CELLS, generator=generator)
        grid[:, y : y + THING, x : x + THING] = thing + noise * torch.randn(CHANNELS, THING, THING, generator=generator)
        grids.append(torch.nn.functional.normalize(grid, dim=0))
    return grids


@pytest.fixture(scope="module")
def toy() -> Collection:
    return make_collection(toy_grids())


def described(collection: Collection, coordinates: torch.Tensor) -> list[CanonicalFeatures]:
    size = (CELLS * 16, CELLS * 16)
    return [
        CanonicalFeatures(grid, size, coordinates=place, mask=mask)
        for grid, place, mask in zip(collection.grids, coordinates, collection.mask, strict=True)
    ]


def transfer_error_cells(pictures: list[CanonicalFeatures], *, guided: bool) -> float:
    """Mean distance in cells of points carried between all pairs from where the toy has them."""
    inside = torch.cartesian_prod(torch.arange(2.0, 9.0, 3), torch.arange(2.0, 9.0, 3))
    away = []
    for i, source in enumerate(pictures):
        for j, target in enumerate(pictures):
            if i == j:
                continue
            points = source.to_pixels(inside + torch.tensor(CORNERS[i]).float())
            found = target.to_cells(carry_canonical(source, target, points, guided=guided))
            away.append((found - inside - torch.tensor(CORNERS[j]).float()).norm(dim=1))
    return float(torch.cat(away).mean())


def test_keypoint_loss_equals_loops_and_holds_the_other_side() -> None:
    generator = torch.Generator().manual_seed(0)
    ends0, ends1 = (torch.randn(5, 2, generator=generator).double().requires_grad_() for _ in range(2))
    weights = torch.rand(5, generator=generator).double()
    total = torch.zeros(()).double()
    for k in range(5):
        for mine, other in ((ends0, ends1.detach()), (ends1, ends0.detach())):
            distances = [-(mine[k] - other[m]).square().sum().sqrt() / 0.2 for m in range(5)]
            total = total - weights[k] * (distances[k] - torch.stack(distances).exp().sum().log())
    slow = torch.autograd.grad(total, (ends0, ends1))
    fast = keypoint_loss(ends0, ends1, weights, 0.2)
    torch.testing.assert_close(fast, total)
    for a, b in zip(torch.autograd.grad(fast, (ends0, ends1)), slow, strict=True):
        torch.testing.assert_close(a, b)


def test_reconstruction_and_smoothness_equal_loops() -> None:
    generator = torch.Generator().manual_seed(1)
    rebuilt, features = (torch.randn(2, 3, 4, 5, generator=generator) for _ in range(2))
    mask = torch.rand(2, 4, 5, generator=generator) > 0.4
    each = [
        1 - float(rebuilt[b, :, y, x] @ features[b, :, y, x] / rebuilt[b, :, y, x].norm() / features[b, :, y, x].norm())
        for b, y, x in mask.nonzero().tolist()
    ]
    assert float(reconstruction_loss(rebuilt, features, mask)) == pytest.approx(sum(each) / len(each), abs=1e-6)
    residual = 2 * torch.randn(2, 2, 4, 5, generator=generator)
    down, right = [], []
    for b in range(2):
        for c in range(2):
            for y in range(4):
                for x in range(5):
                    for into, yy, xx in ((down, y + 1, x), (right, y, x + 1)):
                        if yy < 4 and xx < 5:
                            d = abs(float(residual[b, c, yy, xx] - residual[b, c, y, x]))
                            into.append(d * d / 2 if d <= 1 else d - 0.5)
    slow = sum(down) / len(down) + sum(right) / len(right)
    assert float(smoothness_loss(residual)) == pytest.approx(slow, abs=1e-5)


def test_the_object_is_found_and_otsu_splits_two_heaps(toy: Collection) -> None:
    for mask, (x, y) in zip(toy.mask, CORNERS, strict=True):
        truth = torch.zeros(CELLS, CELLS, dtype=torch.bool)
        truth[y : y + THING, x : x + THING] = True
        assert float((mask & truth).sum()) / float((mask | truth).sum()) > 0.8
    assert 1.2 <= otsu(torch.tensor([1.0, 1.1, 1.2, 5.0, 5.1])) < 5
    assert foreground(torch.nn.functional.normalize(torch.ones(4, 6, 6), dim=0)).all()  # nothing stands out
    with pytest.raises(ValueError, match="two values"):
        otsu(torch.ones(1))
    middle = object_coordinates(toy.mask[0])[:, toy.mask[0]]
    assert middle.mean(dim=1).abs().max() < 1e-5 and 0.25 < float(middle[0].std()) < 0.36


def test_pseudo_matches_are_mutual_and_on_both_objects(toy: Collection) -> None:
    found = pseudo_matches(toy.grids[0], toy.grids[1], toy.mask[0], toy.mask[1])
    cosines = toy.grids[0].flatten(1).T @ toy.grids[1].flatten(1)
    expected = {
        (a, int(cosines[a].argmax()))
        for a in range(CELLS * CELLS)
        if int(cosines[:, cosines[a].argmax()].argmax()) == a
        and toy.mask[0].flatten()[a]
        and toy.mask[1].flatten()[cosines[a].argmax()]
    }
    assert set(zip(found.cells0.tolist(), found.cells1.tolist(), strict=True)) == expected
    assert len(expected) > 30
    assert len(found.fitted().cells0) + len(found.held_out().cells0) == len(expected)


def test_the_fit_finds_the_common_space_and_beats_the_features_alone(toy: Collection) -> None:
    fitted = fit_collection(toy, AsicConfig(steps=150))
    assert fitted.finished and len(fitted.curve) == 150
    assert fitted.curve[-1][0] < fitted.curve[0][0]
    before, after = consistency(toy, toy.start), consistency(toy, fitted.coordinates)
    assert before is not None and after is not None and after > 0.9
    assert matched_share(toy) > 0.3
    pictures = described(toy, fitted.coordinates)
    assert transfer_error_cells(pictures, guided=False) < 2.0
    guided = transfer_error_cells(pictures, guided=True)
    alone = [CanonicalFeatures(p.grid, p.image_size, coordinates=0 * p.coordinates, mask=p.mask) for p in pictures]
    assert guided < 1.0 and guided < transfer_error_cells(alone, guided=True) + 1e-6


def test_a_collection_without_a_common_space_is_told(toy: Collection) -> None:
    generator = torch.Generator().manual_seed(5)
    grids = [torch.nn.functional.normalize(torch.randn(CHANNELS, CELLS, CELLS, generator=generator), dim=0)] * 1
    grids += [torch.nn.functional.normalize(torch.randn(CHANNELS, CELLS, CELLS, generator=generator), dim=0)]
    noise = make_collection(grids)
    fitted = fit_collection(noise, QUICK)
    assert torch.isfinite(fitted.coordinates).all()
    agree = consistency(noise, fitted.coordinates)
    assert agree is None or agree < 0.75
    assert matched_share(noise) < matched_share(toy)


def test_a_stopped_fit_goes_on_to_the_same_bits(toy: Collection, tmp_path: Path) -> None:
    whole = fit_collection(toy, QUICK)
    file, asked = tmp_path / "fit.ckpt", iter(range(1000))
    part = fit_collection(toy, QUICK, checkpoint=file, stop=lambda: next(asked) >= 20)
    assert not part.finished and len(part.curve) == 21 and file.is_file()
    rest = fit_collection(toy, QUICK, checkpoint=file)
    assert rest.finished and rest.curve == whole.curve and torch.equal(rest.coordinates, whole.coordinates)
    other = AsicConfig(steps=60, seed=1)
    replaced = fit_collection(toy, other, checkpoint=file)  # the file is of other settings
    assert replaced.curve == fit_collection(toy, other).curve != whole.curve
    file.write_bytes(file.read_bytes()[:100])
    assert fit_collection(toy, QUICK, checkpoint=file).curve == whole.curve


def test_reduced_features_keep_distances_of_low_rank_features() -> None:
    collection = make_collection(toy_grids())
    reduced = reduced_features(collection)
    assert reduced.shape[1] == min(48, CHANNELS)
    flat, full = (t.permute(0, 2, 3, 1)[collection.mask] for t in (reduced, collection.grids))
    torch.testing.assert_close(
        torch.cdist(flat[:20], flat[20:60]), torch.cdist(full[:20], full[20:60]), atol=1e-3, rtol=1e-3
    )


def test_alignment_files(toy: Collection, tmp_path: Path) -> None:
    made = Alignment("key", ("a", "b", "c", "d"), toy.start, toy.mask)
    made.save(tmp_path / "x.npz")
    read = Alignment.load(tmp_path / "x.npz")
    assert read.key == "key" and read.names == made.names
    assert torch.equal(read.coordinates, made.coordinates) and torch.equal(read.mask, made.mask)
    (tmp_path / "x.npz").write_bytes(b"PK")
    with pytest.raises(Vision3DError, match="remove it and run again"):
        Alignment.load(tmp_path / "x.npz")


def test_values_at_cells_and_maps(toy: Collection) -> None:
    ramp = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(5.0), indexing="xy"))
    found = at_cells(ramp, torch.tensor([[1.5, 2.25], [-3.0, 9.0]]))
    torch.testing.assert_close(found, torch.tensor([[1.5, 2.25], [0.0, 4.0]]))
    maps = dense_maps(described(toy, toy.start)[:2], guided=False)
    assert maps.shape == (2, 2, CELLS, CELLS, 2) and torch.isfinite(maps).all()
    torch.testing.assert_close(maps[0, 0, 3, 2], torch.tensor([2.5 * 16, 3.5 * 16]))
    assert maps.min() >= 0 and maps.max() <= CELLS * 16
    with pytest.raises(ValueError, match="finite"):
        carry_canonical(*described(toy, toy.start)[:2], torch.tensor([[math.nan, 1.0]]), guided=True)


def test_bad_collections_and_settings() -> None:
    grids = toy_grids()
    with pytest.raises(ValueError, match="2 to 50 pictures, got 1"):
        make_collection(grids[:1])
    with pytest.raises(ValueError, match="one shape"):
        make_collection([grids[0], grids[1][:, :5]])
    for wrong in ({"steps": -1}, {"pairs": 0}, {"seed": -1}, {"temperature": 0.0}, {"smoothness": -1.0}):
        with pytest.raises(UsageError):
            AsicConfig(**wrong)  # type: ignore[arg-type]
