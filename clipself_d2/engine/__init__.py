"""Training and evaluation shared by all applications: trainer, checkpoints, hooks, optimizer, launch, run."""
