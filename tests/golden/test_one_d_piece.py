"""One-D-Piece against its official module: tokens, and pictures of the first of them."""

from __future__ import annotations

from smalti.tokenizers.one_d_piece import OneDPiece
from tests.golden.cases import Case, golden
from tests.golden.test_titok import check_tokenizer


@golden("one-d-piece")
def test_matches_the_official_module(case: Case) -> None:
    assert any(name.startswith("recon_len") for name in case.outputs)
    check_tokenizer(case, OneDPiece)
