"""Room for contacts and constraints."""

# MuJoCo comes without annotations.
# pyright: reportAttributeAccessIssue=false

import os

import mujoco

from isaacgym.structs import SimParams


def buffer_sizes(model: mujoco.MjModel, params: SimParams) -> tuple[int, int]:
    """Room for contacts and for rows of constraints, an environment.

    Contacts share one buffer, so an environment may have more than its part while others have fewer; rows do not. A
    shape makes about two contacts with flat ground and four with rough ground when the robot lies on it.
    """
    shapes = int((model.geom_bodyid > 0).sum())
    contacts = max(32, 2 * shapes) if model.nhfield + model.nmesh == 0 else max(64, 4 * shapes)
    nconmax = int(params.mujoco.nconmax or os.environ.get("ISAACGYM_NCONMAX") or contacts)
    rows = 4 * max(nconmax, contacts) + 2 * model.nv  # four a contact, a limit and a friction loss a DOF
    njmax = int(params.mujoco.njmax or os.environ.get("ISAACGYM_NJMAX") or rows)
    return nconmax, njmax
