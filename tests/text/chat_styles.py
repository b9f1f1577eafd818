"""Chat templates in the styles of well-known model families, written for these tests."""

from __future__ import annotations

GENERATE = "{% if add_generation_prompt %}"

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    + GENERATE
    + "<|im_start|>assistant\n{% endif %}"
)

LLAMA3 = """{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content | trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = '' %}{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' + system + '<|eot_id|>' }}
{%- if tools is not none and tools %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\nRespond with {"name": ..., "parameters": ...}.\\n\\n' }}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- '\\n\\n' }}{%- endfor %}
    {{- '<|eot_id|>' }}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'tool' or m.role == 'ipython' %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}
        {{- m.content | tojson if m.content is mapping else m.content }}{{- '<|eot_id|>' }}
    {%- elif 'tool_calls' in m %}
        {%- if m.tool_calls | length != 1 %}{{- raise_exception('one call at a time') }}{%- endif %}
        {%- set f = m.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
        {{- '{"name": "' + f.name + '", "parameters": ' }}{{- f.arguments | tojson }}{{- '}<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""

GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for m in messages %}
    {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
    {%- set role = 'model' if m['role'] == 'assistant' else m['role'] %}
    {{- '<start_of_turn>' + role + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

MISTRAL = """{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content %}{%- set messages = messages[1:] %}
{%- endif %}
{{- bos_token }}
{%- set ns = namespace(index=0) %}
{%- for m in messages %}
    {%- if not (m.role == 'tool' or m.tool_calls is defined) %}
        {%- if (m.role == 'user') != (ns.index % 2 == 0) %}{{- raise_exception('roles must alternate') }}{%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{%- set asked = messages | selectattr('role', 'equalto', 'user') | list %}
{%- for m in messages %}
    {%- if m.role == 'user' %}
        {%- if tools is not none and tools and m == asked[-1] %}
            {{- '[AVAILABLE_TOOLS] ' }}{{- tools | tojson }}{{- '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {%- if loop.last and system is defined %}
            {{- '[INST] ' + system + '\\n\\n' + m.content + '[/INST]' }}
        {%- else %}{{- '[INST] ' + m.content + '[/INST]' }}{%- endif %}
    {%- elif m.tool_calls is defined and m.tool_calls is not none %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in m.tool_calls %}
            {%- if call.id is not defined or call.id | length != 9 %}
                {{- raise_exception('ids have 9 letters') }}
            {%- endif %}
            {{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' }}
            {{- ', ' if not loop.last else ']' + eos_token }}
        {%- endfor %}
    {%- elif m.role == 'assistant' %}{{- ' ' + m.content | trim + eos_token }}
    {%- elif m.role == 'tool' %}
        {{- '[TOOL_RESULTS] {"content": ' + m.content | string + ', "call_id": "' + m.tool_call_id + '"}' }}
        {{- '[/TOOL_RESULTS]' }}
    {%- else %}{{- raise_exception('unknown role') }}{%- endif %}
{%- endfor %}"""

QWEN3 = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- '# Tools\\n<tools>' }}{%- for t in tools %}{{- '\\n' }}{{- t | tojson }}{%- endfor %}
    {{- '\\n</tools>\\nAnswer with <tool_call>\\n{"name": ..., "arguments": ...}\\n</tool_call><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=messages | length - 1, looking=true) %}
{%- for m in messages[::-1] %}
    {%- set index = messages | length - 1 - loop.index0 %}
    {%- if ns.looking and m.role == 'user' and m.content is string
           and not (m.content.startswith('<tool_response>') and m.content.endswith('</tool_response>')) %}
        {%- set ns.looking = false %}{%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
    {%- elif m.role == 'assistant' %}
        {%- set content = m.content %}{%- set thought = '' %}
        {%- if m.reasoning_content is string %}{%- set thought = m.reasoning_content %}
        {%- elif '</think>' in m.content %}
            {%- set content = m.content.split('</think>')[-1].lstrip('\\n') %}
            {%- set thought = m.content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last and thought %}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- content }}
        {%- for call in m.tool_calls or [] %}
            {{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}{{- '}\\n</tool_call>' }}
        {%- endfor %}{{- '<|im_end|>\\n' }}
    {%- elif m.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""

GRANITE = """{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] %}{%- set messages = messages[1:] %}
{%- else %}
    {%- set system = 'You are a helpful assistant.' %}
    {%- if tools %}
        {%- set system = system + ' Respond only with <|tool_call|> followed by a list of calls.' %}
    {%- endif %}
{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + system + '<|end_of_text|>\\n' }}
{%- if tools %}
    {{- '<|start_of_role|>available_tools<|end_of_role|>' + tools | tojson(indent=4) + '<|end_of_text|>\\n' }}
{%- endif %}
{%- for d in documents or [] %}
    {{- '<|start_of_role|>document {"document_id": "' + d.doc_id | string + '"}<|end_of_role|>\\n' }}
    {{- d.text + '<|end_of_text|>\\n' }}
{%- endfor %}
{%- for m in messages %}
    {%- set role = 'tool_response' if m['role'] == 'tool' else m['role'] %}
    {{- '<|start_of_role|>' + role + '<|end_of_role|>' + m['content'] + '<|end_of_text|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}"""

PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + '\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
    + GENERATE
    + "{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)

PHI3_MINI = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') %}{{'<|user|>' + '\\n' + m['content'] + '<|end|>' + '\\n' + '<|assistant|>' + '\\n'}}"
    "{% elif (m['role'] == 'assistant') %}{{m['content'] + '<|end|>' + '\\n'}}{% endif %}{% endfor %}"
)

DEEPSEEK = """{%- set ns = namespace(system='', first=true) %}
{%- for m in messages if m.role == 'system' %}{%- set ns.system = ns.system ~ m.content %}{%- endfor %}
{{- bos_token }}{{- ns.system }}
{%- for m in messages %}
    {%- if m.role == 'user' %}{{- '<｜User｜>' + m.content }}
    {%- elif m.role == 'assistant' and m.content is none %}
        {%- for call in m.tool_calls %}
            {{- '<｜Assistant｜><｜tool▁call▁begin｜>' + call.function.name + '\\n```json\\n' }}
            {{- call.function.arguments | tojson + '\\n```' + eos_token }}
        {%- endfor %}
    {%- elif m.role == 'assistant' %}
        {%- set content = m.content.split('</think>')[-1] if '</think>' in m.content else m.content %}
        {{- '<｜Assistant｜>' + content + eos_token }}
    {%- elif m.role == 'tool' %}{{- '<｜tool▁output▁begin｜>' + m.content }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<｜Assistant｜><think>\\n' }}{%- endif %}"""

COMMAND_R = """{{- bos_token }}
{%- if tools %}
    {{- '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|># Available Tools\\n' }}
    {%- for t in tools %}
        {{- 'def ' + t.function.name + '():\\n    "' + t.function.description + '"' }}
        {{- ' {"parameters": ' + t.function.parameters | tojson + '}\\n' }}
    {%- endfor %}
    {{- "Write 'Action:' followed by a list of calls.<|END_OF_TURN_TOKEN|>" }}
{%- endif %}
{%- for m in messages %}
    {{- '<|START_OF_TURN_TOKEN|>' }}
    {%- if m.role == 'user' %}{{- '<|USER_TOKEN|>' }}
    {%- elif m.role == 'system' or m.role == 'tool' %}{{- '<|SYSTEM_TOKEN|>' }}
    {%- else %}{{- '<|CHATBOT_TOKEN|>' }}{%- endif %}
    {{- m.content }}
    {%- if m.tool_calls %}{{- 'Action: ```json\\n[' }}
        {%- for call in m.tool_calls %}
            {{- '{"tool_name": "' + call.function.name + '", "parameters": ' }}
            {{- call.function.arguments | tojson + '}' }}
        {%- endfor %}
        {{- ']```' }}
    {%- endif %}
    {{- '<|END_OF_TURN_TOKEN|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{%- endif %}"""

NAMED = (  # a name between two halves of a marker, contents cut up, and escapes
    "{% for m in messages %}<|{{ m.name or 'none' }}|>{{ m.content[:7] }}{{ m.content[7:] | e }}"
    "{{ m.content | tojson(ensure_ascii=true) }}{{ m.content.replace('</think>', '') | upper }}{{ m.content | length }}"
    "{% for part in m.content.split('|') %}<{{ part }}{% endfor %}<|im_end|>\n{% endfor %}"
)

STYLES = {
    "chatml": CHATML,
    "llama3": LLAMA3,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "qwen3": QWEN3,
    "granite": GRANITE,
    "phi3": PHI3,
    "phi3-mini": PHI3_MINI,
    "deepseek": DEEPSEEK,
    "command-r": COMMAND_R,
    "named": NAMED,
}

CONTROLS = [
    *("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"),
    *("<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    *("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>", "<|tool_call|>"),
    *("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
    *("<｜User｜>", "<｜Assistant｜>", "<｜tool▁call▁begin｜>", "<｜tool▁output▁begin｜>"),
    *("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|CHATBOT_TOKEN|>"),
    "madeup01",
]
OTHERS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "   ", "\n\n"]  # recognised in any text
