//! Running a shard of another node's job: in the sandbox, within the owner's limits and those of the
//! lease, from memory into memory.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use skep_devices::DeviceName;
use skep_evidence::Lease;
use skep_evidence::following::Script;
use skep_kernels::Isa;
use skep_market::{Refusal, ShardInput, machine_kind};
use skep_records::{Format, Labels, Reader};
use skep_registry::{Digest, Grants, Limits, ModelGrant, SignedRelease};
use skep_sandbox::{Cancel, FailedRun, RunError, RunReport, Texts, Used};
use tokio::task::JoinError;
use zeroize::Zeroizing;

use crate::embedded;
use crate::failure::{Failure, FailureKind};
use crate::service::Service;
use crate::service::adapters::{ENCODERS, TEXT};
use crate::service::blobs::Reach;
use crate::service::run::{self, CancelOnDrop, Prepared, Subject, Unready, explain};

/// Line numbers beyond this are of no input that exists.
const LAST_LINE: u64 = 1 << 48;
/// How long to wait before a guest's place is tried for again.
const PAUSE: Duration = Duration::from_millis(100);

/// What a shard is run with, beside what its package asks for.
#[derive(Debug, Clone)]
pub struct Allowed {
    /// Operations on the device.
    pub flops: u64,
    /// Bytes of output.
    pub output: u64,
    /// Wall time.
    pub time: Duration,
    /// What its randomness grows from, if others are to get the same bytes.
    pub seed: Option<u64>,
    /// How its texts are shown, if others are to follow them or they follow others'.
    pub texts: Texts,
    /// Where what it uses can be seen meanwhile.
    pub used: Used,
}

/// What came of it.
pub struct Made {
    /// The output.
    pub output: Zeroizing<Vec<u8>>,
    /// What the sandbox measured.
    pub report: RunReport,
}

/// Why nothing came of it.
#[derive(Debug)]
pub struct Unmade {
    /// What happened.
    pub failure: Failure,
    /// Whose fault it is.
    pub fault: FaultOf,
}

/// Whose fault it is that nothing came of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultOf {
    /// That of the package, or of whoever asked for the work.
    Work,
    /// This node's, in the middle of the work: what is said of it may quote the input.
    Sandbox,
    /// This node's, before the work began: what is said of it is about this node alone.
    Node,
    /// Nobody's: before the work began others here had taken what it needs, which is over at some time.
    Nobody,
}

impl From<Failure> for Unmade {
    fn from(failure: Failure) -> Self {
        let fault = FaultOf::Work;
        Self { failure, fault }
    }
}

impl From<Unready> for Unmade {
    fn from(unready: Unready) -> Self {
        let (failure, fault) = match unready {
            // Whoever asked for the work hears why, and only the owner of this node where it lies.
            Unready::Component { failure, path } => {
                let path = path.display();
                tracing::info!(%path, %failure, "a package of somebody's job does not run here");
                (failure, FaultOf::Work)
            }
            Unready::Unfit(failure) => (failure, FaultOf::Work),
            // The models of a job are those of this node.
            Unready::Beside(failure) => (failure, FaultOf::Node),
        };
        Self { failure, fault }
    }
}

impl Unmade {
    fn of_node(failure: Failure) -> Self {
        let fault = FaultOf::Node;
        Self { failure, fault }
    }

    fn of_run(failed: FailedRun) -> Self {
        let has_worked = failed.report.flops > 0 || failed.report.tokens > 0;
        let fault = match failed.error {
            RunError::HostBug(_) => FaultOf::Sandbox,
            // A guest that is at work may have taken the rest of the pool itself.
            RunError::PoolEmpty if !has_worked => FaultOf::Nobody,
            _ => FaultOf::Work,
        };
        let failure = explain(failed);
        Self { failure, fault }
    }
}

/// The models that a component gets in a job: those that come with skep, which the two sides have
/// to have alike. `None` if it uses none.
pub fn models(grants: &Grants) -> Result<Option<Digest>, Failure> {
    let defaults = [ModelGrant::Default].into();
    if grants.models.is_empty() && grants.adapters.is_empty() {
        return Ok(None);
    }
    if grants.models != defaults || !grants.adapters.is_empty() {
        return Err(Failure::new(
            FailureKind::Refused,
            "jobs run with the models that come with skep, and this package names others in \
             grants.models or grants.adapters",
        ));
    }
    let both = [
        *embedded::ENCODER.digest().as_bytes(),
        *embedded::LANGUAGE.digest().as_bytes(),
    ];
    Ok(Some(Digest::of(&both.concat())))
}

