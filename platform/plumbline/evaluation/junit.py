"""A gate decision as JUnit XML, the form in which continuous integration shows what passed and why the rest did not.

One test case per gated metric, grouped by area. REGRESSED and INCONCLUSIVE are failures, because neither lets a policy
through; ERROR is an error. What is wrong with the report as a whole is an error of its own.
"""

from xml.etree import ElementTree

from plumbline.records import AreaVerdict, GateDecision, Verdict


def junit_xml(decision: GateDecision) -> bytes:
    """UTF-8 bytes with an XML declaration; the same decision gives the same bytes."""
    root = ElementTree.Element(
        "testsuites", attrib={"name": "plumb gate"} | _counts(list(decision.areas), len(decision.errors))
    )
    for area in dict.fromkeys(one.area for one in decision.areas):
        rows = [one for one in decision.areas if one.area == area]
        suite = ElementTree.SubElement(root, "testsuite", {"name": area} | _counts(rows, 0))
        for row in rows:
            case = ElementTree.SubElement(suite, "testcase", classname=f"gate.{area}", name=row.metric)
            if row.verdict is Verdict.PASS:
                ElementTree.SubElement(case, "system-out").text = _clean(row.explanation)
            else:
                tag = "error" if row.verdict is Verdict.ERROR else "failure"
                fault = ElementTree.SubElement(case, tag, type=row.verdict.value, message=_clean(row.explanation))
                fault.text = _clean("\n".join(row.cases))
    if decision.errors:
        suite = ElementTree.SubElement(root, "testsuite", {"name": "report"} | _counts([], len(decision.errors)))
        for number, text in enumerate(decision.errors, start=1):
            case = ElementTree.SubElement(suite, "testcase", classname="gate.report", name=f"fault {number}")
            ElementTree.SubElement(case, "error", type="ERROR", message=_clean(text))
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _counts(rows: list[AreaVerdict], faults: int) -> dict[str, str]:
    verdicts = [row.verdict for row in rows]
    failures = verdicts.count(Verdict.REGRESSED) + verdicts.count(Verdict.INCONCLUSIVE)
    return {
        "tests": str(len(rows) + faults),
        "failures": str(failures),
        "errors": str(verdicts.count(Verdict.ERROR) + faults),
    }


def _clean(text: str) -> str:
    """Without the control characters that XML 1.0 cannot hold, escaped or not."""
    return "".join(
        c if c in "\t\n\r" or (c >= " " and c not in "\ufffe\uffff") else "\N{REPLACEMENT CHARACTER}" for c in text
    )
