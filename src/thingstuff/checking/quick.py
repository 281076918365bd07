"""The part of the doctor that a training runs before it starts: what the JSON alone tells."""

from collections.abc import Iterable

from thingstuff.checking.findings import Finding, Findings
from thingstuff.checking.segments import SeenSegment, Told, stated_faults
from thingstuff.checking.tally import Tally, class_findings, split_findings
from thingstuff.data.coco import CocoPanoptic, Record
from thingstuff.evaluation.problems import clean


def quick_check(splits: Iterable[tuple[str, CocoPanoptic]]) -> Findings:
    """Look for what is odd about some splits, by name, whose JSON was read and found usable; no file is opened.

    Whether pictures and maps are there in the right size `CocoPanoptic.check_files` tells.
    """
    findings, tallies = Findings(), []
    for name, dataset in splits:
        tally = Tally(name, dataset.paths.json, dataset.categories)
        tallies.append(tally)
        for record in dataset.records:
            for finding in _of_picture(record, tally):
                findings.add(finding)
    # who trains on one split has chosen to do without the others
    beside = split_findings(tallies) if len(tallies) > 1 else ()
    for finding in (*class_findings(tallies), *beside):
        findings.add(finding)
    return findings


def _of_picture(record: Record, tally: Tally) -> Iterable[Finding]:
    categories = tally.categories
    seen = [(s.id, SeenSegment(categories.ids[s.label], s.area, s.iscrowd)) for s in record.segments]
    tally.add(record.image_id, (record.height, record.width), [segment for _, segment in seen], None)
    yield from tally.add_names(record.image_id, record.file_name, None)
    if not seen:
        yield tally.finding("picture without segments", "segments_info is empty", record.image_id)
    for fault in stated_faults(seen, categories):
        yield _finding(tally, record, fault)


def _finding(tally: Tally, record: Record, fault: Told) -> Finding:
    kind, segment_id, message = fault
    return Finding(kind, tally.split, clean(str(tally.json)), record.image_id, segment_id, message)