/// Whether a component may do others' work. One that is granted jobs would spend credits there that
/// are not those of whoever asked for the work, or do something else than with its requester's. One that
/// stores blobs would leave there, and offer to everybody, what it made of somebody else's input.
pub fn is_for_jobs(grants: &Grants) -> Result<(), Failure> {
    let refused = |reason: &str| Err(Failure::new(FailureKind::Refused, reason));
    if grants.jobs.is_some() {
        return refused(
            "a package that is granted jobs (grants.jobs) is run by its owner only, whose credits it \
             spends, and not as a part of a job",
        );
    }
    if grants.swarm_write {
        return refused(
            "a package that stores blobs (grants.swarm-write) is run by its owner only, on whose disk \
             they stay, and not as a part of a job",
        );
    }
    Ok(())
}

/// Whether the models that a component uses in a job are loaded.
pub fn has_models(service: &Service, release: &SignedRelease) -> bool {
    let Some(component) = release.component() else {
        return false;
    };
    let uses = |interface: &str| {
        let mut imports = component.imports.iter();
        imports.any(|import| import.starts_with(interface))
    };
    let (writes, embeds) = (uses(TEXT), uses(ENCODERS));
    let models = &service.models;
    (writes || embeds)
        && (!writes || models.languages.holds(&embedded::LANGUAGE.digest()))
        && (!embeds || models.has_encoder(&embedded::ENCODER.digest()))
}

/// What kind of machine this is: on all of one kind, work that can be repeated gives the same bytes.
/// `device` is where it computes language models.
pub fn kind(device: DeviceName) -> Digest {
    // Encoders have sets of instructions of their own, which a node cannot choose.
    let encoders = skep_model::Isa::best().name();
    let alike = format!("{}, encoders with {encoders}", Isa::alike());
    let alike = match device {
        DeviceName::Processor => alike,
        // By the name alone nobody knows which card it is. None of its kind is asked about texts:
        // `perform` refuses them.
        other => format!("{alike}, texts by {other}"),
    };
    machine_kind(env!("CARGO_PKG_VERSION"), &alike)
}

/// How the texts of a lease's work are shown: by this script if it follows another's.
pub fn texts_of(lease: &Lease, script: &[u8]) -> Result<Texts, Refusal> {
    let wrong = |reason: String| Refusal::Lease(reason);
    match lease.audit.follows {
        None if lease.audit.followed => Ok(Texts::Written),
        None => Ok(Texts::Kept),
        Some(named) if named == Digest::of(script) => {
            let script = Script::decode(script).map_err(|error| wrong(error.to_string()))?;
            Ok(Texts::Followed(Arc::new(script)))
        }
        Some(_) => Err(wrong(
            "what it has to follow is not what it names".to_owned(),
        )),
    }
}

