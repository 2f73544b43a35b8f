"""Which forms of answer vLLM can keep to: what it would take and then not keep to is refused here."""

import json
import re
from collections.abc import Iterator
from typing import Any

from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for

from expertmesh.v1.generation_pb2 import Sampling, StructuredOutput
from mesh_wire.errors import BadInput

# Of JSON Schema, what xgrammar passes over in silence: the answer need not keep to it.
_PASSED_OVER = (
    "not",
    "if",
    "dependentRequired",
    "dependentSchemas",
    "$dynamicRef",
    "$recursiveRef",
    "unevaluatedItems",
)
_OF_NAMES = ("properties", "patternProperties", "$defs", "definitions")  # keywords that map names to schemas
_OF_DATA = ("const", "enum", "default", "examples")  # keywords whose values are not schemas
_SOURCE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+\.cc:\d+: ")  # where in xgrammar's source a message comes from


def check_structure(sampling: Sampling) -> None:
    """Refuse a form of answer that vLLM would take and not keep to. What vLLM itself refuses is not found here.

    Raises:
        BadInput: STRUCTURE_INVALID or SAMPLING_CONTRADICTORY.
    """
    structure = sampling.structured_output
    # A form ends where it is complete: vLLM would go on with free text, or with nothing left to draw.
    for name in ("ignore_eos", "min_new_tokens"):
        if getattr(sampling, name):
            raise BadInput(
                "a structured output ends where its form is complete",
                reason="SAMPLING_CONTRADICTORY",
                field=f"sampling.{name}",
            )
    match structure.WhichOneof("form"):
        case None:
            raise structure_invalid("no form is set", structure)
        case "json_schema":
            _check_schema(structure)


def structure_invalid(said: str, structure: StructuredOutput) -> BadInput:
    """Return the error for a form that cannot be used, without the places in other people's sources."""
    form = structure.WhichOneof("form") or ""
    field = f"sampling.structured_output.{form}".rstrip(".")
    return BadInput(_SOURCE.sub("", said)[:500], reason="STRUCTURE_INVALID", field=field)


def _check_schema(structure: StructuredOutput) -> None:
    try:
        schema = json.loads(structure.json_schema)
        if not isinstance(schema, dict):
            raise structure_invalid("a JSON schema is a JSON object", structure)
        validator_for(schema).check_schema(schema)
        for keyword in _passed_over(schema):
            raise structure_invalid(f"the engine cannot keep to {keyword}", structure)
    except RecursionError:
        raise structure_invalid("nested too deeply", structure) from None
    except ValueError as error:
        raise structure_invalid(f"not JSON: {error}", structure) from None
    except SchemaError as error:
        raise structure_invalid(f"not a JSON schema: {error.message} at {error.json_path}", structure) from None


def _passed_over(schema: Any) -> Iterator[str]:
    """Yield what is in `schema` that the engine would pass over."""
    if isinstance(schema, list):
        for each in schema:
            yield from _passed_over(each)
    if not isinstance(schema, dict):
        return
    for keyword, value in schema.items():
        if keyword in _PASSED_OVER:
            yield f"`{keyword}`"
        elif keyword == "$ref" and isinstance(value, str) and not value.startswith("#"):
            yield f"a `$ref` to another document, {value}"
        elif keyword in _OF_NAMES and isinstance(value, dict):
            yield from _passed_over(list(value.values()))
        elif keyword not in _OF_DATA:
            yield from _passed_over(value)
