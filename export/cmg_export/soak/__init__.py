"""``python -m cmg_export.soak``: step an engine for as long as asked, under random resets and commands, and look.

settings.py   the options, and what follows from the machine
changes.py    what is done to it, and what it was told
reference.py  where roots and bodies are in the plain rollout in float64 that its window is held to
compare.py    how far the window is from it
watch.py      what the process and the GPU hold, and how long a step takes
limits.py     what counts as a failure
run.py        the run itself
report.py     the table and the JSON
"""
