import pytest
import torch

import smalti
from smalti.errors import ConfigError
from smalti.evaluation.audit.subject import Subject
from tests.evaluation.audit.made import tiny

PIXELS = torch.rand(2, 3, 32, 32)


def test_a_classifier_gives_logits_and_what_its_head_is_given() -> None:
    model = tiny()
    answer = Subject(model).answer(PIXELS)
    assert answer.logits.shape == (2, 5)
    torch.testing.assert_close(model.head(answer.pooled), answer.logits)
    assert answer.tokens.shape == (2, 17, 16)


def test_a_feature_model_gives_its_features() -> None:
    model = tiny(num_classes=0)
    subject = Subject(model)
    answer = subject.answer(PIXELS)
    assert answer.logits is None
    torch.testing.assert_close(answer.pooled, model(subject.input(PIXELS)))
    assert subject.grid == (4, 4)


def test_a_reduced_answer_has_all_its_tokens_back() -> None:
    subject = Subject(tiny())
    full = subject.answer(PIXELS)
    with smalti.reduce(subject.model, "tome", keep=0.5) as handle:
        answer = subject.answer(PIXELS, handle)
        torch.testing.assert_close(answer.tokens, handle.restore(answer.left))
    assert answer.left.shape == (2, 9, 16)
    assert answer.tokens.shape == full.tokens.shape == (2, 17, 16)
    assert not torch.allclose(answer.pooled, full.pooled)
    assert not subject.host.blocks[-1]._forward_hooks, "no hook is left behind"


def test_a_size_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of the 8"):
        Subject(tiny(), 36)
    with pytest.raises(ConfigError, match="dynamic_img_size"):
        Subject(tiny(), 48)
    assert Subject(tiny(dynamic_img_size=True), 48).grid == (6, 6)
