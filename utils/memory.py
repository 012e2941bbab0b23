"""What a process that runs for months asks of the allocator and of the garbage collector."""

import ctypes
import gc
from contextlib import suppress

M_ARENA_MAX = -8  # mallopt(3), malloc.h of glibc


def use_one_heap() -> None:
    """Let all threads take memory from one heap, where the C library is glibc.

    Call it before any thread is started. Else each thread has a heap of its own, and what the
    thread that loads models leaves behind in its own grows with each model.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def collect_rarely() -> None:
    """Leave what is here now alone for ever, and collect what comes every 20,000 objects.

    What is here now lives long: collecting it again and again would cost pauses of 50 ms. LightGBM
    leaves two objects in a cycle for each batch.
    """
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)
