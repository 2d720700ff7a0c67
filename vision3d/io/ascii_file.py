"""Reads small text files of numbers, with an error that says what is wrong with the file."""

from __future__ import annotations

from pathlib import Path

from vision3d.errors import Vision3DError


def read_ascii(path: str | Path, kind: str = "a text file") -> str:
    """The file's text, line ends as they are.

    Raises:
        Vision3DError: it cannot be read, or is not `kind`, which the message names.
    """
    try:
        with open(path, encoding="ascii", newline="") as stream:  # noqa: PTH123  # a third of Path.read_text's time
            return stream.read()
    except UnicodeDecodeError:
        raise Vision3DError(f"{path} is not {kind}") from None
    except OSError as error:
        raise Vision3DError(f"cannot read {path}: {error.strerror or error}") from None
