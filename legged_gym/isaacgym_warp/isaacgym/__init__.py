"""Isaac Gym's API on MuJoCo Warp: code written for Isaac Gym runs on today's cards, Pythons and torches."""

from isaacgym.shadowing import refuse_to_shadow

refuse_to_shadow()
