"""What does a reward model love and hate? Every token scored as the response, its statistics, and search for longer ones."""

from rewarden.tokens.gaps import rank_gaps
from rewarden.tokens.maps import model_map
from rewarden.tokens.moments import moments
from rewarden.tokens.rank_agreement import rank_agreement
from rewarden.tokens.responses import score_responses
from rewarden.tokens.scan import score_vocabulary
from rewarden.tokens.scores import TokenScores, token_scores
from rewarden.tokens.shared import SharedScores, shared_vocabulary

__all__ = ["SharedScores", "TokenScores", "model_map", "moments", "rank_agreement", "rank_gaps", "score_responses",
           "score_vocabulary", "shared_vocabulary", "token_scores"]
