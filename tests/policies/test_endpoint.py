"""Who serves behind an address, what an endpoint can be asked, and what is left when it is lost half-way."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from plumbline.errors import PlumblineError
from plumbline.policies import Completion, Interrupted, NoLikelihood
from plumbline.policies.endpoint import Endpoint, identify_served, key_from
from plumbline.policies.local import LocalPolicy
from plumbline.policies.remote import RemotePolicy
from plumbline.records import DecoderSettings, digest_of, say
from policies.served import Served

DECODER = DecoderSettings(max_tokens=6)
PAIRS = [((say("user", f"who is {name} ?"),), answer) for name in ("ana", "ben") for answer in ("a baker .", "ana", "")]


@pytest.fixture(scope="module")
def local(tiny_policy: Path) -> LocalPolicy:
    return LocalPolicy.load(tiny_policy)


@pytest.fixture
def served(local: LocalPolicy) -> Iterator[Served]:
    with Served(local) as endpoint:
        yield endpoint


def remote(served: Served, **more: object) -> RemotePolicy:
    manifest = identify_served(Endpoint(served.url, "m"), "aligned", api_key=served.key)
    return RemotePolicy(served.url, "m", manifest, retries=0, **more)  # type: ignore[arg-type]


def test_an_address_is_a_url_with_a_model() -> None:
    assert Endpoint.read("http://h:1/v1/#a/b") == Endpoint("http://h:1/v1", "a/b")
    assert Endpoint.read("./directory") is None and Endpoint.read("OWNER/NAME") is None
    with pytest.raises(PlumblineError, match="names no model"):
        Endpoint.read("http://h:1/v1")
    with pytest.raises(PlumblineError, match="user name") as refused:
        Endpoint.read("http://me:secret@h/v1#m")
    assert "secret" not in str(refused.value)


def test_a_foreign_endpoints_digest_is_made_of_what_is_declared(served: Served) -> None:
    found = [identify_served(Endpoint(served.url, "m"), "aligned", revision=r) for r in ("1", "1", "2")]
    assert found[0].digest == found[1].digest != found[2].digest
    assert not remote(served).verified


def test_a_plumbline_predictors_digest_is_the_policys_own(served: Served, local: LocalPolicy) -> None:
    served.stated = {"policy": local.manifest.digest, "template": local.manifest.template, "dataset": "none"}
    policy = remote(served)
    assert policy.manifest.digest == local.manifest.digest and policy.verified
    assert policy.generate([PAIRS[0][0]], DECODER) == local.generate([PAIRS[0][0]], DECODER)


def test_another_policy_under_the_same_name_stops_the_run(served: Served, local: LocalPolicy) -> None:
    served.stated = {"policy": local.manifest.digest, "template": local.manifest.template}
    policy = remote(served)
    served.stated = {"policy": digest_of("other"), "template": local.manifest.template}
    with pytest.raises(Interrupted, match="now serves another policy"):
        policy.generate([PAIRS[0][0]], DECODER)


def test_a_wrong_name_a_missing_key_and_a_closed_port_say_so(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlumblineError, match="serves no model 'n'; it serves m"):
        identify_served(Endpoint(served.url, "n"), "aligned")
    served.key = "k-123"
    with pytest.raises(PlumblineError, match="refuses the key") as refused:
        identify_served(Endpoint(served.url, "m"), "aligned", api_key="wrong-456")
    assert "wrong-456" not in str(refused.value)
    assert identify_served(Endpoint(served.url, "m"), "aligned", api_key="k-123").name == "m"
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(PlumblineError, match="NO_SUCH_KEY is not set"):
        key_from("NO_SUCH_KEY")
    with pytest.raises(PlumblineError, match="nothing answers"):
        identify_served(Endpoint("http://127.0.0.1:9/v1", "m"), "aligned")


@pytest.mark.parametrize("tokenises", ["here", "there"])
def test_echoed_log_probabilities_are_the_policys_log_likelihoods(
    served: Served, local: LocalPolicy, tokenises: str
) -> None:
    policy = remote(served, template=local.template if tokenises == "here" else None)
    for mine, own in zip(policy.log_likelihood(PAIRS), local.log_likelihood(PAIRS), strict=True):
        assert mine.total == pytest.approx(own.total, abs=1e-4)
        assert (mine.tokens, mine.bytes) == (own.tokens, own.bytes)


def test_an_endpoint_without_echo_gives_no_likelihood(served: Served, local: LocalPolicy) -> None:
    served.likelihoods = False
    for template in (None, local.template):
        with pytest.raises(NoLikelihood, match="gives no log-likelihood"):
            remote(served, template=template).log_likelihood(PAIRS)


def test_an_endpoint_lost_half_way_leaves_what_it_had_answered(served: Served, local: LocalPolicy) -> None:
    served.dies_after = 3
    prompts = [(say("user", f"q {i}"),) for i in range(12)]
    with pytest.raises(Interrupted, match="2 requests in a row failed: no answer within") as lost:
        remote(served, concurrency=2, timeout_s=1.0).generate(prompts, DECODER)
    kept = [answer for answer in lost.value.done if isinstance(answer, Completion)]
    assert 3 <= len(kept) <= 4 and len(lost.value.done) == 12, "what came before the silence is handed over"
    assert kept[0] == local.generate(prompts[:1], DECODER)[0]


def test_a_request_that_is_refused_loses_no_other(served: Served) -> None:
    prompts = [(say("user", text),) for text in ("ana", "refuse me", "ben")]
    policy = remote(served, concurrency=2)
    assert [answer.finish == "error" for answer in policy.generate(prompts, DECODER)] == [False, True, False]
    assert "too long" in policy.last_failure
