"""What ``CMG_Ref/eval_cmg.py`` is made of: rollouts, gait measures, their calibration, the bars and the report."""
