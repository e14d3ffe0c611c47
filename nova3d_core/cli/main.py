"""The command line: chooses a command, runs it, turns errors into one clear line and an exit code.

Exit codes: 0 done, 1 a stage failed, 2 bad input, 130 stopped by Ctrl-C, 143 by SIGTERM, 129 by
SIGHUP, 141 stdout was closed.
"""

from __future__ import annotations

import functools
import operator
import os
import sys
from collections.abc import Sequence
from typing import Annotated

from ..errors import MissingDependencyError
from .console import (
    ProgressBars,
    close_stdout,
    log_to_stderr,
    prepare_streams,
    print_err,
    report_error,
)
from .failures import BROKEN_PIPE
from .signals import TerminationSignals

PROGRAM = "python -m nova3d_core"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code.

    Args:
        arguments: what follows the program's name. None takes those of the process, which is
            taken to exit afterwards: from then on it ignores the signals that would end it.
    """
    # threads that wait by sleeping: on a busy machine spinning ones slow each other tenfold
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    prepare_streams()
    log_to_stderr()
    bars, signals = ProgressBars(), TerminationSignals()
    try:
        with signals.handled(ends_process=arguments is None):
            command = _parsed(sys.argv[1:] if arguments is None else list(arguments))
            command.run(bars.progress.also_cancelled_by(signals.is_received))
    except KeyboardInterrupt:
        bars.close()
        print_err("stopped: nothing half-written was left.")
        return signals.exit_code()
    except SystemExit:  # tyro's, after --help or a mistake
        if close_stdout() == BROKEN_PIPE:
            return BROKEN_PIPE
        raise
    except Exception as error:  # also the last resort: a line that says what to report
        bars.close()
        return report_error(error)
    bars.close()
    return close_stdout()


def _parsed(arguments: list[str]):
    """The chosen command with its settings; a mistake in them is an InputError or exit code 2."""
    try:
        import tyro
    except ImportError as error:
        raise MissingDependencyError("tyro", "the command line") from error
    from .ablate import Ablate
    from .demo import Demo
    from .evaluate import Evaluate
    from .export import Export
    from .fuse import Fuse
    from .generate import Generate
    from .models import Models
    from .options import public_options
    from .presets import Presets
    from .render import Render
    from .render_dataset import RenderDataset
    from .run import Run
    from .train import Train

    commands = {
        "run": Run,
        "render": Render,
        "generate": Generate,
        "fuse": Fuse,
        "evaluate": Evaluate,
        "ablate": Ablate,
        "presets": Presets,
        "models": Models,
        "render-dataset": RenderDataset,
        "train": Train,
        "export": Export,
        "demo": Demo,
    }
    choices = [Annotated[command, tyro.conf.subcommand(name)] for name, command in commands.items()]
    with public_options():
        return tyro.cli(
            functools.reduce(operator.or_, choices),
            prog=PROGRAM,
            description="Images of an object in, a textured 3D mesh out.",
            args=arguments,
        )
