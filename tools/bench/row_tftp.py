"""TFTP of a file in blocks of 1428 bytes, one client, with and without windowsize (16): throughput, and processor time of the server.

One client program for all, atftp. Of the servers dnsmasq 2.90 and tftpd-hpa know no windowsize and send block by block; the best of
all is the peer of both rows. Beside them stands a server that does next to nothing (tftpfloor.c).
"""

import os
import resource
import time

from frame import GIB, ROOT, Failed, Process, Wire, in_turns, median, run, spread, wait_for
from pristine import OPEN_BOUNDS, Service
from tools import built

BLOCK, WINDOW = 1428, 16


def atftpd():
    """tftpd-hpa and atftpd can't be installed side by side: this one is unpacked."""
    folder = ROOT / "target/bench/peers"
    if not (folder / "usr/sbin/atftpd").exists():
        script = "set -euo pipefail; IMAGE=bench; . images/lib.sh; download atftpd"
        run("dpkg-deb", "-x", run("bash", "-c", script, cwd=ROOT).strip().splitlines()[-1], folder)
    return folder / "usr/sbin/atftpd"


def start(which, wire, folder):
    www = folder / "tftp"
    ip = wire.server_ip
    if which == "pristine":
        return Service(wire.server, folder / "state", OPEN_BOUNDS, nbp=www)
    args = {
        "dnsmasq": ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=eth0", "--enable-tftp",
                    f"--tftp-root={www}", "--pid-file=", "--log-facility=/dev/null", "--user=root"],
        "tftpd-hpa": ["in.tftpd", "--foreground", "--address", f"{ip}:69", "--user", "root", "--secure", www],
        "atftpd": [atftpd(), "--daemon", "--no-fork", "--user", "root.root", "--bind-address", ip, "--verbose=0", "--logfile", "-", www],
        "floor": [built("tftpfloor"), ip, 69, www / "file"],
    }[which]
    process = Process(which, args, folder / f"{which}.log", wire.server)
    wait_for(f"{which} does not listen", lambda: ":69" in wire.server.run("ss", "-Hlun"), 20, process)
    return process


def fetch(which, folder, size, window, times):
    """Bytes a second, processor time for a GiB, and which part of the time the client was busy, over `times` transfers."""
    with Wire() as wire, start(which, wire, folder) as process:
        out = folder / "got"
        options = f"--option 'blksize {BLOCK}'" + (f" --option 'windowsize {window}'" if window else "")
        get = f"atftp {options} --get --remote-file file {wire.server_ip} --local-file"
        wire.client.run("sh", "-c", f"{get} {out}", timeout=120)
        if out.stat().st_size != size:
            raise Failed(f"tftp: {which} sent {out.stat().st_size} bytes of {size}")
        before, client, began = process.cpu(), ended_children(), time.monotonic()
        wire.client.run("sh", "-ec", f"for n in $(seq {times}); do {get} /dev/null; done", timeout=120)
        took = time.monotonic() - began
        busy = (ended_children() - client) / took
        return {"bytes_s": size * times / took, "cpu_gib": (process.cpu() - before) / (size * times) * GIB, "client": busy}


def ended_children():
    """Processor time of the children that ended: of the clients, since no server does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def rows(table, work, rounds, quick):
    folder = work / "tftp-row"
    (folder / "tftp").mkdir(parents=True)
    size = (8 if quick else 16) << 20
    (folder / "tftp/file").write_bytes(os.urandom(size))
    peers = ("dnsmasq", "tftpd-hpa", "atftpd")
    servers = ("pristine", *peers, "floor")
    best = {}
    for window, reach in ((None, ">= 1"), (WINDOW, ">= 2")):
        turns = in_turns(rounds, {s: lambda s=s: fetch(s, folder, size, window, 4) for s in servers})
        speed = {s: median([r["bytes_s"] for r in runs]) for s, runs in turns.items()}
        cpu = {s: median([r["cpu_gib"] for r in runs]) for s, runs in turns.items()}
        peer = max(peers, key=lambda s: speed[s])
        how = f"windowsize {window}" if window else "no windowsize"
        busy = {s: median([r["client"] for r in runs]) for s, runs in turns.items()}
        others = ", ".join(f"{s} {speed[s] / 1e6:.0f}" for s in servers)
        others += f"; {spread(turns, 'pristine', peer, 'bytes_s')}; the client is busy {busy['pristine'] * 100:.0f} % of the time with pristine, {busy[peer] * 100:.0f} % with {peer}"
        table.add("tftp", f"throughput, {how}", f"best: {peer}", speed["pristine"] / speed[peer], reach, f"MB/s: {others}", turns)
        note = f"{speed['floor'] / 1e6:.0f} by {speed[peer] / 1e6:.0f} MB/s, the client busy {busy['floor'] * 100:.0f} % of the time"
        table.add("tftp", f"throughput, {how}, a bare loop of recv and send", f"best: {peer}", speed["floor"] / speed[peer], None, note, None)
        # What tftpd-hpa forks nobody waits for, so that nobody is told what it took.
        counted = [s for s in servers if s != "tftpd-hpa"]
        peer = max((s for s in peers if s in counted), key=lambda s: speed[s])
        others = ", ".join(f"{s} {cpu[s]:.1f}" for s in counted)
        table.add("tftp", f"CPU per GiB, {how}", peer, cpu["pristine"] / cpu[peer], "<= 1", f"s/GiB: {others}", None)
        best[how] = speed
    note = "of pristine itself: what a window gives"
    table.add("tftp", "throughput with a window by that without", "itself", best[f"windowsize {WINDOW}"]["pristine"] / best["no windowsize"]["pristine"], None, note, None)
