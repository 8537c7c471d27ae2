"""Families that are known and cannot be imported, by the reason."""

from ..text_only import TEXT_ONLY

__all__ = ["REFUSED"]

# Each reason goes on from "cannot import the family NAME: ".
REASONS = {
    "it is a mixture of experts": """
        afmoe aria_text axk1 axk2 beam cohere2_moe dbrx deepseek_v2 deepseek_v3 deepseek_v32
        deepseek_v4 dots1 dots3_note dots3_note_text ernie4_5_moe exaone_moe flex_olmo flint
        glm4_moe glm4_moe_lite glm_moe_dsa gpt_oss granitemoe granitemoeshared granitemoe_swa
        hunyuan_v1_moe hy_v3 hy_v4 inkling2_loop_text inkling2_text inkling_text jetmoe kolibri1
        laguna llama4 llama4_text longcat_flash mellum mimo_v2_flash minimax minimax_m2
        minimax_m3_vl_text mistral4 mixtral olmoe phimoe qwen2_moe qwen3_moe sarvam_mla sarvam_moe
        solar_open switch_transformers nllb-moe
    """,
    "some of its layers keep a state that is not a cache of keys and values": """
        bamba bailing_hybrid falcon_h1 falcon_mamba jamba kimi_linear lara_mini lfm2 lfm2_moe lfm3
        mamba mamba2 nemotron_h olmo_hybrid qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text
        qwen3_next qwen4_exp qwen4_exp_text recurrent_gemma rwkv xlstm zamba zamba2 zaya
    """,
    "it has ALiBi positions": "bloom mpt",
    "it compresses keys and values (multi-head latent attention)": "minicpm3 youtu",
    "its positions are computed sines": "ctrl",
    "it normalises queries and keys by LayerNorm": "fuyu persimmon",
    "it normalises queries and keys after their rotation": "hunyuan_v1_dense",
    "it has attention sinks": "granite_swa",
    "its non-linearity has weights of its own (xIELU)": "apertus apertus1p5_text",
    "its layers share parts and have embeddings of their own": """
        gemma3n gemma3n_text gemma4_text gemma4_unified_text
    """,
    "it has its norms after the additions": "openai-gpt",
    "its attention is a difference of two": "diffllama",
    "its weights have three values, with norms inside the layers": "bitnet",
    "it reads bytes in patches": "blt",
    "it runs its layers several times": "dory hrm_text",
    "its mask depends on the values of the attention": "doge",
    "it attends to the tokens that hash alike": "reformer",
    "it attends in two streams, to tokens in any order": "xlnet",
    "its attention knows segments, and sees the whole prompt": "cpmant",
    "only its last layer has a bias": "gpt_neox_japanese",
    "its first layer has no norm, and its head has a layer of its own": "modernbert-decoder",
    "it drafts for another model, whose keys and values it reads": """
        gemma4_assistant gemma4_unified_assistant
    """,
    "it makes sound": "musicgen musicgen_melody",
    "it is an encoder, which does not generate text": """
        albert bert bert-generation big_bird camembert canine convbert data2vec-text deberta
        deberta-v2 distilbert electra ernie esm eurobert flaubert fnet funnel ibert longformer luke
        megatron-bert mobilebert modernbert mpnet mra nomic_bert nystromformer rembert roberta
        roc_bert roberta-prelayernorm roformer squeezebert xlm xlm-roberta xlm-roberta-xl xmod yoso
    """,
    "its decoder normalises the embeddings before it adds the positions": "blenderbot-small",
    "it is an encoder-decoder whose layers are not those of BART or T5": """
        bigbird_pegasus encoder-decoder fsmt led longt5 mvp pegasus_x prophetnet rag t5gemma
        t5gemma2 xlm-prophetnet
    """,
    "it reads sound; only models of text are imported": """
        audioflamingo3 glmasr granite_speech granite_speech_plus kyutai_speech_to_text moonshine
        moss_transcribe_diarize musicflamingo nemo_speechlm omniasr qwen3_asr seamless_m4t
        seamless_m4t_v2 speech_to_text speech_to_text_2 speecht5 vibevoice_asr voxtral_realtime
        whisper
    """,
    "it sees the whole prompt at once, and reads more than text": "paligemma",
    "it reads more than text; only models of text are imported": """
        apertus1p5 aria blip blip-2 chameleon cosmos3_edge cosmos3_omni deepseek_ocr2
        deepseek_vl_hybrid diffusion_gemma emu3 ernie4_5_vl_moe evolla fast_vlm florence2 gemma4
        gemma4_unified git glm46v glm4v_moe glm5_next glm_ocr glmga got_ocr2 granite4_vision
        granite_docling hunyuan_vl hy_v4_vl hyperclovax_vision_v2 idefics inkling2 inkling2_loop
        inkling_mm_model instructblip instructblipvideo kimi_k25 kosmos-2 kosmos-2.5 lfm2_vl lfm3_vl
        lighton_ocr minicpm_ocr minicpmv4_6 minicpmv4_7 minimax_m3_vl mistral_large4 mllama molmo2
        moshi muse_glimmer muse_spark nemotron_h_omni paddleocr_vl perception_lm phi4_multimodal pi0
        pix2struct pixtral pp_chart2table pp_formulanet qianfan_ocr qwen2_5_omni
        qwen2_5_omni_thinker qwen3_omni_moe qwen3_omni_moe_thinker qwen3_vl_moe shieldgemma2 step3p7
        trocr udop unlimited_ocr vision-encoder-decoder
    """,
}
REFUSED = {name: reason for reason, names in REASONS.items() for name in names.split()}
REFUSED |= dict.fromkeys(
    TEXT_ONLY, "it reads more than text; `--text-only` imports its language model alone"
)
