"""Errors for users: a message that says what is wrong and a hint that says what to do."""

from __future__ import annotations

import copyreg


class Nova3DError(Exception):
    """Base class of all errors of this package.

    Args:
        message: the input, file or stage, and what is wrong with it.
        hint: what the user can do; shown on the same line, after the message.
    """

    def __init__(self, message: str, hint: str = ""):
        self.message = message
        self.hint = hint
        super().__init__(f"{message} {hint}".strip())

    def __reduce__(self):
        """Pickles without calling `__init__`, whose arguments differ between subclasses."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)


class InputError(Nova3DError):
    """Invalid input: a file, a field, a shape or a value."""


class StageError(Nova3DError):
    """A stage failed on valid input; `stage` is its name."""

    def __init__(self, stage: str, message: str, hint: str = ""):
        self.stage = stage
        super().__init__(f"{stage}: {message}", hint)


class MissingDependencyError(Nova3DError):
    """An optional package is required but not installed."""

    def __init__(self, package: str, needed_for: str, install: str = ""):
        self.package = package
        super().__init__(
            f"{needed_for} needs the package '{package}'.",
            f"Install it with: {install or f'pip install {package}'}",
        )


class Cancelled(Nova3DError):
    """Cancelled by the user; partial outputs are removed."""

    def __init__(self, stage: str):
        self.stage = stage
        super().__init__(f"cancelled while {stage}")
