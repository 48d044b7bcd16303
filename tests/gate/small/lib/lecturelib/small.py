"""Library of the small book."""
import os
import time
from pathlib import Path


def nodes():
    """Number of nodes, from a data file of the library."""
    return int(Path(__file__).with_name("nodes.txt").read_text())


def midpoints(n):
    """The `n` nodes of the midpoint rule on [0, 1]."""
    hold("executing")
    return [(k + 0.5) / n for k in range(n)]


def hold(stage):
    """Stand still where SMALL_HOLD asks for it, so that a test can kill the build just there."""
    if os.environ.get("SMALL_HOLD") == stage:
        Path(os.environ["SMALL_HELD"]).touch()
        parent = os.getppid()
        while os.getppid() == parent:  # a kernel outlives the build that started it
            time.sleep(0.1)
