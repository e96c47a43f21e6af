"""Model families: a tiny config of every variant that is tested, and what is special about it.

The table in README.md is made from here: `python tests/families.py` prints it.
"""

from dataclasses import dataclass
from typing import Any

import transformers
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig

WINDOW = 4
"""Width of every sliding window, chunk and local attention: shorter than the prompts."""

TOKENS = dict(vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2)
SIZES = dict(
    **TOKENS,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=64,
)
GROUPED = dict(**SIZES, num_key_value_heads=2)
HEADS = dict(**GROUPED, head_dim=8)
OLD = dict(**TOKENS, n_embd=32, n_layer=3, n_head=4, n_positions=64)
PLAIN = dict(**TOKENS, hidden_size=32, num_hidden_layers=3, num_attention_heads=4)
FALCON = dict(**PLAIN, ffn_hidden_size=48, max_position_embeddings=64)
OPT = dict(**PLAIN, ffn_dim=48, max_position_embeddings=64)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2)
SMALL_EXPERTS = dict(**EXPERTS, moe_intermediate_size=16)
LOCAL_EXPERTS = dict(num_local_experts=4, num_experts_per_tok=2)
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
SLIDING = dict(sliding_window=WINDOW, layer_types=MIXED)
LATENT = dict(
    n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, first_k_dense_replace=1,
    n_group=2, topk_group=1, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=4,
    qk_nope_head_dim=8, v_head_dim=8,
)  # fmt: skip
LINEAR = dict(
    layer_types=["linear_attention", "full_attention", "linear_attention"],
    linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=8,
    linear_value_head_dim=8, shared_expert_intermediate_size=16,
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One tiny config, made by its class's name in transformers."""

    config_class: str
    values: dict[str, Any]
    blocks: str
    """Where the decoder blocks are, known apart from how we look for them."""

    def config(self) -> PretrainedConfig:
        return getattr(transformers, self.config_class)(**self.values)

    @property
    def architecture(self) -> str:
        """The class that the Auto class makes of the config."""
        return MODEL_FOR_CAUSAL_LM_MAPPING[getattr(transformers, self.config_class)].__name__


@dataclass(frozen=True)
class Family:
    """A row of the table."""

    title: str
    variants: dict[str, Variant]
    remark: str = ""


def of(config_class: str, *parts: dict[str, Any], blocks: str = "model.layers", **more: Any):
    """Return a variant; later values replace earlier ones."""
    values: dict[str, Any] = {}
    for part in (*parts, more):
        values |= part
    return Variant(config_class, values, blocks)


FAMILIES = [
    Family(
        "GPT-2",
        {"gpt2": of("GPT2Config", OLD, blocks="transformer.h")},
        "learned positions",
    ),
    Family(
        "GPT-NeoX, Pythia",
        {
            "gpt-neox": of("GPTNeoXConfig", SIZES, blocks="gpt_neox.layers"),
            "gpt-neox-sequential": of(
                "GPTNeoXConfig", SIZES, blocks="gpt_neox.layers", use_parallel_residual=False
            ),
        },
        "parallel and sequential residual",
    ),
    Family(
        "GPT-Neo",
        {
            "gpt-neo": of(
                "GPTNeoConfig", TOKENS, blocks="transformer.h", hidden_size=32, num_layers=3,
                num_heads=4, intermediate_size=48, max_position_embeddings=64, window_size=WINDOW,
                attention_types=[[["local", "global", "local"], 1]],
            )
        },
        "learned positions, local attention",
    ),
    Family(
        "GPT-J",
        {"gptj": of("GPTJConfig", OLD, blocks="transformer.h", rotary_dim=4)},
        "parallel residual",
    ),
    Family(
        "CodeGen",
        {"codegen": of("CodeGenConfig", OLD, blocks="transformer.h", rotary_dim=4)},
        "parallel residual",
    ),
    Family(
        "GPT-BigCode",
        {"gpt-bigcode": of("GPTBigCodeConfig", OLD, blocks="transformer.h")},
        "learned positions, one key-value head",
    ),
    Family(
        "GPT-OSS",
        {"gpt-oss": of("GptOssConfig", HEADS, LOCAL_EXPERTS, SLIDING)},
        "experts, attention sinks, sliding window",
    ),
    Family(
        "Llama, SmolLM",
        {
            "llama-tied": of("LlamaConfig", SIZES, tie_word_embeddings=True),
            "llama-untied": of("LlamaConfig", SIZES, tie_word_embeddings=False),
            "llama-gqa": of("LlamaConfig", GROUPED),
        },
        "tied and untied embeddings, grouped heads",
    ),
    Family(
        "Llama 4",
        {
            "llama4": of(
                "Llama4TextConfig", HEADS, LOCAL_EXPERTS, intermediate_size_mlp=48,
                attention_chunk_size=WINDOW,
            )
        },
        "text; experts, chunked attention; `get_decoder()` is the whole model, so a reading runs "
        "the head, too",
    ),
    Family("SmolLM3", {"smollm3": of("SmolLM3Config", GROUPED, no_rope_layers=[1, 0, 1])},
           "some layers without positions"),
    Family("Mistral", {"mistral": of("MistralConfig", HEADS, sliding_window=WINDOW)},
           "sliding window"),
    Family("Ministral", {"ministral": of("MinistralConfig", HEADS, SLIDING)}, "sliding window"),
    Family("Ministral 3", {"ministral3": of("Ministral3Config", HEADS)}),
    Family("Mixtral", {"mixtral": of("MixtralConfig", HEADS, LOCAL_EXPERTS)}, "experts"),
    Family(
        "Qwen2, Qwen2.5",
        {
            "qwen2": of("Qwen2Config", GROUPED),
            "qwen2-sliding": of("Qwen2Config", GROUPED, SLIDING, use_sliding_window=True),
        },
        "biases on queries, keys and values; sliding window",
    ),
    Family(
        "Qwen2-MoE",
        {
            "qwen2-moe": of(
                "Qwen2MoeConfig", GROUPED, SMALL_EXPERTS, shared_expert_intermediate_size=16
            )
        },
        "experts, one shared",
    ),
    Family("Qwen3", {"qwen3": of("Qwen3Config", HEADS)}),
    Family("Qwen3-MoE", {"qwen3-moe": of("Qwen3MoeConfig", HEADS, SMALL_EXPERTS)}, "experts"),
    Family("Qwen3-Next", {"qwen3-next": of("Qwen3NextConfig", HEADS, SMALL_EXPERTS, LINEAR)},
           "experts, linear attention"),
    Family("Gemma", {"gemma": of("GemmaConfig", HEADS, num_key_value_heads=1)},
           "embeddings scaled before the first block"),
    Family(
        "Gemma 2",
        {
            "gemma2": of("Gemma2Config", HEADS),
            "gemma2-sliding": of("Gemma2Config", HEADS, SLIDING),
        },
        "norms after attention and MLP, soft-capped logits, sliding window; eager attention",
    ),
    Family("Gemma 3", {"gemma3": of("Gemma3TextConfig", HEADS, SLIDING)},
           "text; sliding window. With images it loads as `Gemma3ForConditionalGeneration` and is "
           "read as text"),
    Family(
        "Gemma 4",
        {
            "gemma4": of(
                "Gemma4TextConfig", HEADS, sliding_window=WINDOW,
                layer_types=[*MIXED[::2], MIXED[1]], vocab_size_per_layer_input=64,
                hidden_size_per_layer_input=8, global_head_dim=8,
            )
        },
        "text; the token enters every block anew, sliding window",
    ),
    Family("OLMo", {"olmo": of("OlmoConfig", GROUPED)}, "norms without weights"),
    Family("OLMo 2", {"olmo2": of("Olmo2Config", GROUPED)}, "norms after attention and MLP"),
    Family("OLMo 3", {"olmo3": of("Olmo3Config", GROUPED, SLIDING)},
           "norms after attention and MLP, sliding window"),
    Family("OLMoE", {"olmoe": of("OlmoeConfig", GROUPED, EXPERTS)}, "experts"),
    Family("Phi-1, Phi-2", {"phi": of("PhiConfig", SIZES)}, "parallel residual"),
    Family("Phi-3, Phi-4", {"phi3": of("Phi3Config", GROUPED, sliding_window=WINDOW)},
           "fused projections, sliding window"),
    Family("Phi-MoE", {"phimoe": of("PhimoeConfig", GROUPED, LOCAL_EXPERTS)}, "experts"),
    Family(
        "StableLM",
        {
            "stablelm": of("StableLmConfig", GROUPED, partial_rotary_factor=0.5),
            "stablelm-parallel": of(
                "StableLmConfig", GROUPED, partial_rotary_factor=0.5, use_parallel_residual=True,
                qk_layernorm=True, use_qkv_bias=True,
            ),
        },
        "sequential and parallel residual",
    ),
    Family(
        "Falcon",
        {
            "falcon": of(
                "FalconConfig", FALCON, blocks="transformer.h", new_decoder_architecture=True,
                num_kv_heads=2,
            ),
            "falcon-7b": of(
                "FalconConfig", FALCON, blocks="transformer.h", multi_query=True,
                parallel_attn=True,
            ),
            "falcon-rw": of(
                "FalconConfig", FALCON, blocks="transformer.h", multi_query=False,
                parallel_attn=False, alibi=True, bias=True,
            ),
        },
        "new decoder, 7B's (parallel residual), RW's (ALiBi)",
    ),
    Family(
        "Falcon-H1",
        {
            "falcon-h1": of(
                "FalconH1Config", HEADS, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8,
                mamba_d_state=8, mamba_n_groups=1,
            )
        },
        "attention beside a state-space model",
    ),
    Family(
        "Bloom",
        {
            "bloom": of(
                "BloomConfig", TOKENS, blocks="transformer.h", hidden_size=32, n_layer=3, n_head=4
            )
        },
        "ALiBi: no largest length",
    ),
    Family(
        "MPT",
        {
            "mpt": of(
                "MptConfig", TOKENS, blocks="transformer.blocks", d_model=32, n_layers=3,
                n_heads=4, expansion_ratio=2, max_seq_len=64,
            )
        },
        "ALiBi",
    ),
    Family(
        "OPT",
        {
            "opt": of("OPTConfig", OPT, blocks="model.decoder.layers", word_embed_proj_dim=32),
            "opt-350m": of(
                "OPTConfig", OPT, blocks="model.decoder.layers", word_embed_proj_dim=16,
                do_layer_norm_before=False,
            ),
        },
        "learned positions. 350m: norms after, embeddings narrower than the stream, no final norm",
    ),
    Family(
        "Granite",
        {
            "granite": of(
                "GraniteConfig", GROUPED, embedding_multiplier=2.0, residual_multiplier=0.5,
                attention_multiplier=0.4, logits_scaling=2.0,
            )
        },
        "scaled residuals and logits",
    ),
    Family(
        "Granite MoE",
        {"granitemoe": of("GraniteMoeConfig", GROUPED, LOCAL_EXPERTS, residual_multiplier=0.5)},
        "experts, scaled residuals",
    ),
    Family("Cohere", {"cohere": of("CohereConfig", GROUPED)}, "parallel residual"),
    Family("Cohere 2", {"cohere2": of("Cohere2Config", HEADS, SLIDING)},
           "parallel residual, sliding window"),
    Family("GLM", {"glm": of("GlmConfig", HEADS)}),
    Family("GLM-4", {"glm4": of("Glm4Config", HEADS)}, "norms before and after"),
    Family("StarCoder2", {"starcoder2": of("Starcoder2Config", GROUPED, sliding_window=WINDOW)},
           "sliding window"),
    Family("Nemotron", {"nemotron": of("NemotronConfig", HEADS)}),
    Family("EXAONE 4", {"exaone4": of("Exaone4Config", GROUPED, SLIDING)},
           "norms after attention and MLP, sliding window"),
    Family("Hunyuan", {"hunyuan": of("HunYuanDenseV1Config", HEADS)}, "dense"),
    Family("DeepSeek-V3", {"deepseek-v3": of("DeepseekV3Config", SIZES, LATENT)},
           "experts, latent attention"),
    Family(
        "XGLM",
        {
            "xglm": of(
                "XGLMConfig", TOKENS, d_model=32, ffn_dim=48, num_layers=3, attention_heads=4,
                max_position_embeddings=64,
            )
        },
        "sinusoidal positions",
    ),
    Family("BioGPT", {"biogpt": of("BioGptConfig", SIZES, blocks="biogpt.layers")},
           "learned positions"),
    Family(
        "LFM2",
        {"lfm2": of("Lfm2Config", GROUPED, layer_types=["conv", "full_attention", "conv"])},
        "convolutions between attention",
    ),
    Family(
        "Jamba",
        {
            "jamba": of(
                "JambaConfig", GROUPED, use_mamba_kernels=False, num_experts=4,
                attn_layer_offset=1, attn_layer_period=2, mamba_d_state=4,
            )
        },
        "experts, state-space blocks",
    ),
    Family(
        "Mamba",
        {
            "mamba": of(
                "MambaConfig", TOKENS, blocks="backbone.layers", hidden_size=32,
                num_hidden_layers=3, state_size=4,
            )
        },
        "state space: no largest length; `hidden_states` begin after the first block",
    ),
    Family(
        "RecurrentGemma",
        {"recurrent-gemma": of("RecurrentGemmaConfig", HEADS, attention_window_size=WINDOW)},
        "its recurrence reads padding on the left: refused, and answers are batched by length",
    ),
]  # fmt: skip

VARIANTS = {name: variant for family in FAMILIES for name, variant in family.variants.items()}
CONFIGS = {name: variant.config for name, variant in VARIANTS.items()}
BLOCKS = {variant.blocks for variant in VARIANTS.values()}
SCALES = {"mamba": 1.0}
"""What weights are multiplied by where 10 is too much."""

REPRESENTATIVE = (
    "gpt2", "gpt-neox", "gpt-neox-sequential", "llama-tied", "llama-untied", "llama-gqa", "qwen2",
    "qwen3", "gemma", "gemma2", "olmo2",
)  # fmt: skip
"""The variants that stand for all where a whole file of tests would take too long."""


def table() -> list[str]:
    """Return the lines of the README's table."""
    lines = ["| family | class in transformers | remarks |", "|---|---|---|"]
    for family in FAMILIES:
        classes = dict.fromkeys(f"`{one.architecture}`" for one in family.variants.values())
        lines.append(f"| {family.title} | {', '.join(classes)} | {family.remark} |")
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
