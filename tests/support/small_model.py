"""The small model that tests start vLLM with."""

from pathlib import Path

BASE = Path(__file__).parents[2] / "models/base/smollm2-135m-instruct"
SMALL = {
    "model": str(BASE),
    "max_model_len": 1024,
    "max_num_seqs": 4,
    "kv_cache_memory_bytes": 128 << 20,
    "enforce_eager": True,  # starts without compiling
}
