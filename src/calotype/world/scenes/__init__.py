"""The world of scenes: objects that lie and move on a ground, with every ground truth."""
