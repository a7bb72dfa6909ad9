"""The service that is measured: its configuration, its start, and the images it serves."""

import os
import subprocess
import time
from pathlib import Path

from frame import ROOT, Process, Wire, wait_for

PROGRAM = Path(os.environ.get("PRISTINE") or ROOT / "target/release/pristine").resolve()
NBP = ROOT / "target/nbp"

# Bounds that strangers meet. They are there for floods; a bench sends nothing but strangers, and its peers have none.
OPEN_BOUNDS = """
[bounds]
offers_per_link = 1000000
strangers = 1000000
dhcp_strangers_per_second = 1000000
dhcp_strangers_burst = 1000000
http_connections_per_client = 1024
tftp_transfers_per_client = 512
"""


def config(state, text="", interface="eth0", subnet=True, nbp=NBP, turns=0, roots="fetch"):
    pool = ""
    if subnet:
        pool = '[[subnet]]\nnetwork = "198.18.0.0/15"\npools = ["198.18.16.0-198.19.255.250"]\n'
    line = f'roots_at_once = {turns}\nroots_per_rack = 0\nroots = "{roots}"\n'
    path = Path(state).with_suffix(".toml")
    path.write_text(
        f'state_dir = "{state}"\nlog = "warn"\n[[interface]]\nname = "{interface}"\nwatch_others = false\n{pool}'
        f'[http]\nport = 80\n{line}[images]\nscrub_interval = 0\n'
        f'[nbp]\ndir = "{nbp}"\n{text}'
    )
    return path


class Service(Process):
    """`pristine serve` in a namespace, ready when it is made."""

    def __init__(self, netns, state, text="", program=PROGRAM, before=(), **more):
        self.state = Path(state)
        self.config = config(state, text, **more)
        began = time.monotonic()
        args = [*before, program, "--config", self.config, "serve"]
        super().__init__("pristine", args, self.state.with_suffix(".log"), netns)
        self.netns = netns
        wait_for("pristine is not ready", self.answers, 120, self)
        self.start_time = time.monotonic() - began

    def answers(self):
        got = subprocess.run(
            ["ip", "netns", "exec", self.netns.name, "curl", "-s", "-o", "/dev/null", f"http://{Wire.server_ip}/"],
            check=False,
        )
        return got.returncode == 0

    def command(self, *args):
        """The CLI, beside the service."""
        return self.netns.run(PROGRAM, "--config", self.config, *args)
