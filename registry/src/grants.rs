//! What a package may touch. Everything that is not granted is denied.
//!
//! A grant is a statement of the package's, which its publisher signs and a node's owner can
//! read. It gives nothing by itself: the sandbox that runs the package holds it to it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::name::{DEFAULT, NameError, PackageName};
use crate::publisher::{PublisherId, PublisherIdError};
use crate::text::serde_as_text;

/// What a component may touch. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// Tensors on the node's devices.
    pub tensor: bool,
    /// The models it may open.
    pub models: BTreeSet<ModelGrant>,
    /// The adapters it may open; never [`ModelGrant::Default`].
    pub adapters: BTreeSet<ModelGrant>,
    /// The blobs it may read from the swarm.
    pub swarm_read: SwarmRead,
    /// Whether it may store blobs and offer them to the swarm.
    pub swarm_write: bool,
    /// The jobs that it may begin, which whoever runs it pays for.
    pub jobs: Option<JobsGrant>,
}

impl Grants {
    /// Whether a guest may open a model by the name it asks for. It may use exactly the names
    /// that are granted: a grant for a name is none for a digest, even that of the same model.
    #[must_use]
    pub fn allows_model(&self, asked: &str) -> bool {
        asked
            .parse::<ModelGrant>()
            .is_ok_and(|asked| self.models.contains(&asked))
    }

    /// Whether a guest may open an adapter by the name it asks for, in the same way. There is no
    /// adapter that is called `default`.
    #[must_use]
    pub fn allows_adapter(&self, asked: &str) -> bool {
        asked
            .parse::<ModelGrant>()
            .is_ok_and(|asked| asked != ModelGrant::Default && self.adapters.contains(&asked))
    }

    /// Whether a guest may read this blob.
    #[must_use]
    pub fn allows_read(&self, digest: &Digest) -> bool {
        match &self.swarm_read {
            SwarmRead::Only(digests) => digests.contains(digest),
            SwarmRead::Everything => true,
        }
    }

    /// The imports of a component that it holds no grant for. Those of other packages than
    /// skep's (such as WASI's) need none of these grants, and are not judged here.
    #[must_use]
    pub fn missing_for<'a>(&self, imports: impl IntoIterator<Item = &'a str>) -> Vec<MissingGrant> {
        let missing = |import: &&str| grant_for(import).filter(|grant| !self.holds(*grant));
        imports
            .into_iter()
            .filter_map(|import| {
                let grant = missing(&import)?;
                Some(MissingGrant {
                    import: import.to_owned(),
                    grant,
                })
            })
            .collect()
    }

    fn holds(&self, grant: GrantKind) -> bool {
        match grant {
            GrantKind::Tensor => self.tensor,
            GrantKind::Models => !self.models.is_empty(),
            // Worlds import adapters beside models; without a grant none can be opened.
            GrantKind::Adapters => !self.adapters.is_empty() || !self.models.is_empty(),
            GrantKind::Swarm => self.swarm_write || self.swarm_read != SwarmRead::default(),
            GrantKind::Jobs => self.jobs.is_some(),
        }
    }
}

/// The grant that an imported interface needs, such as `skep:tensor/tensors@0.1.0`.
fn grant_for(import: &str) -> Option<GrantKind> {
    match import.split('/').next()? {
        "skep:tensor" => Some(GrantKind::Tensor),
        // Who trains an adapter has to be granted its base.
        "skep:model" | "skep:train" => Some(GrantKind::Models),
        "skep:adapter" => Some(GrantKind::Adapters),
        "skep:swarm" => Some(GrantKind::Swarm),
        "skep:jobs" => Some(GrantKind::Jobs),
        _ => None,
    }
}

/// The kinds of grants, each for one of the contract's packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantKind {
    /// `skep:tensor`.
    Tensor,
    /// `skep:model`.
    Models,
    /// `skep:adapter`.
    Adapters,
    /// `skep:swarm`.
    Swarm,
    /// `skep:jobs`.
    Jobs,
}

