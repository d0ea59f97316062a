"""What other people's code and PyTorch's tools do with a layer, one case a function; `main` runs them.

Every case runs in a process of its own, forked where torch is loaded already, so that a segmentation fault is one
case's failure and costs no import. `python -m tests.layers.looked_at CASE...` prints a JSON line a case: [name, what
went wrong or null].
"""

from __future__ import annotations

import copy
import io
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils import prune, spectral_norm, weight_norm

from fastslow import FSLSTM, FSState, StackedLSTM
from fastslow.state import state_tensors

X, H, S, T, B = 3, 6, 4, 4, 2
CASES: dict[str, Callable[[], None]] = {}


def case(function: Callable[[], None]) -> Callable[[], None]:
    CASES[function.__name__] = function
    return function


def made(backend: str = "auto", **options: Any) -> FSLSTM:
    torch.manual_seed(0)
    return FSLSTM(X, H, S, 3, backend=backend, **options)


def sample(steps: int = T, rows: int = B, seed: int = 1) -> Tensor:
    return torch.randn(steps, rows, X, generator=torch.Generator().manual_seed(seed))


def loop(layer: FSLSTM) -> FSLSTM:
    """A copy that runs the reference."""
    twin = copy.deepcopy(layer)
    twin.backend = "reference"
    return twin


def close(got: Any, want: Any, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)


def fast(graph: Any, name: str = "fastslow.native.default") -> None:
    """The graph holds the fast engine's operator."""
    targets = [str(node.target) for node in graph.nodes]
    assert name in targets, targets


# ---------------------------------------------------------------------- recorded programs


@case
def jit_trace() -> None:
    layer = made().eval()
    with torch.no_grad():
        traced = torch.jit.trace(layer, sample(), check_trace=False)
        close(traced(sample(seed=2))[0], layer(sample(seed=2))[0])
    assert "fastslow::native" in str(traced.inlined_graph)
    stepped = torch.jit.trace_module(layer, {"forward": sample()}, check_trace=False)
    close(stepped(sample(seed=3))[0], layer(sample(seed=3))[0])


@case
def make_fx() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx as trace

    layer = made().eval()
    with torch.no_grad():
        for mode in ("real", "fake", "symbolic"):
            graph = trace(lambda x: layer(x)[0], tracing_mode=mode, _allow_non_fake_inputs=True)(sample())
            fast(graph.graph)
            x = sample(seed=2) if mode != "symbolic" else sample(7, 5, seed=2)
            close(graph(x), layer(x)[0])
        graph = trace(lambda x: layer.step(x)[0])(sample()[0])
        fast(graph.graph, "fastslow.step.default")
        close(graph(sample(seed=2)[0]), layer.step(sample(seed=2)[0])[0])


@case
def onnx_sees_the_loop() -> None:
    layer = made().eval()
    before = torch.onnx.is_in_onnx_export
    torch.onnx.is_in_onnx_export = lambda: True
    try:
        traced = torch.jit.trace(layer, sample(), check_trace=False)
    finally:
        torch.onnx.is_in_onnx_export = before
    assert "fastslow::" not in str(traced.inlined_graph)


@case
def export_and_save() -> None:
    layer, stacked = made().eval(), StackedLSTM(X, H, 2).eval()
    steps, rows = torch.export.Dim("steps"), torch.export.Dim("rows")
    for module in (layer, stacked):
        program = torch.export.export(module, (sample(),), dynamic_shapes=({0: steps, 1: rows},))
        fast(program.graph)
        file = io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        again = torch.export.load(file).module()
        close(again(sample(9, 5))[0], module(sample(9, 5))[0])
    _, state = torch.export.export(layer, (sample(),)).module()(sample())
    assert isinstance(state, FSState)

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor, state: FSState) -> tuple[Tensor, FSState]:
            return self.layer.step(x, state)

    with torch.no_grad():
        state = layer.initial_state(B)
        program = torch.export.export(Step(), (sample()[0], state))
        file = io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        y, new = torch.export.load(file).module()(sample()[0], state)
        close((y, new), layer.step(sample()[0], state))


@case
def compiled_with_any_sizes() -> None:
    from torch._dynamo.utils import counters

    for training in (False, True):
        torch.compiler.reset()
        counters.clear()
        layer = made(dropout=0.2, zoneout_h=0.1).train(training)
        compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
        for steps, rows in ((5, 7), (9, 8), (12, 2)):  # not the input size, which is known
            x = sample(steps, rows)
            torch.manual_seed(3)
            y, _ = compiled(x)
            torch.manual_seed(3)
            want, _ = layer(x)
            close(y, want)
            y.sum().backward()
            grads = [p.grad.clone() for p in layer.parameters()]
            layer.zero_grad()
            want.sum().backward()
            close(grads, [p.grad for p in layer.parameters()])
            layer.zero_grad()
        assert counters["stats"]["unique_graphs"] == 1, counters["stats"]
    with torch.no_grad():
        step = torch.compile(made().step, fullgraph=True, backend="aot_eager")
        close(step(sample()[0])[0], made().step(sample()[0])[0])


