"""Several reward models on the tokens they share: moments, rank agreement, maps, and what explains who agrees with whom."""
