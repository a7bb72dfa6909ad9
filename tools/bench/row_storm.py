"""64 machines that want the same root at once, over a link shaped to 1 Gbit/s at the server: when each of them has it.

Pristine lets some fetch at a time and has the others wait in line: 12, as it is by default, which is meant for a server's 10 Gbit/s and machines
with one; and 4, as its manual says for a link that one machine's NIC fills. nginx serves all at once. The machines are simulated, each with an
address of its own: each asks for its boot script and then fetches the root of that boot.

What turns gain depends on how a full link is shared without them. The link is shared in equal parts, as Debian's default (fq_codel) shares a
server's NIC; and, in rows of its own, it is one queue for all, as a switch's port may be, which cubic shares by luck.
"""

import json
import re
import subprocess
import sys

from content import imported, squashfs
from frame import Failed, Wire, in_turns, median
from pristine import OPEN_BOUNDS, Service
from row_http import nginx
from tools import built

MACHINES = 64
RATE = 1_000_000_000
# Of a frame of 1,514 bytes, and the 24 that Ethernet adds, what is the root's.
USEFUL = 1448 / 1514


def rows(table, work, rounds, quick):
    folder = work / "storm"
    folder.mkdir()
    root = squashfs(folder, 16 if quick else 64)
    size = root.stat().st_size
    digest = imported(folder / "state", folder, root)
    (folder / "www").mkdir()
    (folder / "www/root").write_bytes(root.read_bytes())

    def storm(which, shape):
        with Wire() as wire:
            # The machines' addresses.
            wire.client.ip("route", "add", "local", "198.18.1.0/24", "dev", "lo")
            shape(wire.server)
            if which == "nginx":
                with nginx(wire, folder):
                    return fetch(wire, 8080, ["/root"] * MACHINES, None)
            with Service(wire.server, folder / "state", OPEN_BOUNDS, turns=which) as service:
                service.command("default", "web:1")
                return fetch(wire, 80, [path_of(wire, n) for n in range(MACHINES)], 5)

    def path_of(wire, n):
        url = f"http://{wire.server_ip}/boot/script?mac=02:20:00:00:00:{n:02x}&platform=efi&buildarch=x86_64"
        script = wire.client.run("curl", "-sf", url)
        boot = re.search(r"pristine\.boot=(\w+)", script)
        if not boot:
            raise Failed(f"storm: a machine got no boot script: {script[:200]}")
        return f"/blobs/{digest}?boot={boot[1]}"

    def fetch(wire, port, paths, wait):
        machines = [{"address": address(n), "path": path} for n, path in enumerate(paths)]
        order = {"server": wire.server_ip, "port": port, "machines": machines, "wait": wait}
        args = ["ip", "netns", "exec", wire.client.name, sys.executable, "-B", built("storm.py")]
        done = subprocess.run([str(a) for a in args], input=json.dumps(order), stdout=subprocess.PIPE, text=True, timeout=900, check=True)
        found = json.loads(done.stdout)
        if len(found["finished"]) != MACHINES:
            raise Failed(f"storm: {len(found['finished'])} of {MACHINES} machines have their root: {found['wrong'][:3]}")
        ends = found["finished"]
        return {"first": ends[0], "mean": sum(ends) / len(ends), "last": ends[-1], "used": size * MACHINES * 8 / USEFUL / ends[-1] / RATE}

    fair, queue = in_equal_parts, in_one_queue
    ways = [(4, fair), (12, fair), ("nginx", fair), (4, queue), (12, queue), ("nginx", queue)]
    turns = in_turns(max(1, rounds // 2), {way: lambda way=way: storm(*way) for way in ways})
    at = {way: {k: median([r[k] for r in runs]) for k in runs[0]} for way, runs in turns.items()}
    for line, shape in ways:
        if line != "nginx":
            figures = {"pristine": turns[line, shape], "nginx": turns["nginx", shape]}
            tell(table, line, shape, at[line, shape], at["nginx", shape], figures)


def tell(table, line, shape, mine, theirs, figures):
    what = f"{MACHINES} machines at 1 Gbit/s, {line} at a time{', one queue' if shape is in_one_queue else ''}"
    # So many at a time, each with its part of the link, on the average end then.
    least = (MACHINES + line) / (2 * MACHINES) * mine["last"]
    note = (
        f"{mine['mean']:.1f} by {theirs['mean']:.1f} s; in turns of {line} on a full link it is {least:.1f} s, {least / theirs['mean']:.2f}; "
        f"nginx's first has its root after {theirs['first']:.1f} s, its last after {theirs['last']:.1f}"
    )
    table.add("storm", f"{what}: mean finish", "nginx", mine["mean"] / theirs["mean"], "<= 0.65", note, figures)
    table.add("storm", f"{what}: last finish", "nginx", mine["last"] / theirs["last"], "<= 1.05", f"{mine['last']:.1f} by {theirs['last']:.1f} s", None)
    table.add("storm", f"{what}: use of the link", "the link", mine["used"], ">= 0.95", f"nginx {theirs['used']:.2f}", None)


def in_one_queue(server):
    server.run("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", f"{RATE}bit", "burst", "256kb", "latency", "50ms")


def in_equal_parts(server):
    """A queue for each machine, and all that have something to send in turns: htb, since not every kernel has fq_codel."""
    rate = lambda bits: f"htb rate {bits}bit ceil {RATE}bit burst 256kb cburst 256kb"
    lines = ["qdisc add dev eth0 root handle 1: htb default ff", f"class add dev eth0 parent 1: classid 1:fff {rate(RATE)}"]
    for n in (*range(MACHINES), 0xfe):
        lines.append(f"class add dev eth0 parent 1:fff classid 1:{n + 1:x} {rate(RATE // (MACHINES + 1))} quantum 3028")
    server.run("tc", "-batch", "-", input="\n".join(lines))
    classes = ", ".join(f"{address(n)} : 1:{n + 1:x}" for n in range(MACHINES))
    server.run("nft", f"add table ip storm; add chain ip storm out {{ type filter hook output priority 0; }}; "
                      f"add rule ip storm out meta priority set ip daddr map {{ {classes} }}")


def address(machine):
    return f"198.18.1.{machine + 1}"
