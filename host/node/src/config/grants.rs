//! The table `[grants]` of a node's configuration: the most that a run gets of what its package's
//! manifest asks for there.

use serde::Deserialize;
use skep_evidence::Credits;
use skep_registry::Grants;

use super::jobs::credits;

/// Caps on what is granted to the owner's own runs.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct GrantCaps {
    /// What a run may spend on jobs.
    pub jobs: JobsCap,
}

/// The cap on the grant `jobs`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct JobsCap {
    /// All that the jobs which one run begins may cost together, in credits.
    #[serde(deserialize_with = "credits")]
    pub max_price: Credits,
}

impl Default for JobsCap {
    /// What an owner lets a run spend who has said nothing.
    fn default() -> Self {
        Self {
            max_price: Credits::from_micro(Credits::ONE),
        }
    }
}

impl GrantCaps {
    /// What is left of the grants that a manifest asks for.
    pub fn cap(&self, mut grants: Grants) -> Grants {
        if let Some(jobs) = &mut grants.jobs {
            jobs.max_price = jobs.max_price.min(self.jobs.max_price.micro());
        }
        grants
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use skep_registry::JobsGrant;

    use super::*;

    fn left(caps: &str, asked: Option<u64>) -> Option<u64> {
        let caps: GrantCaps = toml::from_str(caps).unwrap();
        let asked = Grants {
            jobs: asked.map(|max_price| JobsGrant { max_price }),
            ..Grants::default()
        };
        caps.cap(asked).jobs.map(|jobs| jobs.max_price)
    }

    #[test]
    fn the_smaller_wins_and_nobody_is_granted_what_the_package_does_not_ask_for() {
        assert_eq!(left("", Some(250_000)), Some(250_000));
        assert_eq!(left("", Some(5_000_000)), Some(1_000_000));
        let generous = "jobs = { max-price = \"20\" }";
        assert_eq!(left(generous, Some(5_000_000)), Some(5_000_000));
        assert_eq!(left(generous, None), None);
        assert_eq!(left("jobs = { max-price = \"0\" }", Some(1)), Some(0));
    }

    #[test]
    fn a_misspelt_cap_is_refused() {
        for text in [
            "job = {}",
            "jobs = { max-prize = \"1\" }",
            "jobs = { max-price = \"all\" }",
        ] {
            assert!(toml::from_str::<GrantCaps>(text).is_err(), "{text}");
        }
    }
}
