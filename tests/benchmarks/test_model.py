"""The tables go between the marks of the document, and nowhere else."""

from __future__ import annotations

import pytest

from benchmarks.model import BEGIN, END, replaced
from protocol.errors import HeadstreamError


def test_only_what_stands_between_the_marks_is_replaced(tmp_path):
    document = tmp_path / "model.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert replaced(document, "| new |") == f"before\n{BEGIN}\n\n| new |\n\n{END}\nafter\n"
    assert "old" in document.read_text()


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}", f"{BEGIN}{BEGIN}{END}"])
def test_a_document_without_marks_is_refused(tmp_path, text):
    (tmp_path / "model.md").write_text(text)
    with pytest.raises(HeadstreamError, match="between which tables go"):
        replaced(tmp_path / "model.md", "")
    with pytest.raises(HeadstreamError, match="nowhere"):
        replaced(tmp_path / "nowhere.md", "")


def test_the_models_document_has_the_marks(root):
    replaced(root / "docs" / "model.md", "")
