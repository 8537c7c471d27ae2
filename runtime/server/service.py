"""The endpoints: requests in, texts of one model out."""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ..errors import EdgeGPTError, InvalidInputError
from ..generation.arguments import Prompt
from ..generation.prefix_store import PrefixStore
from ..generation.rows import Text
from ..generation.scheduler import Scheduler
from ..generation.tickets import Ticket
from ..language_model import LanguageModel
from ..quantity import quantity
from ..text.chat_template import ChatPrompt
from ..text.tokenizer import Tokenizer
from .answers import Answer
from .asked import Asked, completion, conversation
from .courier import Courier
from .fields import Fields, boolean, parse_json, string, wrong
from .forms import Chat, Completion, Form
from .metrics import Metrics
from .problems import Problem, answer, problem_of
from .request_log import report
from .talk import Talk

__all__ = ["Limits", "Service"]

MOST_PROMPTS = 128
MOST_READ = 32 * 2**20  # bytes of a body that is refused
MOST_CHARACTERS = 100_000  # of a text for /tokenize: a library at work holds up all other threads


@dataclass(frozen=True)
class Limits:
    """What a request may cost.

    Attributes:
        body: bytes of a body.
        seconds: in which it has to be there.
        tokens: new tokens of a text.
    """

    body: int = 2 * 2**20
    seconds: float = 20.0
    tokens: int = 32768


