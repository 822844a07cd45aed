//! The tokenizer: against definitions that anyone can check ([`small`]), against llama.cpp, shimmytok and the
//! `tokenizers` library on real vocabularies ([`vocabularies`]), and from outside ([`command`]).

mod command;
mod small;
mod texts;
mod vocabularies;
