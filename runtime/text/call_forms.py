"""The forms in which models write calls of functions, as the templates that teach them show.

hermes      <tool_call>{"name": ..., "arguments": {...}}</tool_call>, again and again
mistral     [TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...]
llama       {"name": ..., "parameters": {...}} as the whole text, several with ; between
"""

import re
from dataclasses import dataclass

__all__ = ["HERMES", "LLAMA", "MISTRAL", "CallForm", "form_in"]


@dataclass(frozen=True)
class CallForm:
    """How calls are written.

    Attributes:
        name: of the form.
        begin: what stands before a call, or before a list of them; "": a call is the whole text.
        end: what stands after a call.
        between: what stands between two of them.
        key: the name of the arguments.
        listed: whether calls are the items of a list.
        optional: what may stand before a call where `begin` is "".
    """

    name: str
    begin: str
    end: str
    between: str
    key: str
    listed: bool = False
    optional: str = ""

    @property
    def marks(self) -> tuple[str, ...]:
        """What may be a token of its own."""
        return tuple(mark for mark in (self.begin, self.end, self.optional) if mark)


HERMES = CallForm("hermes", "<tool_call>", "</tool_call>", "\n", "arguments")
MISTRAL = CallForm("mistral", "[TOOL_CALLS]", "", ", ", "arguments", listed=True)
LLAMA = CallForm("llama", "", "", "; ", "parameters", optional="<|python_tag|>")

OTHERS = {  # what other forms have beside the same mark: of newer Mistrals, Qwen3-Coder and GLM
    MISTRAL: ("[ARGS]",),
    HERMES: ("<function=", "<arg_key>"),
}
LLAMA_CALL = re.compile(r"""\{\\?"name\\?": .{0,60}?\\?"parameters\\?": """)


def form_in(template: str) -> CallForm | None:
    """Return the form of calls that the text of a template shows; None: another one, or none."""
    for form, others in OTHERS.items():
        if form.begin in template:
            return None if any(one in template for one in others) else form
    return LLAMA if LLAMA_CALL.search(template) else None
