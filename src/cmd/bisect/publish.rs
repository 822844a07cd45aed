//! The answer of a search, as a comment on the pull request that brought the commit.

use crate::cli::BisectArgs;
use crate::cmd::hub::{self, Access};
use crate::github::Tag;
use crate::render::bisection::{Bisection, markdown};

/// What it takes to comment, looked for before a search that may last hours.
pub struct Publisher(Access);

impl Publisher {
    /// # Errors
    /// What is missing.
    pub fn of(args: &BisectArgs) -> anyhow::Result<Self> {
        Ok(Self(Access::of(args.repo.as_deref(), None)?))
    }

    /// Makes or changes the comment, of which a pull request has one for each bench, and says what became of it.
    pub fn publish(self, found: &Bisection) -> anyhow::Result<String> {
        let Some(culprit) = found.accused() else {
            return Ok("no comment: no commit is accused that fresh links bear out".to_owned());
        };
        let tag: Tag = tag(&found.bench, &found.metric).parse()?;
        hub::run(async {
            let hub = self.0.hub()?;
            let Some(number) = hub.bringer_of(culprit).await? else {
                return Ok(format!("no comment: no pull request brought {culprit}"));
            };
            let author = hub.author().await?;
            let text = markdown(found);
            Ok(hub::told(
                &hub.put_comment(number, &tag, &author, &text).await?,
            ))
        })
    }
}

/// A tag holds less than a bench's name may: its FNV-1a hash tells benches apart.
fn tag(bench: &str, metric: &str) -> String {
    let of = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let bytes = bench.as_bytes().iter().chain(metric.as_bytes());
    format!("bisect-{:016x}", bytes.fold(0xcbf2_9ce4_8422_2325, of))
}
