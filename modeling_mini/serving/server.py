"""transformers' server for one model of ours: `transformers serve`, with errors that a client can read.

transformers opens models, reads requests, generates and answers. This module adds the model that is already open, the
names under which it is served, the limit of its context, and errors in OpenAI's form.
"""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from jinja2 import TemplateError
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cli.serve import Serve
from transformers.cli.serving.model_manager import TimedModel
from transformers.cli.serving.utils import GenerateManager

from ..decoding import CONTINUATION
from .addresses import allowed_hosts
from .requests import RequestError, check_request, fit_context, served_name


# The server has others, which unload the model or need models of sound.
_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/models", "/health")
_SECONDS_TO_FINISH = 5  # for the answers in progress, after a signal


class Server(Serve):
    """Serves until a signal stops it.

    Args:
        model: a causal model; samples like `modeling-mini generate` unless its generation config or a request says
            otherwise.
        names: what a request may name as its model; the first is in the answers.
        host: the address to listen at; requests must name it or this machine, unless it stands for all addresses.
        options: of `transformers serve`, without those about opening a model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        names: list[str],
        host: str = "127.0.0.1",
        **options: Any,
    ) -> None:
        self.model, self.tokenizer, self.names = model, tokenizer, names
        # Beams and several texts cannot be streamed.
        model.generation_config.update(num_beams=1, num_return_sequences=1)
        if model.generation_config.do_sample is None:
            sampling = {name: value for name, value in CONTINUATION.items() if name != "max_new_tokens"}
            model.generation_config.update(**sampling)
        super().__init__(host=host, **options, non_blocking=True)  # calls `start_server` at its end

    def start_server(self) -> None:
        """Run in this thread, so that signals end the server."""
        models, managers = self._model_manager, _WithinContext()
        models.force_model = self.names[0]
        models.loaded_models[self.names[0]] = TimedModel(self.model, -1, processor=self.tokenizer)
        models.process_model_name = partial(served_name, names=self.names)
        models.list_models = self._list
        models.get_gen_models = self._list  # its name in transformers 5.17
        self._generation_state.get_manager = lambda *args, **kwargs: managers
        for handler, text_field in (
            (self._chat_handler, "messages"),
            (self._completion_handler, "prompt"),
            (self._response_handler, "input"),
        ):
            handler.handle_request = partial(self._handle, handler.handle_request, text_field)
        app = self.server.config.app
        app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", None) in _PATHS]
        app.add_api_route("/load_model", self._load_model, methods=["POST"], response_model=None)
        app.add_api_route("/v1/models/{name:path}", self._show, methods=["GET"])
        # Without it, a page that a browser shows could reach the server through a name that leads to this machine.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts(self.server.config.host))
        app.add_exception_handler(Exception, _report_defect)
        app.add_exception_handler(RequestError, _refuse)
        app.add_exception_handler(HTTPException, _refuse_http)
        app.add_exception_handler(RequestValidationError, _refuse_body)
        self.server.config.timeout_graceful_shutdown = _SECONDS_TO_FINISH
        self.server.run()

    async def _load_model(self, body: dict) -> StreamingResponse:
        """Tell `transformers chat`, which asks before its first message, that the model is open."""
        events = self._model_manager.load_model_streaming(served_name(body.get("model"), self.names))
        return StreamingResponse(events, media_type="text/event-stream")

    def _list(self) -> list[dict]:
        """What `/v1/models` shows: not the models in the cache of the Hub."""
        return [{"id": self.names[0], "object": "model", "created": 0, "owned_by": "local"}]

    def _show(self, name: str) -> dict:
        served_name(name or self.names[0], self.names)
        return self._list()[0]

    async def _handle(
        self, handle: Callable[[dict, str], Awaitable[Response]], text_field: str, body: dict, request_id: str
    ) -> Response:
        check_request(body, text_field, self.names, self.tokenizer)
        body.setdefault("stream", False)  # OpenAI's default; that of transformers' `/v1/responses` is True
        try:
            answer = await handle(body, request_id)
        except TemplateError as error:
            raise RequestError(f"The chat template refuses the messages: {error}") from error
        if isinstance(answer, StreamingResponse) and text_field != "input":  # a response ends with an event of its own
            answer.body_iterator = _with_end(answer.body_iterator)
        return answer


class _WithinContext(GenerateManager):
    """Generates at most as many tokens as fit into the context of the model."""

    def generate_streaming(self, model, processor, inputs, gen_config, *args, **kwargs):
        fit_context(gen_config, inputs["input_ids"].shape[-1], model.config.max_position_embeddings)
        return super().generate_streaming(model, processor, inputs, gen_config, *args, **kwargs)

    async def generate_non_streaming(self, model, processor, inputs, gen_config, *args, **kwargs):
        fit_context(gen_config, inputs["input_ids"].shape[-1], model.config.max_position_embeddings)
        return await super().generate_non_streaming(model, processor, inputs, gen_config, *args, **kwargs)


async def _with_end(parts: AsyncIterable[str]) -> AsyncIterator[str]:
    """A stream that ends as OpenAI's do; clients without its library wait for that."""
    async for part in parts:
        yield part
    yield "data: [DONE]\n\n"


def _error(message: str, status: int, code: str | None = None) -> JSONResponse:
    """An error in the form of OpenAI's API."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": None, "code": code}
    return JSONResponse({"error": error}, status_code=status)


def _refuse(request: Request, error: RequestError) -> JSONResponse:
    return _error(str(error), error.status, error.code)


def _refuse_http(request: Request, error: HTTPException) -> JSONResponse:
    return _error(str(error.detail), error.status_code)


def _refuse_body(request: Request, error: RequestValidationError) -> JSONResponse:
    reasons = "; ".join(detail["msg"] for detail in error.errors())
    return _error(f"The body is not a JSON object of type application/json: {reasons}.", 400)


def _report_defect(request: Request, error: Exception) -> JSONResponse:
    """The terminal shows the traceback."""
    return _error("The server failed; please report it with the lines in its terminal.", 500)
