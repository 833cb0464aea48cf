import pytest

from headwater.api.launch.foreign_flags import FOREIGN_FLAGS, ForeignFlagError, take_foreign_flags


def test_what_is_ours_is_left_as_it_is() -> None:
    arguments = ["model", "--port", "80", "--max_batch_size=4", "-g", "5", "--no-prefix-cache"]
    assert take_foreign_flags(arguments, {"PATH": "x", "ENV": "production"}) == (arguments, [])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rope-factor", "1"],
        ["--rope_factor=1.0"],
        ["--watermark-gamma=0.5"],
    ],
)
def test_values_that_ask_for_nothing_are_taken_without_a_word(arguments: list[str]) -> None:
    assert take_foreign_flags(["model", *arguments, "--port", "80"], {}) == (["model", "--port", "80"], [])


def test_what_changes_nothing_is_said() -> None:
    arguments = ["--waiting-served-ratio", "1.2", "-e", "--trust_remote_code", "--usage-stats=off", "model"]
    left, notes = take_foreign_flags(arguments, {"MAX_WAITING_TOKENS": "20", "TRUST_REMOTE_CODE": "true"})
    assert left == ["model"]
    assert [note.split(" ")[0] for note in notes] == [
        "--waiting-served-ratio",
        "--env",
        "--trust-remote-code",
        "--usage-stats",
        "--max-waiting-tokens",
    ]


@pytest.mark.parametrize(
    ("arguments", "environment", "answer"),
    [
        ([], {"ROPE_FACTOR": "4"}, "--rope-factor: not here"),
        (["--rope-scaling", "dynamic"], {}, "config.json"),
        (["--ngrok"], {}, "tunnel"),
    ],
)
def test_what_would_not_be_done_is_refused_with_what_to_do(
    arguments: list[str], environment: dict[str, str], answer: str
) -> None:
    with pytest.raises(ForeignFlagError) as caught:
        take_foreign_flags(arguments, environment)
    assert answer in str(caught.value)


def test_a_flag_wins_over_its_variable() -> None:
    assert take_foreign_flags(["--rope-factor", "1"], {"ROPE_FACTOR": "4"}) == ([], [])


@pytest.mark.parametrize("name", FOREIGN_FLAGS)
def test_none_is_taken_without_a_word(name: str) -> None:
    given = [f"--{name}"] if FOREIGN_FLAGS[name].takes == "nothing" else [f"--{name}", "17"]
    try:
        left, notes = take_foreign_flags(given, {})
    except ForeignFlagError as error:
        left, notes = [], [str(error)]
    assert left == []
    assert [note.split(maxsplit=1)[0].rstrip(":") for note in notes] == [f"--{name}"]
