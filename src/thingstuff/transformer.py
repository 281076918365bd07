"""DETR's transformer (Carion et al. 2020, section 3.2 and appendix A.3): attention, encoder, decoder, sine positions.

Letters: B pictures, S cells of the encoded image, Q queries, T whatever asks, d width, M heads, L layers, h w a map.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


def sine_positions(valid: Bool[Tensor, "B h w"], width: int) -> Float[Tensor, "B h w d"]:
    """Return each cell's position code: `width` / 2 sines and cosines of its row, then as many of its column.

    Rows and columns are counted over valid cells and run to 2 pi; fp32 (Carion et al. 2020, appendix A.4).
    """
    half = width // 2
    exponent = torch.arange(half, device=valid.device) // 2 * 2 / half
    frequency = 10_000**exponent
    codes = []
    for axis in (1, 2):
        count = valid.cumsum(axis, dtype=torch.float32)
        last = count.narrow(axis, count.shape[axis] - 1, 1)
        angle = (count / (last + 1e-6) * 2 * math.pi)[..., None] / frequency
        codes.append(torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-2))
    return torch.cat(codes, dim=-1)


class Attention(nn.Module):
    """Multi-head attention with projections of its own for queries, keys and values (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        for linear in (self.q, self.k, self.v, self.out):
            # The three are one matrix of 3 d rows where the authors initialise it: its bound is lower by sqrt(2).
            nn.init.xavier_uniform_(linear.weight, gain=1.0 if linear is self.out else 0.5**0.5)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        queries: Float[Tensor, "B T d"],
        keys: Float[Tensor, "B S d"],
        values: Float[Tensor, "B S d"],
        valid: Bool[Tensor, "B S"] | None = None,
    ) -> Float[Tensor, "B T d"]:
        q, k, v = self._by_head(self.q, queries), self._by_head(self.k, keys), self._by_head(self.v, values)
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if valid is None else valid[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out

    def weights(
        self, queries: Float[Tensor, "B T d"], keys: Float[Tensor, "B S d"], valid: Bool[Tensor, "B S"] | None = None
    ) -> Float[Tensor, "B M T S"]:
        """Return the share of its attention that each head of each query gives each key, which `forward` never makes.

        Shares sum to 1 over keys; dropout takes no part (Vaswani et al. 2017, equation 1).
        """
        q, k = self._by_head(self.q, queries), self._by_head(self.k, keys)
        scores: Tensor = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
        if valid is not None:
            scores = scores.masked_fill(~valid[:, None, None, :], -torch.inf)
        return scores.softmax(-1)

    def _by_head(self, linear: nn.Module, x: Float[Tensor, "B T d"]) -> Float[Tensor, "B M T _"]:
        y: Tensor = linear(x)
        return y.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class _FeedForward(nn.Module):
    """What encoder and decoder layers share: two linear layers with ReLU and dropout between them."""

    def __init__(self, width: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)
        self.dropout = nn.Dropout(dropout)

    def feed_forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear2(self.dropout(F.relu(self.linear1(x), inplace=True)))
        y = self.dropout(y)
        return y


class EncoderLayer(_FeedForward):
    """Self-attention of the cells, then the feed-forward part; norms come after each."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__(width, feedforward, dropout)
        self.self_attention = Attention(width, heads, dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(
        self, x: Float[Tensor, "B S d"], positions: Float[Tensor, "B S d"], valid: Bool[Tensor, "B S"] | None
    ) -> Float[Tensor, "B S d"]:
        placed = x + positions
        x = self.norm1(x + self.dropout(self.self_attention(placed, placed, x, valid)))
        y: Tensor = self.norm2(x + self.feed_forward(x))
        return y


class DecoderLayer(_FeedForward):
    """Self-attention of the queries, attention to the encoded image, then the feed-forward part."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__(width, feedforward, dropout)
        self.self_attention = Attention(width, heads, dropout)
        self.cross_attention = Attention(width, heads, dropout)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(
        self,
        x: Float[Tensor, "B Q d"],
        queries: Float[Tensor, "Q d"],
        placed_memory: Float[Tensor, "B S d"],
        memory: Float[Tensor, "B S d"],
        valid: Bool[Tensor, "B S"] | None,
    ) -> Float[Tensor, "B Q d"]:
        asking = x + queries
        x = self.norm1(x + self.dropout(self.self_attention(asking, asking, x)))
        x = self.norm2(x + self.dropout(self.cross_attention(x + queries, placed_memory, memory, valid)))
        y: Tensor = self.norm3(x + self.feed_forward(x))
        return y


class Encoder(nn.Module):
    """The encoder: its output is the encoded image."""

    def __init__(self, layers: int, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(width, heads, feedforward, dropout) for _ in range(layers))

    def forward(
        self, x: Float[Tensor, "B S d"], positions: Float[Tensor, "B S d"], valid: Bool[Tensor, "B S"] | None
    ) -> Float[Tensor, "B S d"]:
        for layer in self.layers:
            x = layer(x, positions, valid)
        return x


class Decoder(nn.Module):
    """The decoder: every layer's states, each through the one final norm."""

    def __init__(self, layers: int, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(width, heads, feedforward, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        queries: Float[Tensor, "Q d"],
        memory: Float[Tensor, "B S d"],
        positions: Float[Tensor, "B S d"],
        valid: Bool[Tensor, "B S"] | None,
    ) -> Float[Tensor, "L B Q d"]:
        placed = memory + positions
        x = queries.new_zeros((len(memory), *queries.shape))
        states = []
        for layer in self.layers:
            x = layer(x, queries, placed, memory, valid)
            states.append(self.norm(x))
        return torch.stack(states)
