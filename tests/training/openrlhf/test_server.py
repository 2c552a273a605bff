"""The server against the reward itself: good requests, 2,000 that are wrong, and requests that meet."""

from __future__ import annotations

import base64
import json
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from tests.training.openrlhf.asked import URL, feature_reward, good, question
from tests.training.openrlhf.malformed import KINDS, bodies
from tests.training.worlds import rollouts, tokenizer

from rewarden.errors import RewardenError
from rewarden.training.openrlhf import app, serve

pytest.importorskip("fastapi", reason="needs FastAPI: pip install rewarden[serve]")
TOKEN = "a-token-of-32-characters-or-more"
JSON = {"Content-Type": "application/json"}


def client(url: str = URL, *, reward: Any = None, **settings: Any) -> Any:
    from fastapi.testclient import TestClient

    return TestClient(app(feature_reward() if reward is None else reward, tokenizer(), **settings), base_url=url)


def is_error(response: Any) -> bool:
    told = response.json()
    return list(told) == ["error"] and list(told["error"]) == ["what", "where", "why", "fix"] and all(
        isinstance(text, str) for text in told["error"].values()) and bool(told["error"]["what"] and told["error"]["fix"])


@contextmanager
def running(made: Any) -> Iterator[str]:
    """The server on a port of this machine."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(made, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/get_reward"
    finally:
        server.should_exit = True
        thread.join()


def test_a_good_request_gets_the_rewards_of_its_ids():
    asked, right = good()
    response = client().post("/get_reward", json=asked)
    assert response.status_code == 200
    told = response.json()
    assert list(told) == ["rewards", "extra_logs"]
    np.testing.assert_allclose(told["rewards"], right, rtol=0, atol=1e-5)
    assert told["extra_logs"]["rewarden/fixed_scorer"] == 1.0


def test_2000_malformed_bodies_get_4xx_and_one_error_and_change_nothing():
    asked, right = good()
    one, kinds, statuses = client(max_bytes=20_000, max_rollouts=64, max_tokens=60), Counter(), Counter()
    before = one.post("/get_reward", json=asked).content
    for kind, body in bodies(2000, asked):
        response = one.post("/get_reward", content=body, headers=JSON)
        assert response.status_code in (400, 413, 422), (kind, body[:300], response.status_code)
        assert is_error(response), (kind, response.text[:300])
        assert "Traceback" not in response.text
        assert len(response.content) < 2000
        kinds[kind] += 1
        statuses[response.status_code] += 1
    assert one.post("/get_reward", json=asked).content == before
    np.testing.assert_allclose(json.loads(before)["rewards"], right, rtol=0, atol=1e-5)
    assert sum(kinds.values()) == 2000
    assert set(kinds) == set(KINDS)
    assert set(statuses) == {400, 413, 422}


def test_bodies_with_random_bytes_never_fail_the_server():
    asked, _ = good()
    rng, one, whole = np.random.default_rng(1), client(missing=0.0), json.dumps(asked).encode()
    for _ in range(300):
        body = bytearray(whole)
        for at in rng.integers(len(body), size=rng.integers(1, 6)):
            body[at] = rng.integers(256)
        response = one.post("/get_reward", content=bytes(body), headers=JSON)
        assert response.status_code == 200 or (400 <= response.status_code < 500 and is_error(response))


@pytest.mark.parametrize(("headers", "status"), [
    ({"Content-Type": "text/plain"}, 415), ({"Content-Type": ""}, 415),
    ({"Content-Type": "application/json; charset=utf-16"}, 415), ({**JSON, "Content-Encoding": "gzip"}, 415),
    ({**JSON, "Host": "evil.example"}, 403), ({**JSON, "Host": ""}, 403),
    ({**JSON, "Host": "127.0.0.1.evil.example:5000"}, 403), ({**JSON, "Origin": "http://127.0.0.1:5000"}, 403),
    ({**JSON, "Content-Length": "99999999999999999999999"}, 413), (JSON, 200), ({**JSON, "Host": "localhost:5000"}, 200),
    ({**JSON, "Host": "[::1]:5000"}, 200), ({"Content-Type": "application/json; charset=UTF-8"}, 200)])
def test_headers(headers, status):
    asked, _ = good()
    response = client().post("/get_reward", content=json.dumps(asked), headers=headers)
    assert response.status_code == status
    assert status == 200 or is_error(response)


def test_a_body_of_unknown_length_is_read_up_to_the_limit():
    asked, right = good()

    def parts(count: int) -> Iterator[bytes]:
        whole = json.dumps(asked).encode()
        yield whole[:100]
        yield whole[100:]
        yield from [b" " * 1000] * count

    one = client(max_bytes=20_000)
    told = one.post("/get_reward", content=parts(3), headers=JSON).json()
    np.testing.assert_allclose(told["rewards"], right, rtol=0, atol=1e-5)
    response = one.post("/get_reward", content=parts(100), headers=JSON)
    assert response.status_code == 413
    assert is_error(response)


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/get_reward", 405), ("PUT", "/get_reward", 405), ("POST", "/", 404), ("GET", "/docs", 404),
    ("GET", "/openapi.json", 404)])
def test_other_questions_get_the_same_kind_of_error(method, path, status):
    response = client().request(method, path)
    assert response.status_code == status
    assert is_error(response)


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"rewarden:{password}".encode()).decode()


@pytest.mark.parametrize(("header", "status"), [
    (f"Bearer {TOKEN}", 200), (f"bearer {TOKEN}", 200), (basic(TOKEN), 200), (None, 401), ("", 401), ("Bearer", 401),
    (f"Bearer {TOKEN}x", 401), (TOKEN, 401), (basic(""), 401), (basic(TOKEN[:-1]), 401), ("Basic ***", 401), ("Basic é", 401)])
def test_a_token_is_asked_for(header, status):
    asked, _ = good()
    sent = {} if header is None else {"Authorization": header.encode("latin-1")}
    response = client(token=TOKEN).post("/get_reward", content=json.dumps(asked), headers={**JSON, **sent})
    assert response.status_code == status
    assert status == 200 or is_error(response)
    assert TOKEN not in response.text


def test_another_host_needs_a_token():
    asked, right = good()
    with pytest.raises(RewardenError, match="needs a token"):
        app(feature_reward(), tokenizer(), host="0.0.0.0")
    with pytest.raises(RewardenError, match="too short"):
        app(feature_reward(), tokenizer(), host="0.0.0.0", token="short")
    with pytest.raises(RewardenError, match="needs a token"):
        serve(feature_reward(), tokenizer(), host="10.0.0.5")
    known, elsewhere = {"Authorization": f"Bearer {TOKEN}"}, "http://gpu-7.cluster:5000"
    assert client(elsewhere, token=TOKEN).post("/get_reward", json=asked, headers=known).status_code == 403
    told = client(elsewhere, token=TOKEN, host="0.0.0.0").post("/get_reward", json=asked, headers=known).json()
    np.testing.assert_allclose(told["rewards"], right, rtol=0, atol=1e-5)


def test_a_reward_that_fails_is_said_without_its_traceback():
    def broken(prompt_ids, completion_ids):
        raise ZeroDivisionError("secret of the reward")

    asked, _ = good()
    response = client(reward=broken).post("/get_reward", json=asked)
    assert response.status_code == 503
    assert is_error(response)
    assert "secret" not in response.text


def test_a_gold_that_no_verifier_reads_is_the_request_s_error():
    from rewarden.training.composition import OutcomeReward
    from rewarden.training.verifiers import gsm8k

    reward = OutcomeReward(gsm8k(), decode=lambda ids: tokenizer().decode(ids, skip_special_tokens=True))
    response = client(reward=reward).post("/get_reward", json=question([[4, 15]], [[5]], [{"a": 1}]))
    assert response.status_code == 422
    assert is_error(response)


def test_requests_that_meet_never_see_each_other():
    reward = feature_reward()
    prompts, completions = rollouts(16, seed=3)
    right = reward(prompts, completions)
    wrong: list[Any] = []

    def ask(url: str, places: list[int]) -> None:
        for turn in range(40):
            place = places[turn % len(places)]
            body = json.dumps(question([prompts[place]], [completions[place]])).encode()
            if turn % 5 == 4:  # a body that is refused, between the good ones
                body = body[:-2]
            request = urllib.request.Request(url, body, JSON)
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    told = json.load(response)
            except urllib.error.HTTPError as error:
                if error.code != 400 or turn % 5 != 4:
                    wrong.append((place, error.code))
                continue
            size = len(completions[place])
            if abs(told["rewards"][0] - right[place]) > 1e-5 or told["extra_logs"]["rewarden/tokens"] != size or turn % 5 == 4:
                wrong.append((place, told))

    with running(app(reward, tokenizer())) as url:
        threads = [threading.Thread(target=ask, args=(url, list(range(start, 16, 4)))) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_serving_listens_where_it_is_told(monkeypatch):
    import uvicorn

    asked, right = good()
    listening: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(uvicorn, "run", lambda made, **settings: listening.append((made, settings)))
    serve(feature_reward(), tokenizer(), host="0.0.0.0", port=5001, path="/mine", token=TOKEN)
    ((made, settings),) = listening
    assert (settings["host"], settings["port"]) == ("0.0.0.0", 5001)
    from fastapi.testclient import TestClient

    told = TestClient(made).post("/mine", json=asked, headers={"Authorization": f"Bearer {TOKEN}"}).json()
    np.testing.assert_allclose(told["rewards"], right, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("library", "ask"), [("fastapi", app), ("uvicorn", serve)])
def test_a_missing_library_names_the_extra(monkeypatch, library, ask):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(RewardenError, match="is not installed") as error:
        ask(feature_reward(), tokenizer())
    assert error.value.fix == "pip install 'rewarden[serve]'"


@pytest.mark.parametrize("wrong", [{"port": 70000}, {"path": "get"}, {"missing": float("inf")}, {"missing": True},
                                   {"max_tokens": 1}, {"max_bytes": 0}, {"host": ""}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(RewardenError, match="impossible options"):
        app(feature_reward(), tokenizer(), **wrong)
