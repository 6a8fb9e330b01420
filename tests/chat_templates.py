"""Chat templates for tests: written anew after the habits of public ones, each with one habit that matters.

QWEN3: tools in the system turn, results as user turns that are joined, an empty line after a plan, plans of turns
before the last question dropped, an empty plan in a last turn that has none (Qwen3).
QWEN25: no plans at all (Qwen2.5). PLAIN: tools and calls are ignored (SmolLM2). GEMMA: no system role, the
assistant is `model` (Gemma). OPENS_PLAN: the prompt begins the plan (Qwen3's thinking models). WALKTHROUGH: the
reference walk-through's own.
"""

from __future__ import annotations

TOOLS_HEAD = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif %}
{{- '# Tools\\n\\nFunction signatures:\\n<tools>' }}
{%- for tool in tools %}{{ '\\n' + (tool | tojson) }}{% endfor %}
{{- '\\n</tools>\\n\\nReturn a json object with name and arguments within <tool_call></tool_call>.<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
"""
CALLS = """\
{%- for call in message.tool_calls or [] %}
{%- if not loop.first or content %}{{ '\\n' }}{% endif %}
{%- if call.function %}{% set call = call.function %}{% endif %}
{{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
{{- call.arguments if call.arguments is string else (call.arguments | tojson) }}
{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
"""
RESULTS = """\
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\\n' }}{% endif %}
"""
OPENING = """\
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}
"""

QWEN3 = (
    TOOLS_HEAD
    + """\
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}{% if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for message in messages %}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
{%- set content = message.content or '' %}{% set plan = message.reasoning_content or '' %}
{{- '<|im_start|>assistant\\n' }}
{%- if KEEP and (loop.last or plan) %}{{ '<think>\\n' + plan.strip('\\n') + '\\n</think>\\n\\n' }}{% endif %}
{{- content.lstrip('\\n') if KEEP else content }}
"""
    + CALLS
    + "{%- elif message.role == 'tool' %}\n"
    + RESULTS
    + "{%- endif %}\n{%- endfor %}\n"
    + OPENING
)
OPENS_PLAN = (
    QWEN3.replace("KEEP and (loop.last or plan)", "loop.last or plan")
    .replace(" if KEEP else content", "")
    .replace(OPENING, "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}\n")
)
QWEN3_KEEPS = QWEN3.replace("KEEP and (loop.last or plan)", "plan").replace(" if KEEP else content", "")
QWEN3 = QWEN3.replace("KEEP", "loop.index0 > ns.last")

QWEN25 = (
    TOOLS_HEAD
    + """\
{%- for message in messages %}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
{%- set content = message.content or '' %}
{{- '<|im_start|>assistant\\n' + content }}
"""
    + CALLS
    + "{%- elif message.role == 'tool' %}\n"
    + RESULTS
    + "{%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}\n"
)

# Arguments are written with tojson whatever they are: a JSON string would be encoded twice (T12).
TOJSON_ALWAYS = QWEN25.replace(
    "call.arguments if call.arguments is string else (call.arguments | tojson)", "call.arguments | tojson"
)
# Arguments are added to text: a dictionary raises (T12).
TEXT_ONLY = QWEN25.replace(
    "call.arguments if call.arguments is string else (call.arguments | tojson)", "'' + call.arguments"
)

PLAIN = """\
{%- for message in messages %}
{%- if loop.first and messages[0].role != 'system' %}{{ '<|im_start|>system\\nBe helpful.<|im_end|>\\n' }}{% endif %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""

GEMMA = """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}
{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' }}
{{- message.content | trim }}{{ '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}
"""

WALKTHROUGH = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] | trim + '<end_of_turn><eos>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
