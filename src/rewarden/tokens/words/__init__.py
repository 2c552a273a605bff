"""Words: what a token spells, how it feels, how often it is used, and what a reward model makes of that."""
