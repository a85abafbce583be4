"""Diffusion segmentation: masks by removing noise, and the study of what that adds."""
