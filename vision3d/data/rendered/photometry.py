"""What a camera does to light: exposure and tone, then, as augmentation, gain, contrast, blur, noise and vignette."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32


def expose(rng: np.random.Generator, light: Float32[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w 3"]:
    """Linear light as a picture in [0, 1]: automatic exposure that is not always right, a colour cast, gamma."""
    middle = max(float(light.mean()), 1e-6)
    gain = rng.uniform(0.16, 0.3) / middle * rng.uniform(0.93, 1.07, 3)
    out: Float32[np.ndarray, "h w 3"] = np.clip(light * gain, 0, 1).astype(np.float32) ** np.float32(1 / 2.2)
    return out


def disturb(rng: np.random.Generator, grey: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """A grey picture in [0, 1] as a worse camera in other light would show it."""
    out = np.clip(grey, 0, 1) ** np.float32(np.exp(rng.normal(0, 0.2)))
    out = (out - 0.5) * np.float32(np.exp(rng.normal(0, 0.15))) + np.float32(0.5 + rng.normal(0, 0.06))
    if rng.random() < 0.3:
        h, w = out.shape
        y, x = np.meshgrid(np.linspace(-1, 1, h), np.linspace(-1, 1, w), indexing="ij")
        out = out * (1 - rng.uniform(0, 0.35) * (x * x + y * y) / 2)
    if rng.random() < 0.35:
        out = cv2.GaussianBlur(out, (0, 0), float(rng.uniform(0.3, 1.2)))
    if rng.random() < 0.1:
        length, angle = int(rng.integers(3, 6)), rng.uniform(0, np.pi)
        line = np.zeros((9, 9), np.float32)
        for t in np.linspace(-length / 2, length / 2, 4 * length):
            line[round(4 + t * np.sin(angle)), round(4 + t * np.cos(angle))] = 1
        out = cv2.filter2D(out, -1, line / line.sum())
    out = out + rng.normal(0, abs(rng.normal(0, 0.02)), out.shape)
    made: Float32[np.ndarray, "h w"] = np.clip(out, 0, 1).astype(np.float32)
    return made
