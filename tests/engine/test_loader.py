"""batches(): rows, collation, workers, epochs, resuming."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    WeightedRandomSampler,
)

from tests.engine.toys import Double, Epochs, Pull, Shrink, Sums, Table, mlp, samples
from tether import TetherError, attach


class Rows(Dataset):
    """Each sample knows its row: x[0] == row."""

    def __init__(self, n=23):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, row):
        return torch.full((6,), float(row)), row % 3


def as_dict(parts):
    return {
        "pixels": torch.stack([x for x, _ in parts]),
        "labels": torch.tensor([y for _, y in parts]),
    }


def handle(data, methods=None, **options):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return attach(model, methods or [Table()], optimizer, train_data=data, **options)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 5, "shuffle": True},
        {"batch_size": 5, "shuffle": True, "drop_last": True},
        {"batch_size": 4, "collate_fn": as_dict},
        {"batch_size": 4, "sampler": WeightedRandomSampler([1.0] * 23, 30)},
        {"batch_sampler": BatchSampler(RandomSampler(range(23)), 6, drop_last=False)},
        {"batch_size": None, "sampler": BatchSampler(range(23), 4, drop_last=False)},
        {"batch_size": 5, "shuffle": True, "generator": torch.Generator().manual_seed(3)},
    ],
    ids=["shuffle", "drop_last", "dict", "weighted", "batch_sampler", "no_batching", "generator"],
)
def test_rows_are_those_of_the_data_set(options, workers):
    class Listed(Rows):
        def __getitem__(self, row):
            if isinstance(row, list):
                return torch.stack([super(Listed, self).__getitem__(r)[0] for r in row]), row
            return super().__getitem__(row)

    data = Listed()
    if workers:
        options = {**options, "num_workers": workers, "persistent_workers": True}
    loader = DataLoader(data, **options)
    reg = handle(data)
    for _ in range(2):
        count = 0
        for batch in reg.batches(loader):
            x = batch["pixels"] if isinstance(batch, dict) else batch[0]
            assert x[:, 0].long().tolist() == reg.stream.rows.tolist()
            count += 1
        assert count == len(loader)
    assert loader.batch_sampler is None or not hasattr(loader.batch_sampler, "caught_up")


def test_single_rows_without_batching():
    data = Rows(5)
    reg = handle(data)
    seen = [reg.stream.rows.tolist() for _ in reg.batches(DataLoader(data, batch_size=None))]
    assert seen == [[0], [1], [2], [3], [4]]


def test_rows_under_subset_are_rows_of_the_subset():
    data = Subset(Rows(), [20, 3, 11, 7])
    reg = handle(data)
    batches = [
        (x[:, 0].tolist(), reg.stream.rows.tolist())
        for x, _ in reg.batches(DataLoader(data, batch_size=2))
    ]
    assert batches == [([20.0, 3.0], [0, 1]), ([11.0, 7.0], [2, 3])]


def test_the_order_of_the_loader_is_not_changed():
    data = Rows()
    loader = DataLoader(data, batch_size=4, shuffle=True)
    torch.manual_seed(5)
    plain = [y.tolist() for _ in range(2) for _, y in loader]
    reg = handle(data)
    torch.manual_seed(5)
    taped = [y.tolist() for _ in range(2) for _, y in reg.batches(loader)]
    assert taped == plain


def test_epochs_are_told_also_when_a_loop_breaks():
    data = Rows()
    epochs = Epochs()
    reg = handle(data, [epochs])
    loader = DataLoader(data, batch_size=8)
    for _ in reg.batches(loader):
        break
    assert epochs.seen == [("start", 0)]
    for _ in reg.batches(loader):
        pass
    reg.start_epoch()
    reg.finish()
    assert epochs.seen == [(what, e) for e in range(3) for what in ("start", "end")]
    assert reg.epoch == 3


def test_progress_within_an_epoch():
    data = Rows(16)
    reg = handle(data, [Shrink()], epochs=2)
    seen = []
    for _ in range(2):
        for number, (x, y) in enumerate(reg.batches(DataLoader(data, batch_size=4))):
            seen.append(reg.progress)
            reg.loss(reg.model(x), y).backward()
            if number % 2:  # an update of two batches: both stand at the same place
                reg.seam.optimizer.step()
                reg.seam.optimizer.zero_grad()
    assert seen == [0, 0, 2 / 8, 2 / 8, 4 / 8, 4 / 8, 6 / 8, 6 / 8]
    assert reg.progress == 1.0


def test_a_length_in_epochs_needs_epochs():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, Pull("linear(1, 0)"), optimizer, epochs=2)
    model(torch.zeros(2, 6)).sum().backward()
    with pytest.raises(TetherError, match="no epoch was begun"):
        optimizer.step()


def test_one_loader_at_a_time():
    reg = handle(Rows(), [Shrink()])
    loader = DataLoader(Rows(), batch_size=8)
    with pytest.raises(TetherError, match="another batches"):
        list(zip(reg.batches(loader), reg.batches(loader), strict=True))


def test_rows_are_forgotten_with_the_loop():
    reg = handle(Rows())
    x, y = next(iter(reg.batches(DataLoader(Rows(), batch_size=8))))
    with pytest.raises(TetherError, match="rows of this batch are unknown"):
        reg.loss(reg.model(x), y)


def test_a_loader_that_was_iterated_before_may_keep_its_workers():
    loader = DataLoader(Rows(), batch_size=8, num_workers=1, persistent_workers=True)
    list(loader)
    reg = handle(Rows())
    assert [reg.stream.rows.tolist()[0] for _ in reg.batches(loader)] == [0, 8, 16]


def test_the_statistics_pass_collates_as_the_loader_does():
    class Dicts(Rows):
        def __getitem__(self, row):
            x, y = super().__getitem__(row)
            return {"input": x, "labels": y}

    def collate(parts):
        return (
            torch.stack([p["input"] for p in parts]),
            torch.tensor([p["labels"] for p in parts]),
        )

    sums = Sums()
    reg = handle(Dicts(6), [sums])
    next(iter(reg.batches(DataLoader(Dicts(6), batch_size=3, collate_fn=collate))))
    assert sums.batches == 2


def epochs_seen(reg):
    return reg.methods["epochs"].seen


def test_a_break_ends_the_epoch_also_after_a_resume():
    first = handle(Rows(), [Epochs()])
    loader = DataLoader(Rows(), batch_size=8)
    for _ in first.batches(loader):
        break
    second = handle(Rows(), [Epochs()])
    second.load_state_dict(first.state_dict())
    for reg in (first, second):
        assert len(list(reg.batches(loader))) == 3
        assert reg.epoch == 2
    assert epochs_seen(second) == epochs_seen(first)[1:]


@pytest.mark.parametrize("number", [None, 1])
def test_epochs_counted_by_hand_go_on_after_a_resume(number):
    first = handle(Rows(), [Epochs()])
    first.start_epoch()
    first.end_epoch()
    first.start_epoch()
    second = handle(Rows(), [Epochs()])
    second.load_state_dict(first.state_dict())
    second.start_epoch(number)
    assert second.epoch == 1
    second.end_epoch()
    second.start_epoch()
    assert epochs_seen(second) == [("end", 1), ("start", 2)]


def test_methods_that_go_by_epochs_need_to_be_told():
    model = mlp()
    x, y = samples(8).tensors
    reg = attach(model, Epochs(), torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(TetherError, match=r"reg.batches\(loader\)"):
        reg.loss(model(x), y)
    reg.start_epoch()
    reg.loss(model(x), y)


def test_other_loaders_work_where_no_rows_are_needed():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([(torch.randn(6), 1)] * 6)

    reg = handle(None, [Shrink()])
    loader = DataLoader(Stream(), batch_size=4)
    assert [len(y) for _, y in reg.batches(loader)] == [4, 2]
    assert [len(y) for _, y in reg.batches([(torch.zeros(3, 6), torch.zeros(3))])] == [3]
    assert reg.stream.rows is None


def test_loaders_that_hide_their_rows_are_refused_where_rows_are_needed():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([])

    reg = handle(Rows())
    with pytest.raises(TetherError, match="iterable data have no rows"):
        next(iter(reg.batches(DataLoader(Stream()))))
    with pytest.raises(TetherError, match="give batches"):
        next(iter(reg.batches([(torch.zeros(3, 6), torch.zeros(3))])))
    with pytest.raises(TetherError, match="has 9 samples, train_data has 23"):
        next(iter(reg.batches(DataLoader(Rows(9)))))
    if "in_order" in DataLoader.__init__.__annotations__:
        with pytest.raises(TetherError, match="in_order"):
            next(iter(reg.batches(DataLoader(Rows(), num_workers=1, in_order=False))))


def test_batches_move_to_a_device():
    reg = handle(Rows())
    x, y = next(iter(reg.batches(DataLoader(Rows(), batch_size=4), device="meta")))
    assert x.device.type == y.device.type == "meta"


def test_a_method_may_change_the_batch():
    data = samples(16)
    reg = handle(data, [Double(), Table()])
    for x, y in reg.batches(DataLoader(data, batch_size=5)):
        assert len(x) == len(y) == len(reg.stream.rows)
        reg.loss(reg.model(x), y).backward()
        reg.seam.optimizer.step()
        reg.seam.optimizer.zero_grad()
    assert reg.methods["table"].rows.any(1).all()


class Augmented(Dataset):
    """Random numbers in the data set itself, in the main process."""

    def __len__(self):
        return 21

    def __getitem__(self, row):
        return torch.randn(6) + row, row % 3


@pytest.mark.parametrize("stop", [1, 4, 5, 6, 10, 11, 14, "epoch"])
@pytest.mark.parametrize("own_generator", [False, True])
def test_a_bare_loop_resumes_in_the_middle_of_an_epoch(tmp_path, stop, own_generator):
    def run(stop_at=None, resume=None):
        model = mlp(drop=0.5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        reg = attach(model, [Table(), Shrink()], optimizer, train_data=Augmented())
        generator = torch.Generator().manual_seed(9) if own_generator else None
        loader = DataLoader(Augmented(), batch_size=4, shuffle=True, generator=generator)
        if resume:
            model.load_state_dict(resume[0])
            optimizer.load_state_dict(resume[1])
            reg.load(tmp_path / "methods.safetensors")
        else:
            torch.manual_seed(11)
        rows, done = [], 0
        for _ in range(reg.epoch, 3):
            for x, y in reg.batches(loader):
                reg.loss(model(x), y).backward()
                optimizer.step()
                optimizer.zero_grad()
                rows.append(reg.stream.rows.tolist())
                done += 1
                if done == stop_at:
                    reg.save(tmp_path / "methods.safetensors")
                    torch.manual_seed(1234)  # whatever happens in between
                    return rows, (model.state_dict(), optimizer.state_dict())
            if stop_at == "epoch":
                reg.save(tmp_path / "methods.safetensors")
                return rows, (model.state_dict(), optimizer.state_dict())
        return rows, (model.state_dict(), reg.state_dict()["methods"]["table"])

    whole, (weights, table) = run()
    first, saved = run(stop_at=stop)
    second, (resumed, resumed_table) = run(resume=saved)
    assert first + second == whole
    for key, value in weights.items():
        assert torch.equal(value, resumed[key])
    for key, value in table.items():
        assert torch.equal(value, resumed_table[key])
