import torch

from trainer.trainee import HostCopies


def test_copies_of_the_last_two_times_are_kept_apart_and_their_memory_is_used_again() -> None:
    copies, value = HostCopies(), torch.zeros(4)
    first = copies.of({"weight": value, "step": torch.tensor(1)})
    value += 1
    second = copies.of({"weight": value, "step": torch.tensor(2)})
    assert first["weight"].tolist() == [0.0] * 4 and second["weight"].tolist() == [1.0] * 4
    assert (first["step"].item(), second["step"].item()) == (1, 2)
    value += 1
    third = copies.of({"weight": value})
    assert third["weight"].data_ptr() == first["weight"].data_ptr() and third["weight"].tolist() == [2.0] * 4
    assert second["weight"].tolist() == [1.0] * 4 and "step" not in third


def test_a_tensor_of_another_shape_gets_memory_of_its_own() -> None:
    copies = HostCopies()
    first, _ = copies.of({"weight": torch.zeros(4)}), copies.of({"weight": torch.zeros(4)})
    assert copies.of({"weight": torch.ones(5)})["weight"].tolist() == [1.0] * 5
    assert first["weight"].tolist() == [0.0] * 4
