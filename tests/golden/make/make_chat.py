"""(H) Chat templates of every family, rendered by Jinja as transformers does it.

    python make_chat.py [PUBLISHED.json]      -> text/chat.json: templates by family, rows of conversations

The templates here are short ones of our own that write what the published ones write and carry their marks. Given a
file of published ones by family name, every row is rendered with those as well and must agree; each published
template is also listed by its SHA-256, so that one can see which were checked.
"""
import hashlib
import json
import sys

from transformers.utils.chat_template_utils import _compile_jinja_template as compile_template

import common as c
from common import CHAT_TEMPLATE, GOLDEN

IM = lambda text: ("{% for m in messages %}" + text + "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
                   "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}").replace("for m in", "for message in")
DEFAULT = lambda s: "{% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\\n" + s + "<|im_end|>\\n' }}{% endif %}"
PARTS = lambda image: ("{% for part in message['content'] %}{% if part['type'] == 'image' %}" + image +
                       "{% else %}{{ part['text'] }}{% endif %}{% endfor %}")
SAID = ("{% for message in messages %}{{ message['role'] | capitalize }}{% if message['content'][0]['type'] == 'image' %}:{% else %}{{ ': ' }}{% endif %}" +
        PARTS("{{ '<image>' }}") + "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}")
HEADER = "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}"
ANSWER3 = "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"

OWN = {
    "llava_onevision": CHAT_TEMPLATE,
    "llava_onevision_spaced": (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
        "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
        "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\\n' + content['text'] }}{% endfor %}"
        "<|im_end|>{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"),
    "llava": (
        "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'] | upper + ': ' }}{% endif %}"
        "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}"
        "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}{% endfor %}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"),
    "qwen2_vl": (
        "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
        "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n" +
        PARTS("<|vision_start|><|image_pad|><|vision_end|>") +
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"),
    "internvl": (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}" + PARTS("{{ '<IMG_CONTEXT>\\n' }}") +
        "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"),
    "smolvlm": "<|im_start|>" + SAID,
    "idefics3": "<|begin_of_text|>" + SAID,
    "llama2": (
        "{% set with_system = messages[0]['role'] == 'system' %}{% set skip = 1 if with_system else 0 %}"
        "{% for message in messages[skip:] %}{% set content = message['content'] %}"
        "{% if loop.first and with_system %}{% set content = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' + content %}{% endif %}"
        "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"),
    "llama3": "{{ bos_token }}{% for message in messages %}" + HEADER + "{% endfor %}" + ANSWER3,
    "llama3_1": (
        "{{ bos_token }}{% set with_system = messages[0]['role'] == 'system' %}{% set skip = 1 if with_system else 0 %}"
        "{{ '<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\nToday Date: 26 Jul 2024\\n\\n' }}"
        "{% if with_system %}{{ messages[0]['content'] | trim }}{% endif %}<|eot_id|>"
        "{% for message in messages[skip:] %}" + HEADER + "{% endfor %}" + ANSWER3),
    "qwen2": IM(DEFAULT("You are a helpful assistant.")),
    "qwen2_5": IM(DEFAULT("You are Qwen, created by Alibaba Cloud. You are a helpful assistant.")),
    "qwen3": (
        "{% set ns = namespace(last_query_index=messages | length - 1, seen=false) %}"
        "{% for message in messages %}{% if message.role == 'user' %}{% set ns.last_query_index = loop.index0 %}{% endif %}{% endfor %}"
        "{% for message in messages %}{% set content = message.content %}{% set reasoning_content = '' %}"
        "{% if message.role == 'assistant' and '</think>' in content %}"
        "{% set reasoning_content = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
        "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
        "{{ '<|im_start|>' + message.role + '\\n' }}"
        "{% if message.role == 'assistant' and loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}"
        "{{ '<think>\\n' + reasoning_content + '\\n</think>\\n\\n' + content.lstrip('\\n') }}{% else %}{{ content }}{% endif %}"
        "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
        "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"),
    "internlm2": "{{ bos_token }}" + IM(""),
    "smollm2": IM(DEFAULT("You are a helpful AI assistant named SmolLM, trained by Hugging Face")),
    "chatml": IM(""),
}
SEES = {"llava_onevision", "llava_onevision_spaced", "llava", "qwen2_vl", "internvl", "internvl2", "internvl2_5", "smolvlm", "idefics3"}
BOS = {"llama2": "<s>", "internlm2": "<s>", "llama3": "<|begin_of_text|>", "llama3_1": "<|begin_of_text|>"}

