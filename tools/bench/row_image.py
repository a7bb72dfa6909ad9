"""Import of a 2 GiB root, which is copied, hashed and given its dm-verity tree in one pass, next to what does the same by hand:
`sha256sum`, `veritysetup format` and `cp`, one after the other. From the page cache; wall time. The import ends when all is on the disk;
the three are run as they are, and once more with `sync` of what they wrote.
"""

import shutil
import time

from content import importing, read, squashfs
from frame import in_turns, median, run


def rows(table, work, rounds, quick):
    folder = work / "image"
    folder.mkdir()
    root = squashfs(folder, 256 if quick else 2048)
    state = folder / "state"
    command = importing(state, folder, root)
    # Of each command by itself.
    singly = {}

    def clock(what):
        shutil.rmtree(state, ignore_errors=True)
        for name in ("tree", "copy"):
            (folder / name).unlink(missing_ok=True)
        run("sync")
        # Into the page cache, whatever was pushed out of it.
        read(root)
        began = time.monotonic()
        what()
        return time.monotonic() - began

    def by_hand():
        for args in (["sha256sum", root], ["veritysetup", "format", root, folder / "tree"], ["cp", root, folder / "copy"]):
            began = time.monotonic()
            run(*args)
            singly.setdefault(args[0], []).append(time.monotonic() - began)

    def written():
        run("dd", f"if={root}", f"of={folder / 'copy'}", "bs=1M", "conv=fsync", "status=none")

    def by_hand_synced():
        by_hand()
        run("sync", folder / "tree", folder / "copy")

    ways = {
        "import": lambda: clock(lambda: run(*command)),
        "by hand": lambda: clock(by_hand),
        "by hand, synced": lambda: clock(by_hand_synced),
        "written": lambda: clock(written),
    }
    turns = in_turns(max(2, rounds // 2 + 1), ways)
    took = {way: median(times) for way, times in turns.items()}
    each = ", ".join(f"{name} {median(times):.1f}" for name, times in singly.items())
    note = f"{took['import']:.1f} by {took['by hand']:.1f} s ({each}); the disk takes {took['written']:.1f} s for so many bytes"
    table.add("image", f"import of {root.stat().st_size / (1 << 30):.2g} GiB, wall", "sha256sum+veritysetup+cp", took["import"] / took["by hand"], "<= 0.6", note, turns)
    note = f"{took['import']:.1f} by {took['by hand, synced']:.1f} s: both on the disk"
    table.add("image", "the same", "... and sync", took["import"] / took["by hand, synced"], "<= 0.6", note, None)
