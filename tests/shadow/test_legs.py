"""What is found out about both ends before anything is asked, and whose key goes where."""

import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import PlumblineError
from plumbline.shadow import Experiment, start_shadow
from plumbline.shadow.legs import Token, require_comparable, stated, upstream
from shadow.client import ask, chat, until

EXPERIMENT = Experiment(name="e", salt="grain")
ALIKE = {"template": "sha256:" + "1" * 64, "decoder": "sha256:" + "2" * 64}


def ends(reference: Any, aligned: Any) -> Any:
    return upstream(EXPERIMENT, "reference", reference.url), upstream(EXPERIMENT, "aligned", aligned.url)


def test_ends_that_state_the_same_template_and_decoder_compare_without_a_word(reference: Any, aligned: Any) -> None:
    reference.states = aligned.states = ALIKE
    one, other, unsaid = require_comparable(*ends(reference, aligned))
    assert (one.policy, other.policy, unsaid) == (reference.policy, aligned.policy, [])


@pytest.mark.parametrize(("name", "words"), [("template", "different templates"), ("decoder", "different decoder")])
def test_ends_with_different_templates_or_decoder_defaults_are_refused(
    reference: Any, aligned: Any, tmp_path: Path, name: str, words: str
) -> None:
    reference.states, aligned.states = ALIKE, ALIKE | {name: "sha256:" + "3" * 64}
    with pytest.raises(PlumblineError, match=words) as refused:
        start_shadow(reference.url, aligned.url, tmp_path / "spool", EXPERIMENT)
    assert refused.value.exit_code == 2 and "same template" in refused.value.remedy
    assert not (tmp_path / "spool").exists()


def test_an_end_that_states_nothing_is_said_and_not_refused(reference: Any, aligned: Any) -> None:
    reference.states = ALIKE
    _, _, unsaid = require_comparable(*ends(reference, aligned))
    assert len(unsaid) == 1 and "aligned" in unsaid[0] and "states no digests" in unsaid[0]
    aligned.stop()
    _, _, unsaid = require_comparable(*ends(reference, aligned))
    assert "nothing answers there" in unsaid[0]
    aligned.start()


def test_an_end_that_speaks_no_http_is_one_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def speak() -> None:
            taken, _ = listening.accept()
            with taken:
                taken.recv(4096)
                taken.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        talking = threading.Thread(target=speak)
        talking.start()
        said = stated(upstream(EXPERIMENT, "aligned", f"http://127.0.0.1:{listening.getsockname()[1]}/v1"))
        talking.join(10)
    assert not said.reached and "nothing answers there" in said.why


def test_a_model_that_an_end_does_not_serve_is_refused_by_name(reference: Any, aligned: Any) -> None:
    aligned.states, aligned.lists = ALIKE, ["candidate", "other"]
    with pytest.raises(PlumblineError, match="serves no model 'aligned'; it serves candidate, other") as refused:
        require_comparable(*ends(reference, aligned))
    assert "--aligned-model" in refused.value.remedy


def test_an_aa_experiment_of_two_policies_is_refused(reference: Any, aligned: Any, tmp_path: Path) -> None:
    reference.states = aligned.states = ALIKE
    alike = Experiment(name="e", salt="grain", mode="aa")
    with pytest.raises(PlumblineError, match="asks one policy twice"):
        start_shadow(reference.url, aligned.url, tmp_path, alike)


def test_an_end_that_comes_up_later_is_compared_before_it_is_asked(
    reference: Any, aligned: Any, tmp_path: Path
) -> None:
    reference.states, aligned.states = ALIKE, ALIKE | {"template": "sha256:" + "3" * 64}
    aligned.stop()
    with start_shadow(reference.url, aligned.url, tmp_path, EXPERIMENT, consent=lambda subject: True) as run:
        assert ask(run.openai_url, chat(), x_plumbline_subject="ana")[0] == 200
        assert "nothing answers there" in run.unsaid[0]
        aligned.start()
        until(lambda: "different templates" in str(run.spool.tripped()))
        assert not aligned.seen and run.counts().pending == 1
        aligned.states = ALIKE
        run.spool.reset_trip("ana: the right one is there now")
        assert run.drain() and run.counts().paired == 1


def test_a_token_is_read_anew_when_its_file_changes_and_kept_when_it_is_lost(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with pytest.raises(PlumblineError, match="holds no token"):
        Token(file)
    file.write_text("one\n")
    token = Token(file)
    assert token.value == "one" and "one" not in repr(token)
    file.write_text("two\n")
    os.utime(file, (1, 1))
    assert token.value == "two"
    file.unlink()
    assert token.value == "two"


def test_what_an_end_states_can_be_anything(reference: Any) -> None:
    for states in ({"template": 7}, {"template": None}, {}):
        reference.states = states
        assert stated(upstream(EXPERIMENT, "reference", reference.url)).template in ("", "7")
