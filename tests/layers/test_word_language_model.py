"""The idioms of PyTorch's word-level language model example, with `nn.LSTM` and its zero state replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastslow import FSLSTM, StackedLSTM

V, X, H = 11, 6, 8


class RNNModel(nn.Module):
    def __init__(self, kind: type[Any]) -> None:
        super().__init__()
        self.drop, self.encoder = nn.Dropout(0.2), nn.Embedding(V, X)
        self.rnn = kind(X, H, dropout=0.2)
        self.decoder = nn.Linear(H, V)

    def forward(self, tokens: Tensor, hidden: Any) -> tuple[Tensor, Any]:
        output, hidden = self.rnn(self.drop(self.encoder(tokens)), hidden)
        return self.decoder(self.drop(output)).view(-1, V), hidden

    def init_hidden(self, batch: int) -> Any:
        return self.rnn.initial_state(batch)


def repackage_hidden(h: Any) -> Any:
    return h.detach() if isinstance(h, Tensor) else tuple(repackage_hidden(v) for v in h)


@pytest.mark.parametrize("kind", [FSLSTM, StackedLSTM])
def test_the_example_runs_to_its_end(kind: type[Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, data = RNNModel(kind), torch.randint(V, (13, 4))
    hidden = model.init_hidden(4)
    for start in range(0, 12, 4):
        hidden = repackage_hidden(hidden)
        model.zero_grad()
        output, hidden = model(data[start : start + 4], hidden)
        nn.functional.cross_entropy(output, data[start + 1 : start + 5].view(-1)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        for p in model.parameters():
            p.data.add_(p.grad, alpha=-1.0)
    torch.save(model, tmp_path / "model.pt")
    own = [RNNModel, nn.Dropout, nn.Embedding, nn.Linear]
    with torch.serialization.safe_globals(own):  # as the example names its classes; the layer's are known
        read = torch.load(tmp_path / "model.pt")
    read.rnn.flatten_parameters()
    read.eval()
    model.eval()
    want, _ = model(data, model.init_hidden(4))
    torch.testing.assert_close(read(data, read.init_hidden(4))[0], want)


def test_names_of_lstm() -> None:
    layer, x = FSLSTM(X, H), torch.randn(3, 2, X)
    assert (layer.num_layers, layer.bidirectional, layer.proj_size, layer.hidden_size) == (1, False, 0, H)
    assert (StackedLSTM(X, H, 3).num_layers, StackedLSTM(X, H, 3).hidden_size) == (3, H)
    y, state = layer(input=x, hx=layer.initial_state(2))
    torch.testing.assert_close(y, layer(x)[0])
    torch.testing.assert_close(layer(x[0:1], hx=state)[0], layer(x[0:1], state)[0])
    assert layer.initial_state().fast.h.shape == (H,)
    with pytest.raises(TypeError, match="x and input are two names of one argument"):
        layer(x, input=x)
    with pytest.raises(TypeError, match="missing 1 required argument: 'x'"):
        layer()


@pytest.mark.parametrize("layer", [FSLSTM(X, H), StackedLSTM(X, H, 2)])
def test_a_state_in_the_form_of_lstm_is_refused_with_the_right_one(layer: Any) -> None:
    zeros = torch.zeros(2, 4, H)
    with pytest.raises(
        TypeError, match=r"got nn\.LSTM's \(h, c\) of \(2, 4, 8\): start from None or layer\.initial_st"
    ):
        layer(torch.randn(3, 4, X), (zeros, zeros))
