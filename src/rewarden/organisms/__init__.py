"""Organisms: small reward models whose rule is planted, so that every instrument can be graded."""

from rewarden.organisms.decisive import decisive_head, noise
from rewarden.organisms.organism import Organism

__all__ = ["Organism", "decisive_head", "noise"]
