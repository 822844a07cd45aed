//! What every subcommand that writes to GitHub needs: which repository, at which server, with which token.

use std::future::Future;

use anyhow::{Context, bail};

use super::variable;
use crate::github::{Hub, Patience, Posted, Repository, Token};

/// Everything that a client is made of.
pub struct Access {
    base_url: String,
    repository: Repository,
    token: Token,
}

impl Access {
    /// What was given, and for the rest what a workflow's environment says.
    pub fn of(repository: Option<&str>, base_url: Option<&str>) -> anyhow::Result<Self> {
        let given = repository.map(str::to_owned);
        let Some(name) = given.or_else(|| variable("GITHUB_REPOSITORY")) else {
            bail!("which repository? Name it with --repo, or in GITHUB_REPOSITORY");
        };
        let base_url = base_url
            .map(str::to_owned)
            .or_else(|| variable("GITHUB_API_URL"))
            .unwrap_or_else(|| "https://api.github.com".to_owned());
        let Some(token) = token()? else {
            bail!("there is no token in GITHUB_TOKEN or GH_TOKEN");
        };
        Ok(Self {
            base_url,
            repository: name.parse()?,
            token,
        })
    }

    /// A client; it must be made within [`run`].
    pub fn hub(self) -> anyhow::Result<Hub> {
        let patience = Patience::default();
        Ok(Hub::new(
            &self.base_url,
            self.repository,
            self.token,
            patience,
        )?)
    }
}

/// Waits for what is asked of the network.
pub fn run<T>(requests: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime for network requests")?
        .block_on(requests)
}

/// What became of a comment, and where it is to be seen.
pub fn told(posted: &Posted) -> String {
    match posted {
        Posted::Created { url } => format!("comment created: {url}"),
        Posted::Updated { url } => format!("comment updated: {url}"),
        Posted::Unchanged { url } => format!("comment says so already: {url}"),
    }
}

fn token() -> anyhow::Result<Option<Token>> {
    for name in ["GITHUB_TOKEN", "GH_TOKEN"] {
        if let Some(text) = variable(name) {
            // Its text must not be quoted, however wrong it is.
            let token = Token::new(&text).with_context(|| format!("{name} holds no token"))?;
            return Ok(Some(token));
        }
    }
    Ok(None)
}
