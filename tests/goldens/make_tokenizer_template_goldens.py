"""Makes the golden files of the chat templates' tests, with transformers as the oracle.

Run it after `make_tokenizer_goldens.py`, whose tokenizer of Qwen 2 it takes; from anywhere:

    python tests/goldens/make_tokenizer_template_goldens.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.goldens.make_tokenizer_goldens import FOLDER, write

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a place, \u00b0C & \u00b0F <now>",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["place"],
            },
        },
    }
]
CALL = {
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"place": "K\u00f6ln"}},
}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one": [{"role": "user", "content": "Hello there"}],
    "turns": [
        {"role": "system", "content": "  Be brief. "},
        {"role": "user", "content": "Hi \U0001f600\n\nhow are you?"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nFine, thanks.  "},
        {"role": "user", "content": " \u4f60\u597d  'quoted' \"text\" <b>&amp;</b> "},
    ],
    "tools": [
        {"role": "user", "content": "Weather in K\u00f6ln?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": '{"temp": 12.5}'},
        {"role": "assistant", "content": "12.5 degrees."},
        {"role": "user", "content": "Thanks"},
    ],
    "parts": [
        {"role": "system", "content": [{"type": "text", "text": "See images."}]},
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": " What is this? "}],
        },
    ],
    "wrong order": [
        {"role": "assistant", "content": "Me first"},
        {"role": "assistant", "content": "Me too"},
    ],
}
OPTIONS: list[dict[str, Any]] = [
    {"add_generation_prompt": True},
    {"add_generation_prompt": False},
    {"add_generation_prompt": True, "tools": TOOLS},
    {"add_generation_prompt": True, "enable_thinking": False},
]


def template_goldens() -> None:
    """What transformers renders from each template; nothing where the template refuses."""
    tokenizer = Tokenizer(models.BPE())
    cases = []
    for path in sorted((FOLDER / "templates").glob("*.jinja")):
        oracle = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
        )
        oracle.chat_template = path.read_text("utf-8")
        for name, messages in CONVERSATIONS.items():
            for number, options in enumerate(OPTIONS):
                try:
                    text = oracle.apply_chat_template(messages, tokenize=False, **options)
                except Exception:
                    text = None
                cases.append([path.stem, name, number, text])
    content = {"conversations": CONVERSATIONS, "options": OPTIONS, "cases": cases}
    write("rendered", content)


def chat_golden() -> None:
    """Token ids of conversations, by a tokenizer and a template together."""
    golden = json.loads((FOLDER / "bpe_qwen2.json").read_text("ascii"))
    oracle = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(golden["tokenizer_json"])),
        eos_token="<|im_end|>",
    )
    oracle.chat_template = (FOLDER / "templates" / "qwen.jinja").read_text("utf-8")
    names = ("one", "turns", "tools")
    write(
        "chat",
        {
            name: oracle.apply_chat_template(
                CONVERSATIONS[name], add_generation_prompt=True, return_dict=False
            )
            for name in names
        },
    )


if __name__ == "__main__":
    template_goldens()
    chat_golden()
