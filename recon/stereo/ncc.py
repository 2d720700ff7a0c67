"""Matching cost of a slanted plane: bilaterally weighted NCC under the homography that the plane induces.

Schoenberger et al., "Pixelwise View Selection for Unstructured Multi-View Stereo", ECCV 2016, equations 2 and 9;
window thinned out as in Galliani et al., "Massively Parallel Multiview Stereopsis by Surface Normal Diffusion",
ICCV 2015, section 4. `ncc_twin.py` is the slow version.

A plane is (w, a, b): inverse depth at the pixel and its derivatives along x and y, because the inverse depth of a plane
is linear in the image. A pixel p of the reference at inverse depth w lies at A [p, 1] + w t in homogeneous px of a
source, with A = K_s R K_r^-1 and t = K_s t_s. Here centres of pixels are whole numbers.
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float, UInt8, UInt32

# A window of 11 x 11 px thinned out to every second row and column, without its corners: 32 samples, 4 vectors of 8.
_ODD = np.array([-5, -3, -1, 1, 3, 5])
_X, _Y = (axis.ravel() for axis in np.meshgrid(_ODD, _ODD))
_INNER = (np.abs(_X) < 5) | (np.abs(_Y) < 5)
WINDOW_X: Float[np.ndarray, " 32"] = _X[_INNER].astype(np.float32)
WINDOW_Y: Float[np.ndarray, " 32"] = _Y[_INNER].astype(np.float32)
SAMPLES = len(WINDOW_X)
SIGMA_SPACE = 5.0  # px
SIGMA_GREY = 24.0  # of 255
NOISE = 2.0  # variance in grey levels^2 that is added to both: flat areas then correlate with nothing
WORST = 1.2  # cost of a plane that a source does not see, and cap of all costs (1 is uncorrelated)

SPACE_WEIGHT: Float[np.ndarray, " 32"] = np.exp(-(WINDOW_X**2 + WINDOW_Y**2) / (2 * SIGMA_SPACE**2)).astype(np.float32)
GREY_WEIGHT: Float[np.ndarray, " 256"] = np.exp(-((np.arange(256) / SIGMA_GREY) ** 2) / 2).astype(np.float32)


def pack_quads(grey: UInt8[np.ndarray, "h w"]) -> UInt32[np.ndarray, " hw"]:
    """Each pixel with its neighbours right, below and right below in one number: one load per bilinear sample."""
    padded = np.pad(grey, ((0, 1), (0, 1)), mode="edge").astype(np.uint32)
    quads = padded[:-1, :-1] | padded[:-1, 1:] << 8 | padded[1:, :-1] << 16 | padded[1:, 1:] << 24
    return np.ascontiguousarray(quads.ravel())


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def load_window(grey, x, y, value, weight):  # pragma: no cover (compiled)
    """Samples and normalised weights around a pixel into value, weight [32]; returns their mean and variance."""
    height, width = grey.shape
    centre = np.int32(grey[y, x])
    total = np.float32(0)
    mean = np.float32(0)
    for k in range(SAMPLES):
        xx = min(max(x + np.int64(WINDOW_X[k]), 0), width - 1)
        yy = min(max(y + np.int64(WINDOW_Y[k]), 0), height - 1)
        g = np.int32(grey[yy, xx])
        q = SPACE_WEIGHT[k] * GREY_WEIGHT[abs(g - centre)]
        value[k] = np.float32(g)
        weight[k] = q
        total += q
        mean += q * np.float32(g)
    mean /= total
    variance = np.float32(0)
    for k in range(SAMPLES):
        weight[k] /= total
        value[k] -= mean
        variance += weight[k] * value[k] * value[k]
    return variance


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def plane_cost(quads, sizes, warps, source, x, y, w, a, b, value, weight, variance):  # pragma: no cover (compiled)
    """1 - NCC of the window (see load_window) with one source, in [0, WORST].

    quads: packed pixels of all sources; sizes [s, 3]: their width, height and first pixel in `quads`; warps [s, 12]: A
    row by row, then t. (Slices of arrays count references in Numba, which would take longer than the sums.)
    """
    one = np.float32(1)
    x0 = warps[source, 0] * x + warps[source, 1] * y + warps[source, 2] + warps[source, 9] * w
    y0 = warps[source, 3] * x + warps[source, 4] * y + warps[source, 5] + warps[source, 10] * w
    z0 = warps[source, 6] * x + warps[source, 7] * y + warps[source, 8] + warps[source, 11] * w
    step = np.int32(sizes[source, 0])
    first = np.int32(sizes[source, 2])
    last_x = np.float32(step - 1)
    last_y = np.float32(sizes[source, 1] - 1)
    if not (z0 > np.float32(1e-6)):
        return np.float32(WORST)
    if x0 < 0 or y0 < 0 or x0 > last_x * z0 or y0 > last_y * z0:
        return np.float32(WORST)
    x_dx, x_dy = warps[source, 0] + warps[source, 9] * a, warps[source, 1] + warps[source, 9] * b
    y_dx, y_dy = warps[source, 3] + warps[source, 10] * a, warps[source, 4] + warps[source, 10] * b
    z_dx, z_dy = warps[source, 6] + warps[source, 11] * a, warps[source, 7] + warps[source, 11] * b
    z_low = z0 * np.float32(0.2)
    byte = np.uint32(255)
    sum_s = np.float32(0)
    sum_ss = np.float32(0)
    sum_rs = np.float32(0)
    for k in range(SAMPLES):
        dx = WINDOW_X[k]
        dy = WINDOW_Y[k]
        inverse = one / max(z0 + z_dx * dx + z_dy * dy, z_low)
        u = min(max((x0 + x_dx * dx + x_dy * dy) * inverse, np.float32(0)), last_x)
        v = min(max((y0 + y_dx * dx + y_dy * dy) * inverse, np.float32(0)), last_y)
        iu = np.int32(u)
        iv = np.int32(v)
        fu = u - np.float32(iu)
        fv = v - np.float32(iv)
        index = np.int32(iv * step + iu + first) & np.int32(0x7FFFFFFF)
        q = quads[index]
        p00 = np.float32(np.int32(q & byte))
        p01 = np.float32(np.int32((q >> np.uint32(8)) & byte))
        p10 = np.float32(np.int32((q >> np.uint32(16)) & byte))
        p11 = np.float32(np.int32(q >> np.uint32(24)))
        top = p00 + fu * (p01 - p00)
        low = p10 + fu * (p11 - p10)
        s = top + fv * (low - top)
        ws = weight[k] * s
        sum_s += ws
        sum_ss += ws * s
        sum_rs += ws * value[k]
    noise = np.float32(NOISE)
    source = max(sum_ss - sum_s * sum_s, np.float32(0))
    correlation = sum_rs / np.sqrt((variance + noise) * (source + noise))
    return min(max(one - correlation, np.float32(0)), np.float32(WORST))
