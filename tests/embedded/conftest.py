"""The embedded models are trained as any other."""

from tests.train.conftest import family, one_thread

__all__ = ["family", "one_thread"]
