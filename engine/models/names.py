"""Where a checkpoint has the parts of a model."""

from msgspec import Struct


class Names(Struct, frozen=True, kw_only=True):
    """Modules by their names. The defaults are Llama's; a norm without a name is one that the family doesn't have."""

    embedding: str = "model.embed_tokens"
    positions: str = ""  # a learned embedding of positions
    layers: str = "model.layers"
    norm: str = "model.norm"
    head: str = "lm_head"
    # Of a layer:
    attention_norm: str = "input_layernorm"
    attention: str = "self_attn"
    attention_post_norm: str = ""
    mlp_norm: str = "post_attention_layernorm"
    mlp: str = "mlp"  # "": its linears are the layer's
    mlp_post_norm: str = ""
    # Of its attention:
    qkv: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")  # one name: they are one matrix
    output: str = "o_proj"
    qk_norm: tuple[str, str] = ("q_norm", "k_norm")  # where heads have their own: one matrix, or a number follows
    # Of its MLP:
    up: tuple[str, ...] = ("gate_proj", "up_proj")  # one name: they are one matrix, or there is no gate
    down: str = "down_proj"
