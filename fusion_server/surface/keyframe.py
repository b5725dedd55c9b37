"""A surface from nothing: hull, carved where that is asked, refinement with remeshing, depths beside it where they are
asked, then a texture atlas."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from fusion_server.surface.base import SurfaceError, SurfaceSettings
from fusion_server.surface.bias import Bias
from fusion_server.surface.carve import carved
from fusion_server.surface.density import edge_lengths
from fusion_server.surface.depth_rows import depth_positions
from fusion_server.surface.hull import Field, visual_hull
from fusion_server.surface.observation import Observation, look
from fusion_server.surface.photometric import FOOTPRINT, Positions
from fusion_server.surface.refine import BORDER, Clock, Step, compared, refine
from fusion_server.surface.rest import Rest
from fusion_server.surface.silhouette import reach
from fusion_server.surface.solve import Shape, System, Topology, unfolded
from fusion_server.surface.stereo import BEHIND_A_HULL, BESIDE_A_SURFACE, Depths, agreed_depths
from geometry.align import rigid_motion
from geometry.measure import SurfaceIndex
from geometry.mesh import Mesh
from geometry.rasterize.base import Rasterizer
from geometry.remesh import edge_length_for, remesh, vertices_for

log = logging.getLogger(__name__)

# The search narrows as the surface settles, and the pictures sharpen. At first it reaches 36 mm to either side (where a
# pixel of the usual pictures covers 0.8), since a hull bridges the sockets of eyes, and what lies behind ears and below
# a chin. Reaches and numbers of steps were chosen by `python -m benchmarks subjects --count 9 --seed 5`.
_FIRST = Step(gate=20.0, scale=10e-3, relax=0.3, reach=9e-3, halvings=2)
_SECOND = Step(gate=20.0, scale=10e-3, relax=0.3, reach=6e-3, halvings=1)
_THIRD = Step(gate=10.0, scale=4e-3, relax=0.3, reach=2e-3, halvings=1)
_NEAR = Step(gate=10.0, scale=4e-3, relax=0.3, reach=3e-3)
_CLOSE = Step(gate=10.0, scale=4e-3, relax=0.3, reach=3e-3)
# In the end normals say how the surface bends, no longer where it is: outlines and pictures know that better.
_LAST = 2
# These were chosen on subjects as `python -m benchmarks subjects` draws them.
_RELIEF = 7e-3  # metres: what is wider in normals is shape, and not theirs to tell while a keyframe is polished
_POLISHED = 0.2  # radians: what they are trusted with meanwhile
_AGAIN, _TOLD = 2, 4  # how often depths beside the polished surface are looked for, iterations that each gets;
_BESIDE_DEPTHS = 0.1  # radians: what normals are trusted with then
_ENOUGH = 4.0  # pixels an edge: patches of smaller faces have fewer pixels, and know less than their peaks say
_COUNTS = (5_000, 80_000)  # of vertices that nobody counted: at least, at most
_CREASED = 0.4  # cosine between a face and its vertices' normals; less would fold over when somebody breathes on it


def make_keyframe(
    observation: Observation, rasterizer: Rasterizer, settings: SurfaceSettings, clock: Clock
) -> tuple[Mesh, int]:
    """A closed mesh of about ``settings.vertices`` vertices, and the number of iterations it took.

    Raises SurfaceError when the masks make no hull.
    """
    field = visual_hull(observation.cameras, observation.outlines, settings.hull_cells)
    hull = field.surface()
    clock.lap("hull")
    if settings.photometric and settings.stereo:
        hull = _carved(field, hull, agreed_depths(observation, hull, rasterizer, settings.stereo, BEHIND_A_HULL))
        clock.lap("stereo")
    count = settings.vertices or _told_apart(hull, observation)
    coarse = max(count // 3, 500)
    iterations = 0
    mesh, relative = hull, 1.0
    for vertices, steps in (
        (coarse, [_FIRST] * 8 + [_SECOND] * 4 + [_THIRD] * 2),
        (count, [_NEAR] * 3 + [_CLOSE] * max(settings.keyframe_iterations - 7, 1)),
        (count, [_CLOSE] * 4),
    ):
        mesh = remesh(mesh, edge_length_for(mesh, vertices, relative), rounds=4)
        clock.lap("remesh")
        topology = Topology.of(mesh.faces, len(mesh.vertices))
        points = mesh.vertices
        unseen = reach(points, observation.rig, observation.outlines) < BORDER
        pose = Rest.of(Shape.of(points, topology), topology, unseen)
        for step in steps:
            seen = look(points, topology, observation, rasterizer)
            clock.lap("rasterize")
            points, _ = refine(seen, topology, step, settings, clock)
            points = pose.carried(points, topology)  # what the pictures do not have keeps the hull's smooth end
        iterations += len(steps)
        mesh = Mesh(points, mesh.faces)
        relative = edge_lengths(look(points, topology, observation, rasterizer), topology)
    for _ in range(_LAST):
        seen = look(points, topology, observation, rasterizer)
        points, _ = refine(seen, topology, _CLOSE, settings, clock, bias=Bias.of_normals(seen, topology))
        points = pose.carried(points, topology)
    iterations += _LAST
    if settings.photometric and settings.polish:
        clock.lap("solve")
        points = _polished(points, topology, pose, observation, rasterizer, settings)
        iterations += settings.polish * (observation.spare_halvings + 1)
        clock.lap("polish")
    if settings.photometric and settings.stereo:
        clock.lap("solve")
        points, more = _on_depths(points, topology, pose, observation, rasterizer, settings)
        iterations += more
        clock.lap("stereo")
    return Mesh(unfolded(points, topology, _CREASED), mesh.faces), iterations


def _carved(field: Field, hull: Mesh, depths: Depths) -> Mesh:
    """A hull's field without what depths see through, or the hull where there are none or that is no closed surface."""
    if not depths.depth.any():
        log.info("stereo: no depths; are cameras more than 40 degrees apart, or pictures without texture?")
        return hull
    try:
        return carved(field, depths).surface()
    except SurfaceError as error:
        log.warning("stereo: %s; the mesh starts from the hull as it is", error)
        return hull


