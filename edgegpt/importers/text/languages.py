"""Languages as tokens: which tokens they are, and where a source has its own."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["CLASSES", "Rule", "language_codes", "language_tokens", "tokenizer_class"]

# The languages of the models, in the order of their ids, which follow on those of the pieces.
# Folders whose tokenizer is a SentencePiece model alone need not name them.
OF_M2M100 = """
    af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu
    ha he hi hr ht hu hy id ig ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr
    ms my ne nl no ns oc or pa pl ps pt ro ru sd si sk sl so sq sr ss su sv sw ta th tl tn tr uk
    ur uz vi wo xh yi yo zh zu
""".split()  # noqa: SIM905 - a list of names would fill two pages
OF_WMT21 = ("en", "ha", "is", "ja", "cs", "ru", "zh", "de")
OF_MBART = """
    ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT
    lv_LV my_MM ne_NP nl_XX ro_RO ru_RU si_LK tr_TR vi_VN zh_CN
""".split()  # noqa: SIM905
OF_MBART50 = """
    ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT
    lv_LV my_MM ne_NP nl_XX ro_RO ru_RU si_LK tr_TR vi_VN zh_CN af_ZA az_AZ bn_IN fa_IR he_IL
    hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX sv_SE sw_KE ta_IN te_IN
    th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI
""".split()  # noqa: SIM905
OF_NLLB = """
    ace_Arab ace_Latn acm_Arab acq_Arab aeb_Arab afr_Latn ajp_Arab aka_Latn amh_Ethi apc_Arab
    arb_Arab ars_Arab ary_Arab arz_Arab asm_Beng ast_Latn awa_Deva ayr_Latn azb_Arab azj_Latn
    bak_Cyrl bam_Latn ban_Latn bel_Cyrl bem_Latn ben_Beng bho_Deva bjn_Arab bjn_Latn bod_Tibt
    bos_Latn bug_Latn bul_Cyrl cat_Latn ceb_Latn ces_Latn cjk_Latn ckb_Arab crh_Latn cym_Latn
    dan_Latn deu_Latn dik_Latn dyu_Latn dzo_Tibt ell_Grek eng_Latn epo_Latn est_Latn eus_Latn
    ewe_Latn fao_Latn pes_Arab fij_Latn fin_Latn fon_Latn fra_Latn fur_Latn fuv_Latn gla_Latn
    gle_Latn glg_Latn grn_Latn guj_Gujr hat_Latn hau_Latn heb_Hebr hin_Deva hne_Deva hrv_Latn
    hun_Latn hye_Armn ibo_Latn ilo_Latn ind_Latn isl_Latn ita_Latn jav_Latn jpn_Jpan kab_Latn
    kac_Latn kam_Latn kan_Knda kas_Arab kas_Deva kat_Geor knc_Arab knc_Latn kaz_Cyrl kbp_Latn
    kea_Latn khm_Khmr kik_Latn kin_Latn kir_Cyrl kmb_Latn kon_Latn kor_Hang kmr_Latn lao_Laoo
    lvs_Latn lij_Latn lim_Latn lin_Latn lit_Latn lmo_Latn ltg_Latn ltz_Latn lua_Latn lug_Latn
    luo_Latn lus_Latn mag_Deva mai_Deva mal_Mlym mar_Deva min_Latn mkd_Cyrl plt_Latn mlt_Latn
    mni_Beng khk_Cyrl mos_Latn mri_Latn zsm_Latn mya_Mymr nld_Latn nno_Latn nob_Latn npi_Deva
    nso_Latn nus_Latn nya_Latn oci_Latn gaz_Latn ory_Orya pag_Latn pan_Guru pap_Latn pol_Latn
    por_Latn prs_Arab pbt_Arab quy_Latn ron_Latn run_Latn rus_Cyrl sag_Latn san_Deva sat_Beng
    scn_Latn shn_Mymr sin_Sinh slk_Latn slv_Latn smo_Latn sna_Latn snd_Arab som_Latn sot_Latn
    spa_Latn als_Latn srd_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn swh_Latn szl_Latn tam_Taml
    tat_Cyrl tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi taq_Latn taq_Tfng tpi_Latn tsn_Latn
    tso_Latn tuk_Latn tum_Latn tur_Latn twi_Latn tzm_Tfng uig_Arab ukr_Cyrl umb_Latn urd_Arab
    uzn_Latn vec_Latn vie_Latn war_Latn wol_Latn xho_Latn ydd_Hebr yor_Latn yue_Hant zho_Hans
    zho_Hant zul_Latn
""".split()  # noqa: SIM905


@dataclass(frozen=True)
class Rule:
    """How a class of transformers marks the language of a source.

    Attributes:
        token: a pattern of the tokens of languages; its group is the code.
        before: whether the token comes before the source, or behind it and its end.
        usual: the code, unless the folder says another.
        tokens: those of the class, in the order of their ids.
    """

    token: str
    before: bool
    usual: str | None
    tokens: tuple[str, ...] = ()


CLASSES = {
    "M2M100Tokenizer": Rule(
        r"__([a-z]{2,4})__", True, "en", tuple(f"__{code}__" for code in OF_M2M100)
    ),
    "NllbTokenizer": Rule(r"([a-z]{3}_[A-Z][a-z]{3})", True, "eng_Latn", tuple(OF_NLLB)),
    "MBartTokenizer": Rule(r"([a-z]{2}_[A-Z]{2})", False, "en_XX", tuple(OF_MBART)),
    "MBart50Tokenizer": Rule(r"([a-z]{2}_[A-Z]{2})", True, "en_XX", tuple(OF_MBART50)),
    "PLBartTokenizer": Rule(r"__(\w+)__", False, None, ("__java__", "__python__", "__en_XX__")),
}
# The classes of families, where neither file of a folder names one.
OF_FAMILIES = {
    "bart": "BartTokenizer",
    "blenderbot": "BlenderbotTokenizer",
    "m2m_100": "M2M100Tokenizer",
    "marian": "MarianTokenizer",
    "mbart": "MBartTokenizer",
    "mt5": "T5Tokenizer",
    "pegasus": "PegasusTokenizer",
    "plbart": "PLBartTokenizer",
    "t5": "T5Tokenizer",
    "umt5": "T5Tokenizer",
}


def tokenizer_class(named: str | None, settings: Mapping[str, Any]) -> str | None:
    """Return the name of the tokenizer's class; `named` is what tokenizer_config.json says."""
    family = OF_FAMILIES.get(str(settings.get("model_type")))
    name = named or settings.get("tokenizer_class") or family
    return name.removesuffix("Fast") if isinstance(name, str) else None


def language_tokens(kind: str | None, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the tokens of languages of a class, in the order of their ids."""
    if config.get("language_codes") == "wmt21":
        return tuple(f"__{code}__" for code in OF_WMT21)
    rule = CLASSES.get(kind or "")
    return () if rule is None else rule.tokens


def language_codes(rule: Rule, tokens: Mapping[str, int]) -> dict[str, int]:
    """Return the ids of languages by their codes, of all special `tokens`."""
    found = {}
    for text, number in tokens.items():
        match = re.fullmatch(rule.token, text)
        if match is not None:
            found[match[1]] = number
    return found
