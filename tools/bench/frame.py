"""What every row uses: namespaces, processes that end by their pid, clocks, rows and their table.

A bench makes everything it needs in network namespaces of its own (198.18.0.0/15) and a folder of its own, and takes both
away again. Nothing is compared but what ran on the same machine in the same run, in turns.
"""

import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GIB = 1 << 30


class Failed(Exception):
    """The bench can't go on; the text says why and what to do."""


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def run(*args, ok=(0,), timeout=600, **more):
    """Runs a command to its end and gives its output; one that ends otherwise than `ok` is an error with its last words."""
    args = [str(a) for a in args]
    done = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, **more)
    if done.returncode not in ok:
        raise Failed(f"{' '.join(args)} ended with {done.returncode}: {done.stdout[-600:].strip()}")
    return done.stdout


def wait_for(what, look, seconds=20.0, process=None):
    """Waits until `look` gives something true, and gives that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process is not None and process.ended():
            raise Failed(f"{what}: {process.name} ended instead: {process.last_words()}")
        found = look()
        if found:
            return found
        time.sleep(0.02)
    words = f": {process.last_words()}" if process is not None else ""
    raise Failed(f"{what}: not within {seconds:.0f} s{words}")


class Process:
    """A server or a client that runs beside the bench. It has a session of its own, and ends with the bench."""

    def __init__(self, name, args, log, netns=None, **more):
        self.name, self.log = name, Path(log)
        # setpriv: it ends where the bench is killed, too.
        args = ["setpriv", "--pdeathsig", "KILL", *map(str, args)]
        if netns is not None:
            args = ["ip", "netns", "exec", netns.name, *args]
        self.out = open(self.log, "ab")
        self.popen = subprocess.Popen(
            args, stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.out, start_new_session=True, **more
        )
        self.pid = self.popen.pid

    def ended(self):
        return self.popen.poll() is not None

    def wait(self, seconds):
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} did not end within {seconds} s: {self.last_words()}") from None

    def last_words(self):
        self.out.flush()
        return self.log.read_text(errors="replace")[-500:].strip()

    def tree(self):
        """Pids of it and of all that it started."""
        found, look = [], [self.pid]
        while look:
            pid = look.pop()
            found.append(pid)
            try:
                tasks = list(Path(f"/proc/{pid}/task").iterdir())
                look += [int(c) for t in tasks for c in (t / "children").read_text().split()]
            except OSError:
                continue
        return found

    def cpu(self):
        """Seconds of processor time, user and system, of the processes that live."""
        return sum(cpu_of(pid) for pid in self.tree())

    def rss(self):
        """Bytes of memory."""
        return sum(status(pid, "VmRSS") for pid in self.tree())

    def stop(self, how=signal.SIGTERM, seconds=15):
        if not self.ended():
            os.killpg(self.pid, how)
            try:
                self.popen.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
                self.popen.wait(5)
        self.out.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def cpu_of(pid):
    """To the nanosecond: by the process's own clock (clock_getcpuclockid), as /proc counts in hundredths of a second."""
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0


def status(pid, field):
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(field + ":")), 0)


class Netns:
    """A network namespace, gone with everything in it at the end."""

    made = 0

    def __init__(self):
        Netns.made += 1
        self.name = f"bench-{os.getpid()}-{Netns.made}"
        run("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    def ip(self, *args):
        return run("ip", "-n", self.name, *args)

    def run(self, *args, **more):
        return run("ip", "netns", "exec", self.name, *args, **more)

    def close(self):
        subprocess.run(["ip", "netns", "del", self.name], stderr=subprocess.DEVNULL, check=False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Wire:
    """Two namespaces and a veth pair between them: `server` has 198.18.0.1/15 on eth0, `client` 198.18.0.2/15."""

    server_ip, client_ip = "198.18.0.1", "198.18.0.2"

    def __enter__(self):
        self.server, self.client = Netns(), Netns()
        self.server.ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.client.name)
        for netns, address in ((self.server, self.server_ip), (self.client, self.client_ip)):
            netns.ip("addr", "add", f"{address}/15", "dev", "eth0")
            netns.ip("link", "set", "eth0", "up")
        return self

    def __exit__(self, *_):
        self.client.close()
        self.server.close()


class Relay(Wire):
    """A Wire whose client is a relay agent too, of 10.0.0.0/8: a load of some seconds asks for more addresses than 198.18.0.0/15 has."""

    relay_ip = "10.31.255.254"

    def __enter__(self):
        super().__enter__()
        self.client.ip("addr", "add", f"{self.relay_ip}/32", "dev", "eth0")
        self.server.ip("route", "add", "10.0.0.0/8", "via", self.client_ip)
        return self


class Sysctl:
    """A setting of the kernel that is not a namespace's own, put back at the end."""

    def __init__(self, name, value):
        self.path, self.value = Path("/proc/sys") / name.replace(".", "/"), value

    def __enter__(self):
        self.old = self.path.read_text()
        self.path.write_text(str(self.value))

    def __exit__(self, *_):
        self.path.write_text(self.old)


def median(values):
    return statistics.median(values)


def in_turns(rounds, ways):
    """Calls each of `ways` (name to function) `rounds` times, in turns and each time beginning with another; gives the
    results by name. What the machine does besides hits all of them."""
    names = list(ways)
    results = {name: [] for name in names}
    for n in range(rounds):
        for name in names[n % len(names):] + names[:n % len(names)]:
            results[name].append(ways[name]())
    return results


def spread(turns, mine, theirs, what):
    """Of how much the ratio of the medians can be trusted: the ratios of the single rounds."""
    ratios = [ours[what] / peer[what] for ours, peer in zip(turns[mine], turns[theirs])]
    return f"single rounds {min(ratios):.2f} to {max(ratios):.2f}"


class Table:
    """The rows. A ratio is ours by theirs unless `what` says otherwise; `reach` is `>= 5` or `<= 0.8`."""

    def __init__(self):
        self.rows = []

    def add(self, row, what, peer, ratio, reach, note, figures):
        held = None
        if ratio is not None and reach is not None:
            sign, bound = reach.split()
            held = ratio >= float(bound) if sign == ">=" else ratio <= float(bound)
        found = {
            "row": row, "what": what, "peer": peer, "ratio": ratio, "reach": reach, "reached": held, "note": note,
            "figures": figures,
        }
        self.rows.append(found)
        say(line(found))

    def show(self):
        head = f"{'row':<9} {'what':<54} {'next to':<24} {'ratio':>8} {'reach':>8}  reached"
        return "\n".join([head, *(line(row) for row in self.rows)])


def line(row):
    ratio = "-" if row["ratio"] is None else f"{row['ratio']:.3g}"
    held = {None: "", True: "yes", False: "NO"}[row["reached"]]
    note = f"  ({row['note']})" if row["note"] else ""
    return f"{row['row']:<9} {row['what']:<54} {row['peer']:<24} {ratio:>8} {row['reach'] or '-':>8}  {held}{note}"
