"""From MODEL on the command line to a directory of safetensors, tokenizer and config."""
