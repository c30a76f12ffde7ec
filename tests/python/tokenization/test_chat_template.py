"""Chat templates of the common families: golden texts, transformers' rendering, and clear errors."""

from __future__ import annotations

import enum
import itertools
from datetime import datetime
from typing import TYPE_CHECKING, Any

import gguf
import pytest

from tinyllm.errors import CheckpointError
from tinyllm.tokenization.chat_template import ChatTemplate, check_messages
from tinyllm.tokenization.gguf import load_gguf_tokenizer
from tinyllm.tokenization.tokenizer import Tokenizer
from tokenizer_files import sentencepiece_like_backend

if TYPE_CHECKING:
    from pathlib import Path

SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

CHATML = """
{%- for message in messages %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""

# System text inside the first user turn, turns checked, BOS before each user turn.
LLAMA2 = """
{%- set ns = namespace(system='') -%}
{%- if messages[0].role == 'system' -%}
    {%- set ns.system = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' -%}
    {%- set messages = messages[1:] -%}
{%- endif -%}
{%- for message in messages -%}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('roles must alternate user/assistant') -}}
    {%- endif -%}
    {%- if message.role == 'user' -%}
        {{- bos_token + '[INST] ' + (ns.system if loop.first else '') + message.content.strip() + ' [/INST]' -}}
    {%- else -%}
        {{- ' ' + message.content.strip() + ' ' + eos_token -}}
    {%- endif -%}
{%- endfor -%}
"""

LLAMA3 = """
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL = """
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' ~ message.content ~ '[/INST]' }}
    {%- elif message.role == 'assistant' %}
        {{- ' ' ~ message.content ~ eos_token }}
    {%- else %}
        {{- raise_exception('only user and assistant roles are supported') }}
    {%- endif %}
{%- endfor %}
"""

# Tools as JSON, thinking removed from earlier answers, an optional switch.
QWEN = """
{%- if tools %}
    {{- '<|im_start|>system\\nTools:' }}
    {%- for tool in tools %}
        {{- '\\n' ~ tool | tojson }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' and loop.last is false %}{% continue %}{% endif %}
    {%- set text = message.content if message.content is string else '' %}
    {%- if message.role == 'assistant' and '</think>' in text %}
        {%- set text = text.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ text }}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>' ~ call | tojson ~ '</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}
"""

# White space control as the environment sets it, the tag for training masks, loop controls.
BLOCKS = """
{% generation %}
  {% for message in messages %}
    {% if loop.index > 1 %}
      {% break %}
    {% endif %}
{{ message.content }}
  {% endfor %}
{% endgeneration %}
end
"""

TEMPLATES = {"chatml": CHATML, "llama2": LLAMA2, "llama3": LLAMA3, "mistral": MISTRAL, "qwen": QWEN, "blocks": BLOCKS}

USER = {"role": "user", "content": " Hi <b>&'\" 中🙂\n"}
ASSISTANT = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"}
SYSTEM = {"role": "system", "content": "Be brief."}
CONVERSATIONS = {
    "one turn": [USER],
    "three turns": [USER, ASSISTANT, {"role": "user", "content": "Bye"}],
    "system": [SYSTEM, USER],
}


def render(template: str, messages: list[Any], **kwargs: Any) -> str:
    return ChatTemplate(template, "model: chat template", SPECIAL_TOKENS).render(messages, **kwargs)


def test_chatml_text() -> None:
    messages = [SYSTEM, {"role": "user", "content": "Hi"}]
    assert render(CHATML, messages) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert not render(CHATML, messages, add_generation_prompt=False).endswith("assistant\n")


