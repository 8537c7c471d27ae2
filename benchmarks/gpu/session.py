"""The first hour on a GPU as one command: prove, test, measure and train, within a limit of time.

    python benchmarks/gpu/session.py --out FOLDER [--seconds 900] [--steps prove test ...]

It needs the extras cuda, train, export and dev, and no network. `peers` needs what
benchmarks/peers/README.md tells to make before. `--backend cpu` is a rehearsal without a GPU. A
step that fails does not stop the others; one that would begin too late is skipped, and the table at
the end says so. FOLDER gets session.json, session.log and what the steps make; it is written as
they go, so that a session that is cut short loses nothing.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "shakespeare-char"
TIMED = ("float16", "float32", "int4", "int8")
PRECISIONS = (*TIMED, "bfloat16")
LARGE = ROOT / "benchmarks" / ".models" / "tinyllama-1b" / "edgegpt"
EDGEGPT = [sys.executable, "-m", "edgegpt"]
LEAST_S = 5.0  # a step that has less is not begun
GRACE_S = 3.0


@dataclass(frozen=True)
class Job:
    """A command, and the seconds that it may take."""

    name: str
    limit: float
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass
class Row:
    """What became of a job."""

    name: str
    state: str
    seconds: float = 0.0
    end_of_output: str = ""


class Session:
    """The jobs that were done, and the time that is left."""

    def __init__(self, out: Path, seconds: float, backend: str, repeats: int) -> None:
        self.out, self.backend, self.end = out, backend, time.monotonic() + seconds
        self.repeats = str(repeats)  # of what is timed
        self.lock = threading.Lock()
        out.mkdir(parents=True, exist_ok=True)
        earlier = out / "session.json"  # of a session that had other steps
        found = json.loads(earlier.read_text()) if earlier.is_file() else []
        self.rows = [Row(**row) for row in found]

    @property
    def has_gpu(self) -> bool:
        return self.backend != "cpu"

    def left(self) -> float:
        return self.end - time.monotonic()

    def bundle(self, precision: str) -> Path:
        return self.out / "bundles" / precision

    def made(self) -> list[str]:
        """Return the precisions whose bundles are there; a failed export leaves nothing."""
        return [one for one in PRECISIONS if self.bundle(one).is_dir()]

    def run(self, job: Job) -> Row:
        """Run a job within its limit; keep its output."""
        limit = min(job.limit, self.left())
        if limit < LEAST_S:
            return self._done(Row(job.name, "skipped: no time left"), "")
        log = self.out / "logs" / f"{job.name.replace(' ', '_').replace('/', '-')}.log"
        log.parent.mkdir(exist_ok=True)
        begin = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                job.command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env={**os.environ, **job.environment},
                start_new_session=True,
            )
            try:
                code = process.wait(limit)
                state = "ok" if code == 0 else f"exit {code}"
            except subprocess.TimeoutExpired:
                _end(process)
                state = f"stopped after {limit:.0f} s"
        text = log.read_text(errors="replace")
        return self._done(Row(job.name, state, round(time.monotonic() - begin, 1)), text)

    def together(self, jobs: Iterable[Job]) -> list[Row]:
        """Run several jobs at once."""
        jobs = list(jobs)
        with ThreadPoolExecutor(max(1, len(jobs))) as pool:
            return list(pool.map(self.run, jobs))

    def skip(self, name: str, why: str) -> None:
        self._done(Row(name, f"skipped: {why}"), "")

    def _done(self, row: Row, text: str) -> Row:
        row.end_of_output = text[-1500:]
        with self.lock:
            self.rows.append(row)
            print(f"{row.state:30} {row.seconds:7.1f} s  {row.name}", flush=True)
            with (self.out / "session.log").open("a") as file:
                file.write(f"\n===== {row.name}: {row.state}, {row.seconds} s\n{text}\n")
            rows = json.dumps([asdict(one) for one in self.rows], indent=1)
            part = self.out / "session.json.part"
            part.write_text(rows + "\n")
            part.replace(self.out / "session.json")
        return row


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)


def doctor(session: Session) -> None:
    session.run(Job("doctor", 60, [*EDGEGPT, "doctor", "--backend", session.backend]))


def export(session: Session) -> None:
    """The shipped model in every precision, side by side."""
    threads = str(max(1, (os.cpu_count() or 1) // len(PRECISIONS)))
    alone = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
    session.together(
        Job(
            f"export {one}",
            150,
            [
                *(*EDGEGPT, "export", str(MODEL), "--out", str(session.bundle(one))),
                *("--precision", one, "--force"),
            ],
            alone,
        )
        for one in PRECISIONS
        if one not in session.made()
    )


def prove(session: Session) -> None:
    """Receipts of all bundles; also with TF32, without graphs, and of the largest model."""
    jobs = []
    for one in session.made():
        page = str(session.out / f"proof-{one}.html")
        jobs.append(Job(f"verify {one}", 60, [*_verify(session, one), "--report", page]))
    if session.has_gpu:
        for one, option in (("float32", "--tf32"), ("float16", "--no-cuda-graph")):
            if one in session.made():
                jobs.append(Job(f"verify {one} {option}", 60, [*_verify(session, one), option]))
        jobs += [
            Job(f"verify 1B {path.name}", 90, [*EDGEGPT, "verify", str(path), *_on(session)])
            for path in sorted(LARGE.glob("*"))
        ]
    session.together(jobs)


def _on(session: Session) -> list[str]:
    return ["--backend", session.backend]


def _verify(session: Session, precision: str) -> list[str]:
    return [*EDGEGPT, "verify", str(session.bundle(precision)), *_on(session)]


def test(session: Session) -> None:
    """tests/gpu; without a GPU they all skip, and say so."""
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "--durations=10", "--tb=short"]
    with contextlib.suppress(ImportError):
        __import__("pytest_timeout")
        command.append("--timeout=100")
    ready = {"EDGEGPT_GPU_BUNDLES": str(session.bundle("").resolve())}
    session.run(Job("tests gpu", 240, [*command, "-p", "no:cacheprovider", "tests/gpu"], ready))


def bench(session: Session) -> None:
    """One after the other, since they are timed."""
    few = ["--repeats", session.repeats]
    few += [] if session.has_gpu else ["--tokens", "8", "--batches", "1"]
    for one in [one for one in session.made() if one in TIMED]:
        out = str(session.out / f"bench-{one}")
        files = ["--out", f"{out}.json", "--html", f"{out}.html"]
        command = [*EDGEGPT, "bench", str(session.bundle(one)), *_on(session), *files, *few]
        session.run(Job(f"bench {one}", 90, command))
    if not session.has_gpu:
        return
    few += ["--batches", "1"]
    if "float16" in session.made():
        out = ["--out", str(session.out / "bench-float16-no-graph.json"), "--no-cuda-graph"]
        command = [*EDGEGPT, "bench", str(session.bundle("float16")), *_on(session), *few, *out]
        session.run(Job("bench float16 without graphs", 60, command))
    for path in sorted(LARGE.glob("*")):
        out = ["--out", str(session.out / f"bench-1b-{path.name}.json")]
        command = [*EDGEGPT, "bench", str(path), *_on(session), *few, *out]
        session.run(Job(f"bench 1B {path.name}", 120, command))


def parts(session: Session) -> None:
    """Where a decode step's time goes; of int4 also by ONNX Runtime's other kernels."""
    if not session.has_gpu:
        session.skip("parts", "no GPU")
        return
    script = str(ROOT / "benchmarks" / "gpu" / "parts.py")
    for name, path in (
        ("float16", session.bundle("float16")),
        ("int4", session.bundle("int4")),
        *((f"1B {path.name}", path) for path in sorted(LARGE.glob("*"))),
    ):
        command = [sys.executable, script, str(path)]
        session.run(Job(f"parts {name}", 60, command))
        if name.endswith("int4"):
            session.run(Job(f"parts {name}, 4 rows", 60, [*command, "4"]))
            for rows in ("1", "4"):
                job = f"parts {name}, {rows} rows, fpA_intB"
                session.run(Job(job, 90, [*command, rows], {"ORT_FPA_INTB_GEMM": "1"}))


def peers(session: Session) -> None:
    """edgegpt beside torch.compile and ONNX Runtime GenAI; the models are made before."""
    script = str(ROOT / "benchmarks" / "peers" / "run.py")
    named = ["--device", "cuda", "--peers", "edgegpt", "torch_compile", "genai_cuda"]
    for shape, bits in (("llama-135m", "16"), ("llama-135m", "4"), ("gpt2-124m", "16")):
        name = f"peers {shape} {bits}"
        if not session.has_gpu:
            session.skip(name, "no GPU")
            continue
        out = str(session.out / f"peers-{shape}-{bits}.json")
        command = [sys.executable, script, *named, "--repeats", session.repeats, "--out", out]
        session.run(Job(name, 240, [*command, "--models", shape, "--bits", bits]))


def rtx(session: Session) -> None:
    """TensorRT for RTX; it builds for the GPU that is there, and proves it."""
    if not session.has_gpu or "float16" not in session.made():
        session.skip("tensorrt-rtx", "no GPU, or no bundle")
        return
    bundle = str(session.bundle("float16"))
    on = ["--backend", "tensorrt-rtx"]
    session.run(Job("build tensorrt-rtx", 90, [*EDGEGPT, "build", bundle, *on]))
    session.run(Job("verify tensorrt-rtx", 90, [*EDGEGPT, "verify", bundle, *on]))


def train(session: Session, corpus: Path | None, steps: int) -> None:
    """The char GPT by its preset."""
    command = [*EDGEGPT, "train", "--preset", "shakespeare-char", "--save-dtype", "float16"]
    command += ["--out", str(session.out / "train"), "--force", "--max-steps", str(steps)]
    command += [] if corpus is None else ["--data", str(corpus)]
    if not session.has_gpu:
        command += ["--n-layer", "1", "--eval-interval", "2", "--eval-windows", "2"]
    session.run(Job("train", session.left(), command))


STEPS: dict[str, Callable[[Session], None]] = {
    "doctor": doctor,
    "export": export,
    "prove": prove,
    "test": test,
    "bench": bench,
    "parts": parts,
    "peers": peers,
    "rtx": rtx,
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--repeats", type=int, default=5, help="of what is timed")
    parser.add_argument("--steps", nargs="+", choices=[*STEPS, "train"], default=list(STEPS))
    parser.add_argument("--corpus", type=Path, help="a text to train on; default: the preset's")
    parser.add_argument("--train-steps", type=int, default=5000)
    return parser.parse_args()


def main() -> int:
    """Run the steps; return 0 if all jobs went well."""
    args = arguments()
    try:
        session = Session(args.out.resolve(), args.seconds, args.backend, args.repeats)
    except (OSError, ValueError) as error:
        print(f"error: {args.out} cannot hold a session: {error}", file=sys.stderr)
        return 2
    corpus = args.corpus and args.corpus.resolve()
    for name in args.steps:
        if name == "train":
            train(session, corpus, args.train_steps)
        else:
            STEPS[name](session)
    print(f"\n{'state':30} {'seconds':>7}    job  ({session.left():.0f} s were left)")
    for row in session.rows:
        print(f"{row.state:30} {row.seconds:7.1f}    {row.name}")
    return 0 if all(row.state == "ok" for row in session.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
