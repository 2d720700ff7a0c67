"""A mesh with colours per vertex as GLB that is drawn without lamps (glTF 2.0 with KHR_materials_unlit)."""

from __future__ import annotations

import json
import struct

import numpy as np
from jaxtyping import Float, Int

_FLOAT, _USHORT, _UINT = 5126, 5123, 5125  # glTF's numbers for types
_VERTICES, _INDICES = 34962, 34963  # and for what a buffer is


def unlit_glb(
    vertices: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "m 3"], colors: Float[np.ndarray, "n 3"]
) -> bytes:
    """Vertices in float32, colours (sRGB in [0, 1]) in 16 bits of linear light, both sides visible."""
    rgba = np.full((len(colors), 4), 65535, np.uint16)  # four channels, so that rows stay aligned to 4 bytes
    rgba[:, :3] = (_linear(np.clip(colors.astype(np.float64), 0, 1)) * 65535).round()
    arrays = [vertices.astype("<f4"), rgba.astype("<u2"), faces.astype("<u4").reshape(-1)]
    starts = np.cumsum([0, *(array.nbytes for array in arrays)]).tolist()
    tree = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "extensionsUsed": ["KHR_materials_unlit"],
        "materials": [{"doubleSided": True, "extensions": {"KHR_materials_unlit": {}}}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "COLOR_0": 1}, "indices": 2, "material": 0}]}],
        "buffers": [{"byteLength": starts[-1]}],
        "bufferViews": [
            {"buffer": 0, "byteOffset": start, "byteLength": array.nbytes, "target": target}
            for start, array, target in zip(starts, arrays, (_VERTICES, _VERTICES, _INDICES), strict=False)
        ],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": _FLOAT,
                "count": len(vertices),
                "type": "VEC3",
                "min": arrays[0].min(axis=0).tolist(),
                "max": arrays[0].max(axis=0).tolist(),
            },
            {"bufferView": 1, "componentType": _USHORT, "normalized": True, "count": len(rgba), "type": "VEC4"},
            {"bufferView": 2, "componentType": _UINT, "count": faces.size, "type": "SCALAR"},
        ],
    }
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    body = b"".join(array.tobytes() for array in arrays)
    head = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + len(body))
    return head + struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(body), b"BIN\0") + body


def _linear(colors: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """sRGB to linear light, which is what vertex colours of glTF hold (IEC 61966-2-1)."""
    high: np.ndarray = ((colors + 0.055) / 1.055) ** 2.4
    return np.where(colors <= 0.04045, colors / 12.92, high)
