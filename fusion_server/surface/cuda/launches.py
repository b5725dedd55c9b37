"""Every launch of a warm frame, in order, on buffers that never move: the part that a CUDA graph holds.

Nothing here waits, allocates, copies or looks at a number. What the CPU's modules decide by looking, flags on the
device decide (``Library``'s ``when``). Each method names the function whose work it launches; constants are those
modules' own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch

from fusion_server.surface import bias, contour, fuse, photometric, refine, rest, rigid, rigid_rows, silhouette
from fusion_server.surface.base import SurfaceSettings
from fusion_server.surface.cuda.indices import Indices
from fusion_server.surface.cuda.memory import Packed
from fusion_server.surface.cuda.room import Level, Sizes
from fusion_server.surface.cuda.skin import SkinLaunches
from fusion_server.surface.refine import Step
from fusion_server.surface.warm import FAST, LED, MOVED, WARM
from geometry.device import Library
from geometry.rasterize.base import NEAR


class Launches:
    """A warm frame from what lies in ``inbox`` to what lies in ``outbox``; see ``room`` for both and for the rest."""

    def __init__(
        self,
        libraries: dict[str, Library],
        mesh: Indices,
        sizes: Sizes,
        settings: SurfaceSettings,
        inbox: Packed,
        outbox: Packed,
        kept: dict[str, torch.Tensor],
    ):
        """kept: what a track keeps of its keyframe, and tables."""
        self.libraries, self.mesh, self._settings = libraries, mesh, settings
        self.inbox, self.outbox, self.kept = inbox, outbox, kept
        self._views, self._height, self._width = sizes.views, sizes.height, sizes.width
        self._vertices, self._faces, self._edges = sizes.vertices, sizes.faces, sizes.edges
        self._picture, self._pyramid = sizes.picture, sizes.pyramid
        self._steps = (WARM,) * settings.iterations
        self._x = outbox["vertices"]
        self._when: torch.Tensor | None = None
        library = libraries["shape"]
        self.levels = sizes.levels(library, inbox)
        self.buffer = sizes.buffers(library, (MOVED, WARM))
        flags = library.zeros((4,), torch.int32)
        self._flag = dict(zip(("coarse", "again", "more", "steady"), flags.split(1), strict=True))
        self._flag["moved"] = outbox["moved"]
        self.skin = SkinLaunches(self, sizes, library) if sizes.groups else None
        self._still = rigid.STILL if self.skin is None else LED

    def __call__(self) -> None:
        """Launch all of it."""
        self.observe()
        self.follow()
        if self.skin is not None:
            self.skin.follow()
        fine, moved, steady = self.levels[0], self._flag["moved"], self._flag["steady"]
        with self.only(moved):  # a head that moves this much does not move as one piece
            self.look(fine)
            self.seen_again()
            self.refine(MOVED, compare=True)
        for n, step in enumerate(self._steps):
            self.look(fine)
            if n == 0:
                with self.only(steady):
                    self.seen_again()
            self.refine(step, compare=n % 2 == 0)
        self.judge()

    @contextmanager
    def only(self, flag: torch.Tensor) -> Iterator[None]:
        """Launches within it wait on a flag."""
        self._when = flag
        try:
            yield
        finally:
            self._when = None

    def run(self, source: str, function: str, *arguments: torch.Tensor | int | float) -> None:
        """Launch a function of a source."""
        self.libraries[source](function, *arguments, when=self._when)

    def observe(self) -> None:
        """Clean masks, weigh confidence, find the subject's middle, make pictures ready, halve the maps."""
        i, b, k, s, (fine, half, _) = self.inbox, self.buffer, self.kept, silhouette, self.levels
        size = self._views, self._height, self._width
        self.run(
            "masks", "clean_masks", i["mask"], i["known"], *size, s._KEEP, s._HOLE, s._SMALLEST, b["label"], b["area"],
            b["pieces"], self.outbox["blind"], b["across"], b["soft"],
        )  # fmt: skip
        self.run(
            "masks", "signed_distances", b["soft"], self.outbox["blind"], k["mask_taps"], len(k["mask_taps"]),
            k["quantile"], *size, b["label"], b["across"], fine.inside, fine.distance,
        )  # fmt: skip
        self.run(
            "observe", "weigh", i["confidence"], fine.inside, *size, b["pieces"], b["row_trust"], b["mean_trust"],
            fine.trust,
        )  # fmt: skip
        self.run(
            "observe", "find_middle", b["pieces"], self.outbox["blind"], i["inverse"], i["rotation"], i["center"],
            i["focal"], i["fine_center"], i["fine_focal"], self._views, self.outbox["middle"], b["away"],
            b["fine_away"],
        )  # fmt: skip
        self.run("reduce", "middle_two", b["away"], self._views, 0, b["pixel"])
        self.run("reduce", "middle_two", b["fine_away"], self._views, 0, b["fine_pixel"])
        if self._settings.photometric:
            height, width, *channels = self._picture
            self.run(
                "observe", "grey_pictures", i["image"], *(channels or [1]), k["picture_taps"], len(k["picture_taps"]),
                self._views, height, width, b["grey_across"], b["grey0"],
            )  # fmt: skip
            self.run("shape", "copy", i["fine_matrix"], 12 * self._views, b["matrix0"])
            for n, picture in enumerate(self._pyramid[:-1]):
                self.run(
                    "observe", "coarser_pictures", b[f"grey{n}"], b[f"matrix{n}"], self._views, *picture,
                    b[f"grey{n + 1}"], b[f"matrix{n + 1}"],
                )  # fmt: skip
        self.halve(fine, half)
        self.run("shape", "copy", i["start"], 3 * self._vertices, b["x1"])
        self.run("shape", "copy", i["share"], 1, self.outbox["share"])

    def halve(self, level: Level, half: Level) -> None:
        """``Observation.coarser``."""
        maps = ("normal", "trust", "distance", "inside", "matrix", "focal", "intrinsics", "known")
        self.run(
            "observe", "coarser", *(getattr(level, name) for name in maps), *level.distance.shape,
            *(getattr(half, name) for name in maps),
        )  # fmt: skip

    def follow(self) -> None:
        """``rigid.follow_rigid``: x1 to where the new maps have it, as one piece, into the frame's vertices."""
        r, flag, b, x, (_, half, quarter) = rigid, self._flag, self.buffer, self._x, self.levels
        first = b["x1"]
        self._rigid_move(half, first, x, r._ROUNDING)
        self.run("rigid", "after_first", b["largest"], r._FAR, self._still, flag["coarse"], flag["again"], flag["more"])
        with self.only(flag["coarse"]):
            self.halve(half, quarter)
            self._rigid_move(quarter, first, first)
            self.run("rigid", "after_step", b["largest"], r._NEAR, flag["again"])
        with self.only(flag["again"]):
            self._rigid_move(quarter, first, first)
        with self.only(flag["coarse"]):
            self._rigid_move(half, first, x)
            self.run("rigid", "after_step", b["largest"], self._still, flag["more"])
        with self.only(flag["more"]):
            self._rigid_move(half, x, x)
        self.run("rigid", "went_far", self.inbox["start"], x, FAST, self._vertices, flag["moved"], flag["steady"])

    def _rigid_move(self, level: Level, x: torch.Tensor, to: torch.Tensor, least: float = 0.0) -> None:
        """One step of ``rigid.follow_rigid``."""
        finest, b = level.times == 2.0, self.buffer
        self.rigid_step(level, x, rigid._SCALES[finest], rigid._SIGMAS[finest], float(finest), b["step"])
        if finest and self.skin is not None:
            self.skin.face(level, x)
        self.run(
            "rigid", "rigid_move", x, b["center"], b["motion"], least, rigid._FARTHEST, self._vertices, b["largest"], to
        )

    def rigid_step(
        self,
        level: Level,
        x: torch.Tensor,
        scale: float,
        sigma: float,
        at_rest: float,
        step: torch.Tensor,
        fused: bool = False,
    ) -> None:
        """Look, and ``rigid.rigid_step``."""
        i, b, mesh = self.inbox, self.buffer, self.mesh
        self.look(level, x, fused)
        self.run("reduce", "means", x, self._vertices, 3, b["center"])
        self.run(
            "pixels", "rigid_rows", b["normals"], mesh.faces, level.face, level.bary, level.depth, level.normal,
            level.trust, level.distance, level.intrinsics, i["rotation"], i["center"], b["center"],
            *level.distance.shape, rigid_rows.CUT, rigid_rows.SLACK, rigid_rows.EVERY, b["rendered"], b["parts"],
            b["rigid_sums"],
        )  # fmt: skip
        self.contours(level, x, rigid._GATE / level.times, scale)
        self.run(
            "rigid", "contour_sums", x, mesh.edges, b["share"], b["gradient"], b["want"], b["weight"], b["center"],
            self._views, self._edges, self._vertices, b["contour_parts"], b["contour_sums"],
        )  # fmt: skip
        self.run(
            "rigid", "rigid_step", b["rigid_sums"], i["rotation"], b["contour_sums"], b["contour_weight"], i["rest"],
            at_rest, sigma, self._views, step, b["motion"],
        )  # fmt: skip

    def look(self, level: Level, x: torch.Tensor | None = None, fused: bool = True) -> None:
        """``observation.look``, and the fused normals."""
        x, b, lv, i, mesh = self._x if x is None else x, self.buffer, level, self.inbox, self.mesh
        self.shape(x)
        size = lv.distance.shape
        self.run(
            "rasterize", "rasterize", x, mesh.faces, lv.matrix, self._views, self._vertices, self._faces, *size[1:],
            NEAR, lv.screen, lv.words, lv.large, lv.large_count, lv.face, lv.bary, lv.depth,
        )  # fmt: skip
        if fused:
            self.run(
                "fuse", "fuse_normals", lv.face, i["rotation"], lv.intrinsics, lv.normal, lv.trust, lv.distance,
                b["face_normals"], b["areas"], *size, self._faces, b["mean_area"], fuse.ERODED, fuse.GRAZING,
                b["votes"], b["fused"], b["fused_weight"], b["agreement"],
            )  # fmt: skip

    def shape(self, x: torch.Tensor) -> None:
        """``Shape.of``."""
        b, mesh = self.buffer, self.mesh
        self.run(
            "shape", "shape", x, mesh.faces, *mesh.around[:2], self._vertices, self._faces, b["normals"],
            b["face_normals"], b["areas"], b["lengths"], b["edge"], b["mean_area"],
        )  # fmt: skip

    def contours(self, level: Level, x: torch.Tensor, gate: float, scale: float) -> None:
        """``refine.contours``."""
        i, b, c, mesh = self.inbox, self.buffer, contour, self.mesh
        self.run(
            "contour", "contours", x, b["normals"], mesh.edges, mesh.start, mesh.link, level.depth, level.matrix,
            i["rotation"], i["center"], level.focal, level.distance, level.known, self.outbox["blind"],
            *level.distance.shape, self._edges, self._vertices, gate, scale, c.OUTWARD, c.INWARD, c.ROUND, c.HIDDEN,
            c.OUTSIDE, c.ASTRAY, c.power_of(scale), b["share"], b["gradient"], b["want"], b["weight"], b["off"],
            b["off_count"],
        )  # fmt: skip
        self.run("reduce", "middle_two", b["off"], 0, b["off_count"], b["off_middle"])
        self.run(
            "rows", "contour_weight", b["off_middle"], b["pixel"], level.times, refine._MISFIT,
            float(self._settings.sigma_silhouette), refine._WORST_MISFIT, b["contour_weight"],
        )  # fmt: skip

    def seen_again(self) -> None:
        """``Bias.seen_again``."""
        b, k, mesh = self.buffer, self.kept, self.mesh
        self.run(
            "pose", "seen_again", self._x, mesh.faces, b["face_normals"], b["fused"], b["fused_weight"], k["tilt"],
            self._faces, bias._LEARN, b["tilt_sums"], self.outbox["share"],
        )  # fmt: skip

    def refine(self, step: Step, compare: bool) -> None:
        """``refine.refine`` of what was looked at, in place; compare: look at the pictures, or take what was found."""
        b, k, mesh, r, x, settings = self.buffer, self.kept, self.mesh, refine, self._x, self._settings
        count, faces, edges = self._vertices, self._faces, self._edges
        self.contours(self.levels[0], x, step.gate, step.scale)
        if settings.photometric and step.reach > 0:
            if compare:
                self.compare(step)
            self.run(
                "rows", "point_rows", x, b["normals"], b["points"], b["variance"], k["height_bias"], k["unseen"],
                mesh.start, mesh.neighbour, b["search"], photometric._AGREE, float(settings.sigma_photometric**2),
                r._OVERLAP, count, b["point_want"], b["point_weight"], b["pull"],
            )  # fmt: skip
        self.run("rows", "agreements", b["agreement"], b["fused_weight"], fuse.VOTED, faces, b["agreed"])
        self.run("reduce", "middle_two", b["agreed"], faces, 0, b["agreed_middle"])
        self.run("reduce", "middle_two", b["pull"], count, 0, b["pull_middle"])
        self.run(
            "rows", "trust_in_normals", b["agreed_middle"], b["pull_middle"], float(settings.sigma_normal),
            r._DISAGREEMENT, r._PULL, r._WORST_DOUBT, b["trusted"],
        )  # fmt: skip
        self.run(
            "pose", "wanted_normals", x, mesh.faces, b["face_normals"], b["fused"], b["fused_weight"], k["tilt"],
            self.outbox["share"], k["unseen"], b["trusted"], faces, b["wanted"], b["wanted_weight"],
        )  # fmt: skip
        self.run(
            "rows", "assemble", x, b["normals"], mesh.edges, mesh.start, mesh.neighbour, mesh.link, mesh.twin,
            k["unseen"], k["rest_height"], b["share"], b["gradient"], b["want"], b["weight"], k["outline"],
            b["contour_weight"], b["point_want"], b["point_weight"], b["edge"], r._MEMBRANE, 1 / r._DAMPING**2,
            self._views, count, edges, b["diagonal"], b["beside"], b["right"],
        )  # fmt: skip
        self.run(
            "solve", "normal_rows", x, b["normals"], mesh.faces, b["wanted"], b["wanted_weight"], *mesh.around[:2],
            *mesh.sides, count, edges, b["diagonal"], b["beside"], b["right"],
        )  # fmt: skip
        self.run(
            "solve", "conjugate_gradients", b["diagonal"], b["beside"], mesh.start, mesh.neighbour, mesh.link,
            b["right"], count, step.solver_steps, b["move"], b["cg_r"], b["cg_z"], b["cg_p"], b["cg_q"], b["cg_parts"],
        )  # fmt: skip
        self.run("shape", "displaced", x, b["normals"], b["move"], r._LONGEST, count, b["x1"])
        self.shape(b["x1"])
        self.run(
            "shape", "relaxed", b["x1"], b["normals"], mesh.start, mesh.neighbour, k["layout"], step.relax, count,
            b["x2"],
        )  # fmt: skip
        chain = (b["x2"], b["x1"], b["x2"], x)
        for before, after in pairwise(chain):
            self.shape(before)
            self.folds()
            self.run(
                "shape", "unfold", before, b["folded"], mesh.start, mesh.neighbour, *mesh.around[:2], count,
                b["marked"], after,
            )  # fmt: skip
        self.carry()

    def compare(self, step: Step) -> None:
        """``refine.compared``."""
        b, mesh, ph, x, i = self.buffer, self.mesh, photometric, self._x, self.inbox
        fine, grey, matrix = self.levels[0], b[f"grey{step.halvings}"], b[f"matrix{step.halvings}"]
        rows, columns = self._pyramid[step.halvings]
        self.run(
            "observe", "search_of", b["edge"], b["fine_pixel"], 2.0**step.halvings, ph.FOOTPRINT, step.reach,
            step.step, ph._APART, ph._SPACING, b["search"], b["samples"],
        )  # fmt: skip
        self.run(
            "photometric", "choose_views", x, b["normals"], mesh.faces, b["face_normals"], matrix, i["fine_center"],
            fine.matrix, fine.depth, self._faces, self._views, rows, columns, *fine.distance.shape[1:], b["search"],
            ph.FACING, b["slots"], b["places"],
        )  # fmt: skip
        heights = 2 * round(step.reach / step.step) + 1
        self.run(
            "photometric", "sample", grey, b["slots"], b["places"], b["samples"], b["search"], self._faces, heights,
            rows, columns, float(ph.GREY), b["sums"],
        )  # fmt: skip
        self.run(
            "photometric", "correlate", x, b["normals"], i["fine_center"], b["slots"], b["sums"], *mesh.around,
            self._vertices, self._views, heights, b["search"], ph.FACING, ph.FLAT, b["best"], b["flatness"],
            b["curves0"], b["contrast0"],
        )  # fmt: skip
        for n in range(ph.ROUNDS):
            now, then = n % 2, (n + 1) % 2
            self.run(
                "photometric", "average", b[f"curves{now}"], b[f"contrast{now}"], mesh.start, mesh.neighbour,
                self._vertices, heights, b[f"curves{then}"], b[f"contrast{then}"],
            )  # fmt: skip
        last = ph.ROUNDS % 2
        self.run(
            "photometric", "peaks", b[f"curves{last}"], b[f"contrast{last}"], self._vertices, heights, b["search"],
            ph.HEIGHT, ph.ABOVE, ph.SHARPNESS, b["point_want"], b["variance"],
        )  # fmt: skip
        self.run("rows", "points_of", x, b["normals"], b["point_want"], self._vertices, b["points"])

    def folds(self) -> None:
        """``Shape.folded``."""
        b = self.buffer
        self.run(
            "shape", "folds", b["normals"], self.mesh.faces, b["face_normals"], 0.0, self._faces,
            b["folded"], self.outbox["inverted"],
        )  # fmt: skip

    def carry(self) -> None:
        """``Rest.carried``, in place."""
        b, k, mesh = self.buffer, self.kept, self.mesh
        if not len(k["inner"]):
            return
        seen = float(self._vertices - len(k["inner"]))
        self.run(
            "pose", "laid_onto", k["pose"], k["pose_middle"], k["unseen"], seen, self._x, self._vertices,
            b["pose_sums"], b["motion"],
        )  # fmt: skip
        self.run(
            "pose", "carried", k["pose"], b["motion"], k["unseen"], mesh.start, mesh.neighbour, k["inner"],
            k["inner_start"], len(k["inner_start"]) - 1, rest._SWEEPS, self._vertices, b["carried"], self._x,
        )  # fmt: skip

    def judge(self) -> None:
        """What ``quality.fit_of``, ``skin.unlikeness`` and ``rigid.rigid_step`` find on the coarser maps."""
        b, half, out = self.buffer, self.levels[1], self.outbox
        self.rigid_step(half, self._x, rigid._SCALES[-1], rigid._SIGMAS[-1], 0.0, out["wanted"], fused=True)
        if self.skin is not None:
            self.skin.compare(half)
        self.run(
            "pixels", "overlap", half.face, half.inside, half.known, out["blind"], *half.distance.shape, out["counts"]
        )
        self.run(
            "rows", "residuals", b["face_normals"], b["fused"], b["fused_weight"], b["areas"], b["mean_area"],
            self._faces, b["residuals"], b["residual_counts"],
        )  # fmt: skip
        self.run("reduce", "weighted_middle", b["residuals"], b["residual_counts"], self._faces, out["residual"])
        self.folds()
