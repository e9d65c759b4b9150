"""``python -m cmg_export.bench``: what an engine costs on this machine, beside what a user would otherwise run.

contenders.py  what is timed: the engine's backends, and the peers
peers.py       the peers themselves
inputs.py      what they compute, and their error to float64
engines.py     the whole engine: step and window rebuild
memory.py      what frames and engines take
timing.py      how it is timed, and the contenders interleaved
run.py         one run of it all, as settings.py says
machine.py     what it is timed on, and the floor from counted operations
results.py     the figures, as bench.json has them
targets.py     which figures are held to a bar
report.py      the table
plots.py       the pictures
"""