class Service:
    """One model, its scheduler, and who waits for its texts."""

    def __init__(
        self,
        model: LanguageModel,
        name: str,
        *,
        rows: int,
        queue: int,
        steady: bool,
        limits: Limits | None = None,
        store: PrefixStore | None = None,
    ) -> None:
        """Start the scheduler; `store` has prefixes on disk.

        Raises:
            InvalidInputError: if the bundle has no tokenizer, or an encoder.
            EngineError: if there is no memory for so many rows.
        """
        if model.tokenizer is None:
            raise InvalidInputError("a bundle without a tokenizer has no texts to serve")
        self.model, self.name, self.limits = model, name, limits or Limits()
        self.tokenizer: Tokenizer = model.tokenizer
        self.longest = model.context * self.tokenizer.longest  # characters that can fit the context
        self.courier, self.metrics, self.created = Courier(), Metrics(), int(time.time())
        self.scheduler = Scheduler(
            model.engine,
            model.tokenizer,
            model.context,
            rows=rows,
            queue=queue,
            steady=steady,
            store=store,
            told=self.courier.tell,
        )

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def one_model(self, request: Request) -> Response:
        """`GET /v1/models/{id}`."""
        self._check_name("model", request.path_params["id"])
        return JSONResponse(self._card())

    async def health(self, request: Request) -> Response:
        """`GET /health`: whether texts can be written."""
        scheduler = self.scheduler
        if scheduler.broken is not None or not scheduler.alive:
            why = str(scheduler.broken or "the thread that writes texts has ended")
            return JSONResponse({"status": "broken", "error": why}, 503)
        if not scheduler.open:
            return JSONResponse({"status": "draining"}, 503)
        return JSONResponse({"status": "ok"})

    async def tell_metrics(self, request: Request) -> Response:
        """`GET /metrics`."""
        text = self.metrics.text(self.scheduler)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def tokenize(self, request: Request) -> Response:
        """`POST /tokenize`: {"content": text} -> {"tokens": ids}."""
        fields = Fields(parse_json(await self._body(request)))
        content = fields.take("content", string)
        adds = fields.take("add_special", boolean, default=False)
        fields.done()
        if content is None:
            raise Problem("content is missing", field="content")
        if len(content) > MOST_CHARACTERS:
            raise Problem(
                f"content has {len(content):,} characters; there may be {MOST_CHARACTERS:,}",
                field="content",
            )
        encode = self.model.encode_prompt if adds else self.tokenizer.encode
        return JSONResponse({"tokens": await asyncio.to_thread(encode, content)})

    async def detokenize(self, request: Request) -> Response:
        """`POST /detokenize`: {"tokens": ids} -> {"content": text}."""
        fields = Fields(parse_json(await self._body(request)))
        ids = fields.take("tokens", _ids, [])
        fields.done()
        for token in ids:
            if not 0 <= token < self.model.vocab_size:
                raise Problem(f"tokens has {token}, which is not in the vocabulary", field="tokens")
        return JSONResponse({"content": await asyncio.to_thread(self.tokenizer.decode, ids)})

    async def embeddings(self, request: Request) -> Response:
        """`POST /v1/embeddings`, which no generating model is made for."""
        raise Problem("embeddings are not served: this model generates text", status=400)

    async def completions(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        fields = Fields(parse_json(await self._body(request)))
        self._check_name("model", fields.take("model", string))
        prompts = fields.take("prompt", _prompts)
        if prompts is None:
            raise Problem("prompt is missing", field="prompt")
        asked = await self._asked(completion, fields)
        tickets = await asyncio.to_thread(self._submit, prompts, asked)
        echoes = None
        if asked.echo:
            texts = [one if isinstance(one, str) else self.tokenizer.decode(one) for one in prompts]
            echoes = [text for text in texts for _ in range(asked.choices)]
        form = Completion(self.name, self.tokenizer, asked.choices, echoes)
        return self._answer(request, tickets, asked, form)

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        fields = Fields(parse_json(await self._body(request)))
        self._check_name("model", fields.take("model", string))
        talk = Talk(fields)
        asked = await self._asked(conversation, fields)
        prompt, asked, reader = await asyncio.to_thread(talk.begin, self.model, asked)
        tickets = await asyncio.to_thread(self._submit, [prompt], asked)
        tokens: Sequence[bytes] = ()
        if asked.wanted.logprobs is not None:  # made once; it can take a while
            tokens = (await asyncio.to_thread(self.model.vocabulary)).tokens
        form = Chat(self.name, self.tokenizer, asked.choices, reader, tokens)
        return self._answer(request, tickets, asked, form)

    async def _asked(self, read: Callable[..., Asked], fields: Fields) -> Asked:
        """Return what an endpoint is asked for; a form can take a while to read."""
        model = self.model
        facts = model.usage, model.vocab_size, self.limits.tokens
        asked = await asyncio.to_thread(read, fields, *facts)
        fields.done()
        return asked

    def _submit(self, prompts: Sequence[Prompt], asked: Asked) -> list[Ticket]:
        """Have all choices of all prompts written, in this order."""
        tickets: list[Ticket] = []
        most, wanted = self.scheduler.rows + self.scheduler.queue, len(prompts) * asked.choices
        if wanted > most:
            raise Problem(f"the request has {wanted} texts; this server takes {most} at a time")
        for prompt in prompts:
            if isinstance(prompt, str) and len(prompt) > self.longest:  # before it is tokenized
                raise Problem(
                    f"the prompt has {len(prompt):,} characters, too many for the context of "
                    f"{self.model.context} tokens",
                    field=_field_of(prompt),
                    code="context_length_exceeded",
                )
        seed = secrets.randbits(64) if asked.seed is None else asked.seed
        try:
            for prompt in prompts:
                tickets += self._choices(prompt, asked, seed)
        except BaseException:
            for ticket in tickets:
                ticket.cancel()
            raise
        return tickets

    def _choices(self, prompt: Prompt, asked: Asked, seed: int) -> list[Ticket]:
        """Have the choices of a prompt written: the first as if it were the only one."""
        wanted, most = asked.wanted, asked.max_tokens
        ids = self.model.encode_prompt(prompt)
        room = self.model.context - len(ids)
        if room < 0:
            raise Problem(
                f"the prompt has {quantity(len(ids), 'token')}, and the context "
                f"{self.model.context}",
                field=_field_of(prompt),
                code="context_length_exceeded",
            )
        call = self.model.prepare(
            ids, replace(wanted, search=replace(wanted.search, max_new_tokens=most or 0)), seed
        )
        (text,), rules = call.texts, call.rules
        if most is None:
            rules = replace(rules, max_new_tokens=min(max(1, room), self.limits.tokens))
        texts = [
            Text(list(text.ids), seed=text.seed, series=(text.series + choice) % 2**64)
            for choice in range(asked.choices)
        ]
        return [self.scheduler.submit(one, rules) for one in texts]

    def _answer(
        self, request: Request, tickets: Sequence[Ticket], asked: Asked, form: Form
    ) -> Answer:
        number = request.state.request_id

        def ended(tickets: Sequence[Ticket], left: bool) -> None:
            self.metrics.note(tickets, left=left)
            report(number, tickets, left=left)

        return Answer(tickets, asked, form, self.courier, ended)

    async def _body(self, request: Request) -> bytes:
        """Return the body, if it is neither too large nor too slow."""
        kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
        if kind != "application/json":
            raise Problem(f"the body is {kind[:60]!r}; send application/json", status=415)
        try:
            return await asyncio.wait_for(self._read(request), self.limits.seconds)
        except asyncio.TimeoutError as error:
            raise Problem("the body did not come in time", status=408) from error
        except ClientDisconnect as error:
            raise Problem("the client left", status=400) from error

    async def _read(self, request: Request) -> bytes:
        """Return the body. One that is too large is read on for a while, and thrown away.

        Many clients send all before they read, and see the answer only then.
        """
        found, size = bytearray(), 0
        async for part in request.stream():
            size += len(part)
            if size <= self.limits.body:
                found += part
            elif size > MOST_READ:
                break
        if size > self.limits.body:
            ends = {"Connection": "close"} if size > MOST_READ else None
            message = f"the body is larger than {self.limits.body:,} bytes"
            raise Problem(message, status=413, headers=ends)
        return bytes(found)

    def _check_name(self, field: str, name: str | None) -> None:
        if name is not None and name != self.name:
            raise Problem(
                f"there is no model {name[:100]!r} here, only {self.name!r}",
                status=404,
                field=field,
                code="model_not_found",
            )

    def _card(self) -> dict[str, Any]:
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "edgegpt",
            "context": self.model.context,
            "bundle": self.model.bundle.manifest.id,
        }


async def on_error(request: Request, error: Any) -> Response:
    """Answer a request that ended with an error."""
    return answer(problem_of(error) if isinstance(error, EdgeGPTError) else error)


async def on_failure(request: Request, error: Exception) -> Response:
    """Answer a request that failed for a reason that nobody foresaw; uvicorn logs the traceback."""
    return answer(Problem("the server failed; its log tells why", status=500))


def _field_of(prompt: Prompt) -> str:
    """Return the field that a prompt comes from."""
    return "messages" if isinstance(prompt, ChatPrompt) else "prompt"


def _prompts(name: str, value: Any) -> list[Prompt]:
    """Check for a text, texts, ids, or lists of ids."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(one, str) for one in value):
            found: list[Prompt] = list(value)
        elif all(type(one) is int for one in value):
            found = [value]
        else:
            found = [_ids(name, one) for one in value]
        if len(found) <= MOST_PROMPTS:
            return found
    raise wrong(name, value, f"a text, token ids, or a list of up to {MOST_PROMPTS} of these")


def _ids(name: str, value: Any) -> list[int]:
    if not isinstance(value, list) or not all(type(one) is int for one in value):
        raise wrong(name, value, "a list of token ids")
    return value
