"""Chat templates of the common families: golden texts, transformers' rendering, and clear errors."""

from __future__ import annotations

import enum
import itertools
import tracemalloc
from datetime import datetime
from typing import TYPE_CHECKING, Any

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import normalizers, pre_tokenizers

from tinyllm.errors import CheckpointError
from tinyllm.tokenization import template_limits
from tinyllm.tokenization.chat_template import ChatTemplate
from tinyllm.tokenization.gguf import load_gguf_tokenizer
from tinyllm.tokenization.messages import check_messages
from tinyllm.tokenization.tokenizer import Tokenizer
from tokenizer_files import byte_level_backend, sentencepiece_like_backend

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
        (
            [{"role": "user", "content": 3}],
            r"messages\[0\]\['content'\] must be a string or a list of text parts, got int",
        ),
        (
            [{"role": "user", "content": None}],
            r"messages\[0\]\['content'\] must be a string or a list of text parts, got NoneType",
        ),
        ([{"role": None, "content": ""}], r"messages\[0\]\['role'\] must be a string, got NoneType"),
        ([{"role": "", "content": ""}], r"messages\[0\]\['role'\] is empty"),
        ([USER | {"images": [object()]}], r"messages\[0\]\['images'\]\[0\] must be JSON data .*, got object"),
    ],
)
def test_malformed_messages_are_named(messages: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_messages(messages)


def test_keys_without_a_value_are_left_out() -> None:
    # What transformers 5.24 makes of the same message; the OpenAI SDK dumps all keys, most of them None.
    message = {"role": "user", "content": "x", "tool_calls": None, "name": None, "a": {"b": None}, "reasoning": "r"}
    text = "{'thinking': 'r', 'role': 'user', 'content': 'x', 'a': {'b': None}, 'reasoning': 'r', "
    text += "'reasoning_content': 'r'}"
    assert render("{{ messages[0] }}|{{ messages[0].tool_calls is defined }}", [message]) == f"{text}|False"


@pytest.mark.parametrize("key", ["reasoning", "thinking", "reasoning_content"])
def test_reasoning_has_the_names_that_templates_read(key: str) -> None:
    message = {"role": "assistant", "content": "a", key: "hm"}
    assert render("{{ messages[0].reasoning_content }} {{ messages[0].thinking }}", [message]) == "hm hm"


PARTS = {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}


def test_text_parts_are_joined_unless_the_template_goes_through_them() -> None:
    assert render(CHATML, [PARTS]).startswith("<|im_start|>user\none\ntwo<|im_end|>")
    knows_parts = "{% for part in messages[0].content %}<{{ part.text }}>{% endfor %}"
    assert render(knows_parts, [PARTS]) == "<one><two>"
    assert render("{{ messages[0].content | tojson }}", [PARTS]) == '"one\\ntwo"'
    with pytest.raises(ValueError, match=r"\['content'\]\[0\] must be a text part.*models of text only.*'image_url'"):
        render(CHATML, [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}])
    with pytest.raises(ValueError, match=r"\['content'\]\[0\] must be a dict like .*, got str"):
        render(CHATML, [{"role": "user", "content": ["x"]}])


def test_messages_that_have_no_end_are_refused() -> None:
    cyclic: dict[str, Any] = {"role": "user", "content": "x"}
    cyclic["self"] = cyclic
    with pytest.raises(ValueError, match=r"messages\[0\].*more than 100 levels deep; it may contain itself"):
        render(CHATML, [cyclic])
    wide: list[Any] = []
    wide += [wide] * 10
    with pytest.raises(ValueError, match=r"more than 1000000 values|more than 100 levels"):
        render(CHATML, [USER | {"x": wide}])
    deep: list[Any] = []
    for _ in range(50_000):
        deep = [deep]
    with pytest.raises(ValueError, match="levels deep"):
        render(QWEN, [USER], tools=deep)


@pytest.mark.parametrize("name", ["messages", "add_generation_prompt", "self"])
def test_arguments_are_no_template_variables(name: str) -> None:
    tokenizer = chat_tokenizer("{{ messages }}{{ add_generation_prompt }}")
    variables = {name: [USER]}
    if name == "add_generation_prompt":
        assert tokenizer.encode_chat([USER], **variables)  # an argument that has a place of its own
        return
    for call in (tokenizer.encode_chat, tokenizer.apply_chat_template):
        with pytest.raises(ValueError, match=f"'{name}'"):
            call([USER], **variables)


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


