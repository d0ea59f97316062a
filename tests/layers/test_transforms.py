"""What torch does to modules - transforms, other types and devices, parametrizations, replaced weights - done to the
layer: it gives the reference's numbers afterwards, or says in one error why not."""

from __future__ import annotations

import copy
import pickle
import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from fastslow import FSLSTM, SequentialLSTM, StackedLSTM
from fastslow.backends import choose
from fastslow.state import state_tensors

X, H, T, B = 3, 5, 4, 2
DOUBLE = torch.float64
engines = pytest.mark.parametrize("backend", ["auto", "window", "reference"])


def made(seed: int = 0, **options) -> FSLSTM:
    torch.manual_seed(seed)
    return FSLSTM(X, H, 4, 3, **{"dtype": DOUBLE, **options})


def sample(steps: int = T, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(steps, B, X, dtype=dtype, generator=torch.Generator().manual_seed(1))


def assert_as_reference(layer: FSLSTM) -> None:
    """Windows and single steps, which keep packed weights, give what a fresh copy's loop gives."""
    x = sample(dtype=layer.fast[0].gate_norm.weight.dtype)
    twin = copy.deepcopy(layer)
    twin.backend = "reference"
    y, state = twin(x)
    torch.testing.assert_close(layer(x)[0], y)
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[0], y)
        part = None
        for t in range(T):
            out, part = layer.step(x[t], part)
            torch.testing.assert_close(out, y[t])
    for got, want in zip(state_tensors(part), state_tensors(state), strict=True):
        torch.testing.assert_close(got, want)


# ---------------------------------------------------------------------- weights that change


def in_place(layer: FSLSTM) -> None:
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(1.2)


def by_data(layer: FSLSTM) -> None:
    layer.fast[1].weight_hh.data = torch.randn(4 * H, H, dtype=DOUBLE)
    layer.slow.weight_ih.data.mul_(2)


def new_parameter(layer: FSLSTM) -> None:
    layer.fast[0].weight_hh = nn.Parameter(torch.randn(4 * H, H, dtype=DOUBLE))


def not_contiguous(layer: FSLSTM) -> None:
    layer.fast[0].weight_hh = nn.Parameter(torch.randn(H, 4 * H, dtype=DOUBLE).t())


def loaded(layer: FSLSTM) -> None:
    layer.load_state_dict(made(1).state_dict())


def assigned(layer: FSLSTM) -> None:
    layer.load_state_dict({name: value.clone() for name, value in made(1).state_dict().items()}, assign=True)


def by_vector(layer: FSLSTM) -> None:
    vector = nn.utils.parameters_to_vector(layer.parameters())
    nn.utils.vector_to_parameters(vector.detach() * 0.9, layer.parameters())


def optimised(layer: FSLSTM) -> None:
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1, fused=True)
    layer(sample())[0].sum().backward()
    nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
    optimizer.step()


def emptied(layer: FSLSTM) -> None:
    layer.to_empty(device="cpu").reset_parameters()


def other_cell(layer: FSLSTM) -> None:
    layer.slow = made(1).slow


def tied(layer: FSLSTM) -> None:
    layer.fast[1].weight_hh = layer.fast[0].weight_hh


