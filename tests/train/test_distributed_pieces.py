"""What processes compute together, against one process in float64."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import distributed_pieces as pieces
import pytest
import torch
from torch import nn
from torch.distributed import DistStoreError, HashStore

from adderkit import collectives
from adderkit.data import DataConfig, Share, load
from adderkit.nn import SyncBatchNorm, batch_norm_of_all, synchronise
from adderkit.train.evaluate import evaluate
from adderkit.train.meeting import common_name

pytestmark = pytest.mark.timeout(900)  # of the fixture, on a busy machine


@pytest.fixture
def results(distributed_runs) -> list[dict[str, Any]]:
    return [result["pieces"] for result in distributed_runs["two"]["results"]]


def test_shares_are_the_whole_batch():
    """However many processes and parts: the same images with the same augmentation, in the same place of a part."""
    data = load(DataConfig(name="digits", train_rows="0:100", flip=True, crop_padding=2))
    whole = list(data.train.batches(24, seed=3, epoch=1, start=1))
    for processes, parts in ((1, 3), (2, 1), (3, 2), (4, 3)):
        shared = [
            list(data.train.batches(24, seed=3, epoch=1, start=1, share=Share(process, processes, parts)))
            for process in range(processes)
        ]
        for step, (images, labels) in enumerate(whole):
            for part, (part_images, part_labels) in enumerate(
                zip(images.chunk(parts), labels.chunk(parts), strict=True)
            ):
                found = [shares[step * parts + part] for shares in shared]
                assert torch.equal(torch.cat([one for one, _ in found]), part_images)
                assert torch.equal(torch.cat([one for _, one in found]), part_labels)
    assert len(whole) == 3


def test_evaluation_shares_are_all_rows_once():
    data = load(DataConfig(name="digits", test_rows="0:107"))
    whole = list(data.test.batches(10, seed=None))
    for processes in (1, 2, 3, 16):
        shared = [list(data.test.batches(10, seed=None, share=Share(rank, processes))) for rank in range(processes)]
        assert sum(len(labels) for share in shared for _, labels in share) == 107
        for index, (images, labels) in enumerate(whole):
            found = shared[index % processes][index // processes]
            assert torch.equal(found[0], images) and torch.equal(found[1], labels)


def test_batch_that_can_not_be_shared():
    with pytest.raises(ValueError, match=r"`batch_size` \(=50\) is shared by 3 processes in 2 parts.*as 48 or 54"):
        Share(0, 3, 2).rows(50)
    with pytest.raises(ValueError, match=r"`batch_size` \(=3\) is shared by 8 processes: .* multiple of 8, as 8$"):
        Share(0, 8).rows(3)
    with pytest.raises(ValueError, match=r"`batch_size` \(=32\) is done in 3 parts .* of 3, as 30 or 33$"):
        Share(parts=3).rows(32)


@pytest.mark.parametrize(("name", "dtype", "offset", "tolerance"), [
    ("float64", torch.float64, 0.0, 1e-12),
    ("float32", torch.float32, -500.0, 2e-4),  # a mean of 500 deviations/3: float32 inputs have steps of 3e-5
])  # fmt: skip
def test_batch_norm_of_both_is_that_of_all_rows(results, name, dtype, offset, tolerance):
    torch.manual_seed(0)
    layer = nn.Sequential(nn.BatchNorm2d(4), nn.Identity()).to(dtype)
    nn.init.normal_(layer[0].weight)
    layer = layer.double()
    images, gradients = (tensor.double() for tensor in pieces.inputs(dtype, offset))
    images.requires_grad_()
    output = layer(images)
    output.backward(gradients)
    expected = [parameter.grad for parameter in layer.parameters()]
    for rank, result in enumerate(results):
        rows = pieces.rows_of(rank)
        found, found_gradient, sums, state, _ = result[name]
        torch.testing.assert_close(found.double(), output[rows], rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(found_gradient.double(), images.grad[rows], rtol=tolerance, atol=tolerance)
        for one, other in zip(sums, expected, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=10 * tolerance)
        assert state.keys() == layer.state_dict().keys()
        for key, value in layer.state_dict().items():
            torch.testing.assert_close(state[key].double(), value.double(), rtol=1e-6, atol=tolerance)
    layer.eval()
    for result in results:
        torch.testing.assert_close(result[name][4].double(), layer(images), rtol=tolerance, atol=tolerance)
        for key, value in result[name][3].items():
            assert torch.equal(value, results[0][name][3][key]), key  # each holds the very same statistics


def test_plain_normalisation(results):
    images, _ = pieces.inputs(torch.float64, -5.0)
    expected = nn.functional.batch_norm(images, None, None, training=True)
    found = torch.cat([result["plain"] for result in results])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_rows_of_all_and_their_gradient(results):
    """The mean over processes of what each sends back is the gradient of the one loss."""
    images, _ = pieces.inputs(torch.float64, 0.0)
    images.requires_grad_()
    pieces.similarity(images).backward()
    assert all(torch.equal(result["rows"], images.detach()) for result in results)
    found = torch.cat([result["rows_gradient"] for result in results]) / 2
    torch.testing.assert_close(found, images.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("name", "dims"), [("scale", (0, 1, 2, 3)), ("scale_by_channel", (0, 2, 3))])
def test_sigma_is_that_of_all_rows(results, name, dims):
    first, second = (pieces.inputs(torch.float32, offset)[0].double() for offset in (-100.0, -110.0))
    for result in results:
        scale = result[name]
        expected = {
            key: 0.9 * of(first, dims) + 0.1 * of(second, dims)
            for key, of in (("mean", torch.mean), ("deviation", functools.partial(torch.std, correction=0)))
        }
        for key, value in expected.items():
            torch.testing.assert_close(scale[key].double(), value.reshape(scale[key].shape), rtol=1e-5, atol=0)
            assert torch.equal(scale[key], results[0][name][key])
        assert scale["batches"] == 2


def test_scores_are_those_of_one_process(results):
    """359 images in batches of 256: nothing is counted twice, and the sums are the same bits."""
    data = load(DataConfig(name="digits", train_rows="0:64"))
    expected = evaluate(pieces.net(), data.test)
    assert 0 < expected.top1 < expected.top5 < 1
    assert [result["scores"] for result in results] == [tuple(expected)] * 2


def test_alone_nothing_changes():
    images, _ = pieces.inputs(torch.float32, -5.0)
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4, momentum=None, affine=False)))
    shared = nn.Sequential(model, model[0])
    expected = shared(images)
    for layer in shared.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
    synchronise(shared)
    assert isinstance(shared[1], SyncBatchNorm) and shared[1] is shared[0][0]
    assert torch.equal(shared(images), expected)
    assert torch.equal(batch_norm_of_all(images), nn.functional.batch_norm(images, None, None, training=True))
    assert collectives.gathered_rows(images) is images
    count, mean, squares = collectives.pooled(3, images[0], images[1])
    assert count == 3 and torch.equal(mean, images[0]) and torch.equal(squares, images[1])


def test_every_meeting_in_a_store_has_a_name_of_its_own():
    """The store is that of all restarts: what dead processes left there misleads nobody."""
    store = HashStore()
    names: list[str] = []
    for count in (3, 3, 2):
        store.set("adderkit/asked/1", "of a process that died before it was answered")
        with ThreadPoolExecutor(count) as pool:
            ranks = [pool.submit(common_name, store, rank, count, timedelta(seconds=60)) for rank in range(count)]
            (name,) = {rank.result() for rank in ranks}
        names.append(name)
    assert len(set(names)) == 3
    with pytest.raises(DistStoreError, match=r"processes \[1\] did not come"):
        common_name(HashStore(), 0, 2, timedelta(seconds=0.1))
