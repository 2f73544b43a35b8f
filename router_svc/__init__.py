"""Which expert answers, and how does the answer get back?"""
