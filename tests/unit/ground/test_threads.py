"""How programs and threads are started."""

import subprocess
import sys

from stack.ground.settings import ROOT

INTERRUPTED_OFTEN = """
import os, signal, subprocess, sys
from stack.ground.threads import begin

class Now:
    inside = False

def stop(number, frame):
    if Now.inside:
        Now.inside = False
        raise KeyboardInterrupt

signal.signal(signal.SIGINT, stop)
sender = f"import os, time\\nfor _ in range(8000): os.kill({os.getpid()}, 2); time.sleep(0.0001)"
child = subprocess.Popen([sys.executable, "-c", sender])
caught = 0
while child.poll() is None:
    try:
        Now.inside = True
        begin(lambda: None)
        Now.inside = False
    except KeyboardInterrupt:
        caught += 1
print(caught)
"""


def test_ctrl_c_while_a_thread_is_started_is_borne() -> None:
    """Python's own `Thread.start` leaves a thread that fails with a KeyError and a traceback."""
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_OFTEN], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "_bootstrap" not in ran.stderr  # what else it says is of weak references that met an exception
    assert int(ran.stdout) > 100
