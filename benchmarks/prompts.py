"""Prompts to measure with: made here, so that a benchmark needs nothing outside the repository."""

TOPICS = {
    "math": "A shop sells {a} pens at {b} cents each and {c} books at {d} dollars each. How much is that together?",
    "coding": "Write a Python function that returns the {a}th to {b}th entries of a list, skipping every {c}rd one.",
    "health": "Does taking {a} mg of vitamin D each day for {b} weeks lower the risk of falling in adults over {c}?",
    "general": "What should I pack for a trip of {a} days to a town of {b} thousand people in the mountains?",
}


def prompt(number: int) -> str:
    """Return the prompt of that number: topics in turn, figures that do not repeat soon."""
    template = list(TOPICS.values())[number % len(TOPICS)]
    return template.format(a=2 + number % 17, b=3 + number % 29, c=4 + number % 61, d=5 + number % 13)
