"""Accepted means used: of every flag and every field of a request, the test that shows what it does.

A new one without a line here fails. ``-`` and a reason: taken, and deliberately without effect.
"""

import ast
from functools import cache
from pathlib import Path

import msgspec
import pytest

from headwater.api.anthropic import schema as anthropic
from headwater.api.chat import request as chat
from headwater.api.cli import ModelFlags
from headwater.api.config import ApiConfig
from headwater.api.launch.flags import flags_of
from headwater.api.openai import schema as openai
from headwater.api.openai.responses import schema as responses
from headwater.api.platforms.vertex import VertexRequest
from headwater.api.tgi import schema as tgi
from headwater.api.vllm import schema as vllm
from headwater.engine.config import EngineConfig

TESTS = Path(__file__).parents[1]

FLAGS = {
    "model_id": "api/launch/test_cli.py::test_environment_variables_are_read_and_flags_win",
    "revision": "engine/checkpoint/test_resolve.py::test_what_the_hub_refuses_is_told",
    "huggingface_hub_cache": "engine/checkpoint/test_resolve.py::test_the_hubs_models_are_kept_where_the_flag_says",
    "tokenizer_config_path": "engine/checkpoint/test_tokenizer_config.py::test_its_template_and_its_end_token_are_used",
    "lora_adapters": "e2e/test_adapters.py::test_adapters_come_go_and_outlive_the_engine",
    "max_loras": "engine/test_adapters.py::test_adapters_come_and_go_while_sequences_run",
    "dtype": "engine/test_limits.py::test_an_engine_is_what_its_flags_say",
    "activation_dtype": "engine/test_default_model.py::test_bf16_weights_with_exact_rows_give_the_oracles_logprobs",
    "quantize": "engine/test_quantized_default_model.py::test_quantised_weights_move_logprobs_little",
    "stored_response_age": "api/openai/responses/test_background.py::test_a_server_that_keeps_nothing",
    "tool_call_parser": "api/openai/test_tools.py::test_a_flag_names_the_form_of_calls",
    "reasoning_parser": "api/openai/test_reasoning.py::test_a_flag_names_the_form",
    "host": "api/test_server_life.py::test_a_host_may_be_a_name",
    "port": "api/launch/test_cli.py::test_defaults",
    "tls_cert": "api/launch/test_tls.py::test_streams_and_clients_that_go_over_both_versions_of_http",
    "tls_key": "api/launch/test_tls.py::test_streams_and_clients_that_go_over_both_versions_of_http",
    "http2": "api/launch/test_tls.py::test_streams_and_clients_that_go_over_both_versions_of_http",
    "api_key": "api/http/test_http.py::test_without_the_key_nothing_is_served_but_health",
    "cors_allow_origin": "api/http/test_http.py::test_only_origins_that_were_named_are_allowed",
    "max_concurrent_requests": "api/test_server_life.py::test_over_the_limit_is_429_and_other_routes_still_answer",
    "max_best_of": "api/http/test_http.py::test_flags_of_limits_are_held",
    "max_stop_sequences": "api/http/test_http.py::test_flags_of_limits_are_held",
    "max_top_n_tokens": "api/http/test_http.py::test_flags_of_limits_are_held",
    "max_client_batch_size": "api/openai/test_completions.py::test_fewer_prompts_where_the_flag_says_so",
    "max_input_tokens": "api/http/test_http.py::test_flags_of_limits_are_held",
    "max_total_tokens": "api/http/test_http.py::test_flags_of_limits_are_held",
    "payload_limit": "api/http/test_http.py::test_a_body_without_a_length_has_the_same_limit",
    "request_timeout": "api/test_server_life.py::test_a_deadline_runs_while_the_engine_is_away",
    "disable_grammar_support": "api/openai/test_constraints.py::test_grammars_can_be_switched_off",
    "device": "engine/test_limits.py::test_an_engine_is_what_its_flags_say",
    "backend": "engine/test_engine.py::test_the_triton_backend_gives_the_cpu_backends_tokens",
    "exact": "kernels/test_triton_ops.py::test_without_exactness_the_vendors_library_has_the_linears",
    "cpu_features": "engine/test_cpu_features.py::test_the_engine_says_which_set_it_uses_and_why",
    "numa": "engine/test_numa.py::test_memory_is_spread_where_more_threads_are_wanted_than_a_node_has",
    "num_shard": "engine/test_shards.py::test_any_number_of_shards_gives_the_bits_of_one",
    "sharded": "api/launch/test_shards.py::test_as_tgi_reads_the_two_flags",
    "shard_invariant": "engine/test_shards.py::test_any_number_of_shards_gives_the_bits_of_one",
    "threads": "engine/test_limits.py::test_an_engine_is_what_its_flags_say",
    "kv_cache_dtype": "engine/test_kv_cache_dtype.py::test_as_many_pages_as_the_bytes_hold",
    "cuda_memory_fraction": "bench/device/test_memory.py::test_a_fraction_of_the_memory_is_all_that_is_taken",
    "kv_cache_bytes": "engine/test_limits.py::test_the_size_of_the_cache",
    "max_batch_prefill_tokens": "engine/test_limits.py::test_sizes_of_a_step",
    "max_batch_size": "engine/test_limits.py::test_sizes_of_a_step",
    "prefix_cache": "engine/test_scheduler_rules.py::test_without_the_cache_nothing_is_shared_or_kept",
    "kv_events_config": "engine/test_kv_events.py::test_the_flag_is_vllms_and_the_table_is_told_from_the_start",
    "prefix_cache_dir": "engine/test_disk_prefix_cache.py::test_pages_that_left_memory_come_back_after_a_restart_too",
    "prefix_cache_dir_bytes": "engine/test_page_files.py::"
    "test_what_was_used_last_is_kept_and_what_is_not_ours_is_left_alone",
    "speculate": "engine/test_scheduler_rules.py::test_right_guesses_save_steps",
    "speculative_model": "engine/test_draft.py::test_a_draft_that_is_always_right_saves_steps",
    "faults": "e2e/test_replay.py::test_a_request_that_the_engine_dies_of_fails_alone_the_second_time",
    "replicas": "e2e/test_replicas.py::test_the_other_engine_goes_on_with_what_a_killed_one_had",
    "api_workers": "api/test_server_life.py::test_two_workers_share_one_limit_and_one_set_of_metrics",
    "validation_workers": "api/text/test_tokenizer.py::test_long_texts_are_encoded_in_as_many_threads_as_are_allowed",
    "graceful_termination_timeout": "api/test_server_life.py::test_running_responses_are_cut_when_their_time_is_over",
    "stream_resume_grace": "api/resume/test_resume.py::test_after_the_grace_period_the_sequence_is_dropped",
    "heartbeat_timeout": "api/launch/test_supervisor.py::"
    "test_an_engine_that_dies_or_hangs_is_replaced_by_one_that_knows",
    "max_engine_restarts": "e2e/test_supervisor.py::test_an_engine_that_keeps_dying_ends_the_program",
    "otlp_endpoint": "api/telemetry/test_tracing.py::test_a_request_is_a_span_with_its_phases_below",
    "root_path": "api/web/test_root_path.py::test_a_route_is_found_with_the_path_and_without",
    "otlp_service_name": "api/telemetry/test_tracing.py::test_a_request_is_a_span_with_its_phases_below",
    "json_output": "api/test_server_life.py::test_a_request_is_one_log_line_without_its_text",
}

