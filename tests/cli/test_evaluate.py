"""`plumb evaluate` from the command line: directories, endpoints, actors; what stops it, and how it goes on."""

import json

import pytest
from tiny import make_tiny_policy

from plumbline.evaluation import save_suite
from plumbline.policies.local import LocalPolicy
from plumbline.records import Suite, SuiteItem, say
from policies.served import Served


def turn(role, content):
    return {"role": role, "content": content}


def make_suite(n, likelihood=0, prefix="i", ask="who is ana {} ?"):
    items = [
        SuiteItem(
            id=f"{prefix}{i}", area="helpfulness", slice="facts", cluster=f"c{i}", scorer="exact",
            messages=(say("user", ask.format(i)),), references=("ana is a baker .",),
        )
        for i in range(n)
    ]  # fmt: skip
    items += [
        SuiteItem(
            id=f"{prefix}choice{i}", area="honesty", slice="facts", cluster=f"d{i}", scorer="choice_loglik",
            messages=(say("user", ask.format(i)),), choices=("a baker .", "a poet ."),
        )
        for i in range(likelihood)
    ]  # fmt: skip
    return Suite(name=f"facts-{prefix}", version="1", items=tuple(items))


@pytest.fixture(scope="module")
def other_policy(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("policies") / "other", seed=3)


@pytest.fixture
def ask(plumb, tiny_policy, other_policy):
    """Evaluate the tiny policy against another; words given replace or follow."""
    save_suite(make_suite(6, 3), plumb.folder / "suite.jsonl")

    def evaluate(*words, reference=tiny_policy, aligned=other_policy, suite="suite.jsonl", out="out"):
        legs = ("--reference", reference, "--aligned", aligned, "--suite", suite, "--out", out)
        return plumb("evaluate", *legs, "--max-tokens", "6", *words)

    evaluate.folder = plumb.folder
    return evaluate


@pytest.fixture
def served(tiny_policy):
    with Served(LocalPolicy.load(tiny_policy)) as endpoint:
        yield endpoint


def test_the_same_command_asks_nothing_again_and_writes_the_same_bytes(ask):
    assert ask("--check-batches").code == 0
    report, answers = ask.folder / "out" / "report.json", ask.folder / "out" / "answers"
    first, kept = report.read_bytes(), {file: file.read_bytes() for file in answers.iterdir()}
    said = ask()
    assert said.code == 0 and report.read_bytes() == first
    assert {file: file.read_bytes() for file in answers.iterdir()} == kept
    assert "verified: its files are those of its manifest" in said.out
    assert ask("--fresh").code == 0 and report.read_bytes() == first
    assert len(list(answers.iterdir())) == 2 * len(kept)


def test_what_was_asked_stands_beside_the_report(ask):
    said = ask("--check-batches")
    asked = json.loads((ask.folder / "out" / "asked.json").read_text())
    assert asked["aligned"]["known"] == "verified" and asked["aligned"]["place"] == "cpu"
    assert asked["reference"]["batches"]["nats"] == 0 and "to the last bit" in said.out


