"""Launches of a warm frame that lead vertices along the surface: ``skin.follow_skin`` on buffers that never move."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fusion_server.surface import comparable, groups, skin
from fusion_server.surface.cuda.room import Level, Sizes
from geometry.device import Library

if TYPE_CHECKING:
    from fusion_server.surface.cuda.launches import Launches

_FINEST = len(skin._FOOTPRINTS) - 1


class SkinLaunches:
    """See ``launches.Launches``, whose part it is."""

    def __init__(self, launches: Launches, sizes: Sizes, library: Library):
        """launches: those around it, which have made their buffers by now."""
        self._all, self._run, self._only, self._sizes = launches, launches.run, launches.only, sizes
        self._rounds = library.zeros((skin._ROUNDS + 1,), torch.int32)
        self._go = self._rounds.split(1)  # whether there is such a round; what one decides on is the next one's
        self._lead, self._moves = library.zeros((2,), torch.int32).split(1)

    def face(self, level: Level, x: torch.Tensor) -> None:
        """``skin._facing`` of what was looked at last."""
        b = self._all.buffer
        self._run(
            "skin", "facing", x, b["normals"], level.matrix, self._all.inbox["center"], level.depth, *level.depth.shape,
            self._sizes.vertices, skin._FACING, skin._SLACK, b["facing"],
        )  # fmt: skip

    def follow(self) -> None:
        """``skin.follow_skin``, in place."""
        self.make_comparable(_FINEST)
        self._run("skin", "begin", 0, skin._ROUNDS, self._rounds)
        self._follow(_FINEST, may_lead=True)
        for size in range(_FINEST + 1):
            if size < _FINEST:
                with self._only(self._lead):
                    self.make_comparable(size)
            self._run("skin", "begin", self._lead, skin._ROUNDS, self._rounds)
            self._follow(size)

    def compare(self, level: Level) -> None:
        """``skin.unlikeness``, as far as its sums, of what was looked at last."""
        b, s = self._all.buffer, self._sizes
        self.face(level, self._all.outbox["vertices"])
        self._run(
            "skin", "likeness", self._all.outbox["vertices"], b["facing"], b[f"comparable{_FINEST}"], b["matrices"],
            b[f"level{_FINEST}"], s.views, *s.pyramid[0], self._all.kept[f"expected{_FINEST}"], s.vertices, b["asked"],
            self._all.outbox["likeness"],
        )  # fmt: skip

    def make_comparable(self, size: int) -> None:
        """``comparable.Comparable.begun`` and its maps."""
        b, s, fine = self._all.buffer, self._sizes, self._all.levels[0]
        level = b[f"level{size}"]
        self._run(
            "skin", "as_coarse", b["fine_pixel"], skin._FOOTPRINTS[size], len(s.pyramid), level, b[f"covers{size}"]
        )
        self._run(
            "skin", "comparable", b["greys"], b["matrices"], level, s.views, *s.pyramid[0], fine.inside, fine.matrix,
            s.height, s.width, comparable.AROUND, comparable.QUIET, b["onto"], b["on_subject"], b[f"comparable{size}"],
        )  # fmt: skip

    def _follow(self, size: int, may_lead: bool = False) -> None:
        """``skin._followed``; may_lead: whether it may say that coarser pictures have to lead the way."""
        b, k, s, mesh, x = self._all.buffer, self._all.kept, self._sizes, self._all.mesh, self._all.outbox["vertices"]
        maps, level, covers = b[f"comparable{size}"], b[f"level{size}"], b[f"covers{size}"]
        for n in range(skin._ROUNDS):
            with self._only(self._go[n]):
                self._run(
                    "skin", "asked", x, b["normals"], b["facing"], maps, b["matrices"], level, s.views,
                    *s.pyramid[0], k[f"expected{size}"], s.vertices, skin._NOISE, skin._OUTLIER, k["group_first"],
                    k["group_member"], s.groups, b["asked"], b["group_system"], b["group_right"],
                )  # fmt: skip
                self._run(
                    "groups", "group_motions", b["group_system"], b["group_right"], k["group_start"],
                    k["group_neighbour"], k["links"], 1 / skin._ALIKE**2, groups._HELD, s.groups, groups._STEPS,
                    b["group_diagonal"], b["group_inverse"], b["group_r"], b["group_z"], b["group_p"], b["group_q"],
                    b["motions"], b["ways"],
                )  # fmt: skip
                for share, to in ((skin._NEARLY_ALL, "usual"), (1.0, "most")):
                    self._run("reduce", "quantile", b["ways"], s.groups, share, b["between"], b[to])
                self._run(
                    "skin", "decide", b["usual"], b["most"], covers, skin._FAR, skin._NEAR, skin._ROUNDING,
                    self._lead if may_lead and n == 0 else 0, self._moves, self._go[n + 1],
                )  # fmt: skip
                self._run(
                    "groups", "go_along", b["motions"], k["group_of"], mesh.start, mesh.neighbour, s.vertices,
                    groups._SPREADS, self._moves, b["x1"], b["x2"], x,
                )  # fmt: skip
