"""Where the time of a request went: spans taken in, kept, read back, drawn and summed up."""
