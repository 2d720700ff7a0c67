"""SSIM: against scikit-image, the plain torch twin and finite differences."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from vision3d.recon.ssim import SsimReference, ssim_map, ssim_map_slow


def _pair(dtype: torch.dtype, h: int = 40, w: int = 53) -> tuple[torch.Tensor, torch.Tensor]:
    a = torch.rand(3, h, w, dtype=dtype)
    return a, (a + 0.2 * torch.randn_like(a)).clamp(0, 1)


@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_as_scikit_image_up_to_the_border(dtype: torch.dtype, within: float) -> None:
    a, b = _pair(dtype)
    mean, full = structural_similarity(
        a.permute(1, 2, 0).numpy(),
        b.permute(1, 2, 0).numpy(),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=2,
        data_range=1.0,
        full=True,
    )
    ours = ssim_map(a, b)
    assert float(np.abs(ours.permute(1, 2, 0).numpy() - full).max()) < within
    # scikit-image leaves a border of 5 px out of the mean
    assert abs(float(ours[:, 5:-5, 5:-5].mean()) - mean) < within


def test_as_the_twin_with_gradient() -> None:
    for h, w in ((40, 53), (11, 11), (17, 200)):
        a, b = _pair(torch.float64, h, w)
        ours, twin = a.clone().requires_grad_(), a.clone().requires_grad_()
        weight = torch.randn_like(a)
        fast, slow = SsimReference(b).compare(ours), ssim_map_slow(twin, b)
        (fast * weight).sum().backward()
        (slow * weight).sum().backward()
        assert ours.grad is not None and twin.grad is not None
        assert torch.allclose(fast, slow, atol=1e-12) and torch.allclose(ours.grad, twin.grad, atol=1e-10)
        assert torch.allclose(ssim_map(a, b), slow.detach(), atol=1e-12)


def test_gradient_by_finite_differences() -> None:
    a = torch.rand(2, 13, 12, dtype=torch.float64, requires_grad=True)
    b = torch.rand(2, 13, 12, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: ssim_map(x, b), (a,))


def test_equal_pictures_are_at_the_maximum() -> None:
    a = _pair(torch.float32)[0].requires_grad_()
    value = ssim_map(a, a.detach())
    value.sum().backward()
    assert float((value.detach() - 1).abs().max()) < 1e-5 and a.grad is not None and float(a.grad.abs().max()) < 1e-2
    flat = torch.full((3, 20, 20), 0.5)
    assert float((ssim_map(flat, flat) - 1).abs().max()) < 1e-4


def test_any_number_of_threads_gives_the_same() -> None:
    a, b = _pair(torch.float32, 100, 60)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            x = a.clone().requires_grad_()
            value = ssim_map(x, b)
            value.mean().backward()
            results.append((value.detach(), x.grad))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] is not None and results[1][1] is not None and torch.equal(results[0][1], results[1][1])


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="11 px or more"):
        ssim_map(torch.rand(3, 10, 30), torch.rand(3, 10, 30))
    with pytest.raises(ValueError, match="one shape"):
        SsimReference(torch.rand(3, 20, 30)).compare(torch.rand(3, 30, 20))
