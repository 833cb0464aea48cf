"""The report of what the router finds."""

from headwater.bench.load.routing import policies, sessions_of, simulate


def test_the_router_finds_more_than_chance_and_spreads_as_evenly() -> None:
    sessions = sessions_of("shared-prefix", 240, prefixes=16)
    results = {way: simulate(policy, sessions, 4, 512, rate=20.0, seed=1) for way, policy in policies().items()}
    assert results["router"].hits > 1.4 * max(results["random"].hits, results["in turn"].hits)
    assert results["router"].fullest < 1.3 * results["random"].fullest


def test_turns_of_a_chat_find_those_before_them() -> None:
    sessions = sessions_of("chat", 80, prefixes=1)
    alone = simulate(policies()["router"], sessions, 1, 4096, rate=5.0, seed=1)
    several = simulate(policies()["router"], sessions, 4, 4096, rate=5.0, seed=1)
    assert alone.hits == several.hits > 0.6
