"""The simulated GPU shows what it is for: each fault here is one that a test on the processor alone would pass."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from simulated_cuda import CUDA, DeviceTensor, Gpu, simulated


@pytest.fixture(autouse=True)
def gpu() -> Iterator[Gpu]:
    with simulated() as simulation:
        yield simulation


def capture(graph: torch.cuda.CUDAGraph | None = None, stream: torch.cuda.Stream | None = None):
    graph, stream = graph or torch.cuda.CUDAGraph(), stream or torch.cuda.Stream()
    return torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local")


def captured(work: Callable[[], object]) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with capture(graph):
        work()
    return graph


@pytest.mark.parametrize("place", ["cuda", "cuda:0", CUDA, torch.device("cuda")])
def test_tensors_move_there_and_back(place):
    host = torch.randn(3, 4)
    there = host.to(place)
    assert isinstance(there, DeviceTensor) and there.device == CUDA and there.is_cuda
    assert there.to(place) is there and there.to(place, torch.float64).dtype == torch.float64
    assert type(there.cpu()) is Tensor and torch.equal(there.cpu(), host) and there.tolist() == host.tolist()
    assert torch.zeros(2, device=place).is_cuda and torch.tensor([1.0], device=place).is_cuda
    assert torch.equal(there[[2, 0]].cpu(), host[[2, 0]]) and torch.equal(there[:, [1]].cpu(), host[:, [1]])
    with pytest.raises((TypeError, RuntimeError)):
        there.numpy()


def test_a_network_has_its_gradients_there():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
    images = torch.randn(8, 3, 5, 5)
    net(images).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    net.to(CUDA)
    assert all(isinstance(parameter, nn.Parameter) and parameter.is_cuda for parameter in net.parameters())
    net(images.to(CUDA)).square().sum().backward()
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        assert parameter.grad.is_cuda and torch.equal(parameter.grad.cpu(), gradient)


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.stack([x, torch.ones(3)]),
        lambda x: torch.where(x > 0, x, torch.ones(3)),
        lambda x: nn.functional.linear(x, torch.ones(2, 3)),
        lambda x: torch.stack([x.sum(), torch.tensor(1.0)]),
    ],
)
def test_two_devices_are_refused(work):
    with pytest.raises(RuntimeError, match="same device"):
        work(torch.zeros(3, device=CUDA))
    assert (torch.zeros(3, device=CUDA) + torch.tensor(2.0)).tolist() == [2.0] * 3  # a number is not


WAITS = {
    "item": lambda x: x.sum().item(),
    "to the host": lambda x: x.cpu(),
    "from the host": lambda x: torch.ones(3).to(CUDA),
    "a constant": lambda x: torch.tensor(1.0, device=CUDA),
    "a constant like a tensor": lambda x: x.new_tensor(1.0),
    "indices of the host": lambda x: x[torch.tensor([0, 2])],
    "a list of indices": lambda x: x[[0, 2]],
    "a mask": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
    "a count": lambda x: torch.bincount(x.long()),
    "repeats": lambda x: x.repeat_interleave(x.long()),
    "a solution": lambda x: torch.linalg.solve(x.diag(), x),
}


@pytest.mark.parametrize("name", WAITS)
def test_waiting_is_seen_and_is_refused_in_a_capture(name, gpu):
    x = torch.ones(3, device=CUDA)
    torch.cuda.set_sync_debug_mode("warn")
    with pytest.warns(UserWarning, match="called a synchronizing CUDA operation") as caught:
        WAITS[name](x)
    assert caught[0].filename == __file__
    torch.cuda.set_sync_debug_mode("default")
    with pytest.raises(RuntimeError, match="previous error during capture") as broken:
        captured(lambda: WAITS[name](x))
    assert "not permitted when stream is capturing" in str(broken.value.__context__)
    assert not gpu.is_capturing and gpu.numbers_wait


def test_other_work_waits_for_nothing():
    x = torch.ones(3, device=CUDA)
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x.add_(x.sum()).to(CUDA, torch.float64)


def test_copies_to_the_host_end_when_something_waits():
    target = torch.zeros(3, pin_memory=True)
    target.copy_(torch.ones(3, device=CUDA), non_blocking=True)
    moved = torch.ones(3, device=CUDA).to("cpu", non_blocking=True)
    assert target.isnan().all() and moved.isnan().all()
    event = torch.cuda.Event()
    event.record()
    event.synchronize()
    assert target.tolist() == moved.tolist() == [1.0] * 3


@pytest.mark.parametrize(
    "work", [lambda host, there: there.copy_(host, True), lambda host, there: host.copy_(there, True)]
)
def test_memory_that_is_not_pinned_would_be_waited_for(work):
    assert torch.zeros(3).pin_memory().is_pinned() and torch.zeros(3, pin_memory=True)[1:].is_pinned()
    assert not torch.zeros(3).is_pinned()
    with pytest.raises(AssertionError, match="not pinned"):
        work(torch.zeros(3), torch.zeros(3, device=CUDA))


def test_a_capture_has_a_stream_of_its_own():
    with pytest.raises(RuntimeError, match="non-default stream"), capture(stream=torch.cuda.current_stream()):
        pass
    other = torch.cuda.Stream()
    with torch.cuda.stream(other):
        assert torch.cuda.current_stream() is other
    assert torch.cuda.current_stream() is not other


def test_what_a_broken_capture_leaves_behind():
    x = torch.ones(3, device=CUDA)
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="previous error during capture"), capture(graph):
        x.tolist()
    with pytest.raises(RuntimeError, match="Offset increment"):
        torch.rand(3, device=CUDA)
    (generator,) = torch.cuda.default_generators
    generator.graphsafe_set_state(generator.clone_state())
    torch.rand(3, device=CUDA)
    for call in (graph.pool, graph.replay):
        with pytest.raises(RuntimeError, match="without a preceding successful capture"):
            call()
    captured(lambda: x * 2)
    del graph, call
    gc.collect()
    with pytest.raises(AssertionError, match="a graph that is gone"):
        captured(lambda: x * 2)


def test_python_that_goes_wrong_ends_a_capture_well():
    with pytest.raises(ZeroDivisionError):
        captured(lambda: torch.rand(3, device=CUDA) / (1 // 0))
    torch.rand(3, device=CUDA)


def test_fused_updates_want_equal_strides():
    weight = nn.Parameter(torch.ones(2, 3, 4, 4, device=CUDA).to(memory_format=torch.channels_last))
    weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.SGD([weight], 0.1, momentum=0.9, fused=True)
    optimizer.step()
    optimizer.state[weight]["momentum_buffer"] = torch.zeros(weight.shape, device=CUDA)
    with pytest.raises(RuntimeError, match="strides"):
        optimizer.step()


@pytest.mark.parametrize("is_new", [False, True])
def test_the_source_of_a_copy_may_not_change_before_it_ends(is_new):
    source, target = torch.zeros(3).pin_memory(), torch.empty(3, device=CUDA)
    _ = source.to(CUDA, non_blocking=True) if is_new else target.copy_(source, non_blocking=True)
    torch.cuda.synchronize()  # now it has ended
    source.fill_(1)
    _ = source.to(CUDA, non_blocking=True) if is_new else target.copy_(source, non_blocking=True)
    source.fill_(2)
    with pytest.raises(AssertionError, match="has changed meanwhile"):
        torch.cuda.synchronize()


def test_a_capture_does_nothing_and_a_replay_all_of_it():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout()).to(CUDA)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, fused=True)
    images = torch.randn(4, 3).to(CUDA)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = net(images).square().sum()
        loss.backward()
        optimizer.step()
        return loss

    step()
    before = {key: value.tolist() for key, value in net.state_dict().items()}
    numbers = torch.cuda.get_rng_state()
    found: list[Tensor] = []
    graph = captured(lambda: found.append(step()))
    assert {key: value.tolist() for key, value in net.state_dict().items()} == before
    assert torch.equal(torch.cuda.get_rng_state(), numbers) and found[0].isnan()
    graph.replay()
    graph.replay()
    replayed = {key: value.tolist() for key, value in net.state_dict().items()}
    assert replayed != before and not found[0].isnan()


def test_a_replay_has_the_python_of_its_capture():
    """So a counter stands still, and a number on the host is what it was."""
    count, scale, x = [0], torch.tensor(2.0), torch.zeros((), device=CUDA)

    def work() -> None:
        count[0] += 1
        x.add_(count[0] * scale)

    graph = captured(work)
    scale.fill_(5)
    for _ in range(3):
        graph.replay()
    assert count == [1] and x.item() == 3 * 2


def test_a_replay_reads_and_writes_the_memory_of_its_capture():
    inputs, y = [torch.ones(3, device=CUDA)], torch.zeros(3, device=CUDA)
    graph = captured(lambda: y.copy_(2 * inputs[0]))
    inputs[0].mul_(5)
    graph.replay()
    assert y.tolist() == [10.0] * 3
    other = inputs[0].clone()
    inputs[0] = inputs[0][1:]
    graph.replay()  # a part of that memory is held
    inputs.clear()
    with pytest.raises(AssertionError, match="which is freed"):
        graph.replay()
    assert other.tolist() == [5.0] * 3


def test_random_numbers_are_its_own():
    torch.manual_seed(3)
    host = torch.get_rng_state()
    first = torch.rand(3, device=CUDA)
    assert torch.equal(torch.get_rng_state(), host)
    state = torch.cuda.get_rng_state()
    second = torch.rand(3, device=CUDA)
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.rand(3, device=CUDA).cpu(), second.cpu()) and not torch.equal(first.cpu(), second.cpu())


def test_manual_seed_reaches_it():
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(torch.rand(3, device=CUDA).tolist())
    assert drawn[0] == drawn[1]
