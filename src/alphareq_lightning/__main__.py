"""``python -m alphareq_lightning`` is ``alphareq``."""

import sys

from alphareq_lightning.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
