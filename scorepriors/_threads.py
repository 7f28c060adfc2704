"""Threads of linear algebra on the host."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import scipy.linalg  # noqa: F401  (brings a BLAS of its own, whose threads count as well)
from threadpoolctl import ThreadpoolController


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep BLAS to one thread within a block, or a function that is decorated with ``one_thread()``.

    The matrices of scenes are small: several threads gain a little where cores are idle, but where
    another process has one of them all wait for it.  A product of two matrices of 140 rows and
    39,000 columns took 24 ms with one thread and 980 ms with two, beside a busy process.
    """
    with _pools().limit(limits=1, user_api="blas"):
        yield


@cache
def _pools() -> ThreadpoolController:
    # Looks through the libraries of the process, which takes some milliseconds.
    return ThreadpoolController()
