//! A token that a server wants to see, and to whom it is shown.

use std::fmt;

use ureq::http::Uri;

use super::download::is_this_machine;

/// The environment variable with the token of Hugging Face, as its own tools have it.
const VARIABLE: &str = "HF_TOKEN";

/// The host that it is for.
const HOST: &str = "huggingface.co";

/// A secret for one host, which no redirect takes elsewhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    host: String,
    secret: String,
}

impl Token {
    /// A token for `host`.
    pub fn new(host: &str, secret: &str) -> Self {
        Self { host: host.to_owned(), secret: secret.trim().to_owned() }
    }

    /// The token of Hugging Face, if `HF_TOKEN` is set.
    pub fn from_env() -> Option<Self> {
        let secret = std::env::var(VARIABLE).ok().filter(|secret| !secret.trim().is_empty())?;
        Some(Self::new(HOST, &secret))
    }

    /// The header's value for a request to `uri`: for the token's own host alone, and never in the clear.
    pub(super) fn header_for(&self, uri: &Uri) -> Option<String> {
        let is_private = uri.scheme_str() == Some("https") || is_this_machine(uri);
        (is_private && uri.host() == Some(&self.host)).then(|| format!("Bearer {}", self.secret))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token for {}", self.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_to_its_host_over_https_alone() {
        let token = Token::new(HOST, "hf_secret\n");
        let shown = |uri: &str| token.header_for(&uri.parse().unwrap());
        assert_eq!(shown("https://huggingface.co/datasets/x").as_deref(), Some("Bearer hf_secret"));
        for uri in ["http://huggingface.co/x", "https://cdn-lfs.hf.co/x", "https://huggingface.co.evil.org/x"]
        {
            assert_eq!(shown(uri), None, "{uri}");
        }
        assert!(!format!("{token:?}").contains("secret"));
    }
}
