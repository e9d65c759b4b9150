"""Kernels between MuJoCo's state and Isaac Gym's tensors.

Isaac Gym's quaternions are x, y, z, w, its velocities in the world's frame and of the body's origin. MuJoCo's
quaternions are w, x, y, z, a free joint's angular velocity is in its body's frame, and a body's velocity is that of the
point of the body that is at its tree's centre of mass.
"""

# Warp compiles these functions from their source: its types are not Python's.
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportAssignmentType=false

import warp as wp


@wp.func
def to_xyzw(quaternion: wp.quat) -> wp.vec4:
    """MuJoCo keeps w, x, y, z in Warp's quaternion, whose own order is x, y, z, w."""
    return wp.vec4(quaternion[1], quaternion[2], quaternion[3], quaternion[0])


@wp.func
def rotation(quaternion: wp.vec4) -> wp.quat:
    """Warp's own quaternion, for its functions, from x, y, z, w."""
    return wp.normalize(wp.quat(quaternion[0], quaternion[1], quaternion[2], quaternion[3]))


@wp.func
def put_state(
    row: wp.array[float], position: wp.vec3, quaternion: wp.vec4, linear_velocity: wp.vec3, angular_velocity: wp.vec3
):
    """One row of 13: position, quaternion, linear velocity, angular velocity."""
    for axis in range(3):
        row[axis] = position[axis]
        row[7 + axis] = linear_velocity[axis]
        row[10 + axis] = angular_velocity[axis]
    for axis in range(4):
        row[3 + axis] = quaternion[axis]


@wp.kernel
def read_floating_roots(qpos: wp.array2d[float], qvel: wp.array2d[float], root_state: wp.array2d[float]):
    world = wp.tid()
    q = qpos[world]
    v = qvel[world]
    quaternion = wp.vec4(q[4], q[5], q[6], q[3])
    spin = wp.quat_rotate(rotation(quaternion), wp.vec3(v[3], v[4], v[5]))
    put_state(root_state[world], wp.vec3(q[0], q[1], q[2]), quaternion, wp.vec3(v[0], v[1], v[2]), spin)


@wp.kernel
def read_fixed_roots(mocap_pos: wp.array2d[wp.vec3], mocap_quat: wp.array2d[wp.quat], root_state: wp.array2d[float]):
    world = wp.tid()
    put_state(root_state[world], mocap_pos[world, 0], to_xyzw(mocap_quat[world, 0]), wp.vec3(0.0), wp.vec3(0.0))


@wp.kernel
def write_floating_roots(
    root_state: wp.array2d[float],
    indices: wp.array[int],
    qpos: wp.array2d[float],
    qvel: wp.array2d[float],
    qacc_warmstart: wp.array2d[float],
):
    world = indices[wp.tid()]
    row = root_state[world]
    quaternion = rotation(wp.vec4(row[3], row[4], row[5], row[6]))
    spin = wp.quat_rotate_inv(quaternion, wp.vec3(row[10], row[11], row[12]))
    for axis in range(3):
        qpos[world, axis] = row[axis]
        qpos[world, 4 + axis] = quaternion[axis]
        qvel[world, axis] = row[7 + axis]
        qvel[world, 3 + axis] = spin[axis]
    qpos[world, 3] = quaternion[3]
    for dof in range(qacc_warmstart.shape[1]):
        qacc_warmstart[world, dof] = 0.0


@wp.kernel
def write_fixed_roots(
    root_state: wp.array2d[float],
    indices: wp.array[int],
    mocap_pos: wp.array2d[wp.vec3],
    mocap_quat: wp.array2d[wp.quat],
    qacc_warmstart: wp.array2d[float],
):
    """The velocities of a fixed root are not taken: it has none."""
    world = indices[wp.tid()]
    row = root_state[world]
    quaternion = rotation(wp.vec4(row[3], row[4], row[5], row[6]))
    mocap_pos[world, 0] = wp.vec3(row[0], row[1], row[2])
    mocap_quat[world, 0] = wp.quat(quaternion[3], quaternion[0], quaternion[1], quaternion[2])
    for dof in range(qacc_warmstart.shape[1]):
        qacc_warmstart[world, dof] = 0.0


