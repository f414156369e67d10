"""What an error of another library becomes in one line of ours."""

from pydantic import BaseModel, ValidationError

from plumbline.errors import first_fault


class Somebody(BaseModel):
    name: str
    ages: list[int]


def test_the_first_fault_says_where_and_what_and_never_what_was_given() -> None:
    try:
        Somebody.model_validate({"name": "Mrs Doe", "ages": [1, "a secret"]})
    except ValidationError as error:
        said = first_fault(error)
    assert said.startswith("ages.1: Input should be a valid integer") and "secret" not in said and "Doe" not in said


def test_any_other_error_says_its_first_line_or_what_it_is() -> None:
    assert first_fault(ValueError("this\nand that")) == "this"
    assert first_fault(ValueError()) == "ValueError"