_TGI = "api/tgi/test_validation.py::test_every_field_reaches_the_engine"
_REFUSED_BY_TGI = "api/tgi/test_validation.py::test_refusals"
_GENERATE, _CHAT, _COMPLETIONS, _TOOLS = (
    "api/tgi/test_generate.py::", "api/openai/test_chat.py::", "api/openai/test_completions.py::",
    "api/openai/test_tools.py::",
)  # fmt: skip
_RESPONSES = "api/openai/responses/test_responses.py::"
_BACKGROUND = "api/openai/responses/test_background.py::"
_MESSAGES = "api/anthropic/test_messages.py::"
_HISTORY = _MESSAGES + "test_calls_and_results_are_part_of_a_conversation"
_PARAMETERS = _MESSAGES + "test_parameters_reach_the_engine"
_REASONING = "api/openai/test_reasoning.py::"
_ADAPTERS = "api/vllm/test_adapters.py::"
_BOUND, _UNBOUND = (
    "api/openai/test_constraints.py::test_constraints_reach_the_engine",
    "api/openai/test_constraints.py::test_what_cannot_be_held_is_refused_by_name",
)

SCHEDULING = {
    "priority": "engine/test_scheduler_rules.py::test_the_lowest_priority_is_admitted_first_and_the_highest_gives_way",
    "cache_salt": "engine/test_prefix_cache.py::test_a_salt_hides_pages_from_others",
    "timeout": "api/generation/test_scheduling.py::test_a_request_ends_with_its_own_time",
}

