"""How long tests may try that never come to an end of what there is to try."""

import os

# Histories of a rental; thousands take minutes, for whoever has changed what they are about.
LEASE_HISTORIES = int(os.environ.get("VOC_TRAIN_LEASE_HISTORIES") or 100)
