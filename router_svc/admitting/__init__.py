"""Who is let in, and who goes next, when more is asked than there is room for."""
