"""Recordings of people as BVH files have them -> clips of a walking G1: ``python -m CMG_Ref.dataloader.retarget``."""
