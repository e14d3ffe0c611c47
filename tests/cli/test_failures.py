"""Every failure ends in one line of less than 500 characters and an exit code, no traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from nova3d_core.cli.failures import describe_error, one_line
from nova3d_core.cli.main import main
from nova3d_core.cli.presets import Presets
from nova3d_core.errors import Cancelled, InputError, MissingDependencyError, StageError
from nova3d_core.progress import Progress

from .conftest import KNIGHT, ROOT, SMALL_RIG, command

POSIX = pytest.mark.skipif(os.name == "nt", reason="needs POSIX pipes and limits")


def run(words: list[object], **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, **options.pop("env", {})}
    return subprocess.run(
        [str(word) for word in words], cwd=ROOT, env=environment, timeout=300, check=False,
        **{"capture_output": True, **options},
    )  # fmt: skip


def run_python(script: str, **options) -> subprocess.CompletedProcess:
    """Runs a script that calls `main` in a process of its own."""
    start = "import sys\nfrom nova3d_core.cli.main import main\n"
    return run([sys.executable, "-c", start + script], **options)


def error_line(result: subprocess.CompletedProcess, code: int) -> str:
    """The error line of a failed command."""
    stderr = result.stderr.decode() if isinstance(result.stderr, bytes) else result.stderr
    assert result.returncode == code, stderr
    assert "Traceback" not in stderr
    lines = [
        line for line in stderr.splitlines() if line.startswith(("error: ", "internal error: "))
    ]
    assert len(lines) == 1, stderr
    assert len(lines[0]) < 500
    return lines[0]


@pytest.fixture
def failing(monkeypatch, capsys):
    """Runs a command that executes Python code: `failing("1 / 0")` returns exit code and line."""

    def run_failing(body: str) -> tuple[int, str]:
        def run_body(self: Presets, progress: Progress) -> None:
            exec(body, {})

        monkeypatch.setattr(Presets, "run", run_body)
        code = main(["presets"])
        stderr = capsys.readouterr().err
        assert "Traceback" not in stderr
        line = stderr.splitlines()[-1]
        assert stderr == line + "\n"
        assert len(line) < 500
        return code, line

    return run_failing


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ("raise MemoryError", 1, "error: memory ran out."),
        ("raise OSError(12, 'Cannot allocate memory')", 1, "error: memory ran out."),
        ("import torch; torch.empty(2**60)", 1, "error: memory ran out."),
        ("raise ValueError('a\\nb')", 1, "internal error: ValueError at"),
        ("raise AssertionError", 1, "internal error: AssertionError at cli/main.py:"),
        ("raise RuntimeError('x' * 100_000)", 1, "internal error: RuntimeError"),
        (
            "def f(): g()\ndef g(): f()\nglobals().update(locals()); f()",
            1,
            "error: the input is nested too deeply",
        ),
        ("import math; math.exp(1e9)", 1, "error: a number is too large"),
        ("import nothing_of_this_name", 2, "'nothing_of_this_name'"),
        ("open('/nowhere/at/all')", 1, "error: /nowhere/at/all: No such file or directory."),
        ("raise OSError(28, 'No space left on device', 'a.glb')", 1, "the disk is full"),
        ("open('a\\0b')", 1, "internal error: ValueError"),
    ],
)
def test_every_exception_is_reported_in_one_line(failing, body, code, words):
    exit_code, line = failing(body)
    assert words in line
    assert exit_code == code


def test_internal_error_has_its_location_and_a_request_to_report(failing, monkeypatch, capsys):
    body = "from nova3d_core.io.files.containment import path_inside; path_inside(None, 'a', 'b')"
    code, line = failing(body)
    assert code == 1
    assert "TypeError at io/files/containment.py:" in line
    assert "/issues with the traceback that NOVA3D_TRACEBACK=1 prints." in line
    monkeypatch.setenv("NOVA3D_TRACEBACK", "1")
    assert main(["presets"]) == 1
    stderr = capsys.readouterr().err
    assert "Traceback (most recent call last)" in stderr
    assert stderr.splitlines()[-1] == line


def test_lines_and_exit_codes_of_our_own_errors():
    assert describe_error(InputError("a.glb is damaged.", "Try.")) == ("a.glb is damaged. Try.", 2)
    assert describe_error(MissingDependencyError("x", "y"))[1] == 2
    assert describe_error(StageError("fusing", "it failed.")) == ("fusing: it failed.", 1)
    assert describe_error(Cancelled("fusing"))[1] == 130
    assert describe_error(OSError(errno.EACCES, "Permission denied", "x")) == (
        "x: Permission denied.",
        1,
    )


def test_line_is_printable_and_short_and_keeps_its_hint():
    assert one_line("a\nb\tc\x1b[31m\x00") == "a b c\\x1b[31m\\x00"
    long = one_line("x" * 10_000 + "the end")
    assert len(long) < 500
    assert long.endswith("the end")
    hinted = one_line("x" * 10_000, "Do this.")
    assert len(hinted) < 500
    assert hinted.endswith("... Do this.")
    assert one_line("é \udcff") == "é \udcff"  # escaped by the stream


@POSIX
def test_running_out_of_memory_is_reported_in_one_line(tmp_path):
    limit = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))\n"
        f"sys.exit(main(['render', {str(KNIGHT)!r}, '-o', {str(tmp_path / 'v')!r},\n"
        "    '--rig.count', '4', '--rig.width-px', '16384', '--rig.height-px', '16384']))"
    )
    line = error_line(run_python(limit, env={"OMP_NUM_THREADS": "1"}), 1)
    assert "memory" in line
    assert list(tmp_path.iterdir()) == []


@POSIX
@pytest.mark.parametrize("words", [["presets"], ["--help"]])
def test_broken_pipe_ends_silently(words):
    reading, writing = os.pipe()
    os.close(reading)
    result = run(command(*words), capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert result.returncode == 141
    assert result.stderr == b""


@POSIX
def test_full_disk_of_stdout_is_reported():
    with open("/dev/full", "wb") as full:
        result = run(command("presets"), capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert error_line(result, 1) == "error: writing the result: stdout: No space left on device."


@POSIX
@pytest.mark.parametrize("closed", ["2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_neither_abort_nor_corrupt_files(tmp_path, closed):
    words = " ".join(command("render", KNIGHT, "-o", tmp_path / "v", *SMALL_RIG))
    result = run(["sh", "-c", f"{words} {closed}"])
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "v" / "images").iterdir())) == 8
    assert b"Traceback" not in result.stderr


def test_streams_may_be_none():
    result = run_python("sys.stdout = sys.stderr = None\ncode = main(['presets'])\nsys.exit(code)")
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    result = run_python(
        "sys.stdout = sys.stderr = None\nsys.exit(main(['render', 'no.glb', '-o', 'x']))"
    )
    assert (result.returncode, result.stdout, result.stderr) == (2, b"", b"")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii:strict"])
def test_streams_of_any_encoding(tmp_path, encoding):
    name = "Würfel_立方体.glb"
    result = run(command("render", tmp_path / name, "-o", "x"), env={"PYTHONIOENCODING": encoding})
    assert result.returncode == 2
    line = result.stderr.decode(encoding.split(":")[0])
    assert "rfel_\\u7acb\\u65b9\\u4f53.glb" in line
    assert run(command("--help"), env={"PYTHONIOENCODING": encoding}).returncode == 0


@POSIX
def test_undecodable_names_are_escaped(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n.ckpt")).write_bytes(b"")
    result = run(command("models", "--folder", tmp_path))
    assert result.returncode == 0, result.stderr
    assert b"\\udcff" in result.stdout


def test_progress_without_tqdm_is_plain_lines(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert main(["render", str(KNIGHT), "-o", str(tmp_path / "v"), *SMALL_RIG]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert "rendering: 0/8" in lines
    assert "rendering: 8/8" in lines
    assert "writing views: 8/8" in lines


def test_result_starts_on_a_new_line_below_the_progress_bar(tmp_path):
    words = command("render", KNIGHT, "-o", tmp_path / "v", *SMALL_RIG)
    streams = {"capture_output": False, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    result = run(words, **streams)
    lines = result.stdout.decode().splitlines()
    assert any("writing views: 100%" in line for line in lines)
    assert lines[-1].startswith("8 views of ")


@pytest.mark.parametrize("gone", ["the folder", "all folders"])
def test_missing_temporary_folder_is_reported(tmp_path, failing, monkeypatch, gone):
    if gone == "the folder":
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    else:
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/nowhere"])
    code, line = failing("import tempfile; tempfile.mkdtemp()")
    assert code == 1
    assert line.startswith("error: no temporary file can be created: ")
    assert "Set TMPDIR" in line


def test_recognises_the_message_of_the_torch_allocator():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert describe_error(caught.value) == describe_error(MemoryError())
    text = (
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"
    )
    assert describe_error(RuntimeError(text)) == describe_error(MemoryError())
    assert describe_error(torch.cuda.OutOfMemoryError("CUDA out of memory.")) == describe_error(
        MemoryError()
    )
