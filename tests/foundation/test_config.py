"""Settings from YAML and flags: nothing unknown gets through, errors name file and key, flags win over the file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision3d.config import dump_config, load_config, parse
from vision3d.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Verify:
    min_inliers: int = 15
    max_error_px: float = 4.0

    def __post_init__(self) -> None:
        if self.max_error_px <= 0:
            raise ValueError(f"max_error_px must be positive, got {self.max_error_px}")


@dataclass(frozen=True, kw_only=True)
class Stage:
    name: str
    steps: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Run:
    photos: Path
    matcher: Literal["auto", "sift"] = "auto"
    max_size: int | None = 1600
    shared: bool = False
    verify: Verify = Verify()
    other: Verify | None = None
    stages: tuple[Stage, ...] = ()
    named: dict[str, Verify] = field(default_factory=dict)


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_nested_values(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        "photos: a b/ü\nmax_size: null\nverify: {max_error_px: 1e-3}\nstages: [{name: x, steps: [1, 2]}]\n"
        "named: {left: {min_inliers: 3}}\n",
    )
    config = load_config(Run, path)
    assert config == Run(
        photos=Path("a b/ü"),
        max_size=None,
        verify=Verify(max_error_px=1e-3),  # YAML 1.1 reads 1e-3 as text; it still becomes a number
        stages=(Stage(name="x", steps=(1, 2)),),
        named={"left": Verify(min_inliers=3)},
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("photos: a\nmatchr: sift", "unknown key 'matchr', did you mean 'matcher'?"),
        ("photos: a\nverify: {min_inlier: 3}", "unknown key 'verify.min_inlier', did you mean 'min_inliers'?"),
        ("photos: a\nother: {bogus: 3}", "unknown key 'other.bogus'"),
        ("photos: a\nstages: [{name: x, stesp: [1]}]", "unknown key 'stages.0.stesp', did you mean 'steps'?"),
        ("photos: a\nnamed: {left: {min_inlirs: 3}}", "unknown key 'named.left.min_inlirs'"),
        ("matcher: sift", "key 'photos' is missing"),
        ("photos: a\nstages: [{}]", "key 'stages.0.name' is missing"),
        ("photos: a\nmatcher: best", "key 'matcher' should be 'auto' or 'sift', got 'best'"),
        ("photos: a\nmax_size: big", "key 'max_size' should be a valid integer"),
        ("photos: a\nverify: {max_error_px: -1}", "key 'verify': max_error_px must be positive, got -1.0"),
        ("photos: a\nverify: 3", "key 'verify' should be"),
        ("photos: a\nphotos: b", ":2: not valid YAML: key 'photos' twice"),
        ("photos: a\nverify: {min_inliers: 1, min_inliers: 2}", "key 'min_inliers' twice"),
        ("photos: [", "not valid YAML"),
        ("- photos", "expected `key: value` lines, got ['photos']"),
        ("", "key 'photos' is missing"),
    ],
)
def test_errors_are_one_line_with_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_config(Run, path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load_config(Run, tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="Is a directory"):
        load_config(Run, tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UsageError, match="not a text file"):
        load_config(Run, tmp_path / "binary.yaml")


@settings(max_examples=30, deadline=None)
@given(
    st.builds(
        Run,
        photos=st.text("abc äß'#:-", min_size=1).map(Path),
        matcher=st.sampled_from(["auto", "sift"]),
        max_size=st.none() | st.integers(),
        shared=st.booleans(),
        verify=st.builds(Verify, min_inliers=st.integers(), max_error_px=st.floats(1e-300, 1e300)),
        other=st.none() | st.just(Verify(max_error_px=math.inf)),
        stages=st.lists(st.builds(Stage, name=st.text(), steps=st.lists(st.integers()).map(tuple))).map(tuple),
    )
)
def test_dump_and_load_are_inverse(tmp_path_factory: pytest.TempPathFactory, config: Run) -> None:
    path = tmp_path_factory.mktemp("config") / "run.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(Run, path) == config


def test_dump_keeps_the_order_of_the_class() -> None:
    assert dump_config(Verify()) == "min_inliers: 15\nmax_error_px: 4.0\n"


def test_flags_alone() -> None:
    config = parse(Run, ["--photos", "p", "--verify.min-inliers", "7"])
    assert config == Run(photos=Path("p"), verify=Verify(min_inliers=7))


def test_flags_override_the_file(tmp_path: Path) -> None:
    path = _file(tmp_path, "photos: p\nmax_size: 800\nverify: {min_inliers: 3, max_error_px: 2}")
    config = parse(Run, ["--verify.min-inliers", "7"], config_file=path)
    assert config == Run(photos=Path("p"), max_size=800, verify=Verify(min_inliers=7, max_error_px=2))


@pytest.mark.parametrize("style", ["two words", "equals"])
def test_config_flag_and_required_field_in_flags(tmp_path: Path, style: str) -> None:
    path = _file(tmp_path, "max_size: 800")
    flag = [f"--config={path}"] if style == "equals" else ["--config", str(path)]
    assert parse(Run, [*flag, "--photos", "p", "--shared"]) == Run(photos=Path("p"), max_size=800, shared=True)


def test_wrong_flags_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(Run, ["--photos", "p", "--matchr", "sift"], prog="vision3d reconstruct")
    assert caught.value.code == 2
    assert "--matchr" in capsys.readouterr().err
    with pytest.raises(SystemExit):  # required in neither place
        parse(Run, [], config_file=_file(tmp_path, "max_size: 800"))
    with pytest.raises(UsageError, match="unknown key 'max_sise', did you mean 'max_size'"):
        parse(Run, ["--photos", "p"], config_file=_file(tmp_path, "max_sise: 800"))
    with pytest.raises(UsageError, match="--config needs"):
        parse(Run, ["--photos", "p", "--config"])


def test_help_says_how_to_use_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(Run, ["--help"], prog="vision3d reconstruct", text="photos to cameras")
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    assert "--config FILE" in shown
    assert "photos to cameras" in shown


@dataclass(frozen=True, kw_only=True)
class Source:
    folder: Path
    count: int = 3


@dataclass(frozen=True, kw_only=True)
class Training:
    source: Source
    verify: Verify


def test_required_fields_of_parts_may_be_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, count in (("", 3), ("source: {count: 5}\n", 5)):
        config = parse(Training, ["--source.folder", "x"], config_file=_file(tmp_path, text))
        assert config == Training(source=Source(folder=Path("x"), count=count), verify=Verify())
    with pytest.raises(SystemExit):
        parse(Training, [], config_file=_file(tmp_path, "source: {count: 5}\n"))
    assert "--source.folder" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"unknown key 'source\.cuont', did you mean 'count'"):
        parse(Training, ["--source.folder", "x"], config_file=_file(tmp_path, "source: {cuont: 5}\n"))
