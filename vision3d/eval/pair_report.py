"""`evaluate pairs` as a function: matches of each matcher saved first, metrics from the saved files second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vision3d.core import Progress, silent
from vision3d.errors import UsageError
from vision3d.eval.pair_matches import load_matches, save_matches
from vision3d.eval.pair_sets import find_pairs, motorcycle_pair
from vision3d.eval.pairs import PairProtocol, PairResult, evaluate_pair, published_auc, summarize
from vision3d.eval.tables import Table
from vision3d.io.atomic import atomic_write_json
from vision3d.matching.catalogue import make_matcher, weights_options


@dataclass(frozen=True, slots=True)
class PairReport:
    """Tables for people, results per pair, and the protocol they were made with.

    sizes: longer side in px at which photos were loaded, by matcher.
    """

    protocol: PairProtocol
    sizes: dict[str, int]
    tables: list[Table]
    results: list[PairResult]

    def json(self) -> dict[str, object]:
        """Plain values."""
        return {
            "protocol": asdict(self.protocol),
            "max_size": self.sizes,
            "tables": [table.json() for table in self.tables],
            "auc_by_trapezoids": published_auc(self.results),
            "results": [result.json() for result in self.results],
        }


def evaluate_pairs(
    data: Path,
    out: Path,
    matchers: Sequence[str],
    protocol: PairProtocol,
    *,
    max_size: int | None = None,
    weights: Path | None = None,
    stereo: bool = True,
    progress: Progress = silent,
) -> PairReport:
    """Runs the named matchers on all pairs below `data`, writes OUT/matches/MATCHER/PAIR.npz and OUT/report.json.

    weights: a file for the matcher among them that takes one. stereo: adds scikit-image's Motorcycle pair. A re-run
    keeps the matches that fit photos and settings.

    Raises:
        UsageError: no matcher, an unknown one, or no pairs.
        Vision3DError: a photo or ground truth cannot be read, weights are missing, or OUT cannot be written.
    """
    if not matchers or len(set(matchers)) < len(matchers):
        raise UsageError("--matchers takes one or more different names")
    if max_size is not None and max_size < 32:
        raise UsageError(f"--max-size is in px and at least 32, got {max_size}")
    options = weights_options(matchers, weights)
    pairs = find_pairs(data) + ([motorcycle_pair()] if stereo else [])
    sizes: dict[str, int] = {}
    results: list[PairResult] = []
    for name in matchers:
        matcher = make_matcher(name, **options[name])
        sizes[name] = matcher.max_size if max_size is None else max_size
        save_matches(pairs, matcher, out / "matches" / name, max_size, progress)
    for done, name in enumerate(matchers):
        progress("metrics", done, len(matchers))
        for pair in pairs:
            results += evaluate_pair(pair, load_matches(out / "matches" / name, pair), name, protocol)
    progress("metrics", len(matchers), len(matchers))
    report = PairReport(protocol, sizes, summarize(results, protocol, _loaded(sizes)), results)
    atomic_write_json(out / "report.json", report.json())
    return report


def _loaded(sizes: dict[str, int]) -> str:
    """How large the photos were, in words."""
    if len(set(sizes.values())) == 1:
        return f"Photos matched at up to {next(iter(sizes.values()))} px."
    return "Photos matched at up to " + ", ".join(f"{size} px ({name})" for name, size in sizes.items()) + "."
