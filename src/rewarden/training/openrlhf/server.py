"""How do our rewards answer OpenRLHF over HTTP?

In: a reward, the policy's tokenizer. Out: a FastAPI application, or a running server. Whatever is asked, the answer is rewards
or one JSON error `{"error": {"what", "where", "why", "fix"}}`; nothing but the model is shared between requests. Ignorant of
what rewards compute. Schema: OpenRLHF 0.11.2, `openrlhf/utils/agent.py`.
"""

# no `from __future__ import annotations`: FastAPI reads the annotation of the one endpoint, whose class is imported inside

import base64
import binascii
import hmac
import json
import logging
from typing import TYPE_CHECKING, Any

from rewarden.errors import RewardenError
from rewarden.options.checks import resolve
from rewarden.options.serving import ServeOptions
from rewarden.training.openrlhf.answer import Answer, Answerer
from rewarden.training.openrlhf.request import SHAPE, check, parse

if TYPE_CHECKING:
    from fastapi import FastAPI

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""This machine, seen from itself."""
LEAST_TOKEN = 16
"""Characters of a token, at least."""
_log = logging.getLogger(__name__)


def app(reward: Any, tokenizer: Any, *, token: str | None = None, scores: Any = None, options: ServeOptions | None = None,
        **overrides: Any) -> "FastAPI":
    """An application that answers with rewards.

    A fixed scorer: the model that is read is the one in this process. It does not follow the policy that trains elsewhere,
    unless weights are copied into it; every answer says so (`extra_logs["rewarden/fixed_scorer"]`).

    Args:
        reward: any reward of ids, bound to its model, or a `RewardModel`; labels are its column `gold`.
        tokenizer: the policy's; a `RewardModel` of another tokenizer takes its own, as only text arrives here.
        token: a secret that is asked for as `Authorization: Bearer TOKEN`, or as the password of
            `http://rewarden:TOKEN@host:port/get_reward`: OpenRLHF's client sends no header of its own, but that. Needed where
            `host` is not this machine.
        scores: another reward, from 0 to 1, for OpenRLHF's dynamic filtering; it takes the rewards where there is none.
        options: see `ServeOptions`; `overrides` are single ones.

    Returns:
        The application. POST to `path` (`/get_reward`) with `query`, `prompts` and `labels` gives `rewards`, `extra_logs` and
        maybe `scores`. What is wrong with a request is said with 400 (no JSON), 401 (no token), 403 (another Host, or a
        browser), 404, 405, 413 (too long), 415 (no JSON type) or 422 (no rollouts, or none that can be scored). 503 says
        that the reward itself failed.

    Raises:
        RewardenError: FastAPI is missing, options that are impossible, or a host that needs a token.

    Example:
        >>> import numpy as np
        >>> from fastapi.testclient import TestClient
        >>> from rewarden.training.arithmetic.tokenizer import build_tokenizer
        >>> def length(prompt_ids, completion_ids):
        ...     return np.asarray([len(ids) for ids in completion_ids])
        >>> client = TestClient(app(length, build_tokenizer()), base_url="http://127.0.0.1:5000")
        >>> asked = {"query": ["1+2:03"], "prompts": ["1+2:"], "labels": ["3"]}
        >>> client.post("/get_reward", json=asked).json()["rewards"]
        [2.0]
    """
    try:
        from fastapi import FastAPI, Request, Response
        from starlette.concurrency import run_in_threadpool
        from starlette.exceptions import HTTPException
    except ImportError as error:
        raise _without("FastAPI", error) from error
    chosen = resolve(ServeOptions, options, overrides)
    _check_token(token, chosen.host)
    answer = Answerer(reward, tokenizer, scores=scores, options=chosen)
    made = FastAPI(title="rewarden", docs_url=None, redoc_url=None, openapi_url=None)

    async def get_reward(request: Request) -> Response:
        refused = _refused(request, chosen, token)
        if refused is not None:
            return _error(*refused)
        body = await _body(request, chosen.max_bytes)
        if body is None:
            return _error(413, RewardenError("the body is too long", where="body",
                                             why=f"at most {chosen.max_bytes} bytes are read",
                                             fix="send fewer rollouts at a time, or serve with a larger max_bytes"))
        return await run_in_threadpool(_answer, answer, body)

    made.add_api_route(chosen.path, get_reward, methods=["POST"], response_model=None)

    async def other(request: Request, problem: HTTPException) -> Response:
        return _error(problem.status_code, RewardenError(
            f"{request.method} {request.url.path[:80]} is not answered", where="request", why=str(problem.detail),
            fix=f"POST to {chosen.path}"))

    made.add_exception_handler(HTTPException, other)  # type: ignore[arg-type]
    return made


def serve(reward: Any, tokenizer: Any, *, token: str | None = None, scores: Any = None, options: ServeOptions | None = None,
          **overrides: Any) -> None:
    """Answer with rewards until the process is stopped: `--reward.remote_url http://127.0.0.1:5000/get_reward`.

    Args:
        reward, tokenizer, token, scores, options, overrides: see `app`; `host` and `port` are among the options.

    Raises:
        RewardenError: uvicorn or FastAPI is missing, or see `app`.
    """
    chosen = resolve(ServeOptions, options, overrides)
    made = app(reward, tokenizer, token=token, scores=scores, options=chosen)
    try:
        import uvicorn
    except ImportError as error:
        raise _without("uvicorn", error) from error
    uvicorn.run(made, host=chosen.host, port=chosen.port, log_level="info", access_log=False, server_header=False)


def _without(library: str, error: ImportError) -> RewardenError:
    return RewardenError(f"{library} is not installed", where="rewarden.training.openrlhf", why=str(error),
                         fix="pip install 'rewarden[serve]'")


def _check_token(token: str | None, host: str) -> None:
    if token is None and host not in LOOPBACK:
        raise RewardenError(f"serving on {host} needs a token", where="serve(host=)",
                            why="everybody who reaches the port could ask", fix="pass token=secrets.token_urlsafe(32)")
    if token is not None and (len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token):
        raise RewardenError("a token that is too short or cannot be sent", where="token=",
                            why=f"it needs {LEAST_TOKEN} ASCII characters, none of them a space",
                            fix="pass token=secrets.token_urlsafe(32)")


def _refused(request: Any, options: ServeOptions, token: str | None) -> tuple[int, RewardenError] | None:
    """Status and error of a request that is not to be read."""
    headers = request.headers
    host = _name_of(headers.get("host", ""))
    if options.host in LOOPBACK and host not in LOOPBACK:
        return 403, RewardenError(f"a request to another host than this one: {host[:80]!a}", where="header Host",
                                  why="a page in a browser could ask under a name of its own",
                                  fix=f"ask http://127.0.0.1:{options.port}{options.path}")
    if "origin" in headers:
        return 403, RewardenError("a request of a browser's page", where="header Origin", why="a trainer sends none",
                                  fix="ask from a program")
    if token is not None and not hmac.compare_digest(_credential(headers.get("authorization", "")), token.encode()):
        return 401, RewardenError("no token, or a wrong one", where="header Authorization",
                                  why="this server was started with a token",
                                  fix="send Authorization: Bearer TOKEN, or ask http://rewarden:TOKEN@host:port/get_reward")
    kind, _, charset = (part.strip().lower() for part in headers.get("content-type", "").partition(";"))
    if kind != "application/json" or charset not in ("", "charset=utf-8") or headers.get("content-encoding", "identity"
                                                                                         ).lower() != "identity":
        return 415, RewardenError("the body is not said to be JSON", where="headers Content-Type and Content-Encoding",
                                  why=f"got {kind[:80]!a}" if kind != "application/json" else "coded in another way",
                                  fix="send Content-Type: application/json, not compressed")
    return None


def _name_of(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _credential(header: str) -> bytes:
    """The token in an Authorization header: a bearer's, or the password of a URL."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode("latin-1", "replace")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""


