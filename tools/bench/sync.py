"""Overwrites a file as a database's log is overwritten, synced each time, and tells how long that takes: sync.py FILE SECONDS. Prints JSON, in ms."""

import json
import os
import sys
import time

with open(sys.argv[1], "wb", buffering=0) as out:
    out.write(bytes(4 << 20))
    os.fsync(out.fileno())
    waits, end = [], time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end:
        began = time.monotonic()
        os.pwrite(out.fileno(), os.urandom(16 << 10), (len(waits) % 256) * (16 << 10))
        os.fdatasync(out.fileno())
        waits.append((time.monotonic() - began) * 1000)
        time.sleep(max(0.0, 0.01 - (time.monotonic() - began)))
waits.sort()
print(json.dumps({"asked": len(waits), "p50_ms": waits[len(waits) // 2], "max_ms": waits[-1]}))
