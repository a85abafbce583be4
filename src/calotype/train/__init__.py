"""Training: the loop, its state on disk, its budget, precision and moving average."""
