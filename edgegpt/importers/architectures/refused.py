"""Families that are known and cannot be imported, by the reason."""

__all__ = ["REFUSED"]

# Each reason goes on from "cannot import the family NAME: ".
REASONS = {
    "it is a mixture of experts": """
        afmoe aria_text axk1 axk2 cohere2_moe dbrx deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4
        dots1 ernie4_5_moe exaone_moe flex_olmo glm4_moe glm4_moe_lite glm_moe_dsa gpt_oss
        granitemoe granitemoeshared granitemoe_swa hunyuan_v1_moe jetmoe llama4 llama4_text
        longcat_flash mimo_v2_flash minimax minimax_m2 mixtral olmoe phimoe qwen2_moe qwen3_moe
        sarvam_mla sarvam_moe solar_open switch_transformers nllb-moe
    """,
    "some of its layers keep a state that is not a cache of keys and values": """
        bamba bailing_hybrid falcon_h1 falcon_mamba jamba kimi_linear lfm2 lfm2_moe lfm3 mamba
        mamba2 nemotron_h olmo_hybrid qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text
        qwen3_next recurrent_gemma rwkv xlstm zamba zamba2
    """,
    "it has ALiBi positions": "bloom mpt",
    "it compresses keys and values (multi-head latent attention)": "minicpm3",
    "its positions are computed sines": "ctrl",
    "it normalises queries and keys by LayerNorm": "fuyu persimmon",
    "it normalises queries and keys after their rotation": "hunyuan_v1_dense",
    "it has attention sinks": "granite_swa",
    "its non-linearity has weights of its own (xIELU)": "apertus",
    "its layers share parts and have embeddings of their own": "gemma3n gemma3n_text gemma4_text",
    "it has its norms after the additions": "openai-gpt",
    "its attention is a difference of two": "diffllama",
    "its weights have three values, with norms inside the layers": "bitnet",
    "it reads bytes in patches": "blt",
    "it is an encoder, which does not generate text": """
        albert bert big_bird camembert canine convbert deberta deberta-v2 distilbert electra ernie
        esm eurobert flaubert fnet funnel ibert longformer luke megatron-bert mobilebert modernbert
        mpnet mra nomic_bert nystromformer rembert roberta roberta-prelayernorm roformer squeezebert
        xlm xlm-roberta xlm-roberta-xl xmod yoso
    """,
    "its decoder normalises the embeddings before it adds the positions": "blenderbot-small",
    "it is an encoder-decoder whose layers are not those of BART or T5": """
        bigbird_pegasus encoder-decoder fsmt led longt5 mvp pegasus_x prophetnet rag t5gemma
        t5gemma2 xlm-prophetnet
    """,
    "it reads sound; only models of text are imported": """
        kyutai_speech_to_text moonshine seamless_m4t seamless_m4t_v2 speech_to_text
        speech_to_text_2 speecht5 whisper
    """,
    "it reads more than text; only models of text are imported": """
        aria aya_vision blip-2 chameleon cohere2_vision emu3 gemma3 gemma4 git idefics idefics2
        idefics3 internvl janus kosmos-2 llava llava_next llava_onevision mistral3 mllama moshi
        paligemma phi4_multimodal pixtral qwen2_5_omni qwen2_5_vl qwen2_audio qwen2_vl
        qwen3_omni_moe qwen3_vl qwen3_vl_moe smolvlm vision-encoder-decoder vipllava voxtral
    """,
}
REFUSED = {name: reason for reason, names in REASONS.items() for name in names.split()}
