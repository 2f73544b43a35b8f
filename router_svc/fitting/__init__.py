"""Labelled or unlabelled prompts → artefacts. Nothing here is loaded while a router serves."""