LOOP = "{% for i in range(99999) %}"
BIG = "{% set big = 'x' * 1000000 %}"
DOUBLING = "{% set ns = namespace(x=['x']) %}{% for i in range(40) %}{% set ns.x = <> %}{% endfor %}{{ ns.x }}"
TOO_MUCH = {
    "text": "{{ 'x' * 10**9 }}",
    "list": "{{ ['x'] * 10**9 }}",
    "power": "{{ 9**999999999 }}",
    "width": "{{ 'x' | center(1000000000) }}",
    "method": "{{ 'x'.ljust(1000000000) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "percent argument": "{{ '%*d' % (1000000000, 1) }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "format argument": "{{ '{:{}}'.format(1, 1000000000) }}",
    "format filter": "{{ '%1000000000d' | format(1) }}",
    "doubling by tilde": "{% set ns = namespace(x='x') %}" + LOOP + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling by plus": "{% set ns = namespace(x='x') %}" + LOOP + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "shared lists": DOUBLING.replace("<>", "[ns.x, ns.x]"),
    "shared tuples": DOUBLING.replace("<>", "(ns.x, ns.x)"),
    "shared dicts": DOUBLING.replace("<>", "{'a': ns.x, 'b': ns.x}"),
    "shared by a call": DOUBLING.replace("<>", "dict(a=ns.x, b=ns.x)"),
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "recursive loop": "{% for a in [[1]] recursive %}{{ loop([a, a]) }}{% endfor %}",
    "written by a macro": BIG + "{% macro m() %}" + LOOP + "{{ big }}{% endfor %}{% endmacro %}{{ m() | length }}",
    "constants in a loop": "{% set x %}" + LOOP + "y" * 5000 + "{% endfor %}{% endset %}",
    "constants of a call": (
        "{% macro m() %}"
        + LOOP
        + "{{ caller() }}{% endfor %}{% endmacro %}{% call m() %}"
        + "z" * 5000
        + "{% endcall %}"
    ),
    "replace": BIG + "{{ big | replace('x', big) }}",
    "replace of nothing": BIG + "{{ big.replace('', big) }}",
    "translate": BIG + "{{ big.translate({120: big}) }}",
    "join": BIG + "{{ ([big] * 100000) | join }}",
    "join by method": BIG + "{{ big.join(['a'] * 100000) }}",
    "lazy filters": "{{ ([range(100000)] * 1000) | map('list') | list | length }}",
    "lazy widths": "{{ range(100000) | map('string') | map('center', 1000000) | list | length }}",
    "indent": "{{ ('\n' * 1000000) | indent(1000000) }}",
    "JSON": "{{ [[1]] | tojson(indent=1000000000) }}",
    "batch": "{{ [1] | batch(1000000000, 'x') | list }}",
}


@pytest.mark.parametrize("case", TOO_MUCH)
def test_a_template_that_takes_too_much_is_stopped(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, less in {"MAX_CHARACTERS": 1 << 21, "MAX_VALUES": 50_000, "MAX_MADE": 1 << 23}.items():
        monkeypatch.setattr(template_limits, name, less)
    template = ChatTemplate(TOO_MUCH[case], "model: chat template", {})
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="model: chat template costs more than a chat template may"):
            template.render([USER])
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "template",
    [
        LOOP * 3 + "{% endfor %}" * 3,
        "{% for a in 'x' * 1000000 %}{% for b in 'x' * 1000000 %}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{% if n < 60 %}{{ m(n + 1) }}{{ m(n + 1) }}{% endif %}{% endmacro %}{{ m(0) }}",
    ],
)
def test_a_template_that_runs_for_ever_is_stopped(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "MAX_SECONDS", 0.2)
    with pytest.raises(CheckpointError, match=r"it takes more than 0\.2 seconds"):
        render(template, [USER])


@pytest.mark.parametrize(
    "template",
    [
        "{% if true %}" * 150 + "{% endif %}" * 150,  # IndentationError
        "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,  # SyntaxError
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",  # RecursionError
        "{{ " + "not " * 50000 + "1 }}",
        "{{ messages" + ".a" * 20000 + " }}",
        "x" * (2 << 20),
    ],
)
def test_a_template_that_is_too_deep_or_long_is_refused(template: str) -> None:
    with pytest.raises(CheckpointError, match=r"model: chat template (cannot be compiled|costs more)"):
        ChatTemplate(template, "model: chat template", {})


def test_limits_leave_long_conversations_alone() -> None:
    messages = [{"role": ("user", "assistant")[index % 2], "content": "word " * 200} for index in range(2000)]
    for template in (LLAMA3, QWEN, CHATML):
        assert len(render(template, messages)) > 2_000_000


def chat_tokenizer(template: str, backend: Any = None, special_tokens: Any = None) -> Tokenizer:
    backend = backend or sentencepiece_like_backend()
    return Tokenizer(backend, "t", special_tokens or SPECIAL_TOKENS, chat_templates={"default": template})


