//! The pre-tokenizers of byte-level BPE: how a text is cut into words before merges run inside each word.
//!
//! DEFINITION
//! ```text
//! pieces = [text]
//! for stage in stages:
//!     pieces = for p in pieces: the matches of stage in p, and the gaps between them, in order
//! ```
//!
//! WHY no look-ahead: nearly all of these expressions end in `\s+(?!\S)|\s+`, which leaves the last space of a run to
//! the word that follows. A backtracking engine pays for that with a step limit, and a long run of spaces makes it
//! give up. Here the automata match a plain `\s+` as a pattern of its own, and [`Splitter::split`] gives the last
//! character back, so that the time is linear in the text whatever the text is.
//!
//! Names and expressions follow llama.cpp's `llama-vocab.cpp`. Where it had to approximate the expression of a model's
//! `tokenizer.json` because `std::regex` has no such classes (tekken, gpt-4o), the model's own expression stands here.

use regex_automata::{Input, meta::Regex};

use super::error::{TokenizerError, excerpt};

/// One row of the table: what a `tokenizer.ggml.pre` means.
pub(super) struct Pre {
    names: &'static [&'static str],
    stages: &'static [Stage],
    /// A word that is a token as a whole is taken as that token, even where merges would not lead to it.
    pub ignore_merges: bool,
    /// Whether a beginning-of-sequence token is added when the file does not say.
    pub add_bos: bool,
}

/// One splitting expression.
struct Stage {
    pattern: &'static str,
    /// Whether `|\s+(?!\S)|\s+` follows the pattern.
    spaces: bool,
}

const fn words(pattern: &'static str) -> Stage {
    Stage {
        pattern,
        spaces: true,
    }
}

const fn exactly(pattern: &'static str) -> Stage {
    Stage {
        pattern,
        spaces: false,
    }
}

const fn row(names: &'static [&'static str], stages: &'static [Stage]) -> Pre {
    Pre {
        names,
        stages,
        ignore_merges: false,
        add_bos: false,
    }
}

const fn whole_words(mut row: Pre) -> Pre {
    row.ignore_merges = true;
    row
}

const fn with_bos(mut row: Pre) -> Pre {
    row.add_bos = true;
    row
}

/// English contractions in either case, as GPT-4 and its descendants take them.
macro_rules! contractions {
    () => {
        r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
    };
}

const GPT2: Stage = words(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+");
const LLAMA3: Stage = words(concat!(
    contractions!(),
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
));
const QWEN2: Stage = words(concat!(
    contractions!(),
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
));
const QWEN35: Stage = words(concat!(
    contractions!(),
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+"
));
const GPT4O: Stage = words(concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?:",
    contractions!(),
    r")?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?:",
    contractions!(),
    r")?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
));
const DEEPSEEK3: &[Stage] = &[
    exactly(r"\p{N}{1,3}"),
    exactly(r"[一-龥぀-ゟ゠-ヿ]+"),
    words(concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
        r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"
    )),
];
const POPPED: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";

/// The pre-tokenizer of a file that names none.
const DEFAULT: Pre = row(
    &["default"],
    &[
        exactly(r"[\p{P}\$\+<=>\^~\|]+"),
        GPT2,
        exactly(r"\p{N}+"),
        exactly(r"[0-9][0-9][0-9]"),
    ],
);

const TABLE: &[Pre] = &[
    DEFAULT,
    with_bos(whole_words(row(
        &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        &[LLAMA3],
    ))),
    row(&["dbrx", "smaug-bpe", "chatglm-bpe"], &[LLAMA3]),
    whole_words(row(&["glm4", "glm5"], &[LLAMA3])),
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
        &[QWEN2],
    ),
    row(&["qwen35"], &[QWEN35]),
    row(
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
        ],
        &[GPT2],
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
        &[exactly(r"\p{N}"), GPT2],
    ),
    row(
        &["falcon"],
        &[
            exactly(r"[\p{P}\$\+<=>\^~\|`]+"),
            GPT2,
            exactly(r"[0-9][0-9][0-9]"),
        ],
    ),
    row(
        &["deepseek-llm"],
        &[
            exactly(r"[\r\n]"),
            exactly(
                r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\x{1F7D}ᾀ-ᾴᾶ-ᾼ\x{1FBE}ῂ-ῄῆ-ῌῐ-\x{1FD3}ῖ-\x{1FDB}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\x{2126}ℨ\x{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
            ),
            exactly(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            exactly(r"\s+$"),
            exactly(r"[一-龥ࠀ-一가-퟿]+"),
            exactly(r"\p{N}+"),
        ],
    ),
    row(
        &["deepseek-coder"],
        &[
            exactly(r"[\r\n]"),
            exactly(r"\s?\p{L}+"),
            exactly(r"\s?\p{P}+"),
            exactly(r"[一-龥ࠀ-一가-퟿]+"),
            exactly(r"\p{N}"),
        ],
    ),
    row(
        &["deepseek-v3", "hunyuan-dense", "hy_v4", "joyai-llm"],
        DEEPSEEK3,
    ),
    with_bos(whole_words(row(
        &["tekken"],
        &[words(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
        )],
    ))),
    row(
        &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        &[GPT4O],
    ),
    row(&["poro-chat", "bloom", "gpt3-finnish"], &[exactly(POPPED)]),
    row(&["viking"], &[exactly(POPPED), exactly(r"\p{N}")]),
    row(
        &["bailingmoe", "bailingmoe2", "llada-moe"],
        &[words(
            r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]",
        )],
    ),
    row(
        &["seed-coder"],
        &[words(concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+"
        ))],
    ),
    whole_words(row(
        &["minicpm5"],
        &[
            exactly(r"\p{N}{1,3}"),
            words(concat!(
                contractions!(),
                r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
            )),
        ],
    )),
];

