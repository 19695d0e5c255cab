//! Finding nodes by what they can do, for whoever wants to know who would take their work, and for how much.
//!
//! # What it must never do
//!
//! - Look for longer than it may.
//! - Tell of a node what that has not signed, or take what it has signed to be true.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use skep_evidence::Credits;
use skep_registry::{Digest, PackageRef, units};
use skep_swarm::{
    Announcement, Capability, Need, NodeTicket, PackageTicket, ResolveError, Swarm, Want,
};

use super::{ProgressSender, Service, inspect, install, locate};
use crate::config::Network;
use crate::failure::{Failure, FailureKind};
use crate::requests::found::{FindRequest, Fitting, Found, FoundNode, ReadyLine};
use crate::requests::{Progress, Response, Unit};

/// How often it is told how many were found so far.
const TOLD: Duration = Duration::from_millis(250);

/// Looks for nodes that sign that they can do this.
pub async fn find(
    service: &Service,
    request: &FindRequest,
    progress: &ProgressSender,
) -> Result<Response, Failure> {
    let swarm = service.swarm().await?;
    let asked = Asked::of(swarm, request).await?;
    let packages = packages(swarm, &asked.need.ready)?;
    let wait = Duration::from_millis(request.wait_ms);
    let able = search(swarm, &asked.need, wait, progress).await;
    let mut nodes: Vec<FoundNode> = able
        .iter()
        .filter_map(|said| Some(node_of(said, said.capability()?, &packages)))
        .collect();
    nodes.sort_unstable_by_key(|found| {
        let prices = (found.teraflop_micro, found.million_tokens_micro);
        (prices, found.gigabyte_micro, found.node.clone())
    });
    let known = swarm.acquaintances();
    let fit = |need: &Need| {
        let want = Want::Jobs(need.clone());
        known.iter().filter(|said| said.has(&want)).count() as u64
    };
    let fitting = asked.each.iter().map(|(asked, need)| Fitting {
        asked: asked.clone(),
        nodes: fit(need),
    });
    let mut found = Found {
        nodes,
        heard_of: known.len() as u64,
        taking: fit(&Need::default()),
        fitting: fitting.collect(),
        why: None,
    };
    if found.nodes.is_empty() {
        found.why = Some(why_nobody(&service.config.network, &found));
    }
    Ok(Response::Found(found))
}

/// What a node is to be able to do.
struct Asked {
    /// Each thing by itself, as the command line has it.
    each: Vec<(String, Need)>,
    /// All of it.
    need: Need,
}

impl Asked {
    async fn of(swarm: &Swarm, request: &FindRequest) -> Result<Self, Failure> {
        let (mut each, mut need) = (Vec::new(), Need::default());
        if let Some(device) = &request.device {
            need.device = Some(device.clone());
            let alone = Need {
                device: Some(device.clone()),
                ..Need::default()
            };
            each.push((format!("--device {device}"), alone));
        }
        if request.memory > 0 {
            need.memory = request.memory;
            let alone = Need {
                memory: request.memory,
                ..Need::default()
            };
            let size = units::format_bytes(request.memory);
            each.push((format!("--memory {size}"), alone));
        }
        for package in &request.ready {
            let digest = digest_of(swarm, package).await?;
            need.ready.push(digest);
            let alone = Need {
                ready: vec![digest],
                ..Need::default()
            };
            each.push((format!("--ready {package}"), alone));
        }
        // In their order in a tariff, where tokens come first.
        let prices = [
            ("teraflop", 1_usize, request.teraflop_micro),
            ("gigabyte", 2, request.gigabyte_micro),
            ("hour", 3, request.hour_micro),
        ];
        for (name, place, most) in prices {
            let Some(most) = most else { continue };
            need.tariff.get_or_insert([u64::MAX; 4])[place] = most;
            let mut tariff = [u64::MAX; 4];
            tariff[place] = most;
            let alone = Need {
                tariff: Some(tariff),
                ..Need::default()
            };
            let most = Credits::from_micro(most);
            each.push((format!("--price-per-{name} {most}"), alone));
        }
        Ok(Self { each, need })
    }
}

