"""What ``CMG_Ref/train.py`` is made of: batches from samples, the rollout objective, the optimisation step."""
