"""EfficientNet-lite0: the published weights recognise photos; the folded network equals a plain one."""

from pathlib import Path

import PIL.Image
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from torch import Tensor

from vision3d.core import Vision3DError
from vision3d.data.photos import load_photo
from vision3d.matching.semantic.efficientnet import (
    CHANNELS,
    STRIDES,
    EfficientNetLite0,
    folded,
    load_efficientnet,
)
from vision3d.weights import find_weights

# Table 1 of the paper: (channels, blocks, kernel, stride, expansion)
TABLE = [(16, 1, 3, 1, 1), (24, 2, 3, 2, 6), (40, 2, 5, 2, 6), (80, 3, 3, 2, 6), (112, 3, 5, 1, 6), (192, 4, 5, 2, 6)]
TABLE += [(320, 1, 3, 1, 6)]
needs_weights = pytest.mark.skipif(find_weights("efficientnet-lite0") is None, reason="weights are not installed")


def published() -> dict[str, Tensor]:
    """Random tensors under the published names."""
    generator = torch.Generator().manual_seed(1)
    state: dict[str, Tensor] = {}

    def conv(name: str, norm: str, *shape: int) -> None:
        fan = shape[1] * shape[2] * shape[3]
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) / fan**0.5
        for part in ("weight", "running_var"):
            state[f"{norm}.{part}"] = torch.rand(shape[0], generator=generator) + 0.5
        for part in ("bias", "running_mean"):
            state[f"{norm}.{part}"] = torch.randn(shape[0], generator=generator) * 0.3
        state[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    conv("_conv_stem", "_bn0", 32, 3, 3, 3)
    inputs, index = 32, 0
    for channels, blocks, kernel, _, expand in TABLE:
        for _ in range(blocks):
            middle, block = inputs * expand, f"_blocks.{index}"
            if expand > 1:
                conv(f"{block}._expand_conv", f"{block}._bn0", middle, inputs, 1, 1)
            conv(f"{block}._depthwise_conv", f"{block}._bn1", middle, 1, kernel, kernel)
            conv(f"{block}._project_conv", f"{block}._bn2", channels, middle, 1, 1)
            inputs, index = channels, index + 1
    conv("_conv_head", "_bn1", 1280, 320, 1, 1)
    state["_fc.weight"] = torch.randn(1000, 1280, generator=generator) / 36
    state["_fc.bias"] = torch.randn(1000, generator=generator)
    return state


def plain_stages(state: dict[str, Tensor], rgb: Tensor) -> dict[int, Tensor]:
    """Written from the paper's table: batch normalisation as such, TensorFlow's padding counted pixel by pixel."""

    def conv(x: Tensor, name: str, norm: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        for dim in (3, 2):
            size = x.shape[dim]
            need = (size + stride - 1) // stride * stride - stride + weight.shape[dim] - size
            before = max(need, 0) // 2
            pad = [0, 0, 0, 0]
            pad[0 if dim == 3 else 2], pad[1 if dim == 3 else 3] = before, max(need, 0) - before
            x = F.pad(x, pad)
        x = F.conv2d(x, weight, None, stride, groups=groups)
        mean, var = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{norm}.weight"], state[f"{norm}.bias"], eps=1e-3)

    x = F.hardtanh(conv((rgb * 255 - 127) / 128, "_conv_stem", "_bn0", 2), 0, 6)
    maps, index = {}, 0
    for number, (_, blocks, _, stride, expand) in enumerate(TABLE, 2):
        for i in range(blocks):
            block, y = f"_blocks.{index}", x
            if expand > 1:
                y = F.hardtanh(conv(y, f"{block}._expand_conv", f"{block}._bn0"), 0, 6)
            y = conv(y, f"{block}._depthwise_conv", f"{block}._bn1", stride if i == 0 else 1, y.shape[1])
            y = conv(F.hardtanh(y, 0, 6), f"{block}._project_conv", f"{block}._bn2")
            x = x + y if i > 0 else y
            index += 1
        maps[number] = x
    return maps


@pytest.mark.parametrize("size", [(96, 64), (97, 75)])
def test_folded_network_equals_the_plain_one(size: tuple[int, int]) -> None:
    state = published()
    net = EfficientNetLite0()
    net.load_state_dict(folded(state))
    rgb = torch.rand(2, 3, *size)
    with torch.no_grad():
        ours, plain = net.stages(rgb), plain_stages(state, rgb)
        assert set(net.stages(rgb, last=5)) == {2, 3, 4, 5}
    assert set(ours) == set(plain) == set(STRIDES)
    for number, grid in plain.items():
        stride = STRIDES[number]
        assert grid.shape == (2, CHANNELS[number], -(-size[0] // stride), -(-size[1] // stride))
        assert torch.allclose(ours[number], grid, atol=2e-4 * float(grid.abs().max()))
    assert float(plain[8].std()) > 0.1  # the comparison means something


def test_wrong_weights_are_named() -> None:
    state = published()
    missing = {key: value for key, value in state.items() if key != "_blocks.3._bn1.weight"}
    with pytest.raises(Vision3DError, match=r"_blocks\.3\._bn1\.weight is missing"):
        folded(missing)
    with pytest.raises(Vision3DError, match="extra is unknown"):
        folded({**state, "extra": torch.zeros(1)})
    with pytest.raises(Vision3DError, match=r"shape \(7, 1280\)"):
        folded({**state, "_fc.weight": torch.zeros(7, 1280)})


@needs_weights
def test_photos_are_recognised(test_data: Path) -> None:
    net = load_efficientnet()
    packaged = Path(skimage.data.__file__).parent
    banana = min((test_data / "multiview" / "banana" / "images").glob("*.JPG"))
    for path, classes in (
        (banana, {954}),
        (packaged / "coffee.png", {967}),
        (packaged / "chelsea.png", {281, 282, 285}),
    ):
        rgb = load_photo(path, 400).rgb[None]
        height, width = rgb.shape[2:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = rgb[:, :, top : top + side, left : left + side]
        with torch.no_grad():
            logits = net(F.interpolate(square, (224, 224), mode="bilinear", antialias=True, align_corners=False))
        assert int(logits.argmax()) in classes, path.name


def test_a_file_of_other_weights_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.pth"
    torch.save({"conv.weight": torch.zeros(3)}, file)
    with pytest.raises(Vision3DError, match="no weights of EfficientNet-lite0"):
        load_efficientnet(file)
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "picture.png")
    with pytest.raises(Vision3DError, match="not a readable weights file"):
        load_efficientnet(tmp_path / "picture.png")
