"""Streams of images: grouped into batches, run here or in threads side by side, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

Groups: TypeAlias = "Generator[list[_Item], None, None]"
"""Lists of items, one after the other; closing it closes what it reads from."""

_CLOSE_SECONDS: Final = 2.0  # longest wait, at the end, for threads: one may be blocked in a read


def stream(
    items: Iterable[_Item],
    run: Callable[[list[_Item]], list[_Result]],
    *,
    batch_size: int,
    workers: int,
) -> Generator[_Result, None, None]:
    """The results of `run` on groups of items, one by one, in the items' order.

    Args:
        items: may be endless; read as results are asked for.
        run: gives a result for each item of a group.
        batch_size: items of a group; the last may be smaller.
        workers: threads that call `run` side by side; 0 calls it in the caller's thread. Up to
            `2 * workers` groups are read ahead of the results.
    """
    groups = in_groups(items, batch_size)
    results = side_by_side(groups, run, workers) if workers else (run(group) for group in groups)
    return flattened(results)


def in_groups(items: Iterable[_Item], size: int) -> Groups[_Item]:
    """Items in lists of `size`, the last one shorter, also where the source fails."""
    source = iter(items)
    group: list[_Item] = []
    while True:
        try:
            group.append(next(source))
        except StopIteration:
            break
        except Exception:
            if group:
                yield group
            raise
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def side_by_side(
    groups: Groups[_Item], run: Callable[[list[_Item]], list[_Result]], workers: int
) -> Groups[_Result]:
    """The results of each group, in order, from as many threads as there are workers."""
    from concurrent.futures import ThreadPoolExecutor, wait  # a cold start needs none

    pending: deque[Future[list[_Result]]] = deque()
    failure: Exception | None = None
    pool = ThreadPoolExecutor(workers, thread_name_prefix="nin-edge")
    try:
        while failure is None or pending:
            while failure is None and len(pending) < 2 * workers:
                try:
                    pending.append(pool.submit(run, next(groups)))
                except Exception as error:  # or the source's end; results before it come first
                    failure = error
            if pending:
                yield pending[0].result()
                pending.popleft()
    finally:
        running = [future for future in pending if not future.cancel()]
        pool.shutdown(wait=not wait(running, _CLOSE_SECONDS).not_done, cancel_futures=True)
    if not isinstance(failure, StopIteration):
        raise failure


def flattened(groups: Groups[_Item]) -> Generator[_Item, None, None]:
    """The items of all groups; closing it closes the groups."""
    try:
        for group in groups:
            yield from group
    finally:
        groups.close()