CHANGES = [
    in_place,
    by_data,
    new_parameter,
    not_contiguous,
    loaded,
    assigned,
    by_vector,
    optimised,
    emptied,
    other_cell,
    tied,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changed_weights_are_seen(change) -> None:
    layer = made()
    before = layer(sample())[0]
    assert_as_reference(layer)
    change(layer)
    assert not torch.allclose(layer(sample())[0], before, atol=1e-4)
    assert_as_reference(layer)


@engines
def test_weights_changed_before_their_backward_pass_are_an_error(backend: str) -> None:
    layer = made(backend=backend)
    total = layer(sample())[0].sum()
    in_place(layer)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


@engines
def test_requires_grad_changes_midway(backend: str) -> None:
    layer, x = made(backend=backend), sample()
    layer(x)[0].sum().backward()
    want = layer.fast[1].bias.grad.clone()
    layer.zero_grad()
    layer.requires_grad_(False)
    assert not layer(x)[0].requires_grad
    layer.fast[1].bias.requires_grad_(True)
    layer(x)[0].sum().backward()
    torch.testing.assert_close(layer.fast[1].bias.grad, want)
    assert [name for name, p in layer.named_parameters() if p.grad is not None] == ["fast.1.bias"]
    layer.requires_grad_(False)
    x.requires_grad_(True)
    layer(x)[0].sum().backward()
    assert bool(x.grad.abs().sum() > 0)


# ---------------------------------------------------------------------- types and devices


def test_types_change_midway() -> None:
    layer = made()
    for dtype in (torch.float32, torch.bfloat16, torch.float16, DOUBLE):
        layer.to(dtype)
        x = sample(dtype=dtype)
        y, state = layer(x)
        y.sum().backward()
        assert {y.dtype, *(leaf.dtype for leaf in state_tensors(state))} == {dtype}
        assert all(p.grad.dtype == dtype and bool(p.grad.isfinite().all()) for p in layer.parameters())
        with torch.no_grad():
            assert layer.step(x[0])[0].dtype == dtype
        layer.zero_grad()
    assert_as_reference(layer)
    assert layer.half().fast[0].bias.dtype == torch.float16
    assert layer.bfloat16().fast[0].bias.dtype == torch.bfloat16


@pytest.mark.parametrize("backend", ["auto", "native", "window", "reference"])
def test_weights_of_several_types_are_refused(backend: str) -> None:
    layer, x = made(backend=backend), sample()
    layer.slow.to(torch.float32)
    message = "cell 'slow' has a weight that is torch.float32 on cpu: move the layer"
    with pytest.raises(RuntimeError, match=message):
        layer(x)
    with torch.no_grad(), pytest.raises(RuntimeError, match=message):
        layer.step(x[0])


@pytest.mark.parametrize("backend", ["auto", "window", "reference"])
def test_weights_elsewhere_are_refused(backend: str) -> None:
    there, x = made(backend=backend, device="meta"), sample()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            with pytest.raises(
                RuntimeError, match=r"x is torch.float64 on cpu and cell 'fast.0' has a weight .* on meta"
            ):
                there(x)
            with pytest.raises(RuntimeError, match="on meta"):
                there.step(x[0])
    with pytest.raises(RuntimeError, match="on cpu"):
        made()(x.to("meta"))
    partly = made()
    partly.slow.to("meta")
    with pytest.raises(RuntimeError, match=r"cell 'slow' has a weight that is torch.float64 on meta"):
        partly(x)


def test_the_default_type_is_followed() -> None:
    torch.set_default_dtype(DOUBLE)
    try:
        torch.manual_seed(0)
        layer = FSLSTM(X, H, 4, 3, zoneout_c=0.1)
        assert_as_reference(layer.eval())
        single = made(dtype=torch.float32, dropout=0.2, zoneout_h=0.1)
        x = sample(dtype=torch.float32)
        torch.manual_seed(1)
        y = single(x)[0]
        single.backend = "reference"
        torch.manual_seed(1)
        torch.testing.assert_close(single(x)[0], y, atol=1e-3, rtol=1e-3)
        assert y.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_meta_to_numbers() -> None:
    layer = made()
    shapes = made(device="meta", dropout=0.1, zoneout_h=0.1)
    x = torch.empty(T, B, X, dtype=DOUBLE, device="meta")
    y, state = shapes(x, lengths=[1, T])
    assert y.is_meta
    assert y.shape == (T, B, H)
    assert [leaf.shape for leaf in state_tensors(state)] == [(B, H), (B, H), (B, 4), (B, 4)]
    with torch.no_grad():
        assert shapes.step(x[0])[0].is_meta
    assert str(shapes.backend_for(x)).startswith("reference")
    emptied_ = made(device="meta").to_empty(device="cpu")
    emptied_.load_state_dict(layer.state_dict())
    assigned_ = made(device="meta")
    assigned_.load_state_dict(layer.state_dict(), assign=True)
    with torch.device("meta"):
        assert FSLSTM(X, H).slow.bias.is_meta
    for twin in (emptied_, assigned_):
        torch.testing.assert_close(twin(sample())[0], layer(sample())[0])
        assert_as_reference(twin)


def test_autocast_nests() -> None:
    layer, x = made(dtype=torch.float32), sample(dtype=torch.float32)
    exact = layer(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        first = layer(x)[0]
        with torch.autocast("cpu", enabled=False):
            inside = layer(x)[0]
        again = layer(x)[0]
    assert torch.equal(inside, exact)
    assert torch.equal(first, again)
    assert first.dtype == torch.float32
    assert torch.equal(layer(x)[0], exact)


def test_inference_mode() -> None:
    layer, x = made(), sample()
    with torch.inference_mode():
        y, state = layer(x)
        out, _ = layer.step(x[0])
    torch.testing.assert_close(out, y[0])
    torch.testing.assert_close(y, layer(x)[0])
    layer(x, state)[0].sum().backward()  # a state may come from there
    assert_as_reference(layer)


# ---------------------------------------------------------------------- weights that are computed


@pytest.mark.parametrize(
    "norm", [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal]
)
def test_parametrized_weights(norm) -> None:
    layer = made()
    assert_as_reference(layer)
    for cell in (layer.fast[0], layer.slow):
        norm(cell, "weight_hh")
    layer.eval()  # spectral_norm counts on in training
    assert_as_reference(layer)
    layer(sample())[0].sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    in_place(layer)
    assert_as_reference(layer)
    with pytest.raises(RuntimeError, match=r"has parametrized weights.*remove_parametrizations"):
        layer.round_to_int8_()
    y = layer(sample())[0]
    for cell in (layer.fast[0], layer.slow):
        parametrize.remove_parametrizations(cell, "weight_hh")
    torch.testing.assert_close(layer(sample())[0], y)
    assert_as_reference(layer)
    layer.round_to_int8_()


def test_replicas_as_data_parallel_makes_them() -> None:
    layer, x = made(), sample()
    replica = replicated(layer)
    y = replica(x)[0]
    torch.testing.assert_close(y, layer(x)[0])
    with torch.no_grad():
        torch.testing.assert_close(replica.step(x[0])[0], y[0])
    y.sum().backward()
    layer_grads = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    layer(x)[0].sum().backward()
    torch.testing.assert_close(layer_grads, [p.grad for p in layer.parameters()])


def replicated(layer: nn.Module) -> nn.Module:
    """Copies of the modules whose weights are tensors computed from the parameters."""
    modules = list(layer.modules())
    copies = {module: module._replicate_for_data_parallel() for module in modules}
    for module, twin in copies.items():
        for name, child in module._modules.items():
            twin._modules[name] = None if child is None else copies[child]
        for name, parameter in module._parameters.items():
            twin._parameters[name] = None
            if parameter is not None:
                del twin._parameters[name]
                setattr(twin, name, parameter * 1.0)
    return copies[layer]


def test_copies_go_their_own_way() -> None:
    layer = made()
    assert_as_reference(layer)
    before = layer(sample())[0]
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer.share_memory())):
        in_place(twin)
        assert_as_reference(twin)
        torch.testing.assert_close(layer(sample())[0], before)


