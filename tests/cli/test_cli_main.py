"""The command line's own rules: exit codes, one-line errors, nothing heavy for --help."""

import subprocess
import sys

import pytest

from vision3d.cli.main import COMMANDS, main


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(" ".join(words) in printed for words in COMMANDS)


@pytest.mark.parametrize("argv", [[], ["reconstrct"], ["evaluate"], ["evaluate", "everything"]])
def test_wrong_use_exits_with_2(argv: list[str]) -> None:
    assert main(argv) == 2


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("vision3d ")


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_has_help(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main([*words, "--help"])
    except SystemExit as stop:  # the parser of flags ends the process
        code = stop.code
    assert code == 0
    assert "usage: vision3d " + " ".join(words) in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--bogus", "1"], []])
def test_wrong_flags_exit_with_2(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["reconstruct", *flags])
    assert stop.value.code == 2


def test_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reconstruct", "/no/such/folder", "--out", "/tmp/never-made"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("vision3d: error: ") and "\n" not in error and "/no/such/folder" in error


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from vision3d.cli.main import main; main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")
