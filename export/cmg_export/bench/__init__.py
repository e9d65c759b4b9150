"""``python -m cmg_export.bench``: what an engine costs on this machine, beside what a user would otherwise run.

settings.py    the options, and what follows from the machine
run.py         one run, section by section
engine_section.py  section engine, all of it
contenders.py  what it times: the engine's backends, and the peers
peers.py       the peers themselves
inputs.py      what they compute, and their error to float64
engines.py     the whole engine: step, window rebuild, memory
floor.py       the machine, and the floor from counted operations
dropin.py      section dropin: the drop-in interfaces, beside dropin_reference.py
time_share.py  section time-share: the reference's part of a training environment's step
training_speed.py  in it: a step and an iteration of PPO, captured, eager, and of mjlab's own task
results.py     the figures, as bench.json has them
targets.py     which figures are held to a bar
report.py      the table
plots.py       the pictures
kernels.py     a command of its own: the fused backend's kernels alone
"""
