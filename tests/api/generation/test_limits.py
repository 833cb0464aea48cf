from headwater.api.generation.limits import derived_seed


def test_derived_seeds_are_those_of_the_paper_and_can_be_sent_back_by_javascript() -> None:
    # SplitMix64 with seed 1234567: Vigna's reference output.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [derived_seed(1234567, index) for index in range(1, 5)] == [value >> 11 for value in expected]
    assert len({derived_seed(seed, index) for seed in (0, 2**64 - 1) for index in range(1, 1000)}) == 1998
