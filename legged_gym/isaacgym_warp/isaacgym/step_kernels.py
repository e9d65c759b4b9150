"""Kernels at the end of a step: environments that diverged, contact forces and force sensors, full buffers."""

# Warp compiles these functions from their source: its types are not Python's.
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportAssignmentType=false

import warp as wp

from isaacgym.tensors import rotation, to_xyzw


@wp.kernel
def start_diverged_anew(
    initial_qpos: wp.array2d[float],
    largest_position: float,
    largest_velocity: float,
    qpos: wp.array2d[float],
    qvel: wp.array2d[float],
    qacc_warmstart: wp.array2d[float],
    qfrc_actuator: wp.array2d[float],
    diverged: wp.array[int],
    noted: wp.array[int],
):
    """Puts worlds whose numbers are none, or too large, back to where they began, and counts them."""
    world = wp.tid()
    diverged[world] = 0
    for index in range(qpos.shape[1]):
        if not wp.abs(qpos[world, index]) < largest_position:
            diverged[world] = 1
    for dof in range(qvel.shape[1]):
        if not wp.abs(qvel[world, dof]) < largest_velocity:
            diverged[world] = 1
    if diverged[world] == 0:
        return
    wp.atomic_add(noted, 3, 1)
    for index in range(qpos.shape[1]):
        qpos[world, index] = initial_qpos[world, index]
    for dof in range(qvel.shape[1]):
        qvel[world, dof] = 0.0
        qacc_warmstart[world, dof] = 0.0
        qfrc_actuator[world, dof] = 0.0


@wp.kernel
def sum_contacts(
    diverged: wp.array[int],
    nacon: wp.array[int],
    wrench: wp.array[wp.spatial_vector],
    contact_position: wp.array[wp.vec3],
    contact_geoms: wp.array[wp.vec2i],
    contact_world: wp.array[int],
    geom_bodyid: wp.array[int],
    xpos: wp.array2d[wp.vec3],
    contact_force: wp.array3d[float],
    contact_moment: wp.array3d[float],
):
    """Adds each contact's wrench to its two bodies: force and moment about the body's origin, in the world's frame."""
    contact = wp.tid()
    if contact >= wp.min(nacon[0], wrench.shape[0]):
        return
    world = contact_world[contact]
    if diverged[world] != 0:
        return
    force = wp.spatial_top(wrench[contact])
    for side in range(2):
        body = geom_bodyid[contact_geoms[contact][side]]
        if body > 0:
            # The contact's normal points from the first geom to the second: its force pushes the second.
            sign = 2.0 * float(side) - 1.0
            arm = contact_position[contact] - xpos[world, body]
            moment = wp.cross(arm, force) + wp.spatial_bottom(wrench[contact])
            for axis in range(3):
                wp.atomic_add(contact_force, world, body - 1, axis, sign * force[axis])
                wp.atomic_add(contact_moment, world, body - 1, axis, sign * moment[axis])


@wp.kernel
def read_force_sensors(
    sensor_body: wp.array[int],
    sensor_position: wp.array[wp.vec3],
    sensor_rotation: wp.array[wp.quat],
    use_world_frame: wp.array[int],
    diverged: wp.array[int],
    xquat: wp.array2d[wp.quat],
    contact_force: wp.array3d[float],
    contact_moment: wp.array3d[float],
    sensor_wrench: wp.array3d[float],
):
    """The contacts' force and moment about the sensor's origin, in the sensor's frame or the world's."""
    world, sensor = wp.tid()
    if diverged[world] != 0:
        for axis in range(6):
            sensor_wrench[world, sensor, axis] = 0.0
        return
    body = sensor_body[sensor]
    turn = rotation(to_xyzw(xquat[world, body + 1]))
    force = wp.vec3(contact_force[world, body, 0], contact_force[world, body, 1], contact_force[world, body, 2])
    moment = wp.vec3(contact_moment[world, body, 0], contact_moment[world, body, 1], contact_moment[world, body, 2])
    moment = moment - wp.cross(wp.quat_rotate(turn, sensor_position[sensor]), force)
    if use_world_frame[sensor] == 0:
        turn = turn * sensor_rotation[sensor]
        force = wp.quat_rotate_inv(turn, force)
        moment = wp.quat_rotate_inv(turn, moment)
    for axis in range(3):
        sensor_wrench[world, sensor, axis] = force[axis]
        sensor_wrench[world, sensor, 3 + axis] = moment[axis]


@wp.kernel
def note_overflow(
    overflow: wp.array[int], nefc: wp.array[int], nacon: wp.array[int], ncollision: wp.array[int], noted: wp.array[int]
):
    """Into `noted`: bits of what has overflowed (OverflowType), the most constraints of a world, all contacts."""
    world = wp.tid()
    if overflow[world] != 0:
        wp.atomic_or(noted, 0, overflow[world])
        wp.atomic_max(noted, 1, nefc[world])
        wp.atomic_max(noted, 2, wp.max(nacon[0], ncollision[0]))
