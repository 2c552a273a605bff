"""What does a reward model love and hate? Every token scored as the response, its statistics, and search for longer ones."""

from rewarden.tokens.responses import score_responses
from rewarden.tokens.scan import score_vocabulary
from rewarden.tokens.scores import TokenScores, token_scores

__all__ = ["TokenScores", "score_responses", "score_vocabulary", "token_scores"]
