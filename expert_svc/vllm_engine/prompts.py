"""From what a caller asks to the token ids that the model reads."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from expert_svc.limits import check_vocabulary
from expertmesh.v1.generation_pb2 import Chat, GenerateRequest, Role
from mesh_wire.errors import BadInput

OFF_LOOP_CHARACTERS = 4000  # from here on, tokenising (about 0.5 µs a character) would be felt by other requests
_ROLES = {Role.ROLE_SYSTEM: "system", Role.ROLE_USER: "user", Role.ROLE_ASSISTANT: "assistant"}


class Prompts:
    """Applies the model's own chat template and tokenizer.

    Args:
        tokenizer: vLLM's renderer's, which may be used from several threads.
        vocabulary_size: token ids are below this.
    """

    def __init__(self, tokenizer: Any, *, vocabulary_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary_size = vocabulary_size
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="tokenise")

    def close(self) -> None:
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def token_ids(self, request: GenerateRequest) -> list[int]:
        """Return the prompt's token ids.

        Raises:
            BadInput: CHAT_INVALID or TOKEN_OUT_OF_VOCABULARY.
        """
        match request.WhichOneof("input"):
            case "token_ids":
                ids = list(request.token_ids.ids)
                check_vocabulary(ids, "token_ids.ids", self._vocabulary_size)
            case "chat":
                ids = await self._read(_messages(request.chat), "chat")
            case _:
                ids = await self._read([{"role": "user", "content": request.prompt}], "prompt")
        return ids

    async def _read(self, messages: list[dict[str, str]], field: str) -> list[int]:
        if sum(len(message["content"]) for message in messages) < OFF_LOOP_CHARACTERS:
            return self._apply_template(messages, field)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reader, self._apply_template, messages, field)

    def _apply_template(self, messages: list[dict[str, str]], field: str) -> list[int]:
        if not self._tokenizer.chat_template and field == "prompt":  # a base model reads plain text
            return list(self._tokenizer.encode(messages[0]["content"]))
        try:
            ids = self._tokenizer.apply_chat_template(
                messages, tokenize=True, add_generation_prompt=True, return_dict=False
            )
        except Exception as error:  # templates are programs of the model's makers: anything may come out
            said = " ".join(str(error).split())
            raise BadInput(
                f"the model's chat template refuses this: {said}", reason="CHAT_INVALID", field=field
            ) from None
        return list(ids)


def _messages(chat: Chat) -> list[dict[str, str]]:
    return [
        {"role": _ROLES[message.role], "content": "".join(part.text for part in message.parts)}
        for message in chat.messages
    ]