SAMPLING = SCHEDULING | dict.fromkeys(
    ("max_completion_tokens", "temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty",
     "frequency_penalty", "presence_penalty", "logit_bias", "seed", "min_tokens"),
    _CHAT + "test_every_sampling_field",
) | {
    "model": _CHAT + "test_a_whole_answer",
    "max_tokens": _CHAT + "test_ignore_eos",
    "n": _CHAT + "test_several_choices_come_in_their_order",
    "stop": _CHAT + "test_a_stop_string_is_not_in_the_text",
    "stream": _CHAT + "test_a_stream_says_what_a_whole_answer_says",
    "stream_options": _CHAT + "test_usage_in_every_chunk",
    "user": "- names who asks; no answer depends on it",
    "ignore_eos": _CHAT + "test_ignore_eos",
    "min_new_tokens": _CHAT + "test_the_least_number_of_tokens_under_tgis_name",
    "response_format": _CHAT + "test_response_formats",
    "guided_json": _BOUND,
    "guided_regex": _BOUND,
    "guided_choice": _BOUND,
    "guided_grammar": _UNBOUND,
    "guided_whitespace_pattern": _UNBOUND,
    "structural_tag": _UNBOUND,
    "structured_outputs": _BOUND,
    "stop_token_ids": "api/openai/test_constraints.py::test_more_tokens_that_end_a_text",
}  # fmt: skip

CHAT = SAMPLING | {
    "messages": _CHAT + "test_messages",
    "logprobs": _CHAT + "test_logprobs",
    "top_logprobs": _CHAT + "test_logprobs",
    "tools": _TOOLS + "test_the_template_gets_the_tools",
    "tool_choice": _TOOLS + "test_a_wanted_call_is_bound_by_a_grammar",
    "functions": _TOOLS + "test_refusals",
    "function_call": _TOOLS + "test_refusals",
    "tool_prompt": "api/text/test_chat_roles.py::test_the_tool_prompt_is_not_written_into_a_tools_output",
    "parallel_tool_calls": _TOOLS + "test_one_call_at_a_time",
    "documents": _CHAT + "test_more_of_a_message_and_more_variables_are_the_templates",
    "chat_template_kwargs": _CHAT + "test_more_of_a_message_and_more_variables_are_the_templates",
    "reasoning_effort": _REASONING + "test_an_effort_is_the_templates",
    "add_generation_prompt": _CHAT + "test_an_assistants_last_message_is_gone_on_with",
    "continue_final_message": _CHAT + "test_an_assistants_last_message_is_gone_on_with",
}

CONVERSATION = {
    "model": _MESSAGES + "test_a_whole_answer",
    "messages": _HISTORY,
    "system": _MESSAGES + "test_the_systems_text_and_a_beginning_of_the_answer",
    "tools": _MESSAGES + "test_calls",
    "tool_choice": _MESSAGES + "test_the_choice_of_tools",
    "thinking": _MESSAGES + "test_the_template_is_told_whether_to_think",
    "output_config": _MESSAGES + "test_an_answer_of_a_given_form",
}

