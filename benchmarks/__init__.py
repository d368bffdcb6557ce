"""Runnable measurements; ``results/`` holds what the tables of ``docs/`` are made from."""