/// The release that is meant, which need not be here.
async fn digest_of(swarm: &Swarm, package: &str) -> Result<Digest, Failure> {
    if let Ok(ticket) = package.parse::<PackageTicket>()
        && let Some(release) = ticket.release
    {
        return Ok(release);
    }
    let reference = package
        .parse::<PackageRef>()
        .map_err(|error| Failure::of(FailureKind::Usage, &error))?;
    if let PackageRef::Digest(digest) = &reference {
        return Ok(*digest);
    }
    match swarm.resolve_ref(&reference, &[]).await {
        Ok(resolved) => Ok(resolved.release.digest()),
        Err(ResolveError::NoProviders { .. } | ResolveError::NotFound { .. }) => Err(Failure::new(
            FailureKind::NotFound,
            format!(
                "{package} is not known here, and others are asked for a release by its digest; give that, or \
                 the ticket that `skep publish` printed"
            ),
        )),
        Err(error) => Err(Failure::of(install::kind_of_resolve(&error), &error)),
    }
}

/// The releases that can be recognised in an announcement: those that are here, and those that were asked for. Each
/// with what it is called, where that is known.
fn packages(swarm: &Swarm, asked: &[Digest]) -> Result<BTreeMap<Digest, Option<String>>, Failure> {
    let asked = asked.iter().map(|digest| {
        let release = swarm.release(digest);
        (*digest, release.as_ref().map(inspect::reference_of))
    });
    let mut packages: BTreeMap<_, _> = asked.collect();
    for release in locate::releases(swarm)? {
        let reference = inspect::reference_of(&release);
        packages.insert(release.digest(), Some(reference));
    }
    Ok(packages)
}

/// Looks, and tells meanwhile how many were found.
async fn search(
    swarm: &Swarm,
    need: &Need,
    wait: Duration,
    progress: &ProgressSender,
) -> Vec<Announcement> {
    let want = Want::Jobs(need.clone());
    let stage = format!(
        "looking for nodes, for at most {}",
        units::format_duration(wait)
    );
    let mut searching = pin!(swarm.find_able_within(need, wait));
    let mut told = tokio::time::interval(TOLD);
    loop {
        tokio::select! {
            able = &mut searching => return able,
            _ = told.tick() => {}
        }
        let known = swarm.acquaintances();
        let able = known.iter().filter(|said| said.has(&want)).count();
        // A full channel means that nobody can keep up with watching; the next step will do.
        let _ = progress.try_send(Progress {
            stage: stage.clone(),
            done: able as u64,
            total: None,
            unit: Unit::Nodes,
            training: None,
            shard: None,
        });
    }
}

fn node_of(
    said: &Announcement,
    capability: &Capability,
    packages: &BTreeMap<Digest, Option<String>>,
) -> FoundNode {
    let is_ready = |digest: &Digest| {
        said.has(&Want::Jobs(Need {
            ready: vec![*digest],
            ..Need::default()
        }))
    };
    let ready = packages.iter().filter(|(digest, _)| is_ready(digest));
    let node = said.addr();
    let [tokens, flops, bytes, residency] = capability.tariff;
    FoundNode {
        node: node.id.to_string(),
        addresses: node.addrs.iter().map(ToString::to_string).collect(),
        ticket: NodeTicket { node }.to_string(),
        device: capability.device.clone(),
        memory_bytes: capability.memory,
        at_once: capability.slots,
        million_tokens_micro: tokens,
        teraflop_micro: flops,
        gigabyte_micro: bytes,
        hour_micro: residency,
        ready: ready
            .map(|(digest, package)| ReadyLine {
                package: package.clone(),
                digest: digest.to_string(),
            })
            .collect(),
        issued_ms: said.issued().saturating_mul(1000),
        expires_ms: said.expires().saturating_mul(1000),
    }
}

