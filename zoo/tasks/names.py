"""The name of a task as a field of a pydantic model."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from zoo.tasks.kinds import TASKS


def refuse_unknown(name: str) -> str:
    if name not in TASKS:
        *most, last = map(repr, TASKS)
        raise PydanticCustomError(
            "literal_error", "Input should be {expected}", {"expected": f"{', '.join(most)} or {last}"}
        )
    return name


def refuse_unknown_unless_empty(name: str) -> str:
    return name and refuse_unknown(name)


TaskName = Annotated[str, AfterValidator(refuse_unknown)]
TaskNameOrNone = Annotated[
    str,
    AfterValidator(refuse_unknown_unless_empty),
    WithJsonSchema({"enum": ["", *TASKS], "type": "string"}),
]