async def _body(request: Any, most: int) -> bytes | None:
    """The body; None where it is longer than is read. A client that goes away while it sends has sent nothing."""
    from starlette.requests import ClientDisconnect

    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > most):
        return None
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > most:
                return None
            parts.append(part)
    except ClientDisconnect:
        return b""
    return b"".join(parts)


def _answer(answer: Answerer, body: bytes) -> Any:
    """The response to a body."""
    status = 400
    try:
        value = parse(body)
        status = 422
        asked = check(value, answer.options.max_rollouts)
        return _response(200, _reply(answer(asked.queries, asked.prompts, asked.labels)))
    except RewardenError as error:
        return _error(status, error)
    except Exception as error:  # noqa: BLE001  # whatever a reward does: no traceback leaves the process, the log has it
        _log.exception("the reward %s failed", answer.scorer.name)
        return _error(503, RewardenError("the reward failed", where=f"reward {answer.scorer.name!r}", why=type(error).__name__,
                                         fix="see the server's log; the request may be right"))


def _reply(answer: Answer) -> dict[str, Any]:
    scores = {} if answer.scores is None else {"scores": answer.scores.tolist()}
    return {"rewards": answer.rewards.tolist(), **scores, "extra_logs": answer.logs}


def _error(status: int, error: RewardenError) -> Any:
    told = {"what": error.what, "where": error.where, "why": error.why, "fix": error.fix or SHAPE}
    return _response(status, {"error": told}, {"WWW-Authenticate": "Bearer"} if status == 401 else None)


def _response(status: int, value: dict[str, Any], headers: dict[str, str] | None = None) -> Any:
    from starlette.responses import Response

    # ASCII: a message may repeat what no encoding can write; NaN as Python's clients read it, where missing= is NaN
    return Response(json.dumps(value, ensure_ascii=True), status, headers, "application/json")