# ---------------------------------------------------------------------- torch.func


def test_functional_call_and_its_derivatives() -> None:
    layer, x = made(), sample(2)
    weights = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(layer, weights, (x,))[0].square().sum()

    grads = torch.func.grad(loss)(weights, x)
    loss(dict(layer.named_parameters()), x).backward()
    for name, p in layer.named_parameters():
        torch.testing.assert_close(grads[name], p.grad)
    each = torch.func.vmap(torch.func.grad(loss), (None, 1))(weights, x.unsqueeze(2))
    for name, p in layer.named_parameters():
        torch.testing.assert_close(each[name].sum(0), p.grad)
    stacked, _ = torch.func.stack_module_state([made(0), made(1)])
    together = torch.func.vmap(lambda w: torch.func.functional_call(layer, w, (x,))[0])(stacked)
    torch.testing.assert_close(together[1], made(1)(x)[0])
    back = torch.func.jacrev(lambda x: layer(x)[0].sum((0, 1)))(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch's own forward mode
        torch.testing.assert_close(torch.func.jacfwd(lambda x: layer(x)[0].sum((0, 1)))(x), back)


def test_functional_call_of_a_step_reads_the_weights_it_is_given() -> None:
    class Step(nn.Module):
        def __init__(self, layer: FSLSTM) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.layer.step(x)[0]

    layer, other, x = made(), made(1), sample()
    with torch.no_grad():
        layer.step(x[0])
        weights = {f"layer.{name}": value for name, value in other.state_dict().items()}
        got = torch.func.functional_call(Step(layer), weights, (x[0],))
        torch.testing.assert_close(got, other.step(x[0])[0])
    assert_as_reference(layer)


def test_masks_under_vmap_are_drawn_as_it_is_told() -> None:
    layer, x = made(dropout=0.3), sample().unsqueeze(2)
    one = torch.func.vmap(lambda x: layer(x)[0], 1, randomness="same")(x)
    assert one.shape == (B, T, 1, H)
    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(lambda x: layer(x)[0], 1)(x)


@pytest.mark.parametrize("backend", ["auto", "window"])
def test_second_derivatives_are_the_references(backend: str) -> None:
    layer, found = made(backend=backend), []
    for name in (backend, "reference"):
        layer.backend = name
        layer.zero_grad()
        x = sample(2).requires_grad_(True)
        (grad,) = torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)
        (layer(x)[0].sum() + grad.square().sum()).backward()  # a penalty
        found.append([x.grad, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(found[0], found[1])
    layer.backend = backend
    torch.autograd.gradgradcheck(lambda x: layer(x)[0], (sample(2)[:, :1].requires_grad_(True),))


# ---------------------------------------------------------------------- compilation


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make", [made, lambda: StackedLSTM(X, H, 1, dtype=DOUBLE), lambda: SequentialLSTM(X, H, dtype=DOUBLE)]
)
def test_compile_takes_the_whole_layer(make) -> None:
    torch.compiler.reset()
    layer, x = make(), sample(2)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    y, _ = compiled(x)
    torch.testing.assert_close(y, layer(x)[0])
    y.sum().backward()
    grads = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    layer(x)[0].sum().backward()
    torch.testing.assert_close(grads, [p.grad for p in layer.parameters()])


@pytest.mark.filterwarnings("ignore")
def test_compile_takes_masks_lengths_and_steps() -> None:
    torch.compiler.reset()
    layer, x = made(dropout=0.3, zoneout_c=0.2), sample(2)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.manual_seed(3)
    y = compiled(x)[0]
    torch.manual_seed(3)
    torch.testing.assert_close(layer(x)[0], y)  # the same masks
    layer.eval()
    lengths = torch.tensor([1, 2])
    torch.testing.assert_close(compiled(x, lengths=lengths)[0], layer(x, lengths=lengths)[0])
    with torch.no_grad():
        step = torch.compile(layer.step, fullgraph=True, backend="eager")
        torch.testing.assert_close(step(x[0])[0], layer.step(x[0])[0])


@pytest.mark.filterwarnings("ignore")
def test_compile_of_an_engine_that_cannot_run_says_so() -> None:
    torch.compiler.reset()
    layer = made(backend="native").bfloat16()
    with pytest.raises(RuntimeError, match="backend 'native' cannot run this: it computes in float32 and float64"):
        torch.compile(layer, backend="eager")(sample(1, torch.bfloat16))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compile_through_inductor() -> None:
    torch.compiler.reset()
    layer, x = made(), sample(2)
    y = torch.compile(layer, fullgraph=True)(x)[0]
    torch.testing.assert_close(y, layer(x)[0])
    y.sum().backward()


@pytest.mark.filterwarnings("ignore")
def test_export_of_a_window() -> None:
    layer, x = made().eval(), sample(2)
    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(layer, (x,), dynamic_shapes=({1: rows},))
    wide = torch.randn(2, 7, X, dtype=DOUBLE)
    torch.testing.assert_close(program.module()(wide)[0], layer(wide)[0])


def test_the_choice_says_why_when_only_the_loop_will_do() -> None:
    layer = made()
    problem = replace(layer._problem(sample()), traced=True)
    assert choose(problem).name == "reference"
    assert "torch.func, forward-mode differentiation and ONNX export need the reference loop" in str(choose(problem))
    with pytest.raises(RuntimeError, match=r"backend 'window' cannot run this: torch\.func, forward-mode"):
        choose(problem, "window")


# ---------------------------------------------------------------------- another default device


@engines
def test_the_default_device_is_not_where_the_layer_runs(backend: str) -> None:
    """As after `torch.set_default_device("cuda")`: kernels read addresses, which must be those of memory of the CPU."""
    layer, x = made(backend=backend), sample()
    want, state = layer(x, lengths=[1, T])
    one = layer(x[:1])[0][0]
    with torch.device("meta"):
        for lengths in ([1, T], torch.tensor([1, T], device="cpu")):
            y, new = layer(x, lengths=lengths)
            torch.testing.assert_close((y, new), (want, state))
            y.sum().backward()
        with torch.no_grad():
            torch.testing.assert_close(layer.step(x[0])[0], one)
            torch.testing.assert_close(layer.step(x[0, 0])[0], one[0])
            if backend == "auto":
                layer.round_to_int8_()
                layer.step(x[0])
