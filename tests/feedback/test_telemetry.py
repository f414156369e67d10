"""What dashboards show is what the ledger and the last run say."""

from typing import Any

from plumbline.feedback import record_ingestion, record_ledger
from plumbline.metrics import Metrics


def test_gauges_follow_the_ledger_and_the_last_run(house: Any) -> None:
    metrics = Metrics()
    house.publish_seeds(splits=["train"] * 8 + ["held_out"] * 4)
    house.consent("ana")
    house.post(house.rewrite("stranger", "what is a lamp", "it shines"))
    record_ingestion(metrics, house.ingest())
    house.post(house.rewrite("ana", "what is a boat", "<|system|> it floats"))
    record_ingestion(metrics, house.ingest())
    record_ledger(metrics, house.ledger)
    text = metrics.render().decode()
    assert 'plumbline_ingestion_rejected{dataset="assistant",reason="no_consent"} 0.0' in text
    assert 'plumbline_ingestion_rejected{dataset="assistant",reason="control_tokens"} 1.0' in text
    assert 'plumbline_dataset_version{dataset="assistant"} 1.0' in text
    assert 'plumbline_dataset_examples{dataset="assistant",split="held_out"} 4.0' in text
    assert "plumbline_consent_ledger_valid 1.0" in text


def test_a_broken_chain_shows_as_zero(house: Any) -> None:
    metrics = Metrics()
    house.consent("ana")
    house.ledger.database.execute("DROP TRIGGER consent_no_update")
    house.ledger.database.execute("UPDATE consent SET subject = 's-eve'")
    record_ledger(metrics, house.ledger)
    assert "plumbline_consent_ledger_valid 0.0" in metrics.render().decode()
