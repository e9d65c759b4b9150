"""What a build is made from: checkpoints, robot models, samples; read, checked and never trusted."""
