"""What steps cite can be looked up."""

import re

import pytest
import torch

from models_contract import CATEGORIES, scene
from thingstuff.explain_page import page_of
from thingstuff.explaining import explain
from thingstuff.models import create
from thingstuff.papers import PAPERS, cited


@pytest.mark.parametrize("name", ["panoptic-fcn-tiny", "panoptic-fpn-tiny", "detr-panoptic-tiny"])
def test_every_citation_of_a_walk_is_listed_on_its_page(name):
    torch.manual_seed(0)
    walk = explain(create(name, CATEGORIES), scene()[0])
    texts = [step.paper for step in walk.steps]
    found = set(re.findall(r"[A-Z]\w+(?: et al\.| and [A-Z]\w+)? (?:19|20)\d\d[a-z]?", "\n".join(texts)))
    assert found
    assert found <= set(PAPERS)
    assert set(cited(texts)) == found
    page = page_of(walk)
    assert all(f"{short}: {PAPERS[short]}" in page for short in found)
    assert re.search(rf"<Walk of picture through {walk.kind}: {len(walk.steps)} steps", repr(walk))
    assert len(repr(walk.steps)) < 200 * len(walk.steps)