/// The row for a file's `tokenizer.ggml.pre`; a file without one gets the default of its time.
///
/// # Errors
/// [`TokenizerError::UnknownPre`] for a name that the table does not have.
pub(super) fn find(name: Option<&str>) -> Result<&'static Pre, TokenizerError> {
    let name = name.unwrap_or("default");
    TABLE
        .iter()
        .find(|pre| pre.names.contains(&name))
        .ok_or_else(|| TokenizerError::UnknownPre {
            name: excerpt(name),
            known: TABLE
                .iter()
                .flat_map(|pre| pre.names)
                .copied()
                .collect::<Vec<_>>()
                .join(", "),
        })
}

/// The compiled expressions of a [`Pre`].
#[derive(Debug)]
pub(super) struct Splitter {
    stages: Vec<Regex>,
}

/// In a stage with `spaces`, the pattern that matches a run of white space.
const SPACES: usize = 1;

impl Splitter {
    /// Compiles the expressions of `pre`; they are constants, and a test compiles every one of them.
    pub fn new(pre: &Pre) -> Result<Self, TokenizerError> {
        let compile = |stage: &Stage| {
            let patterns: &[&str] = if stage.spaces {
                &[stage.pattern, r"\s+"]
            } else {
                &[stage.pattern]
            };
            Regex::new_many(patterns).map_err(|e| TokenizerError::Library(e.to_string()))
        };
        Ok(Self {
            stages: pre.stages.iter().map(compile).collect::<Result<_, _>>()?,
        })
    }

    /// Calls `word` with each word of `text`, in order and without a gap; stops at its first error.
    pub fn split<'t, E>(
        &self,
        text: &'t str,
        word: &mut impl FnMut(&'t str) -> Result<(), E>,
    ) -> Result<(), E> {
        split_by(&self.stages, text, word)
    }
}

fn split_by<'t, E>(
    stages: &[Regex],
    piece: &'t str,
    word: &mut impl FnMut(&'t str) -> Result<(), E>,
) -> Result<(), E> {
    let Some((stage, rest)) = stages.split_first() else {
        return if piece.is_empty() {
            Ok(())
        } else {
            word(piece)
        };
    };
    let mut at = 0;
    while let Some(found) = stage.search(&Input::new(piece).range(at..)) {
        let mut end = found.end();
        if found.pattern().as_usize() == SPACES && end < piece.len() {
            let last = piece[found.start()..end]
                .chars()
                .next_back()
                .map_or(0, char::len_utf8);
            if end - last > found.start() {
                end -= last;
            }
        }
        split_by(rest, &piece[at..found.start()], word)?;
        split_by(rest, &piece[found.start()..end], word)?;
        at = end;
    }
    split_by(rest, &piece[at..], word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(name: &str, text: &str) -> Vec<String> {
        let splitter = Splitter::new(find(Some(name)).unwrap()).unwrap();
        let mut words = Vec::new();
        splitter
            .split(text, &mut |w| {
                words.push(w.to_owned());
                Ok::<_, TokenizerError>(())
            })
            .unwrap();
        words
    }

    #[test]
    fn every_row_compiles_and_loses_nothing() {
        let text = "Hello  wörld's\n\n  I'LL 12345 ÀÉ mix\u{3000}一二。?!\r\n\t end  ";
        for pre in TABLE {
            for name in pre.names {
                assert_eq!(split(name, text).concat(), text, "{name}");
            }
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = TABLE.iter().flat_map(|pre| pre.names).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn the_last_space_goes_with_the_word() {
        assert_eq!(split("gpt-2", "a   b"), ["a", "  ", " b"]);
        assert_eq!(split("gpt-2", "a\n\nb\n"), ["a", "\n", "\n", "b", "\n"]);
        assert_eq!(split("qwen2", "a\n\n  b  "), ["a", "\n\n", " ", " b", "  "]);
        assert_eq!(split("llama-bpe", "x \t\u{a0}y"), ["x", " \t", "\u{a0}y"]);
    }

    #[test]
    fn numbers_and_contractions() {
        assert_eq!(
            split("llama-bpe", "12345 don'T"),
            ["123", "45", " don", "'T"]
        );
        assert_eq!(split("qwen2", "123"), ["1", "2", "3"]);
        assert_eq!(split("starcoder", "a 12!"), ["a", " ", "1", "2", "!"]);
        assert_eq!(split("tekken", "ÉCOLEÉcole"), ["ÉCOLEÉcole"]);
        assert_eq!(split("tekken", "myURL"), ["my", "URL"]);
    }

    #[test]
    fn a_long_run_of_anything_takes_linear_time() {
        for unit in [" ", "\n", " \n", "a", "1", "!", "é", "A a", "'", "\u{300}"] {
            let text = unit.repeat(50_000);
            for pre in TABLE {
                let name = pre.names[0];
                assert_eq!(split(name, &text).concat().len(), text.len(), "{name}");
            }
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let message = find(Some("made-up\u{7}")).err().unwrap().to_string();
        assert!(
            message.contains("made-up") && message.contains("llama-bpe"),
            "{message}"
        );
        assert!(!message.contains('\u{7}'));
    }
}
