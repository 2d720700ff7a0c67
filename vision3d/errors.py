"""Errors meant for the person at the keyboard: one line that says what was wrong and what to do (imports nothing)."""


class Vision3DError(Exception):
    """The work failed (exit code 1). The message is one line: what was wrong, with which file, and what to do."""

    exit_code = 1


class UsageError(Vision3DError):
    """The call was wrong: bad arguments, missing input, an output folder that holds something else (exit code 2)."""

    exit_code = 2


class MissingWeightsError(Vision3DError):
    """Weights are not on this machine and cannot be fetched; the message says what to put where."""