/// Does the work. Where the owner's own runs take all the places of guests, it waits for one.
/// Dropping this calls it off.
pub async fn perform(
    service: &Service,
    mut subject: Subject,
    input: Zeroizing<Vec<u8>>,
    allowed: Allowed,
    records: Arc<AtomicU64>,
) -> Result<Made, Unmade> {
    subject.limits = subject.limits.capped_by(&Limits {
        device_work: Some(allowed.flops),
        output: Some(allowed.output),
        time: Some(allowed.time),
        ..Limits::default()
    });
    let mut prepared = run::prepare(service, subject, &[], Vec::new(), Reach::Offered).await?;
    if allowed.seed.is_some() && !prepared.program.is_repeatable() {
        let reason = "the lease says that the work gives the same bytes everywhere, and that of this \
                      package may not";
        return Err(Failure::new(FailureKind::Refused, reason).into());
    }
    let are_shown = allowed.texts != Texts::Kept;
    if are_shown && !prepared.program.can_be_followed() {
        let reason = "the lease says that machines of other kinds can follow the texts of this package, \
                      and it writes none, or they are not all that differs there";
        return Err(Failure::new(FailureKind::Refused, reason).into());
    }
    // A device's last bits depend on what else is in a batch, and with them now and then a token.
    // Whoever follows sees that these are the last bits.
    let device = service.config.engine.device;
    if allowed.seed.is_some()
        && !are_shown
        && device != DeviceName::Processor
        && writes_texts(prepared.program.imports())
    {
        let reason = format!(
            "the lease says that the work gives the same bytes everywhere, and this node \
             computes language models on {device}, where a text may come out otherwise beside \
             others; ask for commitments, or another node"
        );
        return Err(Failure::new(FailureKind::Refused, reason).into());
    }
    prepared.spec.seed = allowed.seed;
    prepared.spec.texts = allowed.texts;
    prepared.spec.used = allowed.used;
    prepared.spec.waits_for_others = true;
    let prepared = Arc::new(prepared);
    let sandbox = service.sandbox().map_err(Unmade::of_node)?;
    let input = Arc::new(input);
    loop {
        let cancel = Cancel::new();
        let _on_drop = CancelOnDrop(cancel.clone());
        let (sandbox, prepared) = (Arc::clone(&sandbox), Arc::clone(&prepared));
        let (input, records) = (Arc::clone(&input), Arc::clone(&records));
        let made = tokio::task::spawn_blocking(move || {
            run_once(
                &sandbox,
                &prepared,
                &input,
                allowed.output,
                &records,
                &cancel,
            )
        });
        let broke = |error: JoinError| Unmade {
            failure: Failure::of(FailureKind::Failed, &error),
            fault: FaultOf::Sandbox,
        };
        match made.await.map_err(broke)? {
            Err(unmade) if unmade.failure.kind == FailureKind::Busy => {
                tokio::time::sleep(PAUSE).await;
            }
            made => return made,
        }
    }
}

/// Whether a component with these imports may open language models.
fn writes_texts(imports: &[String]) -> bool {
    imports.iter().any(|import| import.starts_with(TEXT))
}

fn run_once(
    sandbox: &skep_sandbox::Sandbox,
    prepared: &Prepared,
    input: &[u8],
    largest: u64,
    done: &AtomicU64,
    cancel: &Cancel,
) -> Result<Made, Unmade> {
    let usage = |reason: String| Failure::new(FailureKind::Usage, reason);
    let shard = ShardInput::decode(input).map_err(|error| usage(error.to_string()))?;
    if !(1..LAST_LINE).contains(&shard.first_line) {
        return Err(usage("the lines of the shard have no numbers".to_owned()).into());
    }
    let mut sink = Bounded {
        bytes: Zeroizing::default(),
        largest,
    };
    let (program, spec) = (&prepared.program, &prepared.spec);
    let report = match program.world() {
        Some("batch-classifier") => {
            let labels = Labels::parse(shard.labels).map_err(|error| usage(error.to_string()))?;
            let format = if shard.is_csv {
                Format::Csv
            } else {
                Format::Jsonl
            };
            let lines = Reader::new(shard.records, format).starting_at(shard.first_line);
            let mut watch = |step: skep_sandbox::Progress| done.store(step.done, Ordering::Relaxed);
            sandbox.classify(
                program,
                spec,
                &labels.labels,
                lines,
                &mut sink,
                &mut watch,
                cancel,
            )
        }
        _ => {
            let (arguments, records) = (&shard.arguments, shard.records);
            sandbox.run_task(program, spec, arguments, records, &mut sink, cancel)
        }
    };
    Ok(Made {
        report: report.map_err(Unmade::of_run)?,
        output: sink.bytes,
    })
}

