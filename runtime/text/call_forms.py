"""The forms in which models write calls of functions, as the templates that teach them show.

hermes        <tool_call>{"name": ..., "arguments": {...}}</tool_call>, again and again
qwen3-coder   <tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>
glm           <tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>
mistral       [TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...]
mistral-args  [TOOL_CALLS]NAME[ARGS]{...}, again and again; some with [CALL_ID]ID after the name
deepseek      NAME and {...} between marks of one call, and all calls between marks of their own
llama         {"name": ..., "parameters": {...}} as the whole text, several with ; between
"""

import re
from dataclasses import dataclass, replace
from typing import NamedTuple

__all__ = [
    "DEEPSEEK",
    "DEEPSEEK_31",
    "FORMS",
    "GLM",
    "GLM_DENSE",
    "HERMES",
    "LLAMA",
    "MARK",
    "MISTRAL",
    "MISTRAL_ARGS",
    "MISTRAL_IDS",
    "QWEN3_CODER",
    "CallForm",
    "Parameter",
    "form_in",
]

MARK = re.compile(r"<\uff5c[^\uff5c\s]+\uff5c>|<\|\w+\|>|</?\w+>|\[/?[A-Z_]+\]")


class Parameter(NamedTuple):
    """How an argument is written: its key after `open`, its value between `middle` and `close`."""

    open: str
    key_end: str
    value_begin: str
    close: str


@dataclass(frozen=True)
class CallForm:
    """How calls are written. White space in these texts is what models write; any is understood.

    Attributes:
        name: of the form.
        begin: what stands before a call, or before a list of them; "": a call is the whole text.
        shown: what a template has that teaches it, beside `begin`; a regular expression.
        lead: what stands before the name, or before the JSON that has it.
        after: what stands after a name that is not in the JSON.
        key: the name of the arguments in the JSON that has the name, too; "": no JSON has it.
        identified: what may stand after a name, before an id of the call.
        parameter: how arguments are written that are no JSON.
        tail: what stands after the arguments.
        end: what stands after a call.
        between: what stands between two of them.
        each: what stands before each call, where `begin` stands before all of them.
        final: what stands after all of them.
        listed: whether calls are the items of a list.
        optional: what may stand before a call where `begin` is "".
    """

    name: str
    begin: str
    shown: str = ""
    lead: str = ""
    after: str = ""
    key: str = ""
    identified: str = ""
    parameter: Parameter | None = None
    tail: str = ""
    end: str = ""
    between: str = ""
    each: str = ""
    final: str = ""
    listed: bool = False
    optional: str = ""

    @property
    def marks(self) -> tuple[str, ...]:
        """What may be a token of its own."""
        parts = (self.begin, self.each, self.lead, self.identified, self.after, self.tail, self.end)
        texts = (*parts, self.final, self.optional, *(self.parameter or ()))
        return tuple(dict.fromkeys(mark for text in texts for mark in MARK.findall(text)))


def _deepseek(words: str) -> str:
    """Return one of DeepSeek's marks, which have letters that look like others."""
    return f"<\uff5c{words.replace(' ', chr(0x2581))}\uff5c>"


HERMES = CallForm(
    name="hermes",
    begin="<tool_call>",
    lead="\n",
    key="arguments",
    tail="\n",
    end="</tool_call>",
    between="\n",
)
QWEN3_CODER = CallForm(
    name="qwen3-coder",
    shown="<function=",
    begin="<tool_call>",
    lead="\n<function=",
    after=">\n",
    parameter=Parameter("<parameter=", ">\n", "", "\n</parameter>\n"),
    tail="</function>\n",
    end="</tool_call>",
    between="\n",
)
GLM = CallForm(
    name="glm",
    shown="<arg_key>",
    begin="<tool_call>",
    after="\n",
    parameter=Parameter("<arg_key>", "</arg_key>\n", "<arg_value>", "</arg_value>\n"),
    end="</tool_call>",
    between="\n",
)
GLM_DENSE = replace(
    GLM,
    name="glm without line breaks",
    shown="</arg_key><arg_value>",
    after="",
    parameter=Parameter("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    between="",
)
MISTRAL = CallForm(name="mistral", begin="[TOOL_CALLS]", key="arguments", between=", ", listed=True)
MISTRAL_ARGS = CallForm(
    name="mistral-args", shown=r"\[ARGS\]", begin="[TOOL_CALLS]", after="[ARGS]"
)
MISTRAL_IDS = replace(
    MISTRAL_ARGS, name="mistral-args with ids", shown=r"\[CALL_ID\]", identified="[CALL_ID]"
)
DEEPSEEK = CallForm(
    name="deepseek",
    shown=_deepseek("tool sep") + "(?s:.*)```json",
    begin=_deepseek("tool calls begin"),
    each=_deepseek("tool call begin"),
    lead="function" + _deepseek("tool sep"),
    after="\n```json\n",
    tail="\n```",
    end=_deepseek("tool call end"),
    between="\n",
    final=_deepseek("tool calls end"),
)
DEEPSEEK_31 = replace(
    DEEPSEEK,
    name="deepseek-3.1",
    shown=_deepseek("tool sep"),
    lead="",
    after=_deepseek("tool sep"),
    tail="",
    between="",
)
LLAMA = CallForm(
    name="llama",
    shown=r"""\{\\?"name\\?": .{0,60}?\\?"parameters\\?": """,
    begin="",
    key="parameters",
    between="; ",
    optional="<|python_tag|>",
)

# Of those with the same marks, the ones whose templates have more come first.
FORMS = (
    *(MISTRAL_IDS, MISTRAL_ARGS, MISTRAL, QWEN3_CODER, GLM_DENSE, GLM, HERMES),
    *(DEEPSEEK, DEEPSEEK_31, LLAMA),
)


def form_in(template: str) -> CallForm | None:
    """Return the form of calls that the text of a template shows; None: another one, or none."""
    fitting = (form for form in FORMS if form.begin in template and re.search(form.shown, template))
    return next(fitting, None)
