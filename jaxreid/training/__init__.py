"""Training: loop, step, state, objectives, optimizers and schedules."""