@pytest.mark.slow
def test_actors_write_the_report_that_one_process_writes(ask):
    assert ask(out="here").code == 0 and ask("--workers", "1", out="there").code == 0
    here, there = (ask.folder / name / "report.json" for name in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()


def test_a_suite_of_preferences_says_what_it_measured(ask):
    same = "\n\nHuman: who is ana ?\n\nAssistant: a baker"
    pairs = [{"chosen": f"{same} {i} .", "rejected": f"{same} not {i} ."} for i in range(6)]
    (ask.folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    said = ask(suite="pairs.jsonl")
    assert said.code == 0 and "no area was measured: the items are for proxy_reward" in said.out
    assert "proxy_reward" in said.out.split("monitors read:")[1]


def test_one_option_asks_every_item_in_other_words_as_well(ask):
    assert ask(out="alone").code == 0
    said = ask("--variants", "builtin", out="beside")
    assert said.code == 0 and "over the requested variants the aligned policy's success spreads by" in said.out
    alone, beside = (json.loads((ask.folder / name / "report.json").read_text()) for name in ("alone", "beside"))
    assert alone["estimates"] == beside["estimates"] and alone["suite"] != beside["suite"]
    (found,) = [one for one in beside["pressures"] if one["pressure"] == "template_overfit"]
    assert {"advantage_polite", "advantage_labelled", "variance_of_templates_aligned"} <= found["statistics"].keys()
    rows = [one["slice"] for one in beside["slices"] if one["area"] == "helpfulness"]
    assert rows == ["facts", "variant:canonical", "variant:labelled", "variant:polite"]
    assert ask("--variants", "absent.jsonl").faulted("cannot be read", "--variants builtin")


def test_reviewers_labels_are_read_from_the_ledger_when_asked(ask, plumb):
    """Thirty answers that two people judged: they agree on harm, and toss coins about helpfulness."""
    plumb.write("notice.txt", "we train on what you write")
    assert plumb("consent", "give", "ana", "--notice", "n@1", "--notice-text", "notice.txt").code == 0
    rated = [
        {
            "specversion": "1.0", "id": f"e{n}", "source": "app", "subject": "ana",
            "type": "dev.plumbline.feedback.rating",
            "data": {"messages": [{"role": "user", "content": f"q {n}"}], "answer": f"answer {n}", "score": 1.0},
        }
        for n in range(30)
    ]  # fmt: skip
    plumb.write("events.jsonl", "\n".join(map(json.dumps, rated)))
    assert plumb("feedback", "import", "events.jsonl", "--source", "app").code == 0
    assert plumb("review", "open").code == 0
    for place, who in enumerate(("rita", "rolf")):
        assert plumb("review", "export", f"{who}.jsonl", "--for", who).code == 0
        rows = [json.loads(line) for line in (plumb.folder / f"{who}.jsonl").read_text().splitlines()]
        for row in rows:
            n = int(row["answer"].split()[-1])
            rule = "harmlessness" if n % 2 else "helpfulness"
            good = n % 4 < 2 if n % 2 else bool(n // 2 % 2) != (place == 1 and n % 3 == 0)
            row |= {
                "verdict": "approve" if good else "reject",
                "rules": [rule],
                "severity": "none" if good else "major",
            }
        plumb.write(f"{who}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        assert plumb("review", "import", f"{who}.jsonl").code == 0
    desk = plumb("review", "agreement", "--json").json["overall"]["rules"]
    said = ask("--reviews")
    assert said.code == 0 and "policy_ambiguity" in said.out
    report = json.loads((ask.folder / "out" / "report.json").read_text())
    (found,) = [one for one in report["pressures"] if one["pressure"] == "policy_ambiguity"]
    for rule in ("harmlessness", "helpfulness"):
        for name, ours in (("alpha", ""), ("low", "_low"), ("high", "_high")):
            assert found["statistics"][f"alpha_{rule}{ours}"] == pytest.approx(desk[rule][name], abs=1e-9)
    assert found["statistics"]["alpha_harmlessness"] == 1 > found["statistics"]["alpha_helpfulness"]
    assert ask().code == 0
    report = json.loads((ask.folder / "out" / "report.json").read_text())
    unread = next(one for one in report["pressures"] if one["pressure"] == "policy_ambiguity")
    assert unread["explanation"].startswith("not measured: ")


def test_reviews_of_a_ledger_that_is_not_there_are_said_before_anything_is_asked(ask):
    assert ask("--reviews", "--ledger", "absent.sqlite").faulted("absent.sqlite")
    assert not (ask.folder / "out").exists()


def test_what_training_was_compared_with_and_how_it_drifted_stands_in_the_report(ask, plumb):
    for n, more in ((24, 0), (24, 12), (24, 24)):
        lines = [
            {"messages": [turn("user", f"who is ana {i} ?"), turn("assistant", "ana is a baker .")]} for i in range(n)
        ]
        lines += [{"messages": [turn("user", f"sing {i}"), turn("assistant", f"la {i}")]} for i in range(more)]
        plumb.write("facts.jsonl", "\n".join(map(json.dumps, lines)))
        given = ("--format", "messages", "--dataset", "facts", "--licence", "MIT")
        said = plumb("dataset", "import", "facts.jsonl", *given)
        assert said.code == 0, said
    said = ask("--dataset", "facts@3", "--previous", "facts@2", "--previous", "facts@1")
    assert said.code == 0, said
    report = json.loads((ask.folder / "out" / "report.json").read_text())
    assert report["contamination"]["checked"] and len(report["contamination"]["datasets"]) == 1
    assert report["contamination"]["examples"] > 24
    (found,) = [one for one in report["pressures"] if one["pressure"] == "feedback_drift"]
    assert found["statistics"]["newer_version"] == 3 and found["statistics"]["older_version"] == 2
    assert {"cusum_slice", "auroc_prompts", "auroc_targets", "psi_slice"} <= found["statistics"].keys()
    assert ask("--previous", "facts@1").faulted("no --dataset names the one after it", "nothing was asked")
    assert ask().code == 0
    report = json.loads((ask.folder / "out" / "report.json").read_text())
    assert report["contamination"] == {"checked": False, "datasets": [], "examples": 0, "erased": 0}


def test_an_adapter_alone_names_the_command_that_merges_it(ask):
    (ask.folder / "adapter").mkdir()
    (ask.folder / "adapter" / "adapter_config.json").write_text("{}")
    assert ask(aligned="adapter").faulted("adapter alone", "plumb export JOB --out DIR --form merged")
    assert not (ask.folder / "out").exists()


@pytest.mark.parametrize("damage", ["slice", "id"])
def test_a_suite_with_a_bad_item_is_refused_whole(ask, damage):
    file = ask.folder / "suite.jsonl"
    lines = file.read_text().splitlines()
    lines += [lines[1] if damage == "id" else lines[1].replace('"slice":"facts",', "").replace('"i0"', '"new"')]
    file.write_text("\n".join(lines))
    assert ask().faulted("suite.jsonl line 11", "already" if damage == "id" else "slice")
    assert not (ask.folder / "out").exists()


def test_a_private_suite_counts_its_readings_and_a_resumed_run_costs_none(ask, tiny_policy):
    file = ask.folder / "suite.jsonl"
    head, *rest = file.read_text().splitlines()
    terms = {**json.loads(head), "private": True, "query_budget": 1}
    file.write_text("\n".join([json.dumps(terms), *rest]))
    assert ask().code == 0 and ask().code == 0
    assert ask(aligned=tiny_policy).faulted("query budget", "is spent")


def test_an_endpoint_answers_as_its_directory_does(ask, served, tiny_policy, monkeypatch):
    monkeypatch.setenv("BENCH_KEY", "k-secret-1")
    served.key = "k-secret-1"
    said = ask("--api-key-env", "BENCH_KEY", "--aligned-revision", "r1", aligned=f"{served.url}#m", out="far")
    assert said.code == 0 and "declared, not verified" in said.out
    assert ask(aligned=tiny_policy, out="near").code == 0
    far, near = (json.loads((ask.folder / name / "report.json").read_text()) for name in ("far", "near"))
    assert [e["aligned"] for e in far["estimates"]] == [e["aligned"] for e in near["estimates"]]
    assert far["missing"] == 0, "likelihoods came from echoed log-probabilities"
    everything = said.out + said.err + "".join(p.read_text() for p in (ask.folder / "far").rglob("*") if p.is_file())
    assert "k-secret-1" not in everything


def test_items_that_an_endpoint_cannot_score_are_named_missing(ask, served):
    served.likelihoods = False
    said = ask(aligned=f"{served.url}#m")
    assert said.code == 0 and "MISSING: 3 of 9 answers of m" in said.out and "gives no log-likelihood" in said.out
    assert json.loads((ask.folder / "out" / "report.json").read_text())["missing"] == 3


def test_an_endpoint_that_goes_silent_half_way_is_resumed_by_the_same_command(ask, served, tiny_policy):
    served.dies_after = 5
    far = {"aligned": f"{served.url}#m", "reference": tiny_policy}
    more = ("--timeout", "1", "--concurrency", "2")
    said = ask(*more, **far)
    assert said.faulted("no answer within 1 s", "finished answers are kept", "goes on where it stopped")
    assert not (ask.folder / "out" / "report.json").exists()
    before, served.dies_after = served.answered, None
    assert ask(*more, **far).code == 0
    assert ask(*more, **far, out="at-once").code == 0
    reports = [(ask.folder / name / "report.json").read_bytes() for name in ("out", "at-once")]
    assert reports[0] == reports[1]
    assert served.answered - before < 2 * (6 + 2 * 3), "what was finished was asked again"


def test_a_request_that_stays_refused_is_reported_only_when_that_is_accepted(ask, served):
    save_suite(make_suite(1, prefix="r", ask="refuse me"), ask.folder / "refused.jsonl")
    far = ("--suite", "refused.jsonl")
    said = ask(*far, aligned=f"{served.url}#m")
    assert said.faulted("1 answers of m are missing", "--accept-missing")
    assert ask(*far, "--accept-missing", aligned=f"{served.url}#m").code == 0


@pytest.mark.parametrize(
    ("aligned", "words"),
    [
        ("{url}#nobody", "serves no model 'nobody'; it serves m"),
        ("{url}", "names no model"),
        ("http://127.0.0.1:9/v1#m", "nothing answers at http://127.0.0.1:9/v1"),
        ("./absent", "no policy directory"),
    ],
)
def test_a_policy_that_is_not_there_is_said_before_anything_is_asked(ask, served, aligned, words):
    assert ask(aligned=aligned.format(url=served.url)).faulted(words)
    assert not (ask.folder / "out").exists() and served.answered == 0
