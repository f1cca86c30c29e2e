"""GGUF files of a test's LLaMA and its tokenizer, written by llama.cpp's package as its converter writes them."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_NAMES = {  # of transformers, and of llama.cpp
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_NORMAL, _CONTROL = 1, 3  # kinds of tokens


def write_gguf(
    path: Path, model: Any, tokenizer: Any, *, quantisation: str = "F32", architecture: str = "llama", drop: str = ""
) -> Path:
    """A GGUF file of a LLaMA and of a byte-level tokenizer with a chat template.

    Args:
        path: the file.
        model: LlamaForCausalLM.
        tokenizer: as `tests.models.chatting.tokenizer` makes it.
        quantisation: of all matrices: F32, or a name of gguf's, such as Q4_1.
        architecture: the name that the file states.
        drop: a tensor, by llama.cpp's name, that the file lacks.
    """
    import gguf

    config, writer = model.config, gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_tokens(writer, tokenizer, config.vocab_size)
    for name, tensor in model.state_dict().items():
        if (short := _llama_cpp_name(name)) != drop:
            values = _reordered(name, tensor, config).numpy()
            if quantisation == "F32" or tensor.ndim == 1:
                writer.add_tensor(short, values)
            else:
                kind = gguf.GGMLQuantizationType[quantisation]
                writer.add_tensor(short, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokens(writer: Any, tokenizer: Any, rows: int) -> None:
    words = {number: word for word, number in tokenizer.get_vocab().items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([words.get(number, f"[PAD{number}]") for number in range(rows)])
    writer.add_token_types([_CONTROL if n in tokenizer.added_tokens_decoder else _NORMAL for n in range(rows)])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)


def _llama_cpp_name(name: str) -> str:
    short = name.replace("model.layers.", "blk.")
    for theirs, ours in _NAMES.items():
        short = short.replace(theirs, ours)
    return short


def _reordered(name: str, tensor: Tensor, config: Any) -> Tensor:
    """Rows of queries and keys, whose pairs llama.cpp rotates side by side, and transformers by halves."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for part, count in heads.items():
        if f"{part}.weight" in name:
            return tensor.unflatten(0, (count, 2, -1)).transpose(1, 2).flatten(0, 2).contiguous()
    return tensor.to(torch.float32)
