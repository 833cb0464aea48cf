"""Who finds whose pages."""

from headwater.engine.prefix_cache import root_key


def test_a_salt_hides_pages_from_others() -> None:
    keys = [root_key(adapter, salt) for adapter in (b"", b"adapter") for salt in ("", "a", "b", "adapter")]
    assert len(set(keys)) == len(keys)
    assert root_key(b"", "a") == root_key(b"", "a")
