//! What a run may reach, and the check of a component's imports against it.
//!
//! Everything is denied unless it is granted. The check happens before anything is
//! instantiated and names every import that it refuses, not only the first.

use std::fmt;

use skep_registry::{Grants, MissingGrant};

/// Imports that were refused, all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// Those that the host has and the manifest does not grant, each with the grant it needs.
    pub ungranted: Vec<MissingGrant>,
    /// Those that this host does not have at all.
    pub unknown: Vec<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refused: ")?;
        let mut separator = "";
        for missing in &self.ungranted {
            write!(f, "{separator}{missing}")?;
            separator = "; ";
        }
        for import in &self.unknown {
            write!(f, "{separator}no such interface on this host: {import}")?;
            separator = "; ";
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

/// The interfaces of this host, with the version that they are compatible with. Those of WASI
/// have nothing behind them: no arguments, variables, files or network.
const INTERFACES: &[(&str, &str)] = &[
    ("skep:types/types", "0.1"),
    ("skep:tensor/tensors", "0.1"),
    ("skep:workload/io", "0.1"),
    // Types alone: what villages and renderers tell each other.
    ("skep:workload/npc", "0.1"),
    ("skep:model/encoders", "0.1"),
    ("skep:model/text", "0.1"),
    ("skep:model/text-streams", "0.1"),
    ("skep:adapter/adapters", "0.1"),
    ("skep:train/training", "0.1"),
    // Bytes that are handed to a verifier, and its word about them: both need no grant.
    ("skep:verify/contents", "0.1"),
    ("skep:verify/reports", "0.1"),
    ("skep:verify/verdicts", "0.1"),
    ("skep:swarm/blobs", "0.1"),
    ("skep:swarm/blob-streams", "0.1"),
    ("skep:jobs/jobs", "0.1"),
    ("wasi:cli/environment", "0.2"),
    ("wasi:cli/exit", "0.2"),
    ("wasi:cli/stdin", "0.2"),
    ("wasi:cli/stdout", "0.2"),
    ("wasi:cli/stderr", "0.2"),
    ("wasi:cli/terminal-input", "0.2"),
    ("wasi:cli/terminal-output", "0.2"),
    ("wasi:cli/terminal-stdin", "0.2"),
    ("wasi:cli/terminal-stdout", "0.2"),
    ("wasi:cli/terminal-stderr", "0.2"),
    ("wasi:clocks/monotonic-clock", "0.2"),
    ("wasi:clocks/wall-clock", "0.2"),
    ("wasi:filesystem/preopens", "0.2"),
    ("wasi:filesystem/types", "0.2"),
    ("wasi:io/error", "0.2"),
    ("wasi:io/poll", "0.2"),
    ("wasi:io/streams", "0.2"),
    ("wasi:random/insecure", "0.2"),
    ("wasi:random/insecure-seed", "0.2"),
    ("wasi:random/random", "0.2"),
    ("wasi:sockets/instance-network", "0.2"),
    ("wasi:sockets/ip-name-lookup", "0.2"),
    ("wasi:sockets/network", "0.2"),
    ("wasi:sockets/tcp", "0.2"),
    ("wasi:sockets/tcp-create-socket", "0.2"),
    ("wasi:sockets/udp", "0.2"),
    ("wasi:sockets/udp-create-socket", "0.2"),
    // For components with asynchronous parts.
    ("wasi:cli/environment", "0.3"),
    ("wasi:cli/exit", "0.3"),
    ("wasi:cli/stdin", "0.3"),
    ("wasi:cli/stdout", "0.3"),
    ("wasi:cli/stderr", "0.3"),
    ("wasi:cli/types", "0.3"),
    ("wasi:cli/terminal-input", "0.3"),
    ("wasi:cli/terminal-output", "0.3"),
    ("wasi:cli/terminal-stdin", "0.3"),
    ("wasi:cli/terminal-stdout", "0.3"),
    ("wasi:cli/terminal-stderr", "0.3"),
    ("wasi:clocks/types", "0.3"),
    ("wasi:clocks/monotonic-clock", "0.3"),
    ("wasi:clocks/system-clock", "0.3"),
    ("wasi:filesystem/preopens", "0.3"),
    ("wasi:filesystem/types", "0.3"),
    ("wasi:random/insecure", "0.3"),
    ("wasi:random/insecure-seed", "0.3"),
    ("wasi:random/random", "0.3"),
    ("wasi:sockets/ip-name-lookup", "0.3"),
    ("wasi:sockets/types", "0.3"),
];

fn is_known(import: &str) -> bool {
    import.split_once('@').is_some_and(|(name, version)| {
        INTERFACES.iter().any(|(known, compatible)| {
            *known == name
                && version
                    .strip_prefix(compatible)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    })
}

/// The imports among `imports` that no host of this version has.
pub(crate) fn unknown(imports: &[String]) -> Vec<String> {
    imports
        .iter()
        .filter(|import| !is_known(import))
        .cloned()
        .collect()
}

/// Checks imports against grants.
pub(crate) fn check(imports: &[String], grants: &Grants) -> Result<(), Refusal> {
    let refusal = Refusal {
        ungranted: grants.missing_for(imports.iter().map(String::as_str)),
        unknown: unknown(imports),
    };
    if refusal == Refusal::default() {
        Ok(())
    } else {
        Err(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imports(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn everything_refused_is_listed_at_once() {
        let wanted = imports(&[
            "skep:tensor/tensors@0.1.0",
            "skep:swarm/blobs@0.1.0",
            "foo:bar/baz@1.0.0",
            "wasi:http/outgoing-handler@0.2.4",
            "wasi:io/poll@0.2.6",
        ]);
        let grants = Grants {
            tensor: true,
            ..Grants::default()
        };
        let text = check(&wanted, &grants).unwrap_err().to_string();
        assert!(text.starts_with("refused: the component imports `skep:swarm/blobs@0.1.0`"));
        assert!(text.contains("swarm-write"), "{text}");
        assert!(
            text.ends_with(
                "; no such interface on this host: foo:bar/baz@1.0.0; no such interface on \
                 this host: wasi:http/outgoing-handler@0.2.4"
            ),
            "{text}"
        );
    }

    #[test]
    fn what_is_granted_is_let_through() {
        let wanted = imports(&["skep:tensor/tensors@0.1.0", "wasi:cli/stdout@0.2.6"]);
        let grants = Grants {
            tensor: true,
            ..Grants::default()
        };
        check(&wanted, &grants).unwrap();
    }

    #[test]
    fn versions_that_are_not_compatible_are_unknown() {
        assert_eq!(
            unknown(&imports(&[
                "skep:tensor/tensors@0.2.0",
                "skep:tensor/tensors@0.1.9",
                "wasi:io/poll@0.20.0",
                "wasi:io/poll@0.2.9",
                "skep:tensor/tensors",
            ])),
            [
                "skep:tensor/tensors@0.2.0",
                "wasi:io/poll@0.20.0",
                "skep:tensor/tensors"
            ]
        );
    }
}
