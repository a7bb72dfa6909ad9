"""What is served and imported: a root of bytes that no compression shortens, as an image in a store."""

import ctypes
import json
import os
import shutil
from pathlib import Path

from frame import ROOT, Failed, run
from pristine import PROGRAM


def kernel():
    """Debian's kernel for virtual machines, as the recipe of the tiny image has it."""
    script = "set -euo pipefail; IMAGE=bench; . images/lib.sh; kernel linux-image-cloud-amd64"
    return Path(run("bash", "-c", script, cwd=ROOT).strip().splitlines()[-1]) / "vmlinuz"


def squashfs(folder, mib):
    """A squashfs of about `mib` MiB of noise, not compressed."""
    path = folder / f"{mib}.squashfs"
    if not path.exists():
        root = folder / "root"
        (root / "sbin").mkdir(parents=True)
        (root / "sbin/init").write_text("#!/bin/sh\n")
        (root / "sbin/init").chmod(0o755)
        for n in range(max(1, mib // 64)):
            with open(root / f"noise-{n}", "wb") as out:
                for _ in range(min(mib, 64)):
                    out.write(os.urandom(1 << 20))
        run("mksquashfs", root, path, "-noI", "-noD", "-noF", "-noX", "-no-progress", "-quiet", "-all-root")
        shutil.rmtree(root)
    return path


def initramfs(folder):
    path = folder / "initramfs"
    path.write_bytes(b"070701" + b"pristine-init" * 8)
    return path


def importing(state, folder, root):
    """The command that imports it as web:1 into `state`."""
    return [
        PROGRAM, "--state-dir", state, "image", "import", "--name", "web", "--version", "1", "--kernel", kernel(),
        "--initramfs", initramfs(folder), "--rootfs", root, "--cmdline", "quiet",
    ]


def imported(state, folder, root):
    """Imports it; the digest of its root."""
    run(*importing(state, folder, root))
    shown = json.loads(run(PROGRAM, "--state-dir", state, "image", "show", "web:1", "--json"))
    return shown["manifest"]["rootfs"]["blob"]["digest"]


def plain(state, digest, root):
    """Has the store hold the root as a plain file, as it does kernels and initramfs, and not in chunks."""
    blob = Path(state) / "store/blobs/sha256" / digest[:2] / digest
    blob.with_suffix(".chunks").unlink()
    shutil.copyfile(root, blob)
    blob.chmod(0o444)


def into_cache(folder):
    """All files beneath, as a read from the disk lays them out: how one was written makes some of it cheaper to send."""
    drop_from_cache(folder)
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        read(path)


def read(path):
    run("sh", "-c", 'exec cat "$1" >/dev/null', "sh", path)


def drop_from_cache(folder, process=None):
    """Has the kernel forget the pages of all files beneath; those that `process` has mapped as well, which it would keep."""
    os.sync()
    if process is not None:
        page_out(process.pid, folder)
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def page_out(pid, folder):
    """process_madvise(2), MADV_PAGEOUT, of what the process has mapped of files in the folder."""
    number, advice = 440, 21
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        words = line.split(maxsplit=5)
        if len(words) < 6 or not words[5].startswith(f"{folder}/"):
            continue
        begin, end = (int(word, 16) for word in words[0].split("-"))
        vector = (ctypes.c_size_t * 2)(begin, end - begin)
        if libc.syscall(number, pidfd, vector, ctypes.c_size_t(1), advice, 0) < 0:
            raise Failed(f"process_madvise: {os.strerror(ctypes.get_errno())}")
    os.close(pidfd)
