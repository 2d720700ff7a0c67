"""Run folders: ownership, locks, and stages that are whole or absent."""

import shutil
from pathlib import Path

import pytest

from vision3d.errors import UsageError
from vision3d.recon.run_folder import open_run


def _read(folder: Path) -> str:
    return (folder / "value").read_text()


def test_a_stage_is_built_once_for_the_same_key(tmp_path: Path) -> None:
    built: list[int] = []

    def build(folder: Path) -> None:
        built.append(1)
        (folder / "value").write_text(str(len(built)))

    with open_run(tmp_path / "out") as run:
        assert run.stage("poses", {"seed": 0}, build, _read) == "1"
        assert run.stage("poses", {"seed": 0}, build, _read) == "1" and len(built) == 1
        assert run.stage("poses", {"seed": 1}, build, _read) == "2"
        assert len(list(run.stages.glob("poses-*"))) == 1, "the old output goes when the new one is whole"


def test_a_damaged_stage_is_made_again(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "value").write_text("whole")

    with open_run(tmp_path / "out") as run:
        run.stage("poses", {}, build, _read)
        next(run.stages.glob("poses-*/value")).unlink()
        assert run.stage("poses", {}, build, _read) == "whole"


def test_a_stage_that_fails_leaves_nothing_and_keeps_the_old_one(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("killed")

    with open_run(tmp_path / "out") as run:
        run.stage("poses", {"seed": 0}, lambda folder: None, str)
        old = [p.name for p in run.stages.iterdir() if p.is_dir()]
        with pytest.raises(RuntimeError):
            run.stage("poses", {"seed": 1}, fails, str)
        assert [p.name for p in run.stages.iterdir() if p.is_dir()] == old


def test_results_stay_ours_without_their_stages(tmp_path: Path) -> None:
    with open_run(tmp_path / "out"):
        pass
    (tmp_path / "out" / "run.json").write_text('{"vision3d": "0.1.0"}')
    shutil.rmtree(tmp_path / "out" / "stages")
    with open_run(tmp_path / "out") as run:
        assert run.stages.is_dir()


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


def test_results_of_other_settings_make_room(tmp_path: Path) -> None:
    with open_run(tmp_path / "out") as run:
        run.claim("surface", {"seed": 0}, ("mesh.ply", "renders"))
        (run.path / "mesh.ply").write_text("first")
        (run.path / "renders").mkdir()
        (run.path / "notes.txt").write_text("somebody's")
        run.claim("surface", {"seed": 0}, ("mesh.ply", "renders"))
        assert (run.path / "mesh.ply").is_file(), "the same settings keep what is there"
        run.claim("surface", {"seed": 1}, ("mesh.ply", "renders"))
        assert sorted(p.name for p in run.path.iterdir()) == ["notes.txt", "stages"]
