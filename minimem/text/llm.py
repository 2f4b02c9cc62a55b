"""A language model as a text memory needs it: messages in, text out, counted; its answers are checked, and never trusted.

A memory that asks a model to summarise, cut or choose takes the model as an argument and asks through ``ask``: the answer must be JSON
of the given schema; one that is not is sent back once with what is wrong with it; a second failure raises ``Unanswered``, and the memory
keeps what it had. What was retrieved is put before the model by ``prompt``, as quoted data in the user's message, never as a system message.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Messages = Sequence[dict[str, str]]


@dataclass(frozen=True)
class Completion:
    """What a model answered, and the tokens read and written for it."""
    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


class LLM(Protocol):
    """A language model. ``json_schema``: the answer wanted, for models that can be held to one."""

    def complete(self, messages: Messages, *, max_tokens: int = 1024, temperature: float = 0.0,
                 json_schema: dict[str, Any] | None = None, seed: int | None = None) -> Completion: ...


class Unanswered(RuntimeError):
    """The model gave no usable answer, twice. ``answers``: what it said."""

    def __init__(self, why: str, answers: Sequence[str] = ()) -> None:
        super().__init__(why)
        self.answers = tuple(answers)


class Rules:
    """No model: ``rule(messages)`` returns the answer, a string or what is to be written as JSON. Tokens are counted as words."""

    def __init__(self, rule: Callable[[Messages], Any]) -> None:
        self.rule = rule

    def complete(self, messages: Messages, *, max_tokens: int = 1024, temperature: float = 0.0,
                 json_schema: dict[str, Any] | None = None, seed: int | None = None) -> Completion:
        said = self.rule(messages)
        text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
        return Completion(text, sum(len(m["content"].split()) for m in messages), len(text.split()))


class Counted:
    """Any model, with its calls and tokens added up: ``calls``, ``prompt_tokens``, ``completion_tokens``."""

    def __init__(self, llm: LLM) -> None:
        self.llm, self.calls, self.prompt_tokens, self.completion_tokens = llm, 0, 0, 0

    def complete(self, messages: Messages, **options: Any) -> Completion:
        said = self.llm.complete(messages, **options)
        self.calls += 1
        self.prompt_tokens += said.prompt_tokens
        self.completion_tokens += said.completion_tokens
        return said


def ask(llm: LLM, messages: Messages, schema: dict[str, Any], **options: Any) -> Any:
    """The model's answer, JSON that fits ``schema``; a wrong one is sent back once with what is wrong. Raises Unanswered if that fails too."""
    from jsonschema import ValidationError, validate
    messages, answers, why = list(messages), [], ""
    for _ in range(2):
        answers.append(llm.complete(messages, json_schema=schema, **options).text)
        try:
            found = json.loads(answers[-1])
            validate(found, schema)
            return found
        except json.JSONDecodeError as e:
            why = f"no JSON: {e}"
        except ValidationError as e:
            why = f"at {e.json_path}: {e.message}"
        messages += [{"role": "assistant", "content": answers[-1]},
                     {"role": "user", "content": f"That cannot be used ({why}). Answer again, with JSON of the wanted form and nothing else."}]
    raise Unanswered(f"the model gave no usable answer, twice; the last one: {why}", answers)
