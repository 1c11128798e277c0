"""Reading ahead and writing behind: threads around a computation in the main thread."""

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from jaxseg.types import InputError

T = TypeVar("T")
R = TypeVar("R")


class Workers:
    """A few threads; leaving the context drops what they have not begun.

    So an error or Ctrl-C in the main thread waits for one piece of work per thread at most.

    Attributes:
        count: of threads.
    """

    def __init__(self, count: int | None = None):
        """`count` None: as many as there are processors, 4 at most."""
        self.count = count or min(4, os.cpu_count() or 1)
        self._pool = concurrent.futures.ThreadPoolExecutor(self.count)
        self._behind: collections.deque[concurrent.futures.Future] = collections.deque()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: Any) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def ahead(
        self, function: Callable[[T], R], items: Iterable[T], *, most: int
    ) -> Iterator[tuple[T, R]]:
        """Items with what the function makes of them, in order; `most` are begun ahead of use."""
        begun: collections.deque[tuple[T, concurrent.futures.Future]] = collections.deque()
        for item in items:
            begun.append((item, self._pool.submit(function, item)))
            if len(begun) > most:
                first, future = begun.popleft()
                yield first, future.result()
        for item, future in begun:
            yield item, future.result()

    def behind(self, function: Callable[[], R], *, most: int) -> list[R]:
        """Begins the function, and gives what came of earlier ones, in order.

        Waits until no more than `most` are unfinished. Errors of earlier functions are raised.
        """
        self._behind.append(self._pool.submit(function))
        return self._settle(most)

    def rest(self) -> list[Any]:
        """Waits for all that `behind` began."""
        return self._settle(0)

    def _settle(self, most: int) -> list[Any]:
        results = []
        while self._behind and (len(self._behind) > most or self._behind[0].done()):
            results.append(self._behind.popleft().result())
        return results


def attempt(function: Callable[..., R], *arguments: Any) -> R | InputError:
    """Calls the function; an InputError becomes a value."""
    try:
        return function(*arguments)
    except InputError as error:
        return error
