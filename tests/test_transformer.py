"""DETR's transformer against torch's own attention and layers, in fp64, and its position code against a loop."""

import math

import pytest
import torch
from torch import Tensor, nn

from thingstuff.transformer import Attention, Decoder, DecoderLayer, Encoder, EncoderLayer, sine_positions

WIDTH, HEADS, INNER = 16, 4, 24


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shaken(module: nn.Module) -> nn.Module:
    """The module in fp64 and eval mode, with biases and norms that are no identity."""
    torch.manual_seed(0)
    module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


# ---- positions


@pytest.mark.parametrize("width", [8, 12])
def test_positions_are_counted_over_valid_cells(width: int) -> None:
    valid = torch.ones(3, 4, 5, dtype=torch.bool)
    valid[1, 3:] = False
    valid[1, :, 2:] = False
    valid[2, 1:] = False
    codes = sine_positions(valid, width)
    assert codes.shape == (3, 4, 5, width)
    half = width // 2
    for b, y, x in valid.nonzero().tolist():
        rows, columns = int(valid[b, :, x].sum()), int(valid[b, y].sum())
        expected = []
        for count, whole in ((y + 1, rows), (x + 1, columns)):
            for i in range(half):
                angle = count / (whole + 1e-6) * 2 * math.pi / 10_000 ** (2 * (i // 2) / half)
                expected.append(math.cos(angle) if i % 2 else math.sin(angle))
        assert codes[b, y, x].tolist() == pytest.approx(expected, abs=2e-6)


def test_padding_has_finite_codes_too() -> None:
    valid = torch.zeros(1, 3, 4, dtype=torch.bool)
    valid[0, :1, :2] = True
    assert sine_positions(valid, 8).isfinite().all()
    assert sine_positions(valid, 8).dtype == torch.float32


# ---- attention


def torchs_attention(ours: Attention) -> nn.MultiheadAttention:
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double().eval()
    three = (ours.q, ours.k, ours.v)
    theirs.load_state_dict(
        {
            "in_proj_weight": torch.cat([linear.weight for linear in three]),
            "in_proj_bias": torch.cat([linear.bias for linear in three]),
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    return theirs


def some_valid() -> Tensor:
    valid = torch.ones(2, 7, dtype=torch.bool)
    valid[1, 4:] = False
    return valid


@pytest.mark.parametrize("masked", [True, False])
def test_attention_is_torchs(masked: bool) -> None:
    ours = shaken(Attention(WIDTH, HEADS, 0.1))
    assert isinstance(ours, Attention)
    queries, keys, values = noise(2, 5, WIDTH), noise(2, 7, WIDTH, seed=1), noise(2, 7, WIDTH, seed=2)
    valid = some_valid() if masked else None
    expected, _ = torchs_attention(ours)(
        queries, keys, values, key_padding_mask=None if valid is None else ~valid, need_weights=False
    )
    close(ours(queries, keys, values, valid), expected)


def test_cells_that_are_not_valid_change_nothing() -> None:
    ours = shaken(Attention(WIDTH, HEADS, 0.0))
    queries, keys, values = noise(2, 5, WIDTH), noise(2, 7, WIDTH, seed=1), noise(2, 7, WIDTH, seed=2)
    before = ours(queries, keys, values, some_valid())
    keys[1, 4:], values[1, 4:] = 100.0, -100.0
    close(ours(queries, keys, values, some_valid()), before)
    keys[1, 3] += 1
    assert (ours(queries, keys, values, some_valid())[1] - before[1]).abs().max() > 1e-3


def test_weights_begin_as_one_matrix_of_three_parts() -> None:
    """Xavier's bound for 3 d rows and d columns, and for d and d where the heads come together."""
    torch.manual_seed(0)
    ours = Attention(128, 8, 0.0)
    for linear, bound in ((ours.q, (6 / 512) ** 0.5), (ours.v, (6 / 512) ** 0.5), (ours.out, (6 / 256) ** 0.5)):
        assert 0.99 * bound < float(linear.weight.detach().abs().max()) <= bound
        assert not linear.bias.any()


def test_dropout_is_for_training_alone() -> None:
    layer = shaken(EncoderLayer(WIDTH, HEADS, INNER, 0.5))
    x, positions = noise(2, 7, WIDTH), noise(2, 7, WIDTH, seed=1)
    assert torch.equal(layer(x, positions, None), layer(x, positions, None))
    layer.train()
    assert not torch.allclose(layer(x, positions, None), layer(x, positions, None))
    attention = layer.self_attention
    assert not torch.allclose(attention(x, x, x), attention(x, x, x))
    layer.eval()
    still = attention(x, x, x)
    assert torch.equal(still, attention(x, x, x))


# ---- layers


def copied(theirs: nn.Module, ours: nn.Module, norms: tuple[str, ...]) -> None:
    """Put our layer's weights into a layer of torch's."""
    state = {f"self_attn.{k}": v for k, v in torchs_attention(ours.self_attention).state_dict().items()}
    if hasattr(ours, "cross_attention"):
        state |= {f"multihead_attn.{k}": v for k, v in torchs_attention(ours.cross_attention).state_dict().items()}
    for name in ("linear1", "linear2", *norms):
        state |= {f"{name}.{k}": v for k, v in getattr(ours, name).state_dict().items()}
    theirs.load_state_dict(state)


def test_an_encoder_layer_without_positions_is_torchs() -> None:
    ours = shaken(EncoderLayer(WIDTH, HEADS, INNER, 0.1))
    theirs = nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, batch_first=True).double().eval()
    copied(theirs, ours, ("norm1", "norm2"))
    x, valid = noise(2, 7, WIDTH), some_valid()
    expected = theirs(x, src_key_padding_mask=~valid)
    close(ours(x, torch.zeros_like(x), valid)[valid], expected[valid])


def test_a_decoder_layer_without_positions_is_torchs() -> None:
    ours = shaken(DecoderLayer(WIDTH, HEADS, INNER, 0.1))
    theirs = nn.TransformerDecoderLayer(WIDTH, HEADS, INNER, batch_first=True).double().eval()
    copied(theirs, ours, ("norm1", "norm2", "norm3"))
    x, memory, valid = noise(2, 5, WIDTH), noise(2, 7, WIDTH, seed=1), some_valid()
    expected = theirs(x, memory, memory_key_padding_mask=~valid)
    close(ours(x, torch.zeros(5, WIDTH, dtype=torch.float64), memory, memory, valid), expected)


def feed_forward(layer: nn.Module, x: Tensor) -> Tensor:
    return layer.linear2(torch.relu(layer.linear1(x)))


def test_the_encoder_adds_positions_to_queries_and_keys_of_every_layer() -> None:
    ours = shaken(Encoder(2, WIDTH, HEADS, INNER, 0.1))
    x, positions, valid = noise(2, 7, WIDTH), noise(2, 7, WIDTH, seed=1), some_valid()
    expected = x
    for layer in ours.layers:
        attention = torchs_attention(layer.self_attention)
        placed = expected + positions
        y, _ = attention(placed, placed, expected, key_padding_mask=~valid)
        expected = layer.norm1(expected + y)
        expected = layer.norm2(expected + feed_forward(layer, expected))
    close(ours(x, positions, valid), expected)


def test_the_decoder_gives_every_layer_through_one_norm() -> None:
    ours = shaken(Decoder(3, WIDTH, HEADS, INNER, 0.1))
    queries, memory, positions = noise(5, WIDTH), noise(2, 7, WIDTH, seed=1), noise(2, 7, WIDTH, seed=2)
    valid = some_valid()
    x, expected = torch.zeros(2, 5, WIDTH, dtype=torch.float64), []
    for layer in ours.layers:
        asking = x + queries
        y, _ = torchs_attention(layer.self_attention)(asking, asking, x)
        x = layer.norm1(x + y)
        y, _ = torchs_attention(layer.cross_attention)(x + queries, memory + positions, memory, key_padding_mask=~valid)
        x = layer.norm2(x + y)
        x = layer.norm3(x + feed_forward(layer, x))
        expected.append(ours.norm(x))
    states = ours(queries, memory, positions, valid)
    assert states.shape == (3, 2, 5, WIDTH)
    close(states, torch.stack(expected))
