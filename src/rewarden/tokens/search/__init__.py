"""Search for the responses of several tokens that a reward model loves or hates most: guided, then exact, with certificates."""

from rewarden.tokens.search.beam import Bigrams, beam
from rewarden.tokens.search.constraints import Constraints, Naturalness
from rewarden.tokens.search.found import Found
from rewarden.tokens.search.proposals import draw_step
from rewarden.tokens.search.restarts import search

__all__ = ["Bigrams", "Constraints", "Found", "Naturalness", "beam", "draw_step", "search"]