impl GrantKind {
    /// A line for `skep.toml` that gives it.
    #[must_use]
    pub const fn example(self) -> &'static str {
        match self {
            Self::Tensor => "tensor = true",
            Self::Models => "models = [\"default\"]",
            Self::Adapters => "adapters = [\"<name>\"]",
            Self::Swarm => "swarm-read = [\"<digest>\"] or swarm-write = true",
            Self::Jobs => "jobs = { max-price = \"<credits>\" }",
        }
    }
}

/// An import without the grant that it needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the component imports `{import}` and is not granted it; add `{}` under [grants] in skep.toml", grant.example())]
pub struct MissingGrant {
    /// The imported interface.
    pub import: String,
    /// What it needs.
    pub grant: GrantKind,
}

/// What a component may spend on jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobsGrant {
    /// All that the jobs which one run begins may cost together, in millionths of a credit.
    pub max_price: u64,
}

/// Which blobs a component may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SwarmRead {
    /// These and no others.
    Only(BTreeSet<Digest>),
    /// Any whose digest it knows.
    Everything,
}

impl Default for SwarmRead {
    fn default() -> Self {
        Self::Only(BTreeSet::new())
    }
}

/// A model that a component may open.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ModelGrant {
    /// The one that whoever starts the run chose.
    Default,
    /// The one that the node knows under this name.
    Named {
        /// The publisher; without one, whichever package of this name the node has installed.
        publisher: Option<PublisherId>,
        /// The package's name.
        name: PackageName,
    },
    /// Exactly this one.
    Digest(Digest),
}

impl FromStr for ModelGrant {
    type Err = ModelGrantError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == DEFAULT {
            return Ok(Self::Default);
        }
        if let Ok(digest) = text.parse() {
            return Ok(Self::Digest(digest));
        }
        let (publisher, name) = match text.split_once('/') {
            Some((publisher, name)) => (Some(publisher.parse()?), name),
            None => (None, text),
        };
        Ok(Self::Named {
            publisher,
            name: name.parse()?,
        })
    }
}

impl fmt::Display for ModelGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str(DEFAULT),
            Self::Named {
                publisher: Some(publisher),
                name,
            } => write!(f, "{publisher}/{name}"),
            Self::Named {
                publisher: None,
                name,
            } => name.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

serde_as_text!(ModelGrant);