/// An output in memory, up to a size.
struct Bounded {
    bytes: Zeroizing<Vec<u8>>,
    largest: u64,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.bytes.len() + bytes.len()) as u64 > self.largest {
            return Err(io::Error::other(
                "the output is larger than the lease allows",
            ));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use skep_registry::{JobsGrant, SwarmRead};

    use super::*;
    use crate::config::Config;
    use crate::home::Home;

    #[test]
    fn only_what_the_node_itself_fails_at_is_its_fault() {
        let fault_of = |error: RunError| Unmade::of_run(error.into()).fault;
        let bug = RunError::HostBug("a fault".to_owned());
        assert_eq!(fault_of(bug), FaultOf::Sandbox);
        // Whoever asks for the work chooses the guest and the time.
        let limit = Duration::from_secs(1);
        assert_eq!(fault_of(RunError::WallTime { limit }), FaultOf::Work);
        assert_eq!(fault_of(RunError::Guest("no".to_owned())), FaultOf::Work);
        let failure = Failure::new(FailureKind::Failed, "no");
        assert_eq!(Unmade::from(failure).fault, FaultOf::Work);
    }

    #[test]
    fn that_others_have_taken_the_pool_is_nobody_s_fault_and_is_not_tried_again_here() {
        let unmade = Unmade::of_run(RunError::PoolEmpty.into());
        assert_eq!(unmade.fault, FaultOf::Nobody);
        // Only where no guest has a place it is waited for, as long as its lease lasts.
        assert_ne!(unmade.failure.kind, FailureKind::Busy);
        let busy = Unmade::of_run(RunError::Busy { running: 1 }.into());
        assert_eq!(busy.failure.kind, FailureKind::Busy);
    }

    #[test]
    fn who_has_worked_and_finds_the_pool_empty_has_worked() {
        let works = [(1, 0), (0, 1)].map(|(flops, tokens)| RunReport {
            flops,
            tokens,
            ..RunReport::default()
        });
        for report in works {
            let failed = FailedRun {
                error: RunError::PoolEmpty,
                report: Box::new(report),
            };
            assert_eq!(Unmade::of_run(failed).fault, FaultOf::Work);
        }
    }

    #[test]
    fn a_component_that_cannot_be_read_here_is_the_node_s_fault_and_one_that_is_none_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        skep_tests::set_up(&home).unwrap();
        let home = Home::open(Some(home)).unwrap();
        let config = Config::load(&home).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let service = Service::new(home, config).unwrap();
        let unmade = |component: &Path, signed: Option<Digest>| {
            let subject = Subject {
                component: component.to_owned(),
                signed,
                grants: Grants::default(),
                limits: Limits::default(),
                adapter: None,
                known_as: None,
                held: Vec::new(),
            };
            let allowed = Allowed {
                flops: 1,
                output: 1,
                time: Duration::from_secs(60),
                seed: None,
                texts: Texts::Kept,
                used: Used::default(),
            };
            let (input, records) = (Zeroizing::default(), Arc::default());
            let made = runtime.block_on(perform(&service, subject, input, allowed, records));
            made.err().unwrap()
        };
        let component = folder.path().join("tool.wasm");
        assert_eq!(unmade(&component, None).fault, FaultOf::Node);
        let none = b"not really a component";
        std::fs::write(&component, none).unwrap();
        assert_eq!(unmade(&component, None).fault, FaultOf::Work);
        let published = unmade(&component, Some(Digest::of(none)));
        assert_eq!(published.fault, FaultOf::Work);
        // Whoever asked for the work hears this.
        let (why, path) = (
            published.failure.message,
            folder.path().display().to_string(),
        );
        assert!(why.contains("not a valid WebAssembly component"), "{why}");
        assert!(!why.contains(&path), "{why}");
        // What was published was something else, and has changed on this disk: into no component, or into one.
        let empty = b"\0asm\x0d\0\x01\0";
        for changed in [&none[..], &empty[..]] {
            std::fs::write(&component, changed).unwrap();
            let damaged = unmade(&component, Some(Digest::of(b"a component")));
            assert_eq!(damaged.fault, FaultOf::Node, "{}", damaged.failure);
            assert!(damaged.failure.message.contains(&path), "for its owner");
        }
    }

    #[test]
    fn what_would_spend_or_leave_something_is_no_part_of_a_job() {
        let reads = Grants {
            tensor: true,
            swarm_read: SwarmRead::Everything,
            ..Grants::default()
        };
        assert!(is_for_jobs(&reads).is_ok());
        let stores = Grants {
            swarm_write: true,
            ..reads.clone()
        };
        let begins = Grants {
            jobs: Some(JobsGrant { max_price: 1 }),
            ..reads
        };
        for (grants, named) in [(stores, "grants.swarm-write"), (begins, "grants.jobs")] {
            let failure = is_for_jobs(&grants).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Refused);
            assert!(failure.message.contains(named), "{failure}");
        }
    }
}