@case
def compiled_by_inductor() -> None:
    layer = made()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    y, _ = compiled(sample())
    close(y, layer(sample())[0])
    y.sum().backward()
    grads = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    layer(sample())[0].sum().backward()
    close(grads, [p.grad for p in layer.parameters()])


@case
def ahead_of_time_inductor() -> None:
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    layer = made().eval()
    rows = torch.export.Dim("rows", min=2, max=64)
    with torch.no_grad():
        program = torch.export.export(layer, (sample(),), dynamic_shapes=({1: rows},))
        package = aoti_load_package(aoti_compile_and_package(program))
        close(package(sample(rows=5))[0], layer(sample(rows=5))[0])


@case
def selective_checkpointing() -> None:
    from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

    layer, seen = made(dropout=0.3), []

    def policy(context: Any, operator: Any, *args: Any, **options: Any) -> CheckpointPolicy:
        seen.append((context.is_recompute, str(operator)))
        keep = str(operator) == "fastslow.native.default"
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    x = sample().requires_grad_()
    torch.manual_seed(1)
    y = checkpoint(
        lambda x: layer(x * 2)[0],
        x,
        use_reentrant=False,
        context_fn=lambda: create_selective_checkpoint_contexts(policy),
    )
    y.sum().backward()
    assert (False, "fastslow.native.default") in seen
    got = x.grad.clone()
    x.grad = None
    torch.manual_seed(1)
    layer(x * 2)[0].sum().backward()
    close(got, x.grad)


@case
def profiler_names() -> None:
    layer = made()
    with torch.profiler.profile() as profile:
        layer(sample())[0].sum().backward()
    names = {event.key for event in profile.key_averages()}
    # Eager windows of a layer reuse the memory of the forward pass in their backward.
    assert {"fastslow::native", "fastslow::native_backward_"} <= names, names


# ---------------------------------------------------------------------- tensors without memory


@case
def fake_tensors() -> None:
    from torch._subclasses import FakeTensorMode

    for grad in (True, False):
        with FakeTensorMode(), torch.set_grad_enabled(grad):
            layer = made()
            x = torch.randn(T, B, X)
            y, state = layer(x)
            assert y.shape == (T, B, H)
            assert layer.step(x[0], state)[0].shape == (B, H)
            assert layer.step(x[0, 0])[0].shape == (H,)
            if grad:
                y.sum().backward()
                assert layer.slow.bias.grad.shape == (4 * S,)


@case
def subclasses() -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    layer = made()
    want = layer(sample())[0]
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            y = layer(TwoTensor(sample(), sample(seed=2)))[0]
            close(y.a.detach(), want.detach())
            with torch.no_grad():
                out = layer.step(TwoTensor(sample()[0], sample(seed=2)[0]))[0]
            close(out.a, want[0].detach())
    for p in list(layer.parameters()):
        p.data = p.data  # plain
    twins = made()
    for module in twins.modules():
        for name, p in list(module._parameters.items()):
            if p is not None:
                setattr(module, name, nn.Parameter(TwoTensor(p.detach(), p.detach() * 2)))
    close(twins(sample())[0].a.detach(), want.detach())

    class Plain(Tensor):
        """A subclass with memory."""

    y = layer(sample().as_subclass(Plain))[0]
    close(torch.Tensor(y.detach()).as_subclass(Tensor), want.detach())


@case
def zero_tensors() -> None:
    layer = made()
    zero = torch._efficientzerotensor((T, B, X))
    close(layer(zero)[0], layer(torch.zeros(T, B, X))[0])
    with torch.no_grad():
        close(layer.step(zero[0])[0], layer.step(torch.zeros(B, X))[0])


@case
def distributed_tensors() -> None:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_module

    dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
    layer = distribute_module(made(), init_device_mesh("cpu", (1,)))
    told = refusal(lambda: layer(sample()))
    assert "fastslow.native" in told or "DTensor" in told, told


# ---------------------------------------------------------------------- hooks of cells


def _as_loop(layer: FSLSTM, x: Tensor) -> None:
    """Windows, gradients and steps are those of the loop with the weights that the hooks give."""
    found = []
    for backend in ("auto", "reference"):
        layer.backend = backend
        y = layer(x)[0]
        with torch.no_grad():
            step = layer.step(x[0])[0]
        found.append((y, step, torch.autograd.grad(y.square().sum(), list(layer.parameters()))))
    layer.backend = "auto"
    close(found[0], found[1])
    close(found[0][0][0], found[0][1])


