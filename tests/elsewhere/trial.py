"""Use bundles as a device does, by the commands, and print what came of it as one line of JSON.

Another Python runs this file: one that an emulator runs, or one with other versions of packages. It
needs nothing but the standard library and the installed runtime.
"""

import contextlib
import importlib
import io
import json
import re
import sys
from typing import Any

PROMPT, SEEDS, TOKENS = "The wind", (1, 2, 3), 24
CHAT = "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}"
FORM = "(rain|wind|sun)( and (rain|wind|sun)){1,2}"
BENCH = ("--repeats", "1", "--tokens", "2", "--depths", "4", "--batches", "1")


def command(*arguments: str) -> tuple[int, str]:
    """Run a command in this process; return its exit code and what it printed."""
    main = importlib.import_module("edgegpt.cli").main
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            code = main(list(arguments))
        except SystemExit as stop:
            code = stop.code
    return int(code or 0), printed.getvalue()


def told(*arguments: str) -> dict[str, Any]:
    """Return the JSON that a command printed; {} if it printed none."""
    printed = command(*arguments, "--json")[1]
    return json.loads(printed) if printed.strip() else {}


def use(bundle: str) -> dict[str, Any]:
    """Return what doctor, verify and generate tell of a bundle."""
    receipt = told("verify", bundle)
    write = ("generate", bundle, "--prompt", PROMPT, "-n", str(TOKENS), "-t", "0.8")
    passed = receipt.get("passed", False)
    texts = [told(*write, "--seed", str(seed)) for seed in SEEDS] if passed else []
    return {
        "works": told("doctor", bundle).get("bundle", {}).get("choice", {}).get("backend"),
        "outcome": receipt.get("outcome"),
        "graph": receipt.get("graph"),
        "failed": [check["name"] for check in receipt.get("checks", []) if not check["passed"]],
        "texts": [text["token_ids"] for text in texts],
        "ties": [text["first_near_tie"] for text in texts],
    }


def show(bundle: str) -> dict[str, int]:
    """Return the exit codes of commands that draw tables and measure, and whether what needs the
    packages of `chat` and `serve` works: 0 if it does.
    """
    template = importlib.import_module("edgegpt.runtime.text.chat_template").ChatTemplate
    chat = template(CHAT, "", {}).render([{"role": "user", "content": " hello "}])
    drawn = {name: command(name, bundle) for name in ("doctor", "inspect", "verify")}
    drawn["bench"] = command("bench", bundle, *BENCH)
    codes = {name: code if len(printed) > 100 else -1 for name, (code, printed) in drawn.items()}
    importlib.import_module("edgegpt.runtime.server.app")
    with importlib.import_module("edgegpt").load(bundle) as model:
        written = model.generate(PROMPT, regex=FORM, max_new_tokens=TOKENS, seed=1).text
    formed = re.fullmatch(FORM, written)
    return codes | {"chat": int(chat != "user: hello\n"), "serve": int(formed is None)}


if __name__ == "__main__":
    runtime = importlib.import_module("onnxruntime").__version__
    kind = importlib.import_module("edgegpt.runtime.machine").processor_kind()
    found = {bundle: use(bundle) for bundle in sys.argv[1:]}
    facts = {"onnxruntime": runtime, "processor": kind, "bundles": found}
    print(json.dumps(facts | {"shown": show(sys.argv[1])}))
