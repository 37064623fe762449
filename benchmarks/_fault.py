"""`nin-edge train` with a fault in its last process.

    python benchmarks/_fault.py FAULT TIMEOUT PLUG... -- train ...

It comes once, in step `STEP`; a process that `torchrun` restarts has none. A process that does not
answer for TIMEOUT seconds is lost: less than usual, so that a test need not wait for ten minutes.

    none       no fault
    killed     the process is killed
    slow       it takes `SLOW_SECONDS` longer for each step
    SECONDS    its cable, which PLUG pulls or plugs, is out for so long; inf is for good
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from typing import Any, Final

from nin_edge.cli import main
from nin_edge.training import workers
from nin_edge.training.run_folder import RunFolder
from nin_edge.training.step import Learner

STEP: Final = 24
SLOW_SECONDS: Final = 0.05

_step = Learner.step


def faulty(fault: str, plug: list[str]) -> Any:
    """A step of a learner with a fault.

    Args:
        fault: one of the above.
        plug: the command, without its last argument, up or down.
    """

    def step(learner: Learner, number: int, *batch: Any) -> Any:
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        elif number == STEP and fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif number == STEP and fault != "none":
            subprocess.run([*plug, "down"], check=True)
            if fault != "inf":
                threading.Timer(float(fault), subprocess.run, ([*plug, "up"],)).start()
        return _step(learner, number, *batch)

    return step


if __name__ == "__main__":
    end = sys.argv.index("--")
    last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
    if last and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        Learner.step = faulty(sys.argv[1], sys.argv[3:end])  # type: ignore[method-assign]
    workers._TIMEOUT = timedelta(seconds=float(sys.argv[2]))  # type: ignore[misc]
    RunFolder.draw = lambda *_, **__: None  # type: ignore[method-assign]  # pictures take seconds
    main(sys.argv[end + 1 :])
