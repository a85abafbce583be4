"""CAGE: objects composed and moved by their features, in a video model that was trained on clips without annotations."""