/// Why nobody was found, and what to do about it.
fn why_nobody(network: &Network, found: &Found) -> String {
    if !network.gossip {
        return "`gossip` is off under [network] in config.toml, and without it no node is asked what it can do; \
                turn it on"
            .to_owned();
    }
    if found.heard_of == 0 {
        let looks = network.mdns || network.dht || !network.peers.is_empty();
        return match looks {
            true => {
                "no other node has said what it can do: there may be none within reach, or those that are have \
                 `gossip` off. Look for longer with --wait, or name a node in `peers` under [network] in config.toml, \
                 by the ticket that `skep node` prints"
            }
            false => {
                "this node knows no other, and looks nowhere for one; turn on `mdns` or `dht` under [network] in \
                 config.toml, or name a node in `peers` there, by the ticket that `skep node` prints"
            }
        }
        .to_owned();
    }
    if found.taking == 0 {
        return format!(
            "none of the nodes that are known, which are {}, takes jobs of others; each does once its owner has \
             set `accept = true` under [jobs] in config.toml",
            found.heard_of
        );
    }
    if found.fitting.is_empty() {
        return "who takes jobs has said so just now; look once more".to_owned();
    }
    let fitting = found.fitting.iter();
    let fitting = fitting.map(|line| format!("{} by {}", line.asked, line.nodes));
    let fitting: Vec<String> = fitting.collect();
    let is_ready = |line: &Fitting| line.asked.starts_with("--ready");
    let newest = match found.fitting.iter().any(is_ready) {
        true => ". Of a package nodes announce only the newest release that they have",
        false => "",
    };
    let nodes = match found.taking {
        1 => "node",
        _ => "nodes",
    };
    format!(
        "of {} {nodes} known to take jobs none meets all that is asked for; each by itself is met: {}. Ask for less, \
         allow higher prices, or look for longer with --wait{newest}",
        found.taking,
        fitting.join(", ")
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn found(heard_of: u64, taking: u64, fitting: &[(&str, u64)]) -> Found {
        let fitting = fitting.iter().map(|(asked, nodes)| Fitting {
            asked: (*asked).to_owned(),
            nodes: *nodes,
        });
        Found {
            nodes: Vec::new(),
            heard_of,
            taking,
            fitting: fitting.collect(),
            why: None,
        }
    }

    #[test]
    fn an_empty_result_says_what_is_missing() {
        let quiet = Network {
            mdns: false,
            ..Network::default()
        };
        let deaf = Network {
            gossip: false,
            ..Network::default()
        };
        let named = Network {
            peers: vec!["a ticket".to_owned()],
            ..quiet.clone()
        };
        let device = [("--device cuda:0", 0), ("--memory 8 GiB", 2)];
        let cases = [
            (&deaf, found(3, 3, &[]), "`gossip` is off"),
            (&quiet, found(0, 0, &[]), "looks nowhere"),
            (&named, found(0, 0, &[]), "no other node has said"),
            (&quiet, found(4, 0, &[]), "which are 4, takes jobs"),
            (&quiet, found(4, 3, &[]), "look once more"),
            (
                &quiet,
                found(4, 3, &device),
                "of 3 nodes known to take jobs none meets all that is asked for; each by itself is met: --device \
                 cuda:0 by 0, --memory 8 GiB by 2. Ask for less, allow higher prices, or look for longer with --wait",
            ),
            (
                &quiet,
                found(1, 1, &[("--ready writer", 0)]),
                "of 1 node known to take jobs",
            ),
        ];
        for (network, found, part) in cases {
            let why = why_nobody(network, &found);
            assert!(why.contains(part), "{why}");
            let of_packages = why.contains("the newest release");
            assert_eq!(of_packages, why.contains("--ready"), "{why}");
        }
    }

    #[tokio::test]
    async fn what_is_asked_for_is_one_need_and_each_thing_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let config = skep_swarm::SwarmConfig::loopback(folder.path());
        let swarm = Swarm::open(config).await.unwrap();
        let digest = Digest::of(b"a release that nobody has");
        let mut request = FindRequest {
            device: Some("cuda:0".to_owned()),
            memory: 8 << 30,
            ready: vec![digest.to_string()],
            teraflop_micro: Some(2_000),
            gigabyte_micro: None,
            hour_micro: Some(7),
            wait_ms: 1,
        };
        let asked = Asked::of(&swarm, &request).await.unwrap();
        let all = Need {
            ready: vec![digest],
            device: Some("cuda:0".to_owned()),
            rather: Vec::new(),
            memory: 8 << 30,
            tariff: Some([u64::MAX, 2_000, u64::MAX, 7]),
        };
        assert_eq!(asked.need, all);
        let names: Vec<&str> = asked.each.iter().map(|(asked, _)| &**asked).collect();
        let ready = format!("--ready {digest}");
        let expected = [
            "--device cuda:0",
            "--memory 8 GiB",
            &ready,
            "--price-per-teraflop 0.002",
            "--price-per-hour 0.000007",
        ];
        assert_eq!(names, expected);
        assert_eq!(
            asked.each[4].1.tariff,
            Some([u64::MAX, u64::MAX, u64::MAX, 7])
        );

        // Others know releases by their digests alone.
        request.ready = vec!["unheard-of".to_owned()];
        let unknown = Asked::of(&swarm, &request).await.err().unwrap();
        assert_eq!(unknown.kind, FailureKind::NotFound);
        swarm.shutdown().await;
    }
}
