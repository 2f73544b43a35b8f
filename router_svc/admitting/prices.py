"""What a request costs, in tokens: guessed before it is answered, known after."""

from expertmesh.v1.generation_pb2 import GenerateRequest, Usage

BYTES_PER_TOKEN = 4  # of English text, about
UNMEASURED_TOKENS = 128.0  # of an answer, until one has ended
_NEWEST = 0.05  # weight of the newest value in a moving average


def prompt_tokens(request: GenerateRequest) -> int:
    """Guess the tokens of a prompt: at least 1."""
    match request.WhichOneof("input"):
        case "prompt":
            length = len(request.prompt) // BYTES_PER_TOKEN
        case "chat":
            length = request.chat.ByteSize() // BYTES_PER_TOKEN
        case _:
            length = len(request.token_ids.ids)
    return 1 + length


class Prices:
    """Guesses what requests cost, and learns how long answers are where nobody says how long they may be."""

    def __init__(self) -> None:
        self._answer_tokens = UNMEASURED_TOKENS

    def guess(self, request: GenerateRequest) -> float:
        """Return the tokens of prompt and answer: of the longest that is allowed; of a usual one, where none is."""
        return prompt_tokens(request) + (request.sampling.max_new_tokens or self._answer_tokens)

    def learn(self, usage: Usage) -> float:
        """Return the tokens of a request that has been answered."""
        self._answer_tokens += _NEWEST * (usage.completion_tokens - self._answer_tokens)
        return float(usage.prompt_tokens + usage.completion_tokens)
