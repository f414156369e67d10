"""Decisions become the right Kubernetes objects, valid under the strictest schemas there are."""

import dataclasses
from typing import Any

import kubernetes_validate
import pytest

from plumbline.errors import PlumblineError
from plumbline.reconcile import kubernetes as k8s
from plumbline.reconcile import resources
from plumbline.reconcile.dataset_line import (
    Condition,
    Head,
    LineObservation,
    LineSpec,
    PendingRun,
    Publish,
    Reject,
    StartIngestion,
    StartRemoval,
    reconcile,
)
from plumbline.records import digest_of, short

RUN, CANDIDATE, RUBRIC = digest_of("run"), digest_of("candidate"), digest_of("rubric")
LINE: dict[str, Any] = {
    "apiVersion": "plumbline.dev/v1alpha1",
    "kind": "DatasetLine",
    "metadata": {"name": "support", "namespace": "demo", "uid": "u-1", "generation": 4},
    "spec": {"dataset": "support", "rubric": RUBRIC, "approvalsRequired": 2},
}
RUN_OBJECT: dict[str, Any] = {
    "kind": "IngestionRun",
    "metadata": {"name": "support-run", "namespace": "demo", "uid": "u-2"},
    "spec": {"runKey": RUN},
}
SETTINGS = k8s.JobSettings(
    image="plumbline@sha256:" + "a" * 64,
    service_account="plumbline",
    claim="plumbline-data",
    secret="plumbline-secrets",
    secret_keys=("PLUMBLINE_TENANT_KEY",),
    image_pull_secrets=("registry",),
    resources={"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "4Gi"}},
)
ACTIONS = [
    (StartIngestion(RUN, 5, 9, attempt=2), "support-ingest-{run}-2", ["--up-to=9"]),
    (StartRemoval(RUN, 7), "support-remove-{run}-1", ["--removal"]),
    (Publish(RUN, CANDIDATE), "support-publish-{candidate}-1", []),
    (Reject(RUN, CANDIDATE), "support-reject-{candidate}-1", []),
]
OF_SETTINGS = (ACTIONS[0][0], LINE, RUN_OBJECT, SETTINGS)
QUIET = LineObservation(head=Head(3, digest_of("v3"), 7), ledger_verifies=True, consent_sequence=7)
SPEC = LineSpec(dataset="support", rubric=RUBRIC)
NOW, LATER = "2026-03-01T10:00:00Z", "2026-03-01T10:05:00Z"


@pytest.mark.parametrize(("action", "name", "arguments"), ACTIONS)
def test_a_job_is_named_by_its_work_and_calls_plumb_ingest(action: Any, name: str, arguments: list[str]) -> None:
    job = k8s.job(action, LINE, RUN_OBJECT, SETTINGS)
    assert job["metadata"]["name"] == name.format(run=short(RUN), candidate=short(CANDIDATE))
    assert job == k8s.job(action, LINE, RUN_OBJECT, SETTINGS), "the same work is the same object"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["plumb"]
    args = container["args"]
    assert args[:4] == ["ingest", "support", f"--run-key={RUN}", "--json"]
    assert set(arguments) <= set(args)
    if not isinstance(action, StartRemoval):
        assert f"--rubric={RUBRIC}" in args and "--approvals=2" in args


@pytest.mark.parametrize(("action", "name", "arguments"), ACTIONS)
def test_a_job_validates_strictly(action: Any, name: str, arguments: list[str]) -> None:
    job = k8s.job(action, LINE, RUN_OBJECT, SETTINGS)
    for version in ("1.30", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(job, version, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**job, "spec": {**job["spec"], "retries": 3}}, "1.30", strict=True)


def test_a_job_backs_off_once_and_belongs_to_its_run() -> None:
    job = k8s.job(ACTIONS[0][0], LINE, RUN_OBJECT, SETTINGS)
    assert job["spec"]["backoffLimit"] == 0 and job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    assert job["spec"]["podFailurePolicy"]["rules"][0]["action"] == "Ignore"
    (owner,) = job["metadata"]["ownerReferences"]
    assert owner["uid"] == "u-2" and owner["blockOwnerDeletion"] is False


def test_secrets_reach_a_job_by_reference_only() -> None:
    env = k8s.job(ACTIONS[0][0], LINE, RUN_OBJECT, SETTINGS)["spec"]["template"]["spec"]["containers"][0]["env"]
    key = "PLUMBLINE_TENANT_KEY"
    assert {"name": key, "valueFrom": {"secretKeyRef": {"name": "plumbline-secrets", "key": key}}} in env


def test_stores_on_servers_reach_a_job_by_reference_and_need_no_volume() -> None:
    remote = dataclasses.replace(
        SETTINGS,
        claim="",
        ledger_secret="databases",
        blobs="s3://bucket/prefix",
        blobs_secret="objects",
        blobs_keys=("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        env={"AWS_ENDPOINT_URL": "https://objects:9000"},
    )
    job = k8s.job(ACTIONS[0][0], LINE, RUN_OBJECT, remote)
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    pod = job["spec"]["template"]["spec"]
    assert [volume["name"] for volume in pod["volumes"]] == ["tmp"]
    env = {item["name"]: item for item in pod["containers"][0]["env"]}
    assert env["PLUMBLINE_LEDGER"]["valueFrom"]["secretKeyRef"] == {"name": "databases", "key": "url"}
    assert env["PLUMBLINE_BLOBS"]["value"] == "s3://bucket/prefix"
    assert env["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]["name"] == "objects"
    assert env["AWS_ENDPOINT_URL"]["value"] == "https://objects:9000"
    local = {item["name"]: item for item in k8s.job(*OF_SETTINGS)["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert local["PLUMBLINE_LEDGER"]["value"] == "/data/ledger.sqlite" and "AWS_ACCESS_KEY_ID" not in local


def test_an_erasure_is_a_job_of_its_own_that_names_a_digest() -> None:
    request = {
        "metadata": {"name": "letter", "namespace": "demo", "uid": "u-9"},
        "spec": {"subject": digest_of("subject"), "remediation": "retire"},
    }
    job = k8s.erasure_job(request, 2, SETTINGS)
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    assert "ownerReferences" not in job["metadata"], "it is finished even if the request is deleted meanwhile"
    args = job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[:-1] == ["erase", digest_of("subject"), "--withdrawn", "--remediation=retire", "--json"]
    assert args[-1] == "--spools-below=/data/spools", "what shadow evaluations recorded of them too"
    again = {**request, "metadata": {**request["metadata"], "uid": "u-10"}}
    assert k8s.erasure_job(again, 2, SETTINGS)["metadata"]["name"] != job["metadata"]["name"]

    failed = [finished(k8s.erasure_job(request, number, SETTINGS), "Failed") for number in (1, 2)]
    assert k8s.erasure_attempts(request, failed) == (False, 2)
    assert k8s.erasure_attempts(request, [*failed, k8s.erasure_job(request, 3, SETTINGS)]) == (True, 2)
    assert k8s.erasure_attempts(again, failed) == (False, 0), "what another request tried does not count"
    assert k8s.erasure_attempts({**request, "status": {"attempts": 4}}, failed) == (False, 4)


def test_a_long_name_still_makes_a_valid_job_name() -> None:
    name = k8s.job_name("a" * 35 + "-bcdefghijklmnop", "publish", RUN, 3)
    assert len(name) <= 63 and "--" not in name


def test_settings_are_read_strictly() -> None:
    text = "image: i\nserviceAccount: s\nclaim: c\nsecretKeys: [A]\nttlSecondsAfterFinished: 60\n"
    found = k8s.JobSettings.from_yaml(text)
    assert (found.secret_keys, found.ttl_seconds_after_finished) == (("A",), 60)
    remote = "image: i\nserviceAccount: s\nledgerSecret: db\nblobs: s3://bucket\n"
    assert k8s.JobSettings.from_yaml(remote).claim == ""
    for wrong in (text + "ttlSeconds: 5\n", "image: i\n", "", remote.replace("s3://bucket", "/data/blobs")):
        with pytest.raises(PlumblineError):
            k8s.JobSettings.from_yaml(wrong)


def finished(job: dict[str, Any], kind: str) -> dict[str, Any]:
    return {**job, "status": {"conditions": [{"type": kind, "status": "True"}]}}


def test_jobs_are_read_by_their_conditions() -> None:
    running = k8s.job(ACTIONS[0][0], LINE, RUN_OBJECT, SETTINGS)
    assert k8s.active_job([finished(running, "Failed"), finished(running, "Complete")]) is None
    suspended = {**running, "status": {"conditions": [{"type": "Suspended", "status": "True"}], "active": 0}}
    for unfinished in (running, suspended):
        found = k8s.active_job([finished(running, "Failed"), unfinished])
        assert found is not None and (found.run_key, found.step) == (RUN, "ingest")


def test_failures_are_remembered_by_the_run_and_forgotten_with_it() -> None:
    jobs = [k8s.job(StartIngestion(RUN, 5, 9, attempt=number), LINE, RUN_OBJECT, SETTINGS) for number in (1, 2, 3)]
    failed = [finished(job, "Failed") for job in jobs[:2]]
    assert k8s.failures([*failed, jobs[2]], [RUN_OBJECT]) == {RUN: 2}
    assert k8s.failures([], [{**RUN_OBJECT, "status": {"attempts": 2}}]) == {RUN: 2}, "the Jobs have expired"
    anew = {**RUN_OBJECT, "metadata": {**RUN_OBJECT["metadata"], "uid": "u-3"}}
    assert k8s.failures(failed, [anew]) == {RUN: 0}, "the object was deleted and made again"
    assert k8s.failures(failed, []) == {}


def status(line: dict[str, Any], seen: LineObservation, now: str = NOW) -> dict[str, Any]:
    return k8s.status(line, seen, reconcile(SPEC, seen), examples=12, now=now)


def test_a_status_says_what_was_seen() -> None:
    found = status(LINE, QUIET)
    assert (found["version"], found["examples"], found["phase"]) == (3, 12, "Ready")
    assert found["observedGeneration"] == 4
    for condition in found["conditions"]:
        assert set(condition) == {"type", "status", "reason", "message", "observedGeneration", "lastTransitionTime"}
        assert condition["observedGeneration"] == 4


def test_a_status_that_says_nothing_new_is_not_written_again() -> None:
    line = {**LINE, "status": status(LINE, QUIET)}
    assert not resources.says_more(line, status(line, QUIET, now=LATER))
    assert resources.says_more(line, status(line, dataclasses.replace(QUIET, inbox_sequence=1), now=LATER))


def test_a_status_is_replaced_whole_by_a_merge_patch() -> None:
    run = PendingRun(RUN, "awaiting_approval", 1, 2, None, RUBRIC, CANDIDATE)
    line = {**LINE, "status": status(LINE, dataclasses.replace(QUIET, pending=run))}
    patch = resources.replacing(line, status(line, QUIET, now=LATER))
    assert patch["pendingRun"] is None and patch["phase"] == "Ready"


def test_nothing_of_an_older_status_is_left_inside_what_a_merge_patch_changes() -> None:
    run = PendingRun(RUN, "awaiting_approval", 1, 2, None, RUBRIC, CANDIDATE, approvals=1)
    line = {**LINE, "status": status(LINE, dataclasses.replace(QUIET, pending=run))}
    after = PendingRun(digest_of("the next run"), "sealed", 3, 4, None, RUBRIC)
    wanted = status(line, dataclasses.replace(QUIET, pending=after), now=LATER)
    assert merged(line["status"], resources.replacing(line, wanted)) == wanted, "a candidate of the run before"
    counts = {"status": {"shed": {"deadline": 1, "no_consent": 2}}}
    assert merged(counts["status"], resources.replacing(counts, {"shed": {"deadline": 2}})) == {"shed": {"deadline": 2}}


def merged(old: Any, patch: Any) -> Any:
    """RFC 7396, which is how an API server reads a merge patch."""
    if not isinstance(patch, dict):
        return patch
    out = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        out.pop(key, None) if value is None else out.update({key: merged(out.get(key), value)})
    return out


def test_a_transition_time_moves_only_with_the_status_of_its_condition() -> None:
    line = {**LINE, "status": status(LINE, QUIET)}
    after = status(line, dataclasses.replace(QUIET, ledger_verifies=False), now=LATER)
    times = {item["type"]: item["lastTransitionTime"] for item in after["conditions"]}
    assert times["ConsentVerified"] == LATER and times["Degraded"] == LATER
    assert times["Approved"] == NOW


def test_an_unreachable_ledger_does_not_zero_what_was_known() -> None:
    line = {**LINE, "status": status(LINE, QUIET)}
    after = status(line, LineObservation(head=None, ledger_verifies=None), now=LATER)
    assert (after["version"], after["examples"], after["consentSequence"]) == (3, 12, 7)
    assert after["phase"] == "Blocked"


def test_an_approval_is_requested_once_for_each_candidate() -> None:
    run = PendingRun(RUN, "awaiting_approval", 1, 2, QUIET.head.digest if QUIET.head else None, RUBRIC, CANDIDATE)
    seen = dataclasses.replace(QUIET, pending=run)
    line = {**LINE, "status": status(LINE, seen)}
    assert not k8s.approval_requested(LINE, CANDIDATE)
    assert k8s.approval_requested(line, CANDIDATE)
    assert not k8s.approval_requested(line, digest_of("another candidate"))


def test_only_news_becomes_an_event() -> None:
    seen = dataclasses.replace(QUIET, withdrawn_subjects=2)
    decision = reconcile(SPEC, seen)
    (news,) = k8s.line_news(LINE, decision)
    assert (news.type, news.reason) == ("ConsentVerified", "WithdrawalPending")
    line = {**LINE, "status": status(LINE, seen)}
    assert k8s.line_news(line, decision) == []


@pytest.mark.parametrize(
    ("condition", "kind"),
    [
        (Condition("ConsentVerified", "True", "ChainVerified", "fine"), "Normal"),
        (Condition("ConsentVerified", "Unknown", "LedgerUnreachable", "gone"), "Warning"),
        (Condition("Approved", "False", "AwaitingApproval", "please"), "Normal"),
        (Condition("Degraded", "True", "RunFailed", "look"), "Warning"),
    ],
)
def test_an_event_is_valid_and_warns_when_it_should(condition: Condition, kind: str) -> None:
    event = resources.event(LINE, condition, now=NOW)
    assert event["type"] == kind
    kubernetes_validate.validate(event, kubernetes_validate.latest_version(), strict=True)


def test_no_object_holds_a_person() -> None:
    """Only digests, counts and names of reasons go to etcd."""
    seen = dataclasses.replace(QUIET, withdrawn_subjects=2)
    text = str([status(LINE, seen), *[k8s.job(action, LINE, RUN_OBJECT, SETTINGS) for action, _, _ in ACTIONS]])
    assert "subject" not in text.replace("subjects in the head", "").replace("every subject in the head", "")
