"""Work that can wait gives its core away, and never holds it for long. In a process of its own: there is no way back."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="policies and counts of Linux")
RESTS = 20
BUSY = f"""
import os, resource, signal, sys, time
from tidegrid.grid.runtime.standing_back import short_rests, stand_back

def rests():
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw

stand_back(int(sys.argv[1]))
before = signal.getsignal(signal.SIGALRM)
with short_rests():
    begun = rests()
    while rests() < begun + {RESTS} and time.process_time() < 20:
        sum(range(1000))
assert signal.getsignal(signal.SIGALRM) is before
assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
print(os.sched_getscheduler(0), os.nice(0), rests() - begun)
"""


def said(nice: int) -> list[int]:
    done = subprocess.run([sys.executable, "-c", BUSY, str(nice)], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


@LINUX
def test_who_never_waits_rests_all_the_same() -> None:
    policy, nice, rests = said(19)
    assert rests >= RESTS
    assert (policy, nice) == (os.SCHED_IDLE, 19)


@LINUX
def test_who_is_less_nice_keeps_the_usual_policy() -> None:
    policy, nice, _ = said(5)
    assert (policy, nice) == (os.SCHED_OTHER, 5)
