import dataclasses
import math

import pytest
import torch

from smalti.errors import ConfigError, MediaError
from smalti.evaluation.token_coder import TokenCoder, TokenFormat

from .makers import ARCHIVES, Blocks, read, scene, write


def test_the_size_of_the_file_is_the_rate():
    def padded(tokens, path, tokenizer):
        write(tokens, path, tokenizer)
        with path.open("ab") as file:
            file.write(bytes(1000))

    pixels = scene(40, 56)
    plain = TokenCoder(Blocks(), ARCHIVES, "blocks").round_trip(pixels, 1, 25.0)
    larger = TokenCoder(Blocks(), TokenFormat(padded, lambda path: plain_read(path)), "blocks")
    assert larger.round_trip(pixels, 1, 25.0).bytes == plain.bytes + 1000


def plain_read(path):
    path.write_bytes(path.read_bytes()[:-1000])
    return read(path)


def test_tokens_and_their_packed_bits():
    coder = TokenCoder(Blocks(), ARCHIVES, "blocks")
    low, high = (coder.round_trip(scene(40, 56), quality, 25.0) for quality in coder.settings)
    assert (low.tokens, high.tokens) == (35, 35)
    assert (low.index_bits, high.index_bits) == (35 * 3 * 4, 35 * 6 * 4)


def test_what_is_decoded_comes_from_the_file():
    def zeroed(path):
        tokens = read(path)
        return dataclasses.replace(tokens, ids=torch.zeros_like(tokens.ids))

    coded = TokenCoder(Blocks(), TokenFormat(write, zeroed), "blocks").round_trip(scene(), 2, 25.0)
    assert (coded.pixels == 0).all()


def test_clips_carry_their_rate():
    seen = []
    format = TokenFormat(lambda tokens, *rest: seen.append(tokens.source.fps) or write(tokens, *rest), read)
    TokenCoder(Blocks(), format, "blocks").round_trip(scene(frames=2), 2, 12.5)
    TokenCoder(Blocks(), format, "blocks").round_trip(scene(frames=1), 2, 12.5)
    assert seen == [12.5, None]


def test_usage_of_codebooks():
    coder = TokenCoder(Blocks(), ARCHIVES, "blocks")
    halves = torch.zeros(1, 3, 1, 8, 16)
    halves[..., 8:] = 1.0
    coder.round_trip(halves, 1, 25.0)
    assert coder.usage() == []  # counted at the highest quality alone
    coder.round_trip(halves, 2, 25.0)
    for usage in coder.usage():
        assert (usage.size, usage.used) == (16, 2)
        assert usage.perplexity == pytest.approx(2.0)


def test_errors_name_what_is_wrong():
    with pytest.raises(ConfigError, match="quality 3 does not exist"):
        TokenCoder(Blocks(), ARCHIVES, "blocks", (1, 3))

    class Careless(Blocks):
        def _decode(self, tokens):
            return super()._decode(tokens)[..., :-1]

    with pytest.raises(MediaError, match="careless gave"):
        TokenCoder(Careless(), ARCHIVES, "careless").round_trip(scene(), 1, 25.0)


def test_continuous_tokens_have_no_index_bits():
    class Continuous(Blocks):
        codebook_sizes = ()
        stages = (0,)

        def _encode(self, pixels):
            tokens = super()._encode(pixels)
            return dataclasses.replace(tokens, values=tokens.ids.float(), ids=None)

        def _decode(self, tokens):
            return super()._decode(dataclasses.replace(tokens, ids=tokens.values.long()))

    held = []
    format = TokenFormat(
        lambda tokens, path, _: (held.append(tokens), path.write_bytes(b"values")), lambda _: held[0]
    )
    coder = TokenCoder(Continuous(), format, "continuous")
    coded = coder.round_trip(scene(), 1, 25.0)
    assert coded.bytes == 6
    assert math.isnan(coded.index_bits)
    assert coder.usage() == []
