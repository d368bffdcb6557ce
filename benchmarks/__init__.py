"""Runnable measurements; ``results/`` holds what the tables of the README are made from."""
