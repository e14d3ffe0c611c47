"""The errors that a user sees: what was wrong, and what to do about it."""

from __future__ import annotations

import copyreg


class Nova3DError(Exception):
    """Any failure this package explains.

    Args:
        message: names the input, file or stage, and what was wrong with it.
        hint: what the user can do; shown on the same line, after the message.
    """

    def __init__(self, message: str, hint: str = ""):
        self.message = message
        self.hint = hint
        super().__init__(f"{message} {hint}".strip())

    def __reduce__(self):
        """Errors of other processes arrive whole, whatever their class is made from."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)


class InputError(Nova3DError):
    """Something given to us cannot be used: a file, a field, a shape, a value."""


class StageError(Nova3DError):
    """A stage failed on input that looked right; `stage` names it."""

    def __init__(self, stage: str, message: str, hint: str = ""):
        self.stage = stage
        super().__init__(f"{stage}: {message}", hint)


class MissingDependencyError(Nova3DError):
    """An optional package is needed now and is not installed."""

    def __init__(self, package: str, needed_for: str, install: str = ""):
        self.package = package
        super().__init__(
            f"{needed_for} needs the package '{package}'.",
            f"Install it with: {install or f'pip install {package}'}",
        )


class Cancelled(Nova3DError):
    """The user asked to stop; nothing half-written stays behind."""

    def __init__(self, stage: str):
        self.stage = stage
        super().__init__(f"cancelled while {stage}")
