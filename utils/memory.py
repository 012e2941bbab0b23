"""What a process that runs for months asks of the allocator and of the garbage collector."""

import ctypes
import gc
from contextlib import suppress

M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3  # mallopt(3), malloc.h of glibc
LARGE = 2**22  # bytes; smaller ones come and go with every batch


def return_memory() -> None:
    """Let memory that is free go back to the system, where the C library is glibc.

    Call it before a script starts threads. By default each thread has a heap of its own, and what
    the thread that loads models leaves in its own grows with each model. And once a large block was
    freed, the next ones of its size come from the heap, where small ones behind them keep it from
    shrinking: after a model with a text of 7 MB it stayed 20 MB larger.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, LARGE)


def collect_rarely() -> None:
    """Leave what is here now alone for ever, and look at what comes every 50,000 objects.

    What is here now lives long: collecting it again and again would cost pauses of 50 ms. What
    comes is freed by its reference counts, and a full batch has 30,000 objects; only LightGBM
    leaves two in a cycle for each batch.
    """
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)
