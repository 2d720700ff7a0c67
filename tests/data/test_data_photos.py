"""Photos of every kind, good and bad: decoded right, or left out with a reason that names the file."""

import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL.TiffImagePlugin import IFDRational

from vision3d.core import UsageError, Vision3DError
from vision3d.data.decoding import decode, open_photo, resized_size
from vision3d.data.exif import focal_from_exif, sensor_width_mm
from vision3d.data.photos import load_mask, load_photo, scan_folder


def _picture(width: int = 64, height: int = 48) -> PIL.Image.Image:
    """Red grows to the right, green downwards, a blue patch at the top left."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    rgb = np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8)
    rgb[: height // 4, : width // 4, 2] = 255
    return PIL.Image.fromarray(rgb)


def _save(path: Path, image: PIL.Image.Image | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (_picture() if image is None else image).save(path, **options)
    return path


def _rgb(image: PIL.Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255


def test_png_is_exact_and_upright(tmp_path: Path) -> None:
    photo = load_photo(_save(tmp_path / "a.png"))
    assert torch.equal(photo.rgb, _rgb(_picture()))
    assert (photo.name, photo.size, photo.original_size, photo.scale) == ("a.png", (64, 48), (64, 48), (1.0, 1.0))


_STORE = {  # how a camera held that way stores an upright picture
    1: [],
    2: [PIL.Image.Transpose.FLIP_LEFT_RIGHT],
    3: [PIL.Image.Transpose.ROTATE_180],
    4: [PIL.Image.Transpose.FLIP_TOP_BOTTOM],
    5: [PIL.Image.Transpose.TRANSPOSE],
    6: [PIL.Image.Transpose.ROTATE_90],
    7: [PIL.Image.Transpose.TRANSVERSE],
    8: [PIL.Image.Transpose.ROTATE_270],
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    stored = _picture()
    for step in _STORE[orientation]:
        stored = stored.transpose(step)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = _save(tmp_path / "a.png", stored, exif=exif)
    assert torch.equal(load_photo(path).rgb, _rgb(_picture()))
    small = load_photo(path, max_size=32)
    assert small.size == (32, 24) and small.original_size == (64, 48)
    assert float((small.rgb - _rgb(_picture().resize((32, 24), PIL.Image.Resampling.BICUBIC))).abs().max()) < 0.02
    [info], _ = scan_folder(tmp_path)
    assert info.orientation == orientation and info.size == (64, 48)


def test_kinds_of_pixels(tmp_path: Path) -> None:
    grey = _picture().convert("L")
    expected = _rgb(grey)
    assert torch.equal(load_photo(_save(tmp_path / "grey.png", grey)).rgb, expected)
    sixteen = PIL.Image.fromarray(np.array(grey).astype(np.uint16) * 257)
    for name in ("16.png", "16.tif"):
        assert torch.allclose(load_photo(_save(tmp_path / name, sixteen)).rgb, expected, atol=1e-6)
    floating = PIL.Image.fromarray(np.array(grey, dtype=np.float32) / 255)
    assert torch.allclose(load_photo(_save(tmp_path / "f.tif", floating)).rgb, expected, atol=1e-6)
    cmyk = load_photo(_save(tmp_path / "cmyk.jpg", _picture().convert("CMYK"), quality=95))
    assert float((cmyk.rgb - _rgb(_picture())).abs().mean()) < 0.02
    palette = load_photo(_save(tmp_path / "p.png", _picture().quantize(64)))
    assert torch.equal(palette.rgb, _rgb(_picture().quantize(64)))
    one_bit = load_photo(_save(tmp_path / "1.png", grey.convert("1")))
    assert set(one_bit.rgb.unique().tolist()) == {0.0, 1.0}
    see_through = _picture().convert("RGBA")
    see_through.putalpha(PIL.Image.fromarray(np.repeat([[0], [255]], 24, axis=0).repeat(64, axis=1).astype(np.uint8)))
    rgba = load_photo(_save(tmp_path / "rgba.png", see_through))
    assert float(rgba.rgb[:, :24].max()) == 0 and torch.equal(rgba.rgb[:, 24:], _rgb(_picture())[:, 24:])
    assert all(load_photo(p).rgb.shape == (3, 48, 64) for p in tmp_path.iterdir())
    found, skipped = scan_folder(tmp_path)
    assert len(found) == 8 and skipped == []


def test_float_out_of_range(tmp_path: Path) -> None:
    path = _save(tmp_path / "f.tif", PIL.Image.fromarray(np.full((20, 20), 7.5, np.float32)))
    with pytest.raises(Vision3DError, match=r"f\.tif has values outside 0 to 1"):
        load_photo(path)


@given(st.tuples(st.integers(16, 400), st.integers(16, 400)), st.integers(1, 500))
@settings(deadline=None)
def test_sizes_keep_the_aspect_and_never_grow(size: tuple[int, int], max_size: int) -> None:
    small = resized_size(size, max_size)
    assert max(small) == min(max_size, max(size)) and small[0] <= size[0] and small[1] <= size[1]
    factor = max(small) / max(size)
    assert abs(small[0] - size[0] * factor) <= 1 and abs(small[1] - size[1] * factor) <= 1


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize(
    ("size", "max_size"), [((1001, 663), 100), ((1001, 663), 500), ((640, 480), 639), ((130, 97), 16)]
)
def test_resizing_is_undone_exactly(tmp_path: Path, ending: str, size: tuple[int, int], max_size: int) -> None:
    # Red and green are linear in x and y: the colour of a pixel says where in the original it lies.
    x, y = np.meshgrid((np.arange(size[0]) + 0.5) / size[0], (np.arange(size[1]) + 0.5) / size[1])
    smooth = PIL.Image.fromarray((np.stack([x, y, 0 * x], 2) * 255).round().astype(np.uint8))
    photo = load_photo(
        _save(tmp_path / f"a.{ending}", smooth, **({"quality": 100} if ending == "jpg" else {})), max_size
    )
    assert max(photo.size) == max_size
    w, h = photo.size
    corners = torch.tensor([[0.0, 0], [w, h]])
    assert torch.allclose(photo.to_original(corners), torch.tensor([[0.0, 0], [size[0], size[1]]]))
    column, row = torch.arange(w) + 0.5, torch.arange(h) + 0.5
    inner = slice(2, -2)  # at the border the filter has only one side
    found_x = photo.rgb[0].mean(0) * size[0]
    found_y = photo.rgb[1].mean(1) * size[1]
    tolerance = 0.004 * max(size)  # one of 255 colours
    assert float((found_x - column * photo.scale[0])[inner].abs().max()) < tolerance
    assert float((found_y - row * photo.scale[1])[inner].abs().max()) < tolerance
    assert abs(float((found_x - column * photo.scale[0])[inner].mean())) < tolerance / 4


def test_downscaling_is_antialiased(tmp_path: Path) -> None:
    checks = PIL.Image.fromarray(((np.indices((200, 200)).sum(0) % 2) * 255).astype(np.uint8))
    photo = load_photo(_save(tmp_path / "a.png", checks), 50)
    assert float((photo.rgb - 0.5).abs().max()) < 0.02


def test_bad_max_size(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_size"):
        load_photo(_save(tmp_path / "a.png"), 0)


def _truncated(path: Path) -> None:
    _save(path, _picture(400, 300))
    path.write_bytes(path.read_bytes()[:-600])


BROKEN = {
    "text.jpg": (lambda p: p.write_text("not a photo"), "is not a photo that can be read"),
    "empty.jpg": (lambda p: p.write_bytes(b""), r"is empty \(0 bytes\)"),
    "cut.jpg": (_truncated, "is damaged or cut off"),
    "cut.png": (_truncated, "is damaged or cut off"),
    "marker.jpg": (lambda p: p.write_bytes(b"\xff\xd8\xff\xe0"), "is not a photo that can be read"),
    "tiny.png": (lambda p: _save(p, _picture(1, 1)), "has 1x1 px, at least 16x16"),
    "thin.png": (lambda p: _save(p, _picture(500, 15)), "has 500x15 px"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_photos_name_the_file_and_what_to_do(tmp_path: Path, name: str) -> None:
    make, message = BROKEN[name]
    make(tmp_path / name)
    for max_size in (None, 32):
        with pytest.raises(Vision3DError, match=message) as error:
            load_photo(tmp_path / name, max_size)
        assert name in str(error.value) and "\n" not in str(error.value)
        assert any(advice in str(error.value) for advice in ("remove it", "copy it again"))
    _save(tmp_path / "good.png")
    found, [skipped] = scan_folder(tmp_path)
    assert [f.name for f in found] == ["good.png"] and skipped.name == name and name in skipped.reason


def test_missing_photo(tmp_path: Path) -> None:
    with pytest.raises(Vision3DError, match=r"cannot read the photo none\.jpg: No such file"):
        load_photo(tmp_path / "none.jpg")


def test_a_hundred_megapixels_are_read_at_an_eighth(tmp_path: Path) -> None:
    path = _save(tmp_path / "huge.jpg", PIL.Image.new("L", (12_000, 8_400), 100), quality=10)
    photo = load_photo(path, 1024)
    assert photo.original_size == (12_000, 8_400) and photo.size == (1024, 717)
    assert float((photo.rgb - 100 / 255).abs().max()) < 0.01
    # Bounded memory: what is decoded is an eighth of each side.
    stored, _ = open_photo(path, "huge.jpg")
    decode(stored, "huge.jpg", (1024, 717))
    assert stored.size == (1500, 1050)


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_decompression_bomb(tmp_path: Path, ending: str) -> None:
    """A small file that claims to be enormous."""
    path = _save(tmp_path / f"bomb.{ending}")
    data = bytearray(path.read_bytes())
    if ending == "png":
        data[16:24] = (60_000).to_bytes(4, "big") * 2
        import zlib

        data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    else:
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = (60_000).to_bytes(2, "big") * 2
    path.write_bytes(bytes(data))
    with pytest.raises(Vision3DError, match=rf"bomb\.{ending}.*resize it"):
        load_photo(path, 100)


def test_scan_sorts_recurses_and_keeps_unusual_names(tmp_path: Path) -> None:
    names = ["img 2.png", "img 10.png", "Über größe.png", "sub/dir/1.PNG", "a'b\"c%$.png"]
    for k, name in enumerate(names):
        _save(tmp_path / name, _picture(64 + k))
    for hidden in (".hidden.png", ".cache/x.png", "masks/m.png"):
        _save(tmp_path / hidden)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "phone.HEIC").write_bytes(b"x")
    found, skipped = scan_folder(tmp_path)
    assert [f.name for f in found] == ["a'b\"c%$.png", "img 2.png", "img 10.png", "sub/dir/1.PNG", "Über größe.png"]
    assert [s.name for s in skipped] == ["masks", "phone.HEIC"] and "save it as JPEG" in skipped[1].reason
    assert all(f.path.is_file() and len(f.sha256) == 64 for f in found)


def test_the_same_photo_twice_is_kept_once(tmp_path: Path) -> None:
    data = _save(tmp_path / "1.png").read_bytes()
    (tmp_path / "2 (copy).png").write_bytes(data)
    _save(tmp_path / "3.png", _picture(80))
    found, [skipped] = scan_folder(tmp_path)
    assert [f.name for f in found] == ["1.png", "3.png"]
    assert (skipped.name, skipped.reason) == ("2 (copy).png", "the same photo as 1.png")


def test_name_that_is_no_utf8(tmp_path: Path) -> None:
    _save(tmp_path / "good.png")
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes((tmp_path / "good.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    found, [skipped] = scan_folder(tmp_path)
    assert len(found) == 1 and "not valid UTF-8" in skipped.reason
    skipped.name.encode()


def test_no_photos_and_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no photos in .*\.jpg.*\.png"):
        scan_folder(tmp_path)
    (tmp_path / "a.jpg").write_text("x")
    with pytest.raises(UsageError, match=r"1 left out, first: a\.jpg: .*is not a photo"):
        scan_folder(tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        scan_folder(tmp_path / "a.jpg")
    with pytest.raises(UsageError, match="does not exist"):
        scan_folder(tmp_path / "none")
    _save(tmp_path / "b.png")
    with pytest.raises(UsageError, match=r"folder of masks .* does not exist"):
        scan_folder(tmp_path, masks=tmp_path / "none")


def test_progress_counts_every_photo(tmp_path: Path) -> None:
    for k in range(5):
        _save(tmp_path / f"{k}.png", _picture(60 + k))
    calls: list[tuple[int, int]] = []
    scan_folder(tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(k, 5) for k in range(1, 6)]


def test_masks(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        _save(tmp_path / "p" / name, _picture(64 + ord(name[0]), 48))
    mask = PIL.Image.fromarray((np.arange(48)[:, None] >= 24).repeat(64, 1).astype(np.uint8))
    _save(tmp_path / "p" / "m" / "a.jpg.png", mask)
    _save(tmp_path / "p" / "m" / "b.png", mask)
    found, skipped = scan_folder(tmp_path / "p", masks=tmp_path / "p" / "m")
    assert [f.mask.name if f.mask else None for f in found] == ["a.jpg.png", "b.png", None] and skipped == []
    assert found[0].mask is not None
    loaded = load_mask(found[0].mask, (64, 48))
    assert not bool(loaded[:24].any()) and bool(loaded[24:].all())
    double = load_mask(found[0].mask, (128, 96))
    assert double.shape == (96, 128) and not bool(double[:48].any()) and bool(double[48:].all())
    with pytest.raises(Vision3DError, match="aspects differ"):
        load_mask(found[0].mask, (64, 64))
    (tmp_path / "bad.png").write_text("x")
    with pytest.raises(Vision3DError, match=r"bad\.png"):
        load_mask(tmp_path / "bad.png", (64, 48))


def test_focal_length_from_exif() -> None:
    size = (3000, 2000)
    assert focal_from_exif({41989: 50}, size) == (pytest.approx(50 / 36 * 3000, rel=1e-3), "exif 35 mm equivalent")
    plane = {37386: IFDRational(50, 1), 41486: IFDRational(6000 * 10, 36), 41488: 3, 40962: 6000, 40963: 4000}
    found = focal_from_exif(plane, size)
    assert found is not None and found[0] == pytest.approx(50 / 36 * 3000) and "focal plane" in found[1]
    nikon = {37386: 50.0, 271: "NIKON CORPORATION\0", 272: "NIKON D3200"}
    found = focal_from_exif(nikon, size)
    assert found is not None and found[0] == pytest.approx(50 / 23.5 * 3000) and "sensor width" in found[1]
    for broken in ({}, {41989: 0}, {37386: IFDRational(0, 0)}, {37386: "wide"}, {41989: 1}, {37386: 50.0, 272: "?"}):
        assert focal_from_exif(broken, size) is None
    assert sensor_width_mm("Canon", "Canon EOS 5D Mark III") == 36.0
    assert sensor_width_mm("Canon", "Canon EOS 550D") == 22.3
    assert sensor_width_mm("NIKON", "NIKON D750") == 35.9 and sensor_width_mm("NIKON", "NIKON D7500") == 23.5
    assert sensor_width_mm("NIKON", "NIKON D90") == 23.5 and sensor_width_mm("SONY", "ILCE-7M3") == 35.8


def test_focal_length_of_real_photos(test_data: Path) -> None:
    found, skipped = scan_folder(test_data / "multiview" / "banana" / "images")
    assert len(found) == 16 and skipped == []
    assert all(f.focal_source == "exif 35 mm equivalent" and f.model == "NIKON D3200" for f in found)
