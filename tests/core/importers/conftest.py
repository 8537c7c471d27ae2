"""Keeps tests of importers from the network, before a library reads the setting."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
