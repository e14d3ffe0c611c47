"""Entry point of the command line: runs a command, reports errors in one line with an exit code.

Exit codes: 0 success, 1 a stage failed, 2 bad input, 130 stopped by Ctrl-C, 143 by SIGTERM, 129 by
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
        arguments: of the command line. If None, those of the process, which is assumed to exit
            afterwards: it ignores later termination signals.
    """
    # waiting threads sleep: spinning threads slow each other down tenfold on a busy machine
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    prepare_streams()
    log_to_stderr()
    bars, signals = ProgressBars(), TerminationSignals()
    try:
        with signals.handle(exits_after=arguments is None):
            command = _parse(sys.argv[1:] if arguments is None else list(arguments))
            command.run(bars.progress.with_cancellation(signals.is_received))
    except KeyboardInterrupt:
        bars.close()
        print_err("stopped: no incomplete files were left behind.")
        return signals.exit_code()
    except SystemExit:  # raised by tyro after --help or a wrong argument
        if close_stdout() == BROKEN_PIPE:
            return BROKEN_PIPE
        raise
    except Exception as error:  # including internal errors
        bars.close()
        return report_error(error)
    bars.close()
    return close_stdout()


def _parse(arguments: list[str]):
    """Parses the command and its settings; mistakes raise InputError, or exit with code 2."""
    try:
        import tyro
    except ImportError as error:
        raise MissingDependencyError("tyro", "the command line") from error
    from .ablate import Ablate
    from .bake import Bake
    from .complete import Complete
    from .demo import Demo
    from .evaluate import Evaluate
    from .export import Export
    from .fuse import Fuse
    from .generate import Generate
    from .models import Models
    from .options import public_options
    from .presets import Presets
    from .refine import Refine
    from .render import Render
    from .render_dataset import RenderDataset
    from .run import Run
    from .sample_path import SamplePath
    from .splats import MakeSplats
    from .train import Train

    commands = {
        "run": Run,
        "render": Render,
        "generate": Generate,
        "sample-path": SamplePath,
        "fuse": Fuse,
        "bake": Bake,
        "refine": Refine,
        "complete": Complete,
        "splats": MakeSplats,
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
            description="Reconstruct textured 3D meshes from images of objects.",
            args=arguments,
        )
