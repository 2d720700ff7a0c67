"""Run folders: ownership, locks, and stages that are whole or absent."""

from pathlib import Path

import pytest

from vision3d.errors import UsageError
from vision3d.recon.run_folder import open_run


def test_a_stage_is_built_once_for_the_same_key(tmp_path: Path) -> None:
    built: list[int] = []

    def build(folder: Path) -> None:
        built.append(1)
        (folder / "value").write_text(str(len(built)))

    with open_run(tmp_path / "out") as run:
        first, made = run.stage("poses", {"seed": 0}, build)
        assert made and (first / "value").read_text() == "1"
        again, made = run.stage("poses", {"seed": 0}, build)
        assert not made and again == first and len(built) == 1
        other, made = run.stage("poses", {"seed": 1}, build)
        assert made and other != first and not first.exists()


def test_a_stage_that_fails_leaves_nothing_and_keeps_the_old_one(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("killed")

    with open_run(tmp_path / "out") as run:
        old, _ = run.stage("poses", {"seed": 0}, lambda folder: None)
        with pytest.raises(RuntimeError):
            run.stage("poses", {"seed": 1}, fails)
        assert old.is_dir()
        assert [p.name for p in run.stages.iterdir() if p.is_dir()] == [old.name]


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all my work")
    with pytest.raises(UsageError, match="something else"), open_run(tmp_path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UsageError, match="is a file"), open_run(tmp_path / "out"):
        pass


def test_a_run_killed_while_it_made_its_folder_can_go_on(tmp_path: Path) -> None:
    (tmp_path / "out" / "stages").mkdir(parents=True)
    with open_run(tmp_path / "out") as run:
        assert run.path == tmp_path / "out"


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with open_run(tmp_path / "out"), pytest.raises(UsageError, match="another run"), open_run(tmp_path / "out"):
        pass
    with open_run(tmp_path / "out"):
        pass
