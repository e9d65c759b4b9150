"""Gives every link of a robot a mass and an inertia that can be simulated."""

# MuJoCo's bindings come without types.
# pyright: reportAttributeAccessIssue=false

from dataclasses import replace

import mujoco
import numpy as np

from isaacgym.links import Inertial, Link, Shape
from isaacgym.robot import add_shape, compiled
from isaacgym.structs import AssetOptions

_LEAST = Inertial(1e-3, np.zeros(3), 1e-6 * np.eye(3))
"""What a link weighs that moves on its own and has neither mass nor shapes: 1 g, as in a ball with a radius of 5 cm."""

_LEAST_GYRATION = 1e-3
"""The least radius of gyration [m] of a link: files with an inertia of 0 exist."""


def with_masses(link: Link, options: AssetOptions) -> Link:
    """The tree in which each link has its mass and inertia; only links fixed to others may weigh nothing (None).

    What the file says counts. Links without a mass have that of their shapes with ``density``, links without an inertia
    that of their shapes with their mass. ``override_inertia`` and ``override_com`` take the inertia and the centre of
    mass from the shapes, where there are some. Inertias that no body can have are raised as little as it takes.
    """
    link = replace(
        link,
        inertial=_inertial(link, options),
        children=tuple(with_masses(child, options) for child in link.children),
    )
    moves = not (options.fix_base_link if link.joint is None else link.is_fixed)
    return replace(link, inertial=_LEAST) if moves and not _has_mass(link) else link


def _has_mass(link: Link) -> bool:
    """Whether a link weighs anything together with what is fixed to it."""
    return link.inertial is not None or any(_has_mass(child) for child in link.children if child.is_fixed)


def _inertial(link: Link, options: AssetOptions) -> Inertial | None:
    given = link.inertial
    known = given is not None and bool(given.inertia.any())
    if link.shapes and (not known or options.override_inertia or options.override_com):
        solid = solid_of_shapes(link.shapes)
        if given is None:
            return _possible(solid.with_mass(options.density * solid.mass)) if options.density > 0.0 else None
        solid = solid.with_mass(given.mass)
        center = solid.center if options.override_com else given.center
        given = Inertial(given.mass, center, solid.inertia if options.override_inertia or not known else given.inertia)
    return None if given is None else _possible(given)


def solid_of_shapes(shapes: tuple[Shape, ...]) -> Inertial:
    """Mass, centre and inertia of solids of 1 kg/m^3; where they overlap, both count."""
    spec = mujoco.MjSpec()
    body = spec.worldbody.add_body(name="link")
    for index, shape in enumerate(shapes):
        add_shape(spec, body, shape, f"shape{index}").density = 1.0
    model = compiled(spec)
    axes = np.zeros(9)
    mujoco.mju_quat2Mat(axes, model.body_iquat[1])
    axes = axes.reshape(3, 3)
    return Inertial(model.body_mass[1], model.body_ipos[1].copy(), axes @ np.diag(model.body_inertia[1]) @ axes.T)


def _possible(inertial: Inertial) -> Inertial:
    """The same with an inertia that a body of that mass can have.

    Its principal moments are those of a radius of gyration of ``_LEAST_GYRATION`` or more, and none is larger than the
    two others together. PhysX takes any moments, MuJoCo does not.
    """
    moments, axes = np.linalg.eigh(inertial.inertia)
    moments = np.maximum(moments, inertial.mass * _LEAST_GYRATION**2)
    lacking = moments[2] - moments[0] - moments[1]
    if lacking > -1e-9 * moments[2]:
        moments[:2] += 0.5 * max(lacking, 0.0) + 1e-9 * moments[2]
    return replace(inertial, inertia=axes @ np.diag(moments) @ axes.T)
