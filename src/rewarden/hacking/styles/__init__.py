"""Style in natural texts: which features go with the reward, and what style is worth beside content."""
