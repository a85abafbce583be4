"""What all worlds share: random numbers, shapes, grounds, motion and the painter."""