@wp.kernel
def read_dofs(
    qpos: wp.array2d[float], qvel: wp.array2d[float], qpos_start: int, qvel_start: int, dof_state: wp.array3d[float]
):
    world, dof = wp.tid()
    dof_state[world, dof, 0] = qpos[world, qpos_start + dof]
    dof_state[world, dof, 1] = qvel[world, qvel_start + dof]


@wp.kernel
def write_dofs(
    dof_state: wp.array3d[float],
    indices: wp.array[int],
    qpos_start: int,
    qvel_start: int,
    qpos: wp.array2d[float],
    qvel: wp.array2d[float],
    qacc_warmstart: wp.array2d[float],
):
    row, dof = wp.tid()
    world = indices[row]
    qpos[world, qpos_start + dof] = dof_state[world, dof, 0]
    qvel[world, qvel_start + dof] = dof_state[world, dof, 1]
    qacc_warmstart[world, qvel_start + dof] = 0.0
    if dof == 0:
        for free in range(qvel_start):
            qacc_warmstart[world, free] = 0.0


@wp.kernel
def write_efforts(efforts: wp.array2d[float], indices: wp.array[int], qvel_start: int, qfrc_applied: wp.array2d[float]):
    row, dof = wp.tid()
    world = indices[row]
    qfrc_applied[world, qvel_start + dof] = efforts[world, dof]


@wp.kernel
def write_targets(
    targets: wp.array2d[float],
    indices: wp.array[int],
    gains: wp.array2d[float],
    ctrl: wp.array2d[float],
):
    """Drives with a gain of zero have the other kind of target and keep theirs."""
    row, dof = wp.tid()
    world = indices[row]
    gain = gains[world, dof]
    if gain != 0.0:
        ctrl[world, dof] = gain * targets[world, dof]


@wp.kernel
def read_dof_forces(
    qfrc_actuator: wp.array2d[float], qfrc_applied: wp.array2d[float], qvel_start: int, dof_force: wp.array2d[float]
):
    world, dof = wp.tid()
    dof_force[world, dof] = qfrc_actuator[world, qvel_start + dof] + qfrc_applied[world, qvel_start + dof]


@wp.kernel
def read_bodies(
    body_rootid: wp.array[int],
    xpos: wp.array2d[wp.vec3],
    xquat: wp.array2d[wp.quat],
    cvel: wp.array2d[wp.spatial_vector],
    subtree_com: wp.array2d[wp.vec3],
    body_state: wp.array3d[float],
):
    world, index = wp.tid()
    body = index + 1
    velocity = cvel[world, body]
    spin = wp.spatial_top(velocity)
    arm = xpos[world, body] - subtree_com[world, body_rootid[body]]
    slide = wp.spatial_bottom(velocity) + wp.cross(spin, arm)
    put_state(body_state[world, index], xpos[world, body], to_xyzw(xquat[world, body]), slide, spin)


@wp.kernel
def add_external_forces(
    forces: wp.array3d[float],
    positions: wp.array3d[float],
    torques: wp.array3d[float],
    local: int,
    xpos: wp.array2d[wp.vec3],
    xquat: wp.array2d[wp.quat],
    xipos: wp.array2d[wp.vec3],
    xfrc_applied: wp.array2d[wp.spatial_vector],
):
    """Forces act at the bodies' centres of mass, or at `positions`. An array without bodies is absent."""
    world, index = wp.tid()
    body = index + 1
    turn = wp.quat_identity()
    if local != 0:
        turn = rotation(to_xyzw(xquat[world, body]))
    force = wp.vec3(0.0)
    torque = wp.vec3(0.0)
    if forces.shape[1] > 0:
        force = wp.quat_rotate(turn, wp.vec3(forces[world, index, 0], forces[world, index, 1], forces[world, index, 2]))
    if torques.shape[1] > 0:
        torque = wp.quat_rotate(
            turn, wp.vec3(torques[world, index, 0], torques[world, index, 1], torques[world, index, 2])
        )
    if positions.shape[1] > 0:
        point = wp.vec3(positions[world, index, 0], positions[world, index, 1], positions[world, index, 2])
        if local != 0:
            point = xpos[world, body] + wp.quat_rotate(turn, point)
        torque += wp.cross(point - xipos[world, body], force)
    xfrc_applied[world, body] += wp.spatial_vector(force, torque)
