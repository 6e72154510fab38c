"""What the tests of the fleet share."""

from tests.fakes import engine

__all__ = ["engine"]
