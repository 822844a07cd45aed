//! The tokenizer: against definitions that anyone can check ([`small`]), and against llama.cpp, shimmytok and the
//! `tokenizers` library on real vocabularies ([`vocabularies`]).

mod small;
mod texts;
mod vocabularies;
