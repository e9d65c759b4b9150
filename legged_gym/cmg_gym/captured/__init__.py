"""The training environment as a short sequence of CUDA graphs: what mjlab does in a step, without its launches.

env = make_env(cfg, "cuda:0")          # captured on a GPU, mjlab's own on a CPU
vec = TrainingEnv(env)                 # what PPO runs
observations, rewards, dones, extras = vec.step(actions)
vec.episode_statistics()               # what mjlab logs, read once an iteration
"""

from cmg_gym.captured.env import CapturedEnv, make_env
from cmg_gym.captured.training_env import TrainingEnv

__all__ = ["CapturedEnv", "TrainingEnv", "make_env"]
