"""Cameras that send the same picture again and again while others see the subject move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fusion_server.surface.base import View

_REPEATS = 2  # a picture may come twice where a frame was lost; sensors have noise, so none is the same by chance


@dataclass(frozen=True, eq=False)
class Repeats:
    """The checksum of each camera's last picture, and how many times it has come again."""

    last: dict[str, int] = field(default_factory=dict)
    again: dict[str, int] = field(default_factory=dict)

    def after(self, views: Sequence[View]) -> Repeats:
        """With one more frame seen."""
        sums = {view.camera.name: view.checksum for view in views}
        again = {
            name: self.again.get(name, 0) + 1 if self.last.get(name) == checksum else 0
            for name, checksum in sums.items()
        }
        return Repeats(sums, again)

    def stuck(self) -> tuple[str, ...]:
        """Cameras whose picture no longer changes, although those of half of the cameras do."""
        changing = sum(count == 0 for count in self.again.values())
        if 2 * changing < len(self.again):
            return ()
        return tuple(name for name, count in self.again.items() if count >= _REPEATS)
