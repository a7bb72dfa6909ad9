"""The bench's own programs: C files beside this one, compiled when they are first used."""

from pathlib import Path

from frame import ROOT, run

HERE = Path(__file__).resolve().parent


def built(name):
    """The program of that name; a script is taken as it lies here."""
    if "." in name:
        return HERE / name
    source, program = HERE / f"{name}.c", ROOT / "target/bench" / name
    newest = max(path.stat().st_mtime for path in (source, HERE / "common.h"))
    if not program.exists() or program.stat().st_mtime < newest:
        run("gcc", "-O2", "-Wall", "-Werror", "-o", program, source)
    return program
