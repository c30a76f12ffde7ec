"""What type checkers must understand and refuse of the public interface. Read by mypy, never run.

An ignored error that is no error is an error itself: so the ignores below are tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import assert_type

    from tinyllm import GenerationResult, Model, TextStream
    from tinyllm.config import GenerationSettings

    Messages = list[dict[str, Any]]

    def chat_returns_what_stream_says(model: Model, messages: Messages, stream: bool) -> None:
        assert_type(model.chat(messages), GenerationResult)
        assert_type(model.chat(messages, stream=False, temperature=1.0), GenerationResult)
        assert_type(model.chat(messages, stream=True, top_k=20), TextStream)
        assert_type(model.chat(messages, stream=stream), GenerationResult | TextStream)

    def generate_returns_a_list_for_a_list(model: Model) -> None:
        assert_type(model.generate("a text"), GenerationResult)
        assert_type(model.generate([1, 2, 3]), GenerationResult)
        assert_type(model.generate([[1, 2, 3], "a text"]), list[GenerationResult])

    def settings_are_fields_of_the_configuration(
        model: Model, messages: Messages, settings: GenerationSettings
    ) -> None:
        model.generate("a text", **settings)
        model.stream("a text", stop=["x"], max_new_tokens=None, seed=1)
        model.generate("a text", temprature=1.0)  # type: ignore[call-overload]
        model.stream("a text", temperature="hot")  # type: ignore[arg-type]
        model.chat(messages, top_k=0.5)  # type: ignore[call-overload]
