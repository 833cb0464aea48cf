import msgspec

from headwater.api.config import ApiConfig
from headwater.api.launch.banner import banner, describe, read_hello
from headwater.engine.config import EngineConfig

from ..conftest import EnginePeer

ADDRESS = "http://127.0.0.1:80"


def test_it_says_what_is_served_and_why(peer: EnginePeer) -> None:
    engine = EngineConfig(model_dir=peer.path, model_id="tiny", socket=peer.path, max_total_tokens=64)
    api = ApiConfig(model_dir=peer.path, model_id="tiny", engine_socket=peer.path, request_timeout=2.5)
    hello = read_hello(peer.path)
    assert hello == peer.hello
    facts = describe(ADDRESS, engine, api, hello)
    assert facts["tokens"] == "up to 64 a request, prompt and answer (--max-total-tokens)"
    assert facts["device"] == "cpu, cpu kernels (chosen from the hardware)"
    capacity = hello.num_pages * hello.page_size
    assert facts["KV cache"].startswith(f"{capacity} tokens in bfloat16 (chosen from the hardware)")
    assert facts["time limit"] == "2.5 s (--request-timeout)"
    text = banner(facts)
    assert "curl -N http://127.0.0.1:80/generate_stream" in text
    assert "Bearer" not in text
    locked = describe(ADDRESS, engine, msgspec.structs.replace(api, api_key="secret"), hello)
    assert "Bearer" in banner(locked)
    assert "secret" not in banner(locked)


def test_an_engine_that_is_not_there_says_nothing(peer: EnginePeer) -> None:
    peer.die()
    assert read_hello(peer.path) is None