FIELDS: dict[type[msgspec.Struct], dict[str, str]] = {
    tgi.GenerateParameters: SCHEDULING | dict.fromkeys(
        ("temperature", "repetition_penalty", "frequency_penalty", "top_k", "top_p", "typical_p", "max_new_tokens",
         "seed", "top_n_tokens", "min_p", "presence_penalty", "logit_bias", "ignore_eos", "min_new_tokens",
         "decoder_input_details"),
        _TGI,
    ) | {
        "grammar": "api/openai/test_constraints.py::test_on_native_routes_too",
        "best_of": _GENERATE + "test_the_best_of_several_by_mean_logprob",
        "do_sample": "api/tgi/test_validation.py::test_what_turns_sampling_on",
        "return_full_text": _GENERATE + "test_the_prompt_comes_back_if_asked_for",
        "stop": _GENERATE + "test_stop_may_be_one_string",
        "truncate": _GENERATE + "test_a_prompt_becomes_ids_and_parameters",
        "watermark": _REFUSED_BY_TGI,
        "details": _GENERATE + "test_a_whole_answer_with_details",
        "adapter_id": _ADAPTERS + "test_requests_name_an_adapter",
    },
    tgi.CompatGenerateRequest: {
        "inputs": _GENERATE + "test_a_prompt_becomes_ids_and_parameters",
        "parameters": _GENERATE + "test_a_prompt_becomes_ids_and_parameters",
        "stream": _GENERATE + "test_a_stream_to_the_byte",
        **dict.fromkeys(("normalize", "prompt_name", "dimensions"), _GENERATE + "test_who_wants_features_is_told"),
    },
    chat.StreamOptions: dict.fromkeys(
        ("include_usage", "continuous_usage_stats"), _CHAT + "test_usage_in_every_chunk"
    ),
    chat.Message: {
        "role": _CHAT + "test_messages",
        "content": _CHAT + "test_messages",
        "name": _CHAT + "test_more_of_a_message_and_more_variables_are_the_templates",
        "tool_calls": _TOOLS + "test_calls_and_results_are_part_of_a_conversation",
        "tool_call_id": _CHAT + "test_more_of_a_message_and_more_variables_are_the_templates",
        "reasoning_content": _CHAT + "test_more_of_a_message_and_more_variables_are_the_templates",
        "reasoning": _CHAT + "test_more_of_a_message_and_more_variables_are_the_templates",
    },
    chat.ContentPart: dict.fromkeys(("type", "text"), _CHAT + "test_messages"),
    chat.FunctionDefinition: {
        "name": _TOOLS + "test_a_wanted_call_is_bound_by_a_grammar",
        "description": _TOOLS + "test_the_template_gets_the_tools",
        "parameters": _TOOLS + "test_a_function_without_parameters_is_called_with_none",
        "arguments": _TOOLS + "test_a_function_without_parameters_is_called_with_none",
        "strict": _TOOLS + "test_arguments_are_those_that_are_listed",
    },
    chat.Tool: {"function": _TOOLS + "test_the_template_gets_the_tools", "type": _TOOLS + "test_refusals"},
    chat.ToolChoice: {
        "type": _TOOLS + "test_a_wanted_call_is_bound_by_a_grammar",
        "function": _TOOLS + "test_a_wanted_call_is_bound_by_a_grammar",
        "allowed_tools": _TOOLS + "test_allowed_tools_are_the_only_ones",
    },
    chat.AllowedTools: dict.fromkeys(("tools", "mode"), _TOOLS + "test_allowed_tools_are_the_only_ones"),
    chat.ChatRequest: CHAT,
    openai.CompletionRequest: SAMPLING | {
        "prompt": _COMPLETIONS + "test_prompts",
        "suffix": _COMPLETIONS + "test_refusals",
        "best_of": _COMPLETIONS + "test_the_best_of_some",
        "logprobs": _COMPLETIONS + "test_logprobs_of_prompt_and_answer",
        "echo": _COMPLETIONS + "test_echo",
    },
    responses.InputPart: dict.fromkeys(("type", "text", "refusal"), _RESPONSES + "test_items_are_a_conversation"),
    responses.InputItem: dict.fromkeys(
        ("type", "role", "content", "call_id", "name", "arguments", "output", "summary"),
        _RESPONSES + "test_items_are_a_conversation",
    ) | {"id": _RESPONSES + "test_a_response_is_gone_on_from"},
    responses.TextFormat: dict.fromkeys(
        ("type", "name", "schema", "strict"), _RESPONSES + "test_an_answer_of_a_given_form"
    ),
    responses.TextConfig: {"format": _RESPONSES + "test_an_answer_of_a_given_form"},
    responses.ReasoningConfig: {"effort": _RESPONSES + "test_the_template_is_told_how_to_think"},
    responses.ResponsesRequest: SCHEDULING | {
        **dict.fromkeys(("instructions", "model", "metadata", "user"), _RESPONSES + "test_a_whole_answer"),
        **dict.fromkeys(
            ("max_output_tokens", "temperature", "top_p", "seed"), _RESPONSES + "test_parameters_reach_the_engine"
        ),
        **dict.fromkeys(("tool_choice", "parallel_tool_calls"), _RESPONSES + "test_the_choice_of_tools"),
        **dict.fromkeys(
            ("truncation", "prompt", "conversation", "context_management", "moderation"), _RESPONSES + "test_refusals"
        ),
        **dict.fromkeys(("include", "top_logprobs"), _RESPONSES + "test_logprobs_are_those_of_the_text"),
        **dict.fromkeys(("reasoning", "chat_template_kwargs"), _RESPONSES + "test_the_template_is_told_how_to_think"),
        "input": _RESPONSES + "test_items_are_a_conversation",
        "tools": _RESPONSES + "test_thoughts_text_and_calls_are_items",
        "text": _RESPONSES + "test_an_answer_of_a_given_form",
        "stream": _RESPONSES + "test_events_come_in_their_order",
        "store": _RESPONSES + "test_a_response_is_kept_unless_it_must_not_be",
        "previous_response_id": _RESPONSES + "test_a_response_is_gone_on_from",
        "background": _BACKGROUND + "test_it_is_queued_then_runs_then_has_ended",
    },
    anthropic.RequestMessage: dict.fromkeys(("role", "content"), _HISTORY),
    anthropic.RequestBlock: dict.fromkeys(
        ("type", "text", "id", "name", "input", "tool_use_id", "content"), _HISTORY
    ) | {
        "thinking": _MESSAGES + "test_thoughts_are_blocks_of_their_own",
        "is_error": "- the result's text says so to the model",
    },
    anthropic.Tool: dict.fromkeys(
        ("name", "input_schema", "description", "strict"), _MESSAGES + "test_tools_reach_the_template"
    ) | {
        "type": _MESSAGES + "test_refusals",
    },
    anthropic.ToolChoice: dict.fromkeys(
        ("type", "name", "disable_parallel_tool_use"), _MESSAGES + "test_the_choice_of_tools"
    ),
    anthropic.ThinkingConfig: {
        "type": _MESSAGES + "test_the_template_is_told_whether_to_think",
        "budget_tokens": "- a model ends its thoughts by itself",
    },
    anthropic.OutputConfig: {
        "effort": _MESSAGES + "test_the_template_is_told_whether_to_think",
        "format": _MESSAGES + "test_an_answer_of_a_given_form",
    },
    anthropic.OutputFormat: dict.fromkeys(("type", "schema"), _MESSAGES + "test_an_answer_of_a_given_form"),
    anthropic.CountTokensRequest: CONVERSATION,
    anthropic.MessagesRequest: CONVERSATION | SCHEDULING | {
        **dict.fromkeys(("max_tokens", "temperature", "top_k", "top_p"), _PARAMETERS),
        "stop_sequences": _MESSAGES + "test_the_stop_sequence_is_told",
        "stream": _MESSAGES + "test_a_stream_says_what_a_whole_answer_says",
        "metadata": "- names who asks; no answer depends on it",
    },
    vllm.TokenizePromptRequest: {
        "prompt": "api/vllm/test_tokens.py::test_the_ids_of_a_text",
        "model": "- there is one model",
        "add_special_tokens": "api/vllm/test_tokens.py::test_the_ids_of_a_text",
        "return_token_strs": "api/vllm/test_tokens.py::test_token_strs_are_as_the_vocabulary_spells_them",
    },
    vllm.TokenizeChatRequest: CHAT | {
        "add_special_tokens": "api/vllm/test_tokens.py::test_the_ids_of_a_conversation",
        "return_token_strs": "api/vllm/test_tokens.py::test_token_strs_are_as_the_vocabulary_spells_them",
        "chat_template": "api/vllm/test_tokens.py::test_a_template_of_the_clients_is_refused",
    },
    vllm.DetokenizeRequest: {
        "tokens": "api/vllm/test_tokens.py::test_text_and_ids_are_each_others",
        "model": "- there is one model",
    },
    vllm.LoadAdapterRequest: dict.fromkeys(("lora_name", "lora_path"), _ADAPTERS + "test_loading"),
    vllm.UnloadAdapterRequest: {"lora_name": _ADAPTERS + "test_unloading"},
    VertexRequest: {"instances": _COMPLETIONS + "test_vertex"},
}  # fmt: skip


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((TESTS / path).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def missing(table: dict[str, str]) -> set[str]:
    """Tests that a table names and that are not there."""
    named = {test for test in table.values() if not test.startswith("- ")}
    return {test for test in named if test.partition("::")[2] not in names_in(test.partition("::")[0])}


def test_every_flag_has_a_test_of_its_effect() -> None:
    assert {parameter.name for parameter in flags_of(ModelFlags, ApiConfig, EngineConfig)} == FLAGS.keys()
    assert missing(FLAGS) == set()


@pytest.mark.parametrize("kind", FIELDS, ids=lambda kind: kind.__name__)
def test_every_field_of_a_request_has_a_test_of_its_effect(kind: type[msgspec.Struct]) -> None:
    assert set(kind.__struct_fields__) == FIELDS[kind].keys()
    assert missing(FIELDS[kind]) == set()