/// Why a text names no model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelGrantError {
    /// The name is none.
    #[error("{0}; write `default`, a name, publisher/name or a digest")]
    Name(#[from] NameError),
    /// The publisher is none.
    #[error("what stands before the slash is not a publisher: {0}")]
    Publisher(#[from] PublisherIdError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publisher::PublisherKey;

    const IMPORTS: [&str; 7] = [
        "skep:types/types@0.1.0",
        "skep:workload/io@0.1.0",
        "wasi:io/streams@0.2.6",
        "skep:tensor/tensors@0.1.0",
        "skep:model/encoders@0.1.0",
        "skep:swarm/blobs@0.1.0",
        "skep:jobs/jobs@0.1.0",
    ];

    #[test]
    fn the_default_grants_nothing() {
        let grants = Grants::default();
        assert!(!grants.allows_model("default"));
        assert!(!grants.allows_read(&Digest::of(b"")));
        let missing: Vec<_> = grants
            .missing_for(IMPORTS)
            .into_iter()
            .map(|m| m.import)
            .collect();
        assert_eq!(missing, IMPORTS[3..]);
    }

    #[test]
    fn each_grant_opens_its_own_interface_and_no_other() {
        let missing = |grants: Grants| {
            grants
                .missing_for(IMPORTS)
                .into_iter()
                .map(|m| m.grant)
                .collect::<Vec<_>>()
        };
        use GrantKind::{Jobs, Models, Swarm, Tensor};
        assert_eq!(
            missing(Grants {
                tensor: true,
                ..Grants::default()
            }),
            [Models, Swarm, Jobs]
        );
        let models = BTreeSet::from([ModelGrant::Default]);
        assert_eq!(
            missing(Grants {
                models,
                ..Grants::default()
            }),
            [Tensor, Swarm, Jobs]
        );
        assert_eq!(
            missing(Grants {
                swarm_write: true,
                ..Grants::default()
            }),
            [Tensor, Models, Jobs]
        );
        let swarm_read = SwarmRead::Only(BTreeSet::from([Digest::of(b"")]));
        assert_eq!(
            missing(Grants {
                swarm_read,
                ..Grants::default()
            }),
            [Tensor, Models, Jobs]
        );
        assert_eq!(
            missing(Grants {
                // Who may begin none that cost anything may find those that it began.
                jobs: Some(JobsGrant { max_price: 0 }),
                ..Grants::default()
            }),
            [Tensor, Models, Swarm]
        );
    }

    #[test]
    fn a_model_is_opened_by_a_granted_name_only() {
        let publisher = PublisherKey::from_seed(&[1; 32]).id();
        let digest = Digest::of(b"model");
        let full = format!("{publisher}/minilm");
        let grants = |text: &str| Grants {
            models: BTreeSet::from([text.parse().unwrap()]),
            ..Grants::default()
        };
        let all = ["default", "minilm", &full, &digest.to_string()].map(str::to_owned);
        for granted in &all {
            for asked in &all {
                assert_eq!(
                    grants(granted).allows_model(asked),
                    granted == asked,
                    "{granted} {asked}"
                );
            }
            assert_eq!(&granted.parse::<ModelGrant>().unwrap().to_string(), granted);
        }
    }

    #[test]
    fn an_adapter_is_opened_by_a_granted_name_only() {
        let grants = |text: &str| Grants {
            adapters: BTreeSet::from([text.parse().unwrap()]),
            ..Grants::default()
        };
        assert!(grants("village").allows_adapter("village"));
        assert!(!grants("village").allows_adapter("town"));
        assert!(!grants("village").allows_model("village"));
        assert!(!grants("default").allows_adapter("default"));
        let missing = |grants: Grants| grants.missing_for(["skep:adapter/adapters@0.1.0"]).len();
        assert_eq!(missing(grants("village")), 0);
        assert_eq!(missing(Grants::default()), 1);
        let models = BTreeSet::from([ModelGrant::Default]);
        assert_eq!(
            missing(Grants {
                models,
                ..Grants::default()
            }),
            0
        );
    }

    #[test]
    fn a_blob_is_read_by_a_granted_digest_only() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let some = Grants {
            swarm_read: SwarmRead::Only(BTreeSet::from([a])),
            ..Grants::default()
        };
        assert!(some.allows_read(&a) && !some.allows_read(&b));
        let all = Grants {
            swarm_read: SwarmRead::Everything,
            ..Grants::default()
        };
        assert!(all.allows_read(&a) && all.allows_read(&b));
    }

    #[test]
    fn the_error_names_the_line_to_write() {
        insta::assert_snapshot!(
            Grants::default().missing_for(["skep:tensor/tensors@0.1.0"])[0],
            @"the component imports `skep:tensor/tensors@0.1.0` and is not granted it; add `tensor = true` under [grants] in skep.toml"
        );
        insta::assert_snapshot!(
            Grants::default().missing_for(["skep:jobs/jobs@0.1.0"])[0],
            @r#"the component imports `skep:jobs/jobs@0.1.0` and is not granted it; add `jobs = { max-price = "<credits>" }` under [grants] in skep.toml"#
        );
        insta::assert_snapshot!(
            "A model".parse::<ModelGrant>().unwrap_err(),
            @"a name has lower-case letters, digits and hyphens only, and this contains 'A'; write `default`, a name, publisher/name or a digest"
        );
    }
}