def test_llama2_text() -> None:
    messages = [SYSTEM, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    text = "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello </s>"
    assert render(LLAMA2, messages) == text


def test_llama3_text() -> None:
    text = (
        "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert render(LLAMA3, [{"role": "user", "content": " Hi\n"}]) == text


def test_mistral_text() -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert render(MISTRAL, messages) == "<s>[INST] Hi[/INST] Hello</s>"


def test_qwen_text() -> None:
    call = {"name": "f", "arguments": {"x": "<é>"}}
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert render(QWEN, messages, tools=[{"name": "f"}], enable_thinking=False) == (
        '<|im_start|>system\nTools:\n{"name": "f"}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n'
        '<|im_start|>assistant\n<tool_call>{"name": "f", "arguments": {"x": "<é>"}}</tool_call><|im_end|>\n'
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert "hm" not in render(QWEN, [USER, ASSISTANT])


def test_blocks_text() -> None:
    assert render(BLOCKS, [{"role": "user", "content": "Hi"}, ASSISTANT]) == "\nHi\nend"


def test_date_and_json_options() -> None:
    assert render("{{ strftime_now('%Y') }}", [USER]) in {str(datetime.now().year), str(datetime.now().year - 1)}
    options = "{{ messages[0].data | tojson(indent=1, sort_keys=true, separators=(',', ':')) }}"
    message = {"role": "user", "content": "", "data": {"b": [1, 2.5], "a": None, "c": True}}
    assert render(options, [message]) == '{\n "a":null,\n "b":[\n  1,\n  2.5\n ],\n "c":true\n}'


@pytest.fixture(scope="module")
def transformers_tokenizer() -> Any:
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=sentencepiece_like_backend(), **SPECIAL_TOKENS)


@pytest.mark.parametrize(
    ("name", "conversation"),
    [pair for pair in itertools.product(TEMPLATES, CONVERSATIONS) if pair != ("mistral", "system")],
)
def test_text_equals_transformers(transformers_tokenizer: Any, name: str, conversation: str) -> None:
    messages = CONVERSATIONS[conversation]
    variables = {"tools": [{"type": "function", "function": {"name": "f"}}]} if name == "qwen" else {}
    for add_generation_prompt in (True, False):
        expected = transformers_tokenizer.apply_chat_template(
            messages,
            chat_template=TEMPLATES[name],
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **variables,
        )
        assert render(TEMPLATES[name], messages, add_generation_prompt=add_generation_prompt, **variables) == expected


@pytest.mark.parametrize("name", ["llama2", "llama3", "mistral"])
def test_ids_equal_transformers_and_bos_is_single(transformers_tokenizer: Any, name: str) -> None:
    tokenizer = Tokenizer(
        sentencepiece_like_backend(),
        origin="t",
        special_tokens=SPECIAL_TOKENS,
        chat_templates={"default": TEMPLATES[name]},
    )
    ids = tokenizer.encode_chat([USER])
    expected = transformers_tokenizer.apply_chat_template(
        [USER], chat_template=TEMPLATES[name], add_generation_prompt=True, return_dict=False
    )
    assert ids == expected
    assert ids.count(tokenizer.bos_token_id) == 1
    # The rendered text given to `encode` as a prompt gets no second BOS either.
    assert tokenizer.encode(tokenizer.apply_chat_template([USER])) == ids


def test_smollm2_template(smollm2_gguf: Path) -> None:
    tokenizer = load_gguf_tokenizer(gguf.GGUFReader(smollm2_gguf), smollm2_gguf)
    default_system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}]) == (
        f"<|im_start|>system\n{default_system}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    messages = [SYSTEM, {"role": "user", "content": "Hi"}]
    ids = tokenizer.encode_chat(messages, add_generation_prompt=False)
    text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.eos_token_ids[0]) == 2


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("Hi", r"must be a list like .*, got str"),
        ({"role": "user", "content": "Hi"}, r"must be a list like .*, got dict"),
        ([], "messages is empty"),
        (["Hi"], r"messages\[0\] must be a dict .*, got str"),
        ([USER, {"content": "Hi"}], r"messages\[1\] has no 'role'; its keys are: 'content'"),
        ([{"role": "user", "text": "Hi"}], r"messages\[0\] has no 'content'; its keys are: 'role', 'text'"),
        ([{"role": "user", "content": 3}], r"messages\[0\]\['content'\] must be a string, got int"),
        ([{"role": "user", "content": None}], r"messages\[0\]\['content'\] must be a string, got NoneType"),
        ([{"role": None, "content": ""}], r"messages\[0\]\['role'\] must be a string, got NoneType"),
        ([{"role": "", "content": ""}], r"messages\[0\]\['role'\] is empty"),
        ([USER | {"images": [object()]}], r"messages\[0\]\['images'\]\[0\] must be JSON data .*, got object"),
    ],
)
def test_malformed_messages_are_named(messages: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_messages(messages)


def test_templates_get_copies_of_plain_types() -> None:
    class Role(str, enum.Enum):
        USER = "user"

    messages = [{"role": Role.USER, "content": "Hi", "parts": ({"x": 1},)}]
    copy = check_messages(messages)
    assert copy == [{"role": "user", "content": "Hi", "parts": [{"x": 1}]}]
    assert type(copy[0]["role"]) is str


def test_a_template_can_refuse_messages() -> None:
    with pytest.raises(ValueError, match=r"model: chat template refuses .*: roles must alternate user/assistant"):
        render(LLAMA2, [USER, USER])
    with pytest.raises(ValueError, match="only user and assistant roles"):
        render(MISTRAL, [SYSTEM, USER])


@pytest.mark.parametrize("template", ["{{ messages[5].content }}", "{{ none + 'x' }}", "{{ 1 // 0 }}"])
def test_a_template_that_fails_is_named(template: str) -> None:
    with pytest.raises(ValueError, match="model: chat template cannot process these messages: "):
        render(template, [USER])


@pytest.mark.parametrize("template", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}"])
def test_the_sandbox_holds(template: str) -> None:
    with pytest.raises((CheckpointError, ValueError), match="model: chat template"):
        render(template, [USER])


@pytest.mark.parametrize(
    ("template", "message"),
    [("line\n{% if x %}", "line 2: not a valid Jinja template"), ("{{ x | nofilter }}", "line 1: .*nofilter")],
)
def test_an_invalid_template_is_named(template: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=f"model: chat template, {message}"):
        ChatTemplate(template, "model: chat template", {})


def test_a_variable_without_effect_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"does not use the variable 'enable_thinkng'.*it uses: enable_thinking, tools"
    ):
        render(QWEN, [USER], enable_thinkng=False)
    with pytest.raises(ValueError, match=r"does not use the variable 'tools'.*it uses: none"):
        render(CHATML, [USER], tools=[{"name": "f"}])
    assert render(CHATML, [USER], tools=None) == render(CHATML, [USER])
