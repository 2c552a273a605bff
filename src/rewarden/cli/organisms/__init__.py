"""`rewarden organisms …`: list, make, grade. Each verb is a module."""
