"""Run a command and write what it took: OUT.json COMMAND…

A process of its own because the system counts, as the memory of a new process, at least that of the one that started
it: this one is small.
"""

import json
import os
import subprocess
import sys
import time

out, *command = sys.argv[1:]
start = time.perf_counter()
process = subprocess.Popen(command)
_, status, used = os.wait4(process.pid, 0)
data = {
    "wall_s": time.perf_counter() - start,
    "cpu_s": used.ru_utime + used.ru_stime,
    "peak_bytes": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
}
with open(out, "w", encoding="utf-8") as file:
    json.dump(data, file)
sys.exit(bool(os.waitstatus_to_exitcode(status)))
