"""Backbones from local files: the grid is the library's own, and what does not fit is said."""

import sys
from pathlib import Path

import pytest
import torch
from torchvision.models import get_model

from vision3d.core import UsageError, Vision3DError
from vision3d.matching.semantic.backbones import Backbone
from vision3d.matching.semantic.catalogue import make_semantic_matcher
from vision3d.matching.semantic.local_backbones import (
    LocalSource,
    TimmBackbone,
    TorchvisionBackbone,
    fitting_size,
)

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save({"state_dict": get_model("resnet18", weights=None).state_dict()}, file)
    return file


def test_torchvision_gives_its_own_features(resnet: Path) -> None:
    backbone = TorchvisionBackbone(f"resnet18:{resnet}")
    assert isinstance(backbone, Backbone)
    assert (backbone.layer, backbone.channels, backbone.stride) == ("layer3", 256, 16)
    model = get_model("resnet18", weights=None).eval()
    model.load_state_dict(torch.load(resnet, weights_only=True)["state_dict"])
    rgb = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        x = model.maxpool(model.relu(model.bn1(model.conv1((rgb - MEAN) / STD))))
        wanted = model.layer3(model.layer2(model.layer1(x)))
    assert torch.allclose(backbone(rgb), wanted, atol=1e-5)
    finer = TorchvisionBackbone(f"resnet18@layer2:{resnet}")
    assert (finer.channels, finer.stride) == (128, 8) and finer(rgb).shape == (2, 128, 8, 12)
    assert finer.settings != backbone.settings
    with pytest.raises(ValueError, match="multiples of 16 px, got 90x64: 96x64 would do"):
        backbone(torch.rand(1, 3, 64, 90))


def test_a_folder_with_one_file_is_enough(resnet: Path) -> None:
    matcher = make_semantic_matcher(f"torchvision:resnet18:{resnet.parent}", size=128)
    assert matcher.max_size == 128 and matcher.settings["layer"] == "layer3"
    assert make_semantic_matcher(f"torchvision:resnet18:{resnet}").max_size == 512


def test_what_does_not_fit_is_said(resnet: Path, tmp_path: Path) -> None:
    for text in ("resnet18", f":{resnet}", f"resnet18@:{resnet}", "resnet18:"):
        with pytest.raises(UsageError, match="ARCHITECTURE"):
            LocalSource.parse(text)
    with pytest.raises(UsageError, match="no such weights file"):
        LocalSource.parse(f"resnet18:{tmp_path}/nothing.pth")
    with pytest.raises(UsageError, match="holds 0 weights files"):
        LocalSource.parse(f"resnet18:{tmp_path}")
    with pytest.raises(UsageError, match="no architecture 'resnet19'"):
        TorchvisionBackbone(f"resnet19:{resnet}")
    with pytest.raises(UsageError, match="no layer 'layer9' that gives a grid; it has conv1"):
        TorchvisionBackbone(f"resnet18@layer9:{resnet}")
    with pytest.raises(Vision3DError, match=r"no weights of resnet34: layer1\.2\.bn1\.bias is missing"):
        TorchvisionBackbone(f"resnet34:{resnet}")
    state = get_model("resnet18", weights=None).state_dict()
    torch.save({**state, "more": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(Vision3DError, match="more is unknown"):
        TorchvisionBackbone(f"resnet18:{tmp_path / 'more.pth'}")
    torch.save({**state, "fc.bias": torch.zeros(3)}, tmp_path / "more.pth")
    with pytest.raises(Vision3DError, match=r"fc\.bias has another shape"):
        TorchvisionBackbone(f"resnet18:{tmp_path / 'more.pth'}")


def test_a_transformer_of_one_size_is_refused(tmp_path: Path) -> None:
    torch.save(get_model("vit_b_32", weights=None).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(UsageError, match="take it from timm"):
        TorchvisionBackbone(f"vit_b_32:{tmp_path / 'vit.pth'}")


def test_sizes_are_multiples_of_the_stride() -> None:
    assert [fitting_size(multiple) for multiple in (14, 16, 32, 1000)] == [518, 512, 512, 1000]


def test_without_timm_the_package_is_named(resnet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(Vision3DError, match="pip install timm"):
        TimmBackbone(f"resnet18:{resnet}")


@pytest.mark.parametrize(
    ("name", "stride", "channels", "prefix"),
    [("vit_small_patch14_reg4_dinov2", 14, 384, 5), ("vit_small_patch16_dinov3", 16, 384, 5), ("resnet18", 16, 256, 0)],
)
def test_timm_gives_its_own_features(name: str, stride: int, channels: int, prefix: int, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(4)
    options = {"dynamic_img_size": True} if prefix else {}
    model = timm.create_model(name, pretrained=False, num_classes=0 if prefix else 7, **options).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    backbone = TimmBackbone(f"{name}:{tmp_path}")
    assert (backbone.stride, backbone.channels) == (stride, channels)
    rgb = torch.rand(1, 3, 4 * stride, 6 * stride)
    found = backbone(rgb)
    assert found.shape == (1, channels, 4, 6)
    with torch.no_grad():
        x = (rgb - torch.tensor(model.pretrained_cfg["mean"])[:, None, None]) / STD
        if prefix:
            wanted = model.forward_features(x)[:, prefix:].transpose(1, 2).reshape(1, channels, 4, 6)
        else:
            wanted = model.layer3(model.layer2(model.layer1(model.maxpool(model.act1(model.bn1(model.conv1(x)))))))
    assert torch.allclose(found, wanted, atol=1e-4)
    with pytest.raises(UsageError, match="layers 0 to"):
        TimmBackbone(f"{name}@99:{tmp_path}")
    other = "vit_tiny_patch16_224" if prefix else "resnet34"
    with pytest.raises(Vision3DError, match=f"no weights of {other}"):
        TimmBackbone(f"{other}:{tmp_path}")
