"""Reads the imports of every module and reports those that go against the order of layers."""

from __future__ import annotations

import ast
from pathlib import Path

# From the bottom up; a package may import itself and what stands on lines above it. Single files stand by their name.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"errors"}),
    frozenset({"core"}),
    frozenset({"geometry"}),
    frozenset({"sparse", "io", "config", "weights"}),
    frozenset({"data"}),
    frozenset({"matching", "detection"}),
    frozenset({"recon"}),
    frozenset({"eval"}),
    frozenset({"view"}),
    frozenset({"train"}),
    frozenset({"bench"}),
    frozenset({"cli"}),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

# Within a level, only these may know each other.
SIBLINGS = frozenset({("io", "config"), ("io", "weights"), ("weights", "io"), ("weights", "config")})

# recon works with any matcher: it sees the protocols, the dict of matchers, and what takes any matcher.
RECON_MAY_IMPORT = tuple(f"vision3d.matching.{name}" for name in ("base", "catalogue", "store", "turns"))

# The bottom must stay importable without them: `vision3d --help` and `vision3d doctor` answer on a broken install.
LIGHT = ("vision3d.errors", "vision3d.config", "vision3d.cli.main", "vision3d.cli.doctor")
HEAVY = ("torch", "torchvision", "kornia", "numba", "cv2", "pycolmap", "scipy", "skimage", "open3d")

TWICE = ("matching", "recon", "detection")


def imports(source: str, module: str, is_package: bool = False) -> list[tuple[int, str, bool]]:
    """(line, absolute dotted name, whether at module level) of every import; `from a import b` gives `a.b`."""
    tree = ast.parse(source)
    inside_function = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(outer)
    }
    found: list[tuple[int, str, bool]] = []
    for node in ast.walk(tree):
        top = id(node) not in inside_function
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                keep = len(parts) - node.level + (1 if is_package else 0)
                base = ".".join([*parts[:keep], *([base] if base else [])])
            found += [(node.lineno, f"{base}.{alias.name}", top) for alias in node.names]
    return found


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """One line for each import in `module` (as `vision3d.io.ply`) that the order of layers forbids."""
    parts = module.split(".")
    mine = parts[1] if len(parts) > 1 else ""
    if mine and mine not in LEVEL:
        return [f"{module}: {mine!r} has no layer, add it to LAYERS"]
    out = []
    for line, name, top in imports(source, module, is_package):
        target = name.split(".")
        where = f"{module}:{line}: imports {name}"
        if target[0] in TWICE:
            out.append(f"{where}: write vision3d.{name}, this makes a second copy of every class")
        if module in LIGHT and top and target[0] in HEAVY:
            out.append(f"{where}: must stay importable without {target[0]}, import it inside the function")
        if target[0] != "vision3d" or len(target) < 2 or target[1] not in LEVEL:
            continue
        theirs = target[1]
        if not mine:
            out.append(f"{where}: the package itself imports nothing of its own")
        elif theirs != mine:
            if LEVEL[theirs] > LEVEL[mine] or (LEVEL[theirs] == LEVEL[mine] and (mine, theirs) not in SIBLINGS):
                out.append(f"{where}: {mine} stands below or beside {theirs}")
            elif mine == "recon" and theirs == "matching" and not _starts(name, RECON_MAY_IMPORT):
                out.append(f"{where}: recon may import only {', '.join(RECON_MAY_IMPORT)}")
    return out


def _starts(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def module_name(path: Path, root: Path) -> str:
    """`matching/base.py` -> `vision3d.matching.base`, `vision3d/io/__init__.py` -> `vision3d.io`."""
    parts = list(path.relative_to(root).with_suffix("").parts)
    if parts[0] != "vision3d":
        parts.insert(0, "vision3d")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
