"""Chats and tools, for what renders them."""

__all__ = ["CHATS", "TOOLS"]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": 'Tell "the" weather & more: <b>größer</b>',
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "a city"},
                    "unit": {"type": "string", "enum": ["C", "F"]},
                    "days": {"type": "array", "items": {"type": ["integer", "null"]}},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}},
]

CHATS = {
    "one question": [{"role": "user", "content": "What is 1 < 2?"}],
    "with a system": [
        {"role": "system", "content": "  Be brief.\n"},
        {"role": "user", "content": "Größe? 中文 🙂\n"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\n1,80 m "},
        {"role": "user", "content": "Thanks & bye"},
    ],
    "with tools": [
        {"role": "user", "content": "Weather in Köln?"},
        {
            "role": "assistant",
            "content": "",
            "name": None,
            "tool_calls": [
                {"function": {"name": "get_weather", "arguments": {"city": "Köln", "days": [1, 2]}}}
            ],
        },
        {"role": "tool", "content": "12 °C"},
        {"role": "tool", "content": "13 °C"},
        {"role": "assistant", "content": "<think>warm</think>12 or 13 °C."},
    ],
}
