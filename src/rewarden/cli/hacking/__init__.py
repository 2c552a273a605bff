"""`rewarden hacking …`: distortion, divergence, cascade, conflict. Each verb is a module."""
