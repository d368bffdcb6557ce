"""The ``alphareq`` command: nothing but input and output."""
