"""Settings that torch and transformers read once, when they are imported: import this before them."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # everything needed is on disk
# Threads that spin while they wait for each other stand still on a machine with other work: with both
# cores busy, four steps of training took 129 s spinning and 33 s sleeping.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
