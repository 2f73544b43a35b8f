"""Tokens → a vector: an ONNX model, checked when it is opened and run by onnxruntime on one thread."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

INPUT, OUTPUT = "input_ids", "vector"
OUTSIDE = b"\n\x08location\x12"  # how protobuf writes that a tensor's values are in another file
# Adding and normalising in one operator took 1.7 ms of a prompt of 64 tokens, in two 0.4 ms (onnxruntime 1.32).
SLOWER = ["SkipLayerNormFusion"]
FAR_FROM_UNIT = 1e-2


class SentenceModel:
    """Runs the network. One prompt at a time: quantised activations have one scale for all that is run together, so in
    company a prompt's vector would depend on the company."""

    def __init__(self, content: bytes) -> None:
        """Open a model, in bytes as `model.onnx` holds it.

        Raises:
            ValueError: it cannot be opened, or it takes and gives something else than `encode` says.
        """
        if OUTSIDE in content:
            raise ValueError("keeps tensors in other files")
        self._session = _opened(content)
        inputs = [(one.name, one.type, len(one.shape)) for one in self._session.get_inputs()]
        outputs = [(one.name, one.type, len(one.shape)) for one in self._session.get_outputs()]
        if inputs != [(INPUT, "tensor(int64)", 2)] or outputs != [(OUTPUT, "tensor(float)", 2)]:
            raise ValueError(f"takes {inputs} and gives {outputs}, not {INPUT} of int64 and {OUTPUT} of float")

    def encode(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Encode one prompt.

        Args:
            ids: tokens, shape (tokens,).

        Returns:
            Shape (dims,), of unit length.
        """
        vector: NDArray[np.float32] = self._session.run([OUTPUT], {INPUT: ids[np.newaxis]})[0][0]
        return vector

    def probe(self, largest_id: int, most: int) -> int:
        """Run the shortest and the longest prompt, with the smallest token id and the largest. Returns the dimensions.

        Raises:
            ValueError: the model fails, or what it gives is not one vector of unit length.
        """
        shapes = set()
        for ids in (np.zeros(1, dtype=np.int64), np.full(most, largest_id, dtype=np.int64)):
            try:
                found = self._session.run([OUTPUT], {INPUT: ids[np.newaxis]})[0]
            except Exception as error:  # of many kinds, all of onnxruntime
                raise ValueError(f"fails on {len(ids)} tokens: {error}") from None
            shapes.add(found.shape)
            if not abs(float(np.linalg.norm(found)) - 1) < FAR_FROM_UNIT:  # so put, it is true of NaN
                raise ValueError(f"gives no vector of unit length for {len(ids)} tokens")
        if len(shapes) != 1 or len(shape := shapes.pop()) != 2 or shape[0] != 1:
            raise ValueError(f"gives vectors of several shapes, or none: {sorted(shapes)}")
        return int(shape[1])


def _opened(content: bytes) -> Any:
    """Return the session of a model; raises ValueError when onnxruntime refuses it."""
    import onnxruntime  # type: ignore[import-untyped]  # published without types; here: a router without needs it not

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # a router has other things to do, and several workers
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what is wrong is in the exception
    try:
        return onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOWER
        )
    except Exception as error:  # of many kinds, all of onnxruntime
        raise ValueError(f"is not a model that onnxruntime opens: {error}") from None
