"""System calls and allocations of the service for a DHCP answer and for a MiB served: they don't depend on the machine's mood.

System calls by `strace -f -c` while the load runs; allocations by valgrind's memcheck, as the difference of two runs of which one had more
to do.
"""

import json
import re
import signal

from content import imported, squashfs
from frame import Process, Wire, wait_for
from pristine import OPEN_BOUNDS, Service
from row_http import nginx
from tools import built

CALLS = re.compile(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$", re.M)


def traced(process, folder, what):
    """System calls, by name, while `what` runs; and what it gave."""
    out = folder / "strace"
    pids = [arg for pid in process.tree() for arg in ("-p", str(pid))]
    (folder / "strace.log").unlink(missing_ok=True)
    tracer = Process("strace", ["strace", "-f", "-c", "-o", out, *pids], folder / "strace.log")
    wait_for("strace attaches", lambda: tracer.log.read_text().count(" attached") == len(process.tree()), 20, tracer)
    result = what()
    tracer.stop(signal.SIGINT)
    return {name: int(count) for count, name in CALLS.findall(out.read_text()) if name != "total"}, result


def most(calls, by):
    top = sorted(calls.items(), key=lambda c: -c[1])[:5]
    return ", ".join(f"{name} {count / by:.2f}" for name, count in top)


def rows(table, work, rounds, quick):
    folder = work / "counts"
    folder.mkdir()
    root = squashfs(folder, 64)
    digest = imported(folder / "chunks", folder, root)
    (folder / "www").mkdir()
    (folder / "www/root").write_bytes(root.read_bytes())
    mib = root.stat().st_size / (1 << 20)
    with Wire() as wire:
        load = lambda rate: json.loads(wire.client.run(built("dhcpload"), wire.client_ip, wire.server_ip, rate, 3))
        drain = lambda port, path: wire.client.run(built("drain"), wire.server_ip, port, path, 1, 60, "once")
        with Service(wire.server, folder / "chunks", OPEN_BOUNDS) as service:
            for rate in (200, 4000):
                calls, said = traced(service, folder, lambda: load(rate))
                answers = said["offer"]["received"] + said["ack"]["received"]
                table.add("counts", f"system calls per DHCP answer at {rate}/s", "", sum(calls.values()) / answers, None, most(calls, answers), calls)
            path = f"/blobs/{digest}"
            drain(80, path)
            calls, _ = traced(service, folder, lambda: drain(80, path))
        with nginx(wire, folder) as peer:
            drain(8080, "/root")
            theirs, _ = traced(peer, folder, lambda: drain(8080, "/root"))
        ratio = sum(calls.values()) / max(1, sum(theirs.values()))
        note = f"{sum(calls.values()) / mib:.2f} by {sum(theirs.values()) / mib:.2f}: {most(calls, mib)}"
        table.add("counts", "system calls per MiB served", "nginx sendfile", ratio, None, note, {"pristine": calls, "nginx": theirs})
        few, many = (50, 550) if quick else (200, 2200)
        base = allocations(wire, folder, few, lambda: None, digest)
        more = allocations(wire, folder, many, lambda: None, digest)
        table.add("counts", "allocations per DHCP answer", "", (more - base) / (2 * (many - few)), None, "valgrind", None)
        times = 4
        more = allocations(wire, folder, few, lambda: [drain(80, f"/blobs/{digest}") for _ in range(times)], digest)
        table.add("counts", "allocations per MiB served", "", (more - base) / (times * mib), None, "with each request's own", None)


def allocations(wire, folder, exchanges, then, digest):
    """Allocations of a service that lives for this."""
    # Slow: the rate must be one that valgrind's one thread answers.
    with Service(wire.server, folder / "chunks", OPEN_BOUNDS, before=("valgrind", "--leak-check=no", "--error-limit=no")) as service:
        wire.client.run(built("dhcpload"), wire.client_ip, wire.server_ip, 100, exchanges / 100, timeout=120)
        then()
        service.popen.send_signal(signal.SIGTERM)
        service.wait(60)
        # The log has those of the runs before as well.
        return int(re.findall(r"total heap usage: ([\d,]+) allocs", service.log.read_text())[-1].replace(",", ""))
