"""`make bench`: Pristine next to its peers on the same work in the same run, as ratios. See docs/benchmarks.md.

ROWS=dhcp,http chooses rows, ROUNDS=5 how often each is repeated, QUICK=1 makes runs short (for working on the bench, not for
figures), PRISTINE=FILE measures another build. The table goes to standard output, all figures to target/bench/.
"""

import contextlib
import importlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from frame import ROOT, Failed, Sysctl, Table, run, say

# In this order: what is quick and shows most comes first.
ROWS = ["dhcp", "http", "tftp", "image", "scale", "counts", "storm", "boot"]

PEERS = [
    "kea-dhcp4-server", "kea-admin", "dnsmasq-base", "nginx", "tftpd-hpa", "atftp", "curl",
    "cryptsetup-bin", "coreutils", "qemu-system-x86", "ovmf", "seabios", "ipxe-qemu", "valgrind", "strace",
]


def versions():
    form = "${Package} ${Version}\n"
    listed = subprocess.run(["dpkg-query", "-W", "-f", form, *PEERS], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    found = dict(line.split(" ", 1) for line in listed.stdout.splitlines() if line.strip().count(" "))
    # Unpacked, not installed: its version is in the name of its package.
    for package in sorted(Path(ROOT / "target/cache").glob("atftpd_*.deb")):
        found["atftpd"] = package.name.split("_")[1]
    # Boot programs of both sides.
    for file in json.loads((ROOT / "target/nbp/digests.json").read_text())["files"]:
        found[file["package"]] = file["version"]
    return found


def machine():
    cpu = next((l.split(": ")[1] for l in Path("/proc/cpuinfo").read_text().splitlines() if l.startswith("model name")), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_mib": memory, "kernel": platform.release(), "load": os.getloadavg()}


def congestion_control():
    """Debian's, where the kernel has it: a kernel that paces (bbr) sends on a wire without length what its clock says, and the
    rows were of that clock."""
    name = "net.ipv4.tcp_congestion_control"
    has = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    return Sysctl(name, "cubic") if "cubic" in has else contextlib.nullcontext()


def main():
    chosen = [row for row in os.environ.get("ROWS", "").replace(" ", "").split(",") if row] or ROWS
    unknown = [row for row in chosen if row not in ROWS]
    if unknown:
        raise Failed(f"there is no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    if os.geteuid() != 0:
        raise Failed("needs root: it makes network namespaces")
    # Before whatever else this machine does: servers and clients alike, since all of them inherit it.
    os.nice(-19)
    from pristine import PROGRAM

    if not PROGRAM.exists():
        raise Failed(f"{PROGRAM} is missing: make release")
    work = ROOT / "target/bench/work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    rounds, quick = int(os.environ.get("ROUNDS", "5")), os.environ.get("QUICK", "") not in ("", "0")
    table = Table()
    report = {
        "commit": run("git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=12").strip(),
        "program": run(PROGRAM, "--version").strip(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(), "peers": versions(), "rounds": rounds, "quick": quick, "failed": {}, "rows": table.rows,
    }
    for row in ROWS:
        if row not in chosen:
            continue
        say(f"row {row}")
        try:
            with congestion_control():
                importlib.import_module(f"row_{row}").rows(table, work, rounds, quick)
        # A row that fails takes no other with it.
        except (Failed, OSError, subprocess.SubprocessError, ValueError, KeyError) as why:
            say(f"row {row} failed: {why}")
            report["failed"][row] = str(why)
        # Written after each: a bench that is ended keeps what it has.
        path = ROOT / "target/bench" / ("bench.json" if chosen == ROWS else f"bench-{'-'.join(chosen)}.json")
        path.write_text(json.dumps(report, indent=1))
    shutil.rmtree(work, ignore_errors=True)
    print(table.show())
    print(f"all figures: {path.relative_to(ROOT)}")
    for row, why in report["failed"].items():
        print(f"{row} was not measured: {why}")
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    # One that is ended takes its namespaces away, and puts back what it set, as one that comes to its end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except Failed as why:
        sys.exit(f"bench: {why}")
