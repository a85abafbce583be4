"""Value types, grids, and the files of pictures, clips and volumes: nothing here knows of models."""
