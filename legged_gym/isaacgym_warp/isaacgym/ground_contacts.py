"""Contacts with heights: MuJoCo Warp's narrow phase for them, held to what is possible.

A height field is a prism below each of its triangles, and MuJoCo Warp looks for a shape's contact with each prism in
the field's own frame. Some tens of meters from the field's centre its 32-bit floats no longer tell where in a triangle
a point is, and contacts come out meters deep. Where the side of a prism is nearer than its top it guesses a point of
the top, which can be off the triangle, or below the shape, which is then pulled down. Robots are thrown off by both.

:func:`prism_contact` stands in for that step: it works around the shape's centre, and takes a contact only if its point
lies on the triangle, below which the shape is at least as deep. Any other is made of the triangle's plane and the
shape's lowest point over it, or, where that is beside the triangle, left to the triangle there.
"""

# Warp compiles these functions from their source: its types are not Python's.
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportAssignmentType=false

import warp as wp
from mujoco_warp._src import collision_convex
from mujoco_warp._src.collision_core import Geom
from mujoco_warp._src.collision_gjk import ccd, support

from isaacgym.structs import GymError

wp.set_module_options({"enable_backward": False})

_ROUNDING = 1e-5  # m: what depths may differ by
_ON_PLANE = 1e-4  # m: as far from a triangle's plane a point is still on it
_BESIDE = 1e-3  # of a triangle's sides: as far beside it a point is still on it


@wp.func
def is_over_triangle(corner: wp.vec3, side1: wp.vec3, side2: wp.vec3, point: wp.vec3) -> bool:
    """Whether a point is above or below a triangle, which is not upright."""
    from_corner = point - corner
    area = side1[0] * side2[1] - side1[1] * side2[0]
    along1 = (from_corner[0] * side2[1] - from_corner[1] * side2[0]) / area
    along2 = (side1[0] * from_corner[1] - side1[1] * from_corner[0]) / area
    return along1 >= -_BESIDE and along2 >= -_BESIDE and along1 + along2 <= 1.0 + _BESIDE


@wp.func
def prism_contact(
    tolerance: float,
    cutoff: float,
    gjk_iterations: int,
    epa_iterations: int,
    prism: Geom,
    shape: Geom,
    prism_type: int,
    shape_type: int,
    prism_center: wp.vec3,
    shape_center: wp.vec3,
    vert: wp.array[wp.vec3],
    vert_index: wp.array[int],
    face: wp.array[int],
    face_pr: wp.array[wp.vec3],
    face_norm2: wp.array[float],
    horizon: wp.array[int],
    warn_overflow: bool,
    worldid: int,
    overflow: wp.array[int],
) -> tuple[float, int, wp.vec3, wp.vec3, int]:
    """MuJoCo Warp's ``ccd`` for a prism (rows 3 to 5 of ``hfprism`` are its top) and a shape.

    Returns:
        the distance, below 0; 1 contact or 0; its points on prism and shape, in the field's frame; -1.
    """
    for row in range(6):
        for axis in range(3):
            prism.hfprism[row, axis] = prism.hfprism[row, axis] - shape_center[axis]
    corner = prism.hfprism[3]
    side1 = prism.hfprism[4] - corner
    side2 = prism.hfprism[5] - corner
    normal = wp.normalize(wp.cross(side1, side2))
    normal = normal * wp.sign(normal[2])
    shape.pos = wp.vec3(0.0, 0.0, 0.0)
    lowest = support(shape, shape_type, -normal).point
    depth = wp.dot(corner - lowest, normal)
    if depth <= 0.0:
        shape.pos = shape_center
        return 0.0, 0, shape_center, shape_center, -1
    dist, contacts, on_prism, on_shape, _edge = ccd(
        tolerance,
        cutoff,
        gjk_iterations,
        epa_iterations,
        prism,
        shape,
        prism_type,
        shape_type,
        prism_center - shape_center,
        shape.pos,
        vert,
        vert_index,
        face,
        face_pr,
        face_norm2,
        horizon,
        warn_overflow,
        worldid,
        overflow,
    )
    shape.pos = shape_center
    if contacts == 0 or not dist < 0.0:
        return 0.0, 0, shape_center, shape_center, -1
    possible = dist >= -depth - _ROUNDING and wp.dot(on_prism - on_shape, normal) > 0.0
    possible = possible and wp.abs(wp.dot(on_prism - corner, normal)) < _ON_PLANE
    if possible and is_over_triangle(corner, side1, side2, on_prism):
        return dist, 1, on_prism + shape_center, on_shape + shape_center, -1
    if is_over_triangle(corner, side1, side2, lowest):
        return -depth, 1, lowest + depth * normal + shape_center, lowest + shape_center, -1
    return 0.0, 0, shape_center, shape_center, -1


def install() -> None:
    """Puts it into MuJoCo Warp for the whole process, before kernels for heights are built.

    Raises:
        GymError: this MuJoCo Warp has no such step.
    """
    if not hasattr(collision_convex, "ccd"):
        raise GymError("this mujoco-warp's contacts with heights cannot be mended here; install mujoco-warp 3.11.0")
    collision_convex.ccd = prism_contact
