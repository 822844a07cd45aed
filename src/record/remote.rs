//! Where commits can be looked at: links of the hosts whose forms are known.

/// A repository on a host whose links are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// The repository's page.
    pub page: String,
    /// What a commit's id is put behind.
    pub commit: String,
    /// What `OLD...NEW` is put behind, where the host shows the way from one commit to another.
    pub compare: Option<String>,
}

impl Remote {
    /// The repository's name on its host, such as `owner/name`.
    pub fn name(&self) -> &str {
        let path = self.page.splitn(4, '/').nth(3);
        path.unwrap_or(&self.page)
    }

    /// Understands what `git remote get-url` prints; `None` for a host whose links are not known. Names and passwords in
    /// it are left out.
    pub fn of_url(url: &str) -> Option<Self> {
        let url = url.trim();
        let rest = ["https://", "http://", "ssh://", "git://"]
            .iter()
            .find_map(|scheme| url.strip_prefix(scheme));
        let (place, path) = match rest {
            Some(rest) => rest.split_once('/')?,
            // `git@host:owner/name`, as scp writes it.
            None => url.split_once(':')?,
        };
        let host = place.rsplit_once('@').map_or(place, |(_, host)| host);
        let host = host
            .split_once(':')
            .map_or(host, |(host, _)| host)
            .to_ascii_lowercase();
        let path = path.trim_matches('/');
        let path = path.strip_suffix(".git").unwrap_or(path);
        let harmless = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
        let parts: Vec<&str> = path.split('/').collect();
        let named = parts.len() >= 2
            && path.len() <= 256
            && parts.iter().all(|part| {
                !part.is_empty() && part.bytes().all(harmless) && !part.bytes().all(|b| b == b'.')
            });
        if !named {
            return None;
        }
        let page = format!("https://{host}/{path}");
        let (commit, compare) = match host.as_str() {
            "github.com" | "codeberg.org" | "gitea.com" => ("commit", Some("compare")),
            "gitlab.com" => ("-/commit", Some("-/compare")),
            "bitbucket.org" => ("commits", None),
            _ if host.starts_with("gitlab.") && host.bytes().all(harmless) => {
                ("-/commit", Some("-/compare"))
            }
            _ => return None,
        };
        Some(Self {
            commit: format!("{page}/{commit}/"),
            compare: compare.map(|compare| format!("{page}/{compare}/")),
            page,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_made_of_the_forms_that_git_uses() {
        for url in [
            "https://github.com/tokgate/tokgate",
            "https://github.com/tokgate/tokgate.git\n",
            "https://user:secret@github.com/tokgate/tokgate.git",
            "git@github.com:tokgate/tokgate.git",
            "ssh://git@github.com:22/tokgate/tokgate",
        ] {
            let remote = Remote::of_url(url).unwrap();
            assert_eq!(remote.page, "https://github.com/tokgate/tokgate", "{url}");
            assert_eq!(remote.name(), "tokgate/tokgate");
            assert_eq!(remote.commit, "https://github.com/tokgate/tokgate/commit/");
        }
        let lab = Remote::of_url("https://gitlab.example.org/a/b/c.git").unwrap();
        assert_eq!(lab.commit, "https://gitlab.example.org/a/b/c/-/commit/");
        let bucket = Remote::of_url("git@bitbucket.org:a/b.git").unwrap();
        assert_eq!(bucket.compare, None);
    }

    #[test]
    fn what_is_no_known_host_has_no_links() {
        for url in [
            "",
            "/srv/git/tokgate.git",
            "../elsewhere",
            "https://example.org/a/b",
            "https://github.com/",
            "https://github.com/a",
            "https://github.com/a/..",
            "https://github.com/a/b\"onclick=",
            "javascript:alert(1)//github.com/a/b",
            "https://gitlab.evil\"x/a/b",
        ] {
            assert_eq!(Remote::of_url(url), None, "{url}");
        }
    }
}
