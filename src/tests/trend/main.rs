//! From the baselines in git to the page of their history.

mod browser;
mod chromium;
mod history;
mod repository;
