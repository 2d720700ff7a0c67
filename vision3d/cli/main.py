"""`vision3d COMMAND ...`: finds the command's module and runs it; imports nothing heavy before that."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Sequence

from vision3d import __version__
from vision3d.errors import Vision3DError

# Words -> (module, configuration class, function run(config) -> exit code, what it does); with no class, run(words).
COMMANDS: dict[tuple[str, ...], tuple[str, str, str, str]] = {
    ("reconstruct",): (
        "vision3d.cli.reconstruct",
        "ReconstructArguments",
        "run",
        "photos to cameras, points, surfels, a mesh and a report",
    ),
    ("match",): ("vision3d.cli.match", "MatchConfig", "run", "match two photos"),
    ("align",): (
        "vision3d.cli.align",
        "AlignArguments",
        "run",
        "bring 2 to 50 photos of one kind of thing into one canonical space",
    ),
    ("register",): ("vision3d.cli.register", "RegisterArguments", "run", "align point clouds, with a verdict"),
    ("detect",): ("vision3d.cli.detect", "DetectConfig", "run", "boxes of cars, people and cyclists in LiDAR scans"),
    ("evaluate", "poses"): (
        "vision3d.cli.evaluate",
        "EvaluatePosesConfig",
        "run_poses",
        "pose accuracy of a result against a ground-truth scene",
    ),
    ("evaluate", "pairs"): (
        "vision3d.cli.evaluate",
        "EvaluatePairsConfig",
        "run_pairs",
        "matchers on image pairs with ground truth",
    ),
    ("evaluate", "views"): (
        "vision3d.cli.evaluate_views",
        "EvaluateViewsConfig",
        "run_views",
        "PSNR and SSIM of a result's renders, held-out photos apart",
    ),
    ("evaluate", "surface"): (
        "vision3d.cli.evaluate_surface",
        "EvaluateSurfaceConfig",
        "run_surface",
        "accuracy of a result's mesh against a true mesh or depth maps",
    ),
    ("evaluate", "hpatches"): (
        "vision3d.cli.evaluate_matching",
        "EvaluateHpatchesConfig",
        "run_hpatches",
        "matchers on HPatches: matching accuracy, homographies",
    ),
    ("evaluate", "megadepth1500"): (
        "vision3d.cli.evaluate_matching",
        "EvaluateMegadepthConfig",
        "run_megadepth",
        "matchers on MegaDepth-1500: relative poses",
    ),
    ("evaluate", "scannet1500"): (
        "vision3d.cli.evaluate_matching",
        "EvaluateScannetConfig",
        "run_scannet",
        "matchers on ScanNet-1500: relative poses",
    ),
    ("evaluate", "kitti-object"): (
        "vision3d.cli.evaluate_kitti",
        "EvaluateKittiObjectConfig",
        "run_kitti_object",
        "KITTI result folders by the official rules",
    ),
    # Its flags depend on the file that it is given: it reads them itself.
    ("train",): ("vision3d.cli.train", "", "run", "train a model from a YAML file; run again, it goes on"),
    ("evaluate", "3dmatch"): (
        "vision3d.cli.evaluate_registration",
        "EvaluateFragmentsConfig",
        "run_3dmatch",
        "registration of indoor fragments by the official rules",
    ),
    ("evaluate", "3dlomatch"): (
        "vision3d.cli.evaluate_registration",
        "EvaluateFragmentsConfig",
        "run_3dlomatch",
        "the same for fragments that overlap little",
    ),
    ("evaluate", "kitti-odometry"): (
        "vision3d.cli.evaluate_registration",
        "EvaluateKittiOdometryConfig",
        "run_kitti_odometry",
        "registration of LiDAR scans 10 m apart",
    ),
    ("evaluate", "spair71k"): (
        "vision3d.cli.evaluate_semantic",
        "EvaluateSpairConfig",
        "run_spair",
        "semantic correspondence on SPair-71k by any of its protocols",
    ),
    ("evaluate", "pf-pascal"): (
        "vision3d.cli.evaluate_semantic",
        "EvaluatePfPascalConfig",
        "run_pf_pascal",
        "the same on PF-PASCAL, thresholds by the image",
    ),
    ("evaluate", "pf-willow"): (
        "vision3d.cli.evaluate_semantic",
        "EvaluatePfWillowConfig",
        "run_pf_willow",
        "the same on PF-WILLOW, thresholds by the keypoints' box",
    ),
    ("evaluate", "cub"): (
        "vision3d.cli.evaluate_semantic",
        "EvaluateCubConfig",
        "run_cub",
        "the same on pairs of one bird species of CUB-200-2011",
    ),
    ("evaluate", "ap10k"): (
        "vision3d.cli.evaluate_semantic",
        "EvaluateAp10kConfig",
        "run_ap10k",
        "the same on pairs of AP-10K's animals",
    ),
    ("bench", "reconstruct"): (
        "vision3d.bench.reconstruct",
        "BenchReconstructConfig",
        "run",
        "speed of `reconstruct` beside COLMAP's own pipeline",
    ),
    ("bench", "splat"): (
        "vision3d.bench.splat",
        "BenchSplatConfig",
        "run",
        "speed of the surfel rasterizer beside its dense twin",
    ),
    ("view",): ("vision3d.cli.view", "ViewConfig", "run", "look at a result in the browser"),
    ("bench", "kitti-eval"): (
        "vision3d.bench.kitti_eval",
        "BenchKittiEvalConfig",
        "run",
        "speed of `evaluate kitti-object` beside the official evaluator",
    ),
    ("bench", "sparseconv"): (
        "vision3d.bench.sparseconv",
        "BenchSparseConvConfig",
        "run",
        "speed of sparse convolution beside spconv and torch on the CPU",
    ),
    ("simulate", "lidar"): (
        "vision3d.cli.simulate",
        "SimulateLidarConfig",
        "run_lidar",
        "labelled scans of simulated streets in KITTI's layout",
    ),
    ("simulate", "rooms"): (
        "vision3d.cli.simulate",
        "SimulateRoomsConfig",
        "run_rooms",
        "pairs of pictures of textured rooms with exact depth and pose",
    ),
    ("simulate", "spair"): (
        "vision3d.cli.simulate",
        "SimulateSpairConfig",
        "run_spair",
        "a small synthetic set of keypoint pairs in SPair-71k's layout",
    ),
    ("bench", "register"): (
        "vision3d.bench.register",
        "BenchRegisterConfig",
        "run",
        "recall and time of `register` beside RANSAC, FGR, KISS-Matcher",
    ),
    ("bench", "match"): (
        "vision3d.bench.match",
        "BenchMatchConfig",
        "run",
        "speed of Efficient LoFTR beside transformers' port and kornia's LoFTR",
    ),
    ("demo",): ("vision3d.cli.demo", "DemoConfig", "run", "reconstruct two photos with known depth"),
    ("doctor",): ("vision3d.cli.doctor", "DoctorConfig", "run", "what works on this machine, and what to do"),
}


def _usage(prefix: tuple[str, ...] = ()) -> str:
    lines = [f"usage: vision3d {' '.join([*prefix, 'COMMAND'])} ... (--help after a command shows its options)", ""]
    for words, (_, _, _, text) in COMMANDS.items():
        if words[: len(prefix)] == prefix:
            lines.append(f"  {' '.join(words):<20} {text}")
    return "\n".join(lines)


def _dispatch(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        print(f"vision3d {__version__}")
        return 0
    words = next((w for w in COMMANDS if tuple(argv[: len(w)]) == w), None)
    if words is None:
        group = (argv[0],) if any(w[0] == argv[0] for w in COMMANDS) else ()
        if group and argv[1:2] and argv[1] in ("-h", "--help"):
            print(_usage(group))
            return 0
        wrong = " ".join(argv[: 2 if group else 1])
        print(f"vision3d: {wrong!r} is not a command\n{_usage(group)}", file=sys.stderr)
        return 2
    module_name, config_name, function, text = COMMANDS[words]
    from vision3d.config import parse

    module = importlib.import_module(module_name)
    if threading.current_thread() is threading.main_thread():
        # pycolmap's logging takes SIGTERM when it is imported, to print a native trace: it goes back to who had it.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)
    if not config_name:
        return int(getattr(module, function)(argv[len(words) :]))
    config = parse(getattr(module, config_name), argv[len(words) :], prog=f"vision3d {' '.join(words)}", text=text)
    return int(getattr(module, function)(config))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, 1 (the work failed), 2 (wrong use), 130 (interrupted)."""
    # torch's and Numba's thread pools would otherwise spin against each other: renderings take several times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return _dispatch(sys.argv[1:] if argv is None else argv)
    except Vision3DError as error:
        print(f"vision3d: error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of stdout went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"vision3d: error: {error.strerror or error}{where}", file=sys.stderr)
        return 1
    except MemoryError:
        print("vision3d: error: out of memory; lower --max-size or the number of photos", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vision3d: interrupted; run the same command again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
