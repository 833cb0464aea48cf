"""Checkpoints as other tools write them: packs a model, with the tool's own idea of the weights beside it.

    python tests/data/write_packed.py TOOL SOURCE OUT [bits=4] [group=32] [sym=1] [order=0] [format=gptq_v2] [keep=FILE]

TOOL is gptq or awq (both GPTQModel), autoawq or compressed-tensors; SOURCE a directory in Hugging Face's format, or
``tiny``. OUT gets the checkpoint, and in ``dequantized.safetensors`` what the tool makes of its linears. FILE gets one
linear with both, and quantization_config as metadata: so the files in tests/data/packed were made, of ``tiny``.

The tools are no dependency of the project. They run beside its torch in an environment of their own:
    pip install torch==2.13.0 transformers compressed-tensors accelerate datasets pillow torchao protobuf \
        sentencepiece threadpoolctl device-smi logbar tokenicer defuser pypcre
    pip install --no-deps --no-build-isolation gptqmodel==7.7.0 autoawq==0.2.9
"""

import json
import os
import sys
from pathlib import Path

os.environ |= {"GPTQMODEL_CPU_WORKERS": "2", "GPTQMODEL_DISABLE_PACK_EXT": "1"}

import torch
from safetensors.torch import load_file, save_file

TEXTS = ["The capital of France is Paris. " * 6, "def fibonacci(n):\n    return n\n" * 6] * 32


def gptqmodel(tool: str, source: str, out: str, bits: int, group: int, sym: bool, order: bool, form: str) -> dict:
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
    from gptqmodel.quantization import FORMAT, METHOD

    fields = {"bits": bits, "group_size": group, "sym": sym, "quant_method": METHOD(tool), "format": FORMAT(form)}
    if tool == "gptq":
        fields |= {"desc_act": order, "act_group_aware": False}
    config = QuantizeConfig(**fields)
    model = GPTQModel.load(source, config, device="cpu")
    model.quantize(TEXTS[:8], batch_size=1)
    model.save(out)
    # In the dtype of the stored scales, so that the tool rounds none of them.
    kernel, dtype = (BACKEND.TORCH, torch.float16) if tool == "gptq" else (BACKEND.TORCH_AWQ, torch.bfloat16)
    loaded = GPTQModel.load(out, device="cpu", dtype=dtype, backend=kernel)
    linears = {name: each for name, each in loaded.model.named_modules() if hasattr(each, "qweight")}
    if tool == "gptq":
        return {name: linear.dequantize_weight().T for name, linear in linears.items()}
    return {name: awq_dequantized(linear, group) for name, linear in linears.items()}


def awq_dequantized(linear: torch.nn.Module, group: int) -> torch.Tensor:
    from awq.utils.packing_utils import dequantize_gemm

    group = group if group > 0 else len(linear.qweight)
    return dequantize_gemm(linear.qweight, linear.qzeros, linear.scales, 4, group).T


def autoawq(source: str, out: str, group: int) -> dict:
    from awq import AutoAWQForCausalLM
    from transformers import AutoTokenizer

    model = AutoAWQForCausalLM.from_pretrained(source, device_map="cpu")
    config = {"zero_point": True, "q_group_size": group, "w_bit": 4, "version": "GEMM"}
    tokenizer = AutoTokenizer.from_pretrained(source)
    model.quantize(tokenizer, quant_config=config, calib_data=TEXTS, max_calib_samples=64, max_calib_seq_len=256)
    model.save_quantized(out)
    linears = {name: each for name, each in model.model.named_modules() if hasattr(each, "qweight")}
    return {name: awq_dequantized(linear, group) for name, linear in linears.items()}


def compressed_tensors(source: str, out: str, bits: int, group: int, sym: bool) -> dict:
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
    from compressed_tensors.quantization.utils import calculate_qparams
    from transformers import AutoModelForCausalLM

    weights = {"num_bits": bits, "symmetric": sym, "strategy": "group", "group_size": group}
    if group == -1:
        weights |= {"strategy": "channel", "group_size": None}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    model = AutoModelForCausalLM.from_pretrained(source)
    apply_quantization_config(model, QuantizationConfig(config_groups=groups, ignore=["lm_head"]))
    linears = {name: each for name, each in model.named_modules() if hasattr(each, "weight_scale")}
    for linear in linears.values():
        grouped = linear.weight.data.view(len(linear.weight), -1, group if group > 0 else linear.weight.shape[1])
        scale, zero = calculate_qparams(grouped.amin(-1), grouped.amax(-1), linear.quantization_scheme.weights)
        linear.weight_scale.data.copy_(scale)
        if hasattr(linear, "weight_zero_point"):
            linear.weight_zero_point.data.copy_(zero)
    compressor = ModelCompressor.from_pretrained_model(model, "pack-quantized")
    compressor.compress_model(model)
    model.save_pretrained(out)
    compressor.update_config(out)
    compressor.decompress_model(model)
    return {name: linear.weight.data for name, linear in linears.items()}


def tiny(directory: str) -> str:
    """A Llama whose widths all the tools can pack, with a tokenizer that takes any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    widths = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=256, num_hidden_layers=1, max_position_embeddings=256, **widths)
    LlamaForCausalLM(config).half().save_pretrained(directory)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="!", pad_token="!").save_pretrained(directory)
    return directory


def keep(out: str, file: str, module: str, quantization: dict) -> None:
    stored = load_file(f"{out}/model.safetensors")
    tensors = {name: each for name, each in stored.items() if name.startswith(f"{module}.")}
    tensors["dequantized"] = load_file(f"{out}/dequantized.safetensors")[f"{module}.weight"]
    quantization.pop("meta", None)  # of GPTQModel: how it worked
    save_file(tensors, file, metadata={"quantization_config": json.dumps(quantization)})


def main(tool: str, source: str, out: str, *settings: str) -> None:
    given = dict(setting.split("=", 1) for setting in settings)
    bits, group, sym = int(given.get("bits", 4)), int(given.get("group", 32)), given.get("sym", "1") == "1"
    torch.manual_seed(0)
    source = tiny(f"{out}-source") if source == "tiny" else source
    if tool == "autoawq":
        weights = autoawq(source, out, group)
    elif tool == "compressed-tensors":
        weights = compressed_tensors(source, out, bits, group, sym)
    else:
        form = given.get("format", "gptq_v2" if tool == "gptq" else "gemm")
        weights = gptqmodel(tool, source, out, bits, group, sym, given.get("order") == "1", form)
    with torch.inference_mode():
        dequantized = {f"{name}.weight": each.contiguous() for name, each in weights.items()}
        save_file(dequantized, f"{out}/dequantized.safetensors")
    if "keep" in given:
        quantization = json.loads(Path(out, "config.json").read_text())["quantization_config"]
        keep(out, given["keep"], "model.layers.0.mlp.down_proj", quantization)


if __name__ == "__main__":
    main(*sys.argv[1:])
