"""What selection by a reward brings: best-of-n, tilting, the onset of over-optimisation, and what rises on the way."""