@pytest.mark.parametrize("make", [sentencepiece_like_backend, byte_level_backend])
@pytest.mark.parametrize("name", ["chatml", "llama2", "llama3", "mistral", "qwen"])
def test_control_tokens_in_a_message_stay_text(name: str, make: Any) -> None:
    tokenizer = chat_tokenizer(TEMPLATES[name], make())
    special = {tokenizer.encode(text, add_special_tokens=False)[-1] for text in SPECIAL_TOKENS.values()}
    conversation = [USER | {"content": "a b"}, ASSISTANT, USER | {"content": "b</s> <s>ab</s>"}]
    own = [token_id for token_id in tokenizer.encode_chat([*conversation[:2], USER]) if token_id in special]
    ids = tokenizer.encode_chat(conversation)
    assert [token_id for token_id in ids if token_id in special] == own
    assert tokenizer.decode(ids, skip_special_tokens=False).count("</s>") == 2 + own.count(max(special))
    parsed = tokenizer.encode_chat(conversation, parse_special=True)
    assert parsed == tokenizer.encode(tokenizer.apply_chat_template(conversation), add_special_tokens=False)
    assert len([token_id for token_id in parsed if token_id in special]) == len(own) + 3
    # Without such texts both ways are the same.
    assert tokenizer.encode_chat([USER]) == tokenizer.encode_chat([USER], parse_special=True)


def test_text_between_control_tokens_is_encoded_as_ever() -> None:
    """The ids are those of the conversation with another text of the same tokens in place of the control token."""
    tokenizer = chat_tokenizer(LLAMA2)
    ids = tokenizer.encode_chat([{"role": "user", "content": "ab</s>ab"}])
    text = "<s>[INST] ab{}ab [/INST]"
    expected = tokenizer.encode(text.format("\x01"), add_special_tokens=False)
    mark = tokenizer.encode("a\x01", add_special_tokens=False)[-1]
    bytes_of_token = [3 + byte for byte in b"</s>"]  # <0x00> is token 3
    at = expected.index(mark)
    assert ids == [*expected[:at], *bytes_of_token, *expected[at + 1 :]]


def composing_backend() -> Any:
    backend = Backend.from_str(byte_level_backend().to_str())
    backend.normalizer = normalizers.NFC()
    return backend


PIECES = st.sampled_from(["a", "ab", "e\u0301", "\u1100\u1161", "</s>", "<s>", "<think>", " ", "\n", "中", "<", "/s>"])


@pytest.mark.parametrize("make", [sentencepiece_like_backend, byte_level_backend, composing_backend])
@given(contents=st.lists(st.lists(PIECES, max_size=6).map("".join), min_size=1, max_size=3))
def test_only_the_templates_control_tokens_are_tokens(make: Any, contents: list[str]) -> None:
    template = "{% for message in messages %}{{ bos_token }}{{ message.content }}{{ eos_token }}{% endfor %}"
    backend = make()
    ids = chat_tokenizer(template, backend).encode_chat([USER | {"content": content} for content in contents])
    plain = Backend.from_str(backend.to_str())
    plain.encode_special_tokens = True
    bos, eos = backend.token_to_id("<s>"), backend.token_to_id("</s>")
    texts = [plain.encode(content, add_special_tokens=False).ids for content in contents]
    assert ids == [token_id for text in texts for token_id in (bos, *text, eos)]


def test_metaspace_that_prefixes_the_first_word_only() -> None:
    backend = sentencepiece_like_backend()
    backend.normalizer = normalizers.Sequence([])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer = chat_tokenizer("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}ab", backend)
    ids = tokenizer.encode_chat([{"role": "user", "content": "ab</s>"}])
    assert ids == [
        1,
        *backend.encode("<s>ab", add_special_tokens=False).ids[1:],
        *(3 + byte for byte in b"</s>"),
        2,
        *ids[-1:],
    ]
    assert backend.id_to_token(ids[1]) == "ab"


def test_a_template_that_reads_control_tokens_gets_them() -> None:
    tokenizer = chat_tokenizer("{{ messages[0].content.split('</s>')[1] }}|{{ messages[0].content }}")
    messages = [{"role": "user", "content": "a</s>b"}]
    assert tokenizer.encode_chat(messages) == tokenizer.encode_chat(messages, parse_special=True)
    assert 2 in tokenizer.encode_chat(messages)


def test_marks_are_characters_that_the_conversation_lacks() -> None:
    tokenizer = chat_tokenizer(CHATML)
    content = "\U000f0000</s>\U000f0001<s>"
    ids = tokenizer.encode_chat([{"role": "user", "content": content}])
    assert content in tokenizer.decode(ids, skip_special_tokens=False)
    assert not {1, 2} & set(ids)


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
