//! From other harnesses' files to records and out again, and from the baselines in git to the page of their history.

mod browser;
mod chromium;
mod foreign;
mod history;
mod hover;
mod long;
mod repository;
