"""Text → tokens: what the encoder reads of a prompt, however long or odd it is."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CHARACTERS_PER_TOKEN = 20  # more than a token takes in any ordinary text, code with its indents included


class Reader:
    """Turns a prompt into at most `most` token ids: its first half from the head, its second from the tail.

    People say what they want at the start of a long prompt or at its end; what lies between is the material.
    """

    def __init__(self, tokenizer: bytes, *, most: int) -> None:
        """Args:
            tokenizer: the content of a tokenizer.json.
            most: tokens read of a prompt, the marks at both ends among them.

        Raises:
            ValueError: the content is no tokenizer.
        """
        from tokenizers import Tokenizer  # here, since a router without an encoder need not load it

        try:
            self._tokenizer = Tokenizer.from_buffer(tokenizer)
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            self.largest_id = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
            self._most = most
            self.read("a")
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of the Rust library is no Exception
            raise ValueError(f"is not a tokenizer that can be used: {error}") from None

    def read(self, prompt: str) -> NDArray[np.int64]:
        """Return a prompt's token ids, shape (tokens,); one token at least."""
        half = self._most * CHARACTERS_PER_TOKEN // 2
        if len(prompt) > 2 * half:  # 100,000 characters need not be cut into tokens
            prompt = f"{prompt[:half]} {prompt[-half:]}"
        ids = self._tokenizer.encode(prompt.encode("utf-8", "replace").decode()).ids  # replaced: half a surrogate pair
        return np.array(head_and_tail(ids, self._most) or [0], dtype=np.int64)


def head_and_tail(ids: Sequence[int], most: int) -> Sequence[int]:
    """Keep at most `most` tokens: the first half, which is the larger one, and the last."""
    if len(ids) <= most:
        return ids
    tail = most // 2
    return [*ids[: most - tail], *ids[len(ids) - tail :]]
