"""HPatches' sequences of whole photos (Balntas et al., CVPR 2017), as published: SEQUENCE/{1..6.ppm, H_1_2 .. H_1_6}.

Dusmanu et al., "D2-Net", CVPR 2019, leave out the eight sequences with the largest photos; LoFTR, DKM and nearly all
later work follow them: 52 sequences with changes of light (i_*) and 56 with changes of viewpoint (v_*).
"""

from __future__ import annotations

from pathlib import Path

from vision3d.data.listed_pairs import ListedPair
from vision3d.data.pairs import find_photo, read_hpatches_homography
from vision3d.data.photo_folder import natural_key
from vision3d.errors import UsageError, Vision3DError

LEFT_OUT = (
    "i_contruction",
    "i_crownnight",
    "i_dc",
    "i_pencils",
    "i_whitebuilding",
    "v_artisans",
    "v_astronautis",
    "v_talent",
)
SEQUENCES = 116  # published
OTHERS = range(2, 7)  # photos that photo 1 is matched with


def hpatches_pairs(root: str | Path, all_sequences: bool = False) -> list[ListedPair]:
    """Five pairs (1, k) a sequence, named SEQUENCE/1_k, in natural order; groups illumination and viewpoint. Photos may
    have another ending than .ppm.

    all_sequences: with the eight that D2-Net leaves out.

    Raises:
        UsageError: `root` holds no sequences.
        Vision3DError: a photo or homography of a sequence is missing, or a homography is broken; with the file's name.
    """
    root = Path(root)
    for folder in (root, root / "hpatches-sequences-release"):
        sequences = sorted((p for p in folder.glob("[iv]_*") if p.is_dir()), key=lambda p: natural_key(p.name))
        if sequences:
            break
    else:
        raise UsageError(f"{root} holds no sequences of HPatches (folders i_* and v_* with photos 1 to 6 and H_1_2 ..)")
    kept = [folder for folder in sequences if all_sequences or folder.name not in LEFT_OUT]
    if not kept:
        raise UsageError(f"{root} holds only sequences that are left out: {', '.join(p.name for p in sequences)}")
    return [pair for folder in kept for pair in _sequence(folder)]


def _sequence(folder: Path) -> list[ListedPair]:
    missing = [f"H_1_{k}" for k in OTHERS if not (folder / f"H_1_{k}").is_file()]
    if missing:
        raise Vision3DError(f"the sequence {folder} is not complete: it lacks {', '.join(missing)}")
    first, group = find_photo(folder, "1"), {"i": "illumination", "v": "viewpoint"}[folder.name[0]]
    return [
        ListedPair(
            f"{folder.name}/1_{k}",
            group,
            first,
            find_photo(folder, str(k)),
            read_hpatches_homography(folder / f"H_1_{k}"),
        )
        for k in OTHERS
    ]
