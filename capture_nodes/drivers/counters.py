"""A camera's own picture numbers as a counter that only grows. Pure."""

from __future__ import annotations

_SHORT = 1 << 16


class BlockCounter:
    """Block ids in, a growing counter out.

    GigE Vision 1.x has 16 bits that go from 65535 to 1, as 0 means "no id"; some cameras go through 0 all the same.
    With extended ids (GigE Vision 2) and over USB there are 64 bits, which never wrap. A number that
    goes back without a wrap is a camera that started again: the counter goes on by one, as nobody can say how many
    pictures were not taken.
    """

    def __init__(self) -> None:
        self._newest: int | None = None  # block id
        self._count = 0
        self._long = False  # an id beyond 16 bits was seen
        self._through_zero = False  # id 0 was seen

    def add(self, block: int) -> tuple[int, int]:
        """(count, skipped): the picture's count, and how many counts before it had no picture.

        The first picture's count is its block id. Raises ValueError for a number below 0.
        """
        if block < 0:
            raise ValueError(f"block id {block}")
        self._long = self._long or block >= _SHORT
        self._through_zero = self._through_zero or block == 0
        if self._newest is None:
            self._newest, self._count = block, max(block, self._count + 1)
            return self._count, 0
        step = self._step(block)
        self._newest = block
        self._count += step
        return self._count, step - 1

    def restart(self) -> None:
        """The camera was opened anew: its next picture has a count of its own, whatever its id."""
        self._newest = None

    def _step(self, block: int) -> int:
        assert self._newest is not None
        ahead = block - self._newest
        if ahead > 0:
            return ahead
        if not self._long:
            wrapped = ahead + (_SHORT if self._through_zero else _SHORT - 1)
            if 0 < wrapped < _SHORT // 2:
                return wrapped
        return 1
