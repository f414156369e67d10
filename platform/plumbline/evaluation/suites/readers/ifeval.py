"""IFEval (Zhou et al. 2023): prompts whose instructions a program can check (`scoring.instructions`)."""

from pathlib import Path

from plumbline.errors import PlumblineError
from plumbline.evaluation.scoring.instructions import write
from plumbline.evaluation.suites.readers.common import objects, unexpected
from plumbline.records import Suite, SuiteItem, say

KEYS = ("key", "prompt", "instruction_id_list", "kwargs")


def read_ifeval(path: Path, *, loose: bool = False) -> Suite:
    """`input_data.jsonl` as published, scored per prompt: strictly, or `loose`.

    The slice is the group of the instructions (`keywords`, `length_constraints`, ...), `several` where groups mix. An
    argument of zero is kept; one that is null was not asked for. An unknown kind of instruction is refused by its line.
    """
    items = []
    for number, entry in objects(path, KEYS):
        names, arguments = entry["instruction_id_list"], entry["kwargs"]
        if not (isinstance(names, list) and isinstance(arguments, list) and len(names) == len(arguments) > 0):
            raise unexpected(path, f"line {number} has not one set of kwargs for each instruction", KEYS)
        try:
            references = tuple(write(name, given or {}) for name, given in zip(names, arguments, strict=True))
        except PlumblineError as error:
            raise unexpected(path, f"line {number}: {error.fact}", KEYS) from error
        groups = {name.split(":")[0] for name in names}
        items.append(
            SuiteItem(
                id=f"ifeval/{entry['key']}",
                area="helpfulness",
                slice=groups.pop() if len(groups) == 1 else "several",
                cluster=f"ifeval:{entry['key']}",
                messages=(say("user", str(entry["prompt"])),),
                scorer="instructions_loose" if loose else "instructions",
                references=references,
            )
        )
    return Suite(name="ifeval-loose" if loose else "ifeval", version="1", items=tuple(items))
