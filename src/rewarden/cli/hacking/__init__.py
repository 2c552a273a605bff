"""`rewarden hacking …`: distortion, divergence, cascade, conflict, triggers. Each verb is a module."""
