"""A strategy tried on labelled prompts: the verdict, in figures, tables and pictures."""
