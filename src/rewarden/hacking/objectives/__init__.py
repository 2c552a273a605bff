"""Objectives of one model that contradict each other."""