@case
def pruned() -> None:
    layer, x = made(), sample()
    before = layer(x)[0]
    prune.l1_unstructured(layer.fast[1], "weight_hh", 0.6)
    _as_loop(layer, x)
    after = layer(x)[0]
    assert not torch.allclose(after, before)
    other = made()
    prune.identity(other.fast[1], "weight_hh")
    other(x)
    other.load_state_dict(layer.state_dict())
    close(other(x)[0], after)
    prune.remove(layer.fast[1], "weight_hh")
    close(layer(x)[0], after)


@case
def normed_weights() -> None:
    warnings.simplefilter("ignore")
    x = sample()
    layer = made()
    weight_norm(layer.fast[0], "weight_hh")
    _as_loop(layer, x)
    before = layer(x)[0]
    with torch.no_grad():
        layer.fast[0].weight_hh_g.mul_(3)
    assert not torch.allclose(layer(x)[0], before)
    other = made()
    weight_norm(other.fast[0], "weight_hh")
    other.load_state_dict(layer.state_dict())
    close(other(x)[0], layer(x)[0])
    layer = made()
    spectral_norm(layer.slow, "weight_hh")
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    for _ in range(3):
        layer(x)[0].square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    _as_loop(layer.eval(), x)


@case
def offloaded() -> None:
    """As accelerate does it: another `forward` brings the weights, calls the old one and takes them away again."""
    layer, x = made(), sample()
    want = layer(x)[0].detach()
    for module in [m for m in layer.modules() if m._parameters and any(p is not None for p in m._parameters.values())]:
        kept = {name: p.detach().clone() for name, p in module._parameters.items() if p is not None}

        def place(module: nn.Module, kept: dict[str, Tensor], device: str) -> None:
            for name, value in kept.items():
                data = value if device == "cpu" else value.to("meta")
                module._parameters[name] = nn.Parameter(data, requires_grad=False)

        def forward(
            *args: Any, module: nn.Module = module, kept: dict[str, Tensor] = kept, old: Any = module.forward
        ) -> Any:
            place(module, kept, "cpu")
            out = old(*args)
            place(module, kept, "meta")
            return out

        place(module, kept, "meta")
        module.forward = forward
    with torch.no_grad():
        close(layer(x)[0], want)
        close(layer.step(x[0])[0], want[0])
    assert layer.slow.bias.is_meta


@case
def hooks_run_once_a_window() -> None:
    layer, calls = made(), []
    layer.slow.register_forward_pre_hook(lambda module, args: calls.append("before"))
    layer.slow.register_forward_hook(lambda module, args, out: calls.append(tuple(out[0].shape)))
    layer(sample())
    assert calls == ["before", (T, B, H)], calls
    with torch.no_grad():
        layer.step(sample()[0])
    assert len(calls) == 4


# ---------------------------------------------------------------------- derivatives


@case
def second_derivatives() -> None:
    layer = made(dtype=torch.float64)
    twin, x = loop(layer), sample(2, 1).double()

    def f(layer: FSLSTM) -> Callable[[Tensor], Tensor]:
        return lambda x: layer(x)[0].square().sum()

    functional = torch.autograd.functional
    want = functional.hessian(f(twin), x)
    assert want.abs().max() > 1e-3
    close(functional.hessian(f(layer), x), want)
    v = torch.ones_like(x)
    close(functional.hvp(f(layer), x, v), functional.hvp(f(twin), x, v))
    found = []
    for each in (layer, twin):
        given = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(each(given)[0].sum(), given, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), [given, *each.parameters()], allow_unused=True))
    assert all(grad is not None for grad in found[0][:3])
    close([g for g in found[0] if g is not None], [g for g in found[1] if g is not None])


@case
def forward_mode() -> None:
    layer = made(dtype=torch.float64)
    x = sample().double()
    with forward_ad.dual_level():
        warnings.simplefilter("ignore")
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        tangent = forward_ad.unpack_dual(layer(dual)[0]).tangent
    step = 1e-6
    close(tangent, (layer(x + step)[0] - layer(x - step)[0]) / (2 * step), 1e-6)


# ---------------------------------------------------------------------- states


@case
def states_on_the_disk() -> None:
    layer = made()
    _, state = layer(sample())
    file = io.BytesIO()
    torch.save({"state": state.detach(), "layer": layer.state_dict()}, file)
    file.seek(0)
    read = torch.load(file, weights_only=True)["state"]
    assert type(read) is FSState
    close(state_tensors(read), state_tensors(state.detach()))
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    close(torch.load(file, weights_only=True)(sample())[0], layer(sample())[0])


