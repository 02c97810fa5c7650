//! What the names in `tokenizer.ggml.pre` stand for.

use super::{Step, Thousands, patterns::*};

/// Defaults that come with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Defaults {
    /// A word that is a token is that token, whatever the merges would make of it.
    pub(crate) ignore_merges: bool,
    /// BOS is added unless the file says otherwise.
    pub(crate) add_bos: bool,
}

const PLAIN: Defaults = Defaults {
    ignore_merges: false,
    add_bos: false,
};
const WORDS_FIRST: Defaults = Defaults {
    ignore_merges: true,
    ..PLAIN
};
const WORDS_AND_BOS: Defaults = Defaults {
    ignore_merges: true,
    add_bos: true,
};
const BOS: Defaults = Defaults {
    add_bos: true,
    ..PLAIN
};

/// Names with the same meaning, the steps that they stand for, and their defaults.
pub(super) struct Row {
    pub(super) names: &'static [&'static str],
    pub(super) steps: &'static [Step],
    pub(super) defaults: Defaults,
}

const fn row(names: &'static [&'static str], steps: &'static [Step], defaults: Defaults) -> Row {
    Row {
        names,
        steps,
        defaults,
    }
}

use Step::{Gaps, Isolate, RightToLeft, Words};

/// Every name of a byte-level vocabulary that llama.cpp knows, and `falcon_e` of its fork for BitNet.
pub(super) const ROWS: &[Row] = &[
    row(
        &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon_e",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        &[Words(LLAMA3)],
        WORDS_AND_BOS,
    ),
    row(
        &["smaug-bpe", "dbrx", "chatglm-bpe"],
        &[Words(LLAMA3)],
        PLAIN,
    ),
    row(&["glm4", "glm5"], &[Words(LLAMA3)], WORDS_FIRST),
    row(
        &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
        ],
        &[Words(QWEN2)],
        PLAIN,
    ),
    row(&["qwen35"], &[Words(QWEN35)], PLAIN),
    row(&["laguna"], &[Isolate(r"\n+"), Words(QWEN2)], PLAIN),
    row(&["ufakzeka"], &[Words(TURKISH)], PLAIN),
    row(
        &["minicpm5"],
        &[Isolate(r"\p{N}{1,3}"), Words(MINICPM5)],
        WORDS_FIRST,
    ),
    row(&["jais-2"], &[Words(JAIS2)], PLAIN),
    row(
        &[
            "gpt-2",
            "gpt2",
            "phi-2",
            "jina-es",
            "jina-de",
            "jina-v1-en",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v2-code",
            "roberta-bpe",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "exaone4",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
        ],
        &[Words(GPT2)],
        PLAIN,
    ),
    row(
        &[
            "starcoder",
            "refact",
            "command-r",
            "smollm",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        &[Isolate(r"\p{N}"), Words(GPT2)],
        PLAIN,
    ),
    row(
        &["falcon"],
        &[
            Isolate(r"[\p{P}$+<=>^~|`]+"),
            Words(GPT2),
            Isolate("[0-9][0-9][0-9]"),
        ],
        PLAIN,
    ),
    row(
        &["default"],
        &[
            Isolate(r"[\p{P}$+<=>^~|]+"),
            Words(GPT2),
            Isolate(r"\p{N}+"),
            Isolate("[0-9][0-9][0-9]"),
        ],
        PLAIN,
    ),
    row(
        &["chameleon"],
        &[
            Isolate("<sentinel:[0-9]+>"),
            Isolate("IMGIMG[A-I]{1,4}Z"),
            Isolate(r"[\t\n]|    |  "),
            Isolate(r"\p{N}"),
            Isolate(r"[\p{P}!-/:-@\[-`{-~]"),
            Words(GPT2),
        ],
        BOS,
    ),
    row(
        &["deepseek-llm"],
        &[
            Isolate(r"[\r\n]"),
            Isolate(DEEPSEEK_LETTERS),
            Isolate(DEEPSEEK_PUNCTUATION),
            Isolate(r"\s+$"),
            Isolate(HAN_AND_HANGUL),
            Isolate(r"\p{N}+"),
        ],
        PLAIN,
    ),
    row(
        &["deepseek-coder"],
        &[
            Isolate(r"[\r\n]"),
            Isolate(r"\s?\p{L}+"),
            Isolate(r"\s?\p{P}+"),
            Isolate(HAN_AND_HANGUL),
            Isolate(r"\p{N}"),
        ],
        PLAIN,
    ),
    row(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        &[
            Isolate(r"\p{N}{1,3}"),
            Isolate(KANA_AND_HAN),
            Gaps(DEEPSEEK3),
        ],
        PLAIN,
    ),
    row(
        &["spark2_5"],
        &[
            Isolate(r"\p{N}{1,3}"),
            Isolate(KANA_AND_HAN),
            Gaps(SPARK),
            Isolate(r"\p{N}"),
        ],
        PLAIN,
    ),
    row(
        &["afmoe"],
        &[
            RightToLeft(Thousands::Numbers),
            Isolate(AFMOE_SCRIPTS),
            Gaps(DEEPSEEK3),
        ],
        PLAIN,
    ),
    row(
        &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        &[Words(GPT4O)],
        PLAIN,
    ),
    row(&["granite-embed-multi-97m"], &[Words(GPT4O)], WORDS_FIRST),
    row(
        &["tiny_aya", "cohere2moe"],
        &[RightToLeft(Thousands::Words), Words(GPT4O)],
        PLAIN,
    ),
    row(
        &["youtu"],
        &[Isolate(YOUTU_SCRIPTS), Words(YOUTU)],
        WORDS_FIRST,
    ),
    row(&["tekken"], &[Words(TEKKEN)], WORDS_AND_BOS),
    row(&["kimi-k2"], &[Words(KIMI_K2)], PLAIN),
    row(
        &["superbpe"],
        &[Isolate(r"\p{N}+"), RightToLeft(Thousands::Cuts)],
        PLAIN,
    ),
    row(
        &["poro-chat", "bloom", "gpt3-finnish"],
        &[Isolate(BLOOM)],
        PLAIN,
    ),
    row(&["viking"], &[Isolate(BLOOM), Isolate(r"\p{N}")], PLAIN),
    row(&["exaone-moe"], &[Words(EXAONE_MOE)], PLAIN),
    row(
        &["bailingmoe", "bailingmoe2", "llada-moe"],
        &[Words(BAILING)],
        PLAIN,
    ),
    row(&["seed-coder"], &[Words(SEED)], PLAIN),
];