# What OpenGVLab's conversation.py has under internlm2-chat / Hermes-2 and under internvl2_5: system text, separator.
REMOTE = {
    "internvl2": ("你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。", "<|im_end|>"),
    "internvl2_5": ("你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。", "<|im_end|>\n"),
}


def say(role, text, images=0):
    return {"role": role, "images": images, "text": text}


USER = lambda text, images=0: say("user", text, images)
BOT = lambda text: say("assistant", text)
SYS = lambda text: say("system", text)
CONVERSATIONS = [
    ("one turn", True, [USER("What is this?")]),
    ("one picture", True, [USER("What is shown here?", 1)]),
    ("two pictures", True, [USER("Compare them.", 2)]),
    ("picture without a generation prompt", False, [USER("Look.", 1), BOT("A red circle.")]),
    ("two turns", True, [USER("How many shapes?", 1), BOT("Three."), USER("And colours?")]),
    ("two turns, two pictures", True, [USER("First", 1), BOT("One."), USER("Second", 1)]),
    ("three turns", True, [USER("a"), BOT("b"), USER("c"), BOT("d"), USER("e")]),
    ("system", True, [SYS("Be brief."), USER("Hello!")]),
    ("system, three turns, a picture", True, [SYS("Be brief."), USER("a", 1), BOT("b"), USER("c"), BOT("d"), USER("e")]),
    ("white space", True, [SYS("  s \n"), USER("\n  indented\n\n"), BOT(" \u3000answer\t\n"), USER(" x ")]),
    ("special tokens typed", True, [USER("a<|im_end|>\n<|im_start|>system\nb</s><|eot_id|><end_of_utterance>[/INST]<image><IMG_CONTEXT>")]),
    ("other scripts", True, [USER("你好，世界 Größe e\u0301", 1), BOT("Привет 👋🏽"), USER("ok")]),
    ("thoughts", True, [USER("a"), BOT("<think>\nhm\n</think>\n\nb"), USER("c"), BOT("\n\nd"), USER("e")]),
    ("thoughts at the end", False, [USER("a"), BOT("\n<think>\n\nhm\n\n</think>\n\n\nb</think>\nz\n")]),
    ("an answer at the end", False, [USER("a"), BOT("\nb")]),
    ("two answers at the end", False, [USER("a"), BOT("<think>x</think>b"), BOT("c")]),
]


def render(template, family, messages, generate, **more):
    parts = lambda m: [{"type": "image"}] * m["images"] + [{"type": "text", "text": m["text"]}]
    rows = [{"role": m["role"], "content": parts(m) if family in SEES else m["text"]} for m in messages]
    return compile_template(template).render(messages=rows, add_generation_prompt=generate, bos_token=BOS.get(family, ""),
                                             eos_token="</s>", **more)


def remote(family, messages, generate):
    system, sep = REMOTE[family]
    if messages[0]["role"] == "system":
        system, messages = messages[0]["text"], messages[1:]
    out = "<|im_start|>system\n" + system + sep
    for m in messages:
        n = m["images"]
        pictures = "".join(f"Image-{i + 1}: <IMG_CONTEXT>\n" for i in range(n)) if n > 1 else "<IMG_CONTEXT>\n" * n
        out += "<|im_start|>" + m["role"] + "\n" + pictures + m["text"] + sep
    return out + ("<|im_start|>assistant\n" if generate else "")


def main():
    published = json.load(open(sys.argv[1])) if len(sys.argv) > 1 else {}
    rows, equal = [], {}
    for family in [*OWN, "qwen3_no_thinking", *REMOTE]:
        template = OWN.get(family) or OWN["qwen3"]
        theirs = published.get("qwen3" if family == "qwen3_no_thinking" else family)
        more = {"enable_thinking": False} if family == "qwen3_no_thinking" else {}
        for name, generate, messages in CONVERSATIONS:
            if family not in SEES and any(m["images"] for m in messages):
                continue
            if family == "llama2" and "two answers" in name:
                continue
            text = remote(family, messages, generate) if family in REMOTE else render(template, family, messages, generate, **more)
            if theirs:
                if family == "internvl":
                    theirs = theirs.replace("'<image>\n'", "'<IMG_CONTEXT>\n'")
                other = render(theirs, family, messages, generate, **more)
                assert other == text, (family, name, other, text)
                equal[family] = hashlib.sha256((published.get(family) or published["qwen3"]).encode()).hexdigest()
            rows.append({"family": family, "conversation": name, "generate": generate, "messages": messages, "rendered": text})
    c.write_json(GOLDEN / "text" / "chat.json", {"templates": OWN, "rows": rows})
    print(len(rows), "rows; as published:", ", ".join(equal) or "not checked")


if __name__ == "__main__":
    main()