@case
def idioms_of_lstm() -> None:
    layer = made()
    _, (h, c) = layer(sample())
    wrong = {
        "state.fast.h": lambda: h[-1],
        "state.h or state.c": lambda: c[0],
        "write state.fast or state.slow": lambda: layer(sample())[1][0],
        "it is not a tensor": lambda: h.view(-1),
        "layer.initial_state(batch_size)": lambda: layer(sample(), (torch.zeros(2, B, H), torch.zeros(2, B, H))),
    }
    for message, code in wrong.items():
        told = refusal(code)
        assert message in told, told
        assert "\n" not in told, told


def refusal(code: Callable[[], Any]) -> str:
    """What it is refused with."""
    try:
        code()
    except (TypeError, AttributeError, RuntimeError) as error:
        return str(error)
    raise AssertionError("it was not refused")


# ---------------------------------------------------------------------- several processes


def _two_ranks(work: Callable[[int], None]) -> None:
    """`work(rank)` in two forked processes that form a group."""
    import tempfile

    import torch.distributed as dist

    with tempfile.TemporaryDirectory() as folder:
        children = []
        for rank in (0, 1):
            child = os.fork()
            if child == 0:
                failed = 1
                try:
                    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
                    work(rank)
                    failed = 0
                except BaseException:
                    traceback.print_exc()
                os._exit(failed)
            children.append(child)
        ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert ended == [0, 0], ended


def _whole(layer: FSLSTM) -> list[Tensor]:
    """The gradients of the mean over both ranks' rows."""
    (layer(sample(rows=4))[0].square().sum() / 2).backward()
    grads = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
    layer.zero_grad()
    return grads


def _parallel(rank: int, compiled: bool) -> None:
    layer = made()
    want = _whole(layer)
    model: Any = nn.parallel.DistributedDataParallel(layer)
    if compiled:
        model = torch.compile(model, backend="aot_eager")
    for _ in range(2):
        model(sample(rows=4)[:, 2 * rank : 2 * rank + 2])[0].square().sum().backward()
        close([p.grad for p in layer.parameters()], want)
        layer.zero_grad()


@case
def data_parallel() -> None:
    _two_ranks(lambda rank: _parallel(rank, compiled=False))


@case
def data_parallel_compiled() -> None:
    _two_ranks(lambda rank: _parallel(rank, compiled=True))


@case
def fully_sharded() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def work(rank: int) -> None:
        mesh = init_device_mesh("cpu", (2,))
        for every_cell in (True, False):
            layer = made()
            want, twin = _whole(layer), loop(layer)
            if every_cell:
                for cell in (*layer.fast, layer.slow):
                    fully_shard(cell, mesh=mesh)
            fully_shard(layer, mesh=mesh)
            optimizer = torch.optim.SGD(layer.parameters(), 0.01)
            rows = sample(rows=4)[:, 2 * rank : 2 * rank + 2]
            for _ in range(2):
                optimizer.zero_grad()
                layer(rows)[0].square().sum().backward()
                close([p.grad.full_tensor() for p in layer.parameters()], want)
            optimizer.step()
            with torch.no_grad():
                for p, grad in zip(twin.parameters(), want, strict=True):
                    p.sub_(grad, alpha=0.01)
                close(layer(rows)[0], twin(rows)[0])

    _two_ranks(work)


@case
def forked_after_two_threads() -> None:
    from fastslow.backends.native import call

    call.split_threads = lambda *given: (2, 2)
    torch.set_num_threads(2)
    layer, x = made(), sample(rows=8)
    y = layer(x)[0]
    y.sum().backward()
    want = layer.slow.weight_hh.grad.clone()
    layer.zero_grad()
    child = os.fork()
    if child == 0:
        again = layer(x)[0]
        again.sum().backward()
        same = torch.allclose(again, y) and torch.allclose(layer.slow.weight_hh.grad, want, atol=1e-4)
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _child(layer: FSLSTM, x: Tensor, results: Any) -> None:
    y, state = layer(x)
    y.sum().backward()
    results.put((y.detach().numpy(), state.fast.h.detach().numpy()))


@case
def spawned() -> None:
    context = torch.multiprocessing.get_context("spawn")
    layer, results = made().share_memory(), context.Queue()
    process = context.Process(target=_child, args=(layer, sample(), results))
    process.start()
    y, h = results.get(timeout=300)
    process.join()
    close(torch.from_numpy(y), layer(sample())[0].detach())
    close(torch.from_numpy(h), layer(sample())[1].fast.h.detach())


def run(name: str) -> str | None:
    """What went wrong in a process of its own, or None."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        told = ""
        try:
            CASES[name]()
        except BaseException:
            told = traceback.format_exc()
        with os.fdopen(writing, "w") as pipe:
            pipe.write(told)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return told or (None if status == 0 else f"it ended with status {status}")


def main(names: list[str]) -> None:
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork: the cases' processes would wait for them
    made()(sample())  # what is compiled and checked once is so before the forks
    for name in names:
        print(json.dumps([name, run(name)]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(CASES))
