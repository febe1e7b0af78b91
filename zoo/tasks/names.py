"""The name of a task as a field of a pydantic model."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from zoo.tasks.kinds import TASKS


def refuse_unknown(name: str) -> str:
    if name not in TASKS:
        expected = " or ".join(filter(None, (", ".join(map(repr, [*TASKS][:-1])), repr([*TASKS][-1]))))
        context: dict[str, Any] = {"expected": expected}
        raise PydanticCustomError("literal_error", "Input should be {expected}", context)
    return name


TaskName = Annotated[str, AfterValidator(refuse_unknown), WithJsonSchema({"enum": [*TASKS], "type": "string"})]
