"""Make the models of random weights in every peer's format, once: python peers/make_models.py.

The models are written to `.models/SHAPE/PEER/FORMAT` beside this folder. Existing models are kept.
An interrupted conversion leaves nothing under its final name.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from contestants import BITS, DEVICES, EDGEGPT, PEERS, Contestant, contestants
from shapes import SHAPES, USUAL, Shape

HERE = Path(__file__).parent
MODELS = HERE.parent / ".models"
VENVS = HERE.parent / ".venvs"
# torch.compile uses the checkpoint and the environment of transformers.
SHARED = {"torch_compile": "transformers"}


def python_of(peer: str, python_edgegpt: str) -> str:
    """Return the interpreter that has the peer."""
    return (
        python_edgegpt
        if peer == EDGEGPT
        else str(VENVS / SHARED.get(peer, peer) / "bin" / "python")
    )


def folder_of(shape: Shape, one: Contestant) -> Path:
    """Return the folder with the weights of a contestant."""
    return MODELS / shape.name / SHARED.get(one.peer, one.peer) / one.folder


def build(out: Path, command: list[str]) -> bool:
    """Run a conversion, whose command has the argument OUT, so that it writes the folder `out`."""
    if out.is_dir():
        return True
    print(f"making {out.relative_to(MODELS)}", flush=True)
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    log = out.with_name(out.name + ".log")
    with log.open("w") as output:
        command = [str(part) if word == "OUT" else word for word in command]
        code = subprocess.run(command, stdout=output, stderr=output, check=False).returncode
    if code != 0:
        shutil.rmtree(part)
        print(f"  failed; its words are in {log.relative_to(MODELS.parent)}", flush=True)
        return False
    part.rename(out)
    log.unlink()
    return True


def main() -> int:
    """Make all missing models; return the exit code, 1 if a conversion failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=USUAL)
    parser.add_argument("--bits", nargs="+", type=int, choices=BITS, default=list(BITS))
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--python-edgegpt", default=sys.executable, metavar="PATH")
    args = parser.parse_args()
    succeeded = True
    for name in args.models:
        source = MODELS / name / "transformers" / "float32"
        python = python_of("transformers", "")
        made = build(source, [python, str(HERE / "convert" / "transformers_.py"), name, "OUT"])
        succeeded &= made
        for bits in args.bits if made else ():
            for one in contestants(SHAPES[name], bits, args.peers, args.device)[0]:
                script = HERE / "convert" / f"{one.peer}_.py"
                python = python_of(one.peer, args.python_edgegpt)
                command = [python, str(script), str(source), "OUT", one.folder]
                if one.peer == EDGEGPT:
                    command.append(name)
                succeeded &= build(folder_of(SHAPES[name], one), command)
    return 0 if succeeded else 1


if __name__ == "__main__":
    sys.exit(main())