def _by_few_pixels(held: Positions, edge: float) -> Positions:
    """What is held to be known of positions by patches of faces with edges of so many metres."""
    pixels = edge / (held.scale * FOOTPRINT)
    return replace(held, variance=held.variance * max(1.0, _ENOUGH / pixels) ** 2)


def _told_apart(hull: Mesh, observation: Observation) -> int:
    """How many vertices the finest pictures can tell apart, with edges of ``_ENOUGH`` pixels."""
    pixel = (observation.pictures or observation).rig.footprint(observation.middle)
    return int(np.clip(vertices_for(hull, _ENOUGH * pixel), *_COUNTS))


def _polished(
    points: np.ndarray,
    topology: Topology,
    pose: Rest,
    observation: Observation,
    rasterizer: Rasterizer,
    settings: SurfaceSettings,
) -> np.ndarray:
    """Vertices (P, 3) where pictures of all sizes, to the finest, say that they are; normals tell the relief alone."""
    settings = replace(settings, sigma_normal=max(settings.sigma_normal, _POLISHED))
    for finer in range(observation.spare_halvings + 1):
        step = replace(_CLOSE, halvings=-finer)
        for _ in range(settings.polish):
            seen = look(points, topology, observation, rasterizer)
            held = compared(seen, topology, step)
            assert held is not None  # there are pictures
            held = _by_few_pixels(held, seen.shape.edge)
            trend = Bias.of_trend(seen, topology, _RELIEF)
            points, _ = refine(seen, topology, step, settings, Clock(), held, bias=trend)
            points = pose.carried(points, topology)
    return points


def _on_depths(
    points: np.ndarray,
    topology: Topology,
    pose: Rest,
    observation: Observation,
    rasterizer: Rasterizer,
    settings: SurfaceSettings,
) -> tuple[np.ndarray, int]:
    """Vertices (P, 3) where depths beside the surface are, as cameras agree on them, and the number of iterations that
    took; normals tell the relief alone."""
    iterations = 0
    # What is known of a depth stands in its variance: there is no best case beside that.
    settings = replace(settings, sigma_normal=max(settings.sigma_normal, _BESIDE_DEPTHS), sigma_photometric=0.0)
    for _ in range(_AGAIN):
        surface = Mesh(points, topology.faces)
        depths = agreed_depths(observation, surface, rasterizer, settings.stereo, BESIDE_A_SURFACE)
        if not depths.depth.any():
            log.info("stereo: no depths beside the mesh, which stays; are cameras more than 60 degrees apart?")
            break
        iterations += _TOLD
        for _ in range(_TOLD):
            seen = look(points, topology, observation, rasterizer)
            held = depth_positions(depths, seen.shape, topology, rasterizer)
            trend = Bias.of_trend(seen, topology, _RELIEF)
            points, _ = refine(seen, topology, _CLOSE, settings, Clock(), held, bias=trend)
            points = pose.carried(points, topology)
    return points, iterations


def unwrap(mesh: Mesh) -> np.ndarray:
    """Texture coordinates of the corners of faces (F, 3, 2), 0 to 1; charts do not overlap, some are mirrored."""
    import xatlas  # only where an atlas is wanted: a live server wants none

    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))
    packing = xatlas.PackOptions()
    packing.padding = 2
    atlas.generate(pack_options=packing)
    _, corners, uv = atlas[0]
    return uv[corners].astype(np.float32)


def aligned(vertices: np.ndarray, index: SurfaceIndex, rounds: int = 12) -> np.ndarray:
    """Vertices (P, 3) moved as one piece onto another surface: iterative closest points (Besl and McKay, PAMI 1992),
    the farthest tenth left out.  # P,3"""
    for _ in range(rounds):
        near, distance, _ = index.closest(vertices)
        keep = distance <= np.percentile(distance, 90)
        vertices = rigid_motion(vertices[keep], near[keep])(vertices)
    return vertices


def draped(vertices: np.ndarray, topology: Topology, index: SurfaceIndex, rounds: int = 12) -> np.ndarray:
    """Vertices (P, 3) of a topology that lies roughly on another surface laid onto it smoothly.  # P,3"""
    for n in range(rounds):
        shape = Shape.of(vertices, topology)
        off = index.closest(shape.vertices)[0] - shape.vertices
        system = System(topology)
        system.add_points((off * shape.normals).sum(1), np.ones(len(off)))
        system.add_membrane(10.0 / (1 + n), 1e-3)
        vertices = shape.vertices + system.solve()[:, None] * shape.normals
    return vertices
