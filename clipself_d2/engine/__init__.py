"""Training shared by all applications: trainer, checkpoints, hooks, optimiser, launch, run."""
