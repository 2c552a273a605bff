"""The edit engine: exact scalars of counterfactual activations, for about the price of a few forwards."""

from rewarden.edits.backend import backend_of
from rewarden.edits.base import BaseRun
from rewarden.edits.edit import Edit, EditBatch, Site
from rewarden.edits.plan import Edited, Plan

__all__ = ["BaseRun", "Edit", "EditBatch", "Edited", "Plan", "Site", "backend_of"]
