"""What turns prompts into scores over experts: the strategies, and the artefacts that they are read from."""
