"""A folder of photos: find, check and decode them, and what is known of their cameras."""

from vision3d.data.camera_priors import camera_priors, known_poses, match_names
from vision3d.data.decoding import load_photo
from vision3d.data.photo_folder import PHOTO_EXTENSIONS, PhotoInfo, SkippedPhoto, find_mask, load_mask, scan_folder

__all__ = [
    "PHOTO_EXTENSIONS",
    "PhotoInfo",
    "SkippedPhoto",
    "camera_priors",
    "find_mask",
    "known_poses",
    "load_mask",
    "load_photo",
    "match_names",
    "scan_folder",
]
