//! What a guest can do with jobs is what its owner lets it spend, and no more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use common::{assemble, load, module, run, spec, tight};
use skep_registry::{Digest, Grants, JobsGrant, Limits};
use skep_sandbox::{
    Cancel, Doing, EngineKind, FailedRun, Job, JobError, JobOrder, JobState, JobStatus, Jobs,
    Program, Quota, RunError, RunReport, RunSpec, Sandbox,
};
use tokio::sync::watch;

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(common::sandbox);

/// The name that the guests look for.
const KNOWN: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

/// The jobs of a package, as a node would have them, of which nobody does any.
struct Office {
    orders: Mutex<Vec<JobOrder>>,
    status: watch::Sender<JobStatus>,
    result: Vec<u8>,
    /// The one that can be found.
    known: Option<Digest>,
    /// Whether nobody takes any work.
    nobody: bool,
}

impl Office {
    fn new() -> Self {
        Self {
            orders: Mutex::default(),
            status: watch::channel(status(JobState::Running)).0,
            result: Vec::new(),
            known: None,
            nobody: false,
        }
    }

    fn begun(&self) -> usize {
        self.orders.lock().unwrap().len()
    }
}

fn status(state: JobState) -> JobStatus {
    JobStatus {
        state,
        reason: String::new(),
        shards: 2,
        finished: 0,
        spent: 0,
    }
}

struct Sheet {
    name: Digest,
    status: watch::Receiver<JobStatus>,
    result: Vec<u8>,
}

/// What the sandbox is given: the office itself stays with the test.
struct Counter(Arc<Office>);

impl Counter {
    fn sheet(&self, name: Digest) -> Arc<dyn Job> {
        Arc::new(Sheet {
            name,
            status: self.0.status.subscribe(),
            result: self.0.result.clone(),
        })
    }
}

impl Jobs for Counter {
    fn submit(&self, order: JobOrder) -> Doing<Arc<dyn Job>> {
        let mut orders = self.0.orders.lock().unwrap();
        orders.push(order);
        let sheet = self.sheet(Digest::of(&orders.len().to_le_bytes()));
        let nobody = self.0.nobody;
        Box::pin(async move {
            match nobody {
                true => Err(JobError::Failed("no node takes it".to_owned())),
                false => Ok(sheet),
            }
        })
    }

    fn find(&self, name: Digest) -> Doing<Arc<dyn Job>> {
        let found = self.0.known.filter(|known| *known == name);
        let found = found.map(|name| self.sheet(name));
        Box::pin(async move { found.ok_or_else(|| JobError::NotFound(name.to_string())) })
    }
}

impl Job for Sheet {
    fn name(&self) -> Digest {
        self.name
    }

    fn status(&self) -> Doing<JobStatus> {
        let status = self.status.borrow().clone();
        Box::pin(async move { Ok(status) })
    }

    fn changed(&self, seen: JobStatus) -> Doing<JobStatus> {
        let mut status = self.status.clone();
        Box::pin(async move {
            let changed = status.wait_for(|now| *now != seen).await;
            let changed = changed.map_err(|error| JobError::Failed(error.to_string()))?;
            Ok(changed.clone())
        })
    }

    fn cancel(&self) -> Doing<()> {
        Box::pin(async { Ok(()) })
    }

    fn read(&self, offset: u64, length: u32) -> Doing<bytes::Bytes> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.result.get(start..).unwrap_or_default();
        let part = rest[..rest.len().min(length as usize)].to_vec();
        Box::pin(async move { Ok(part.into()) })
    }
}

fn with(office: &Arc<Office>, limits: Limits) -> RunSpec {
    RunSpec {
        jobs: Some(Arc::new(Counter(Arc::clone(office)))),
        ..spec(limits)
    }
}

fn run_with(
    program: &Arc<Program>,
    spec: &RunSpec,
    arguments: &[&str],
    output: &mut Vec<u8>,
) -> Result<RunReport, FailedRun> {
    let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
    let (input, cancel) = (std::io::empty(), Cancel::new());
    SANDBOX.run_task(program, spec, &arguments, input, output, &cancel)
}

#[test]
fn all_jobs_of_a_run_together_cost_no_more_than_the_grant() {
    let office = Arc::new(Office::new());
    let program = load(&SANDBOX, "job_flood");
    let spec = with(&office, tight());
    let failed = run_with(&program, &spec, &["dear"], &mut Vec::new()).unwrap_err();
    let text = failed.to_string();
    assert!(matches!(failed.error, RunError::Guest(_)), "{text}");
    assert!(
        text.contains("grants.jobs: max-price is 1 credits"),
        "{text}"
    );
    assert!(text.contains("would come to 1.2"), "{text}");
    // Twice 0.4 fit into one credit; of a third the node does not even hear.
    assert_eq!(office.begun(), 2);
    assert_eq!(failed.report.jobs.len(), 2);
    let orders = office.orders.lock().unwrap();
    assert_eq!(orders[0].max_price, 400_000);
    assert_eq!(orders[0].input, b"one\ntwo\n");
    assert_eq!(orders[0].package.to_string(), KNOWN);
}

#[test]
fn what_a_guest_chooses_for_its_job_reaches_the_node_within_its_bounds() {
    let office = Arc::new(Office::new());
    let program = load(&SANDBOX, "job_chooser");
    let spec = with(&office, tight());
    run_with(&program, &spec, &[], &mut Vec::new()).unwrap();
    {
        let orders = office.orders.lock().unwrap();
        let [order] = &orders[..] else {
            panic!("{orders:?}");
        };
        assert_eq!(order.package.to_string(), KNOWN);
        assert_eq!(order.input, b"one\ntwo\n");
        assert_eq!((order.shards, order.replicas), (None, 1));
        assert_eq!(order.deadline, Duration::from_secs(60));
        assert_eq!(order.adapter, Some(KNOWN.parse().unwrap()));
        assert_eq!(order.nodes, ["a node"]);
        assert!(order.attested);
        assert_eq!(order.warm, Some(Duration::from_millis(1500)));
    }
    // Of what is out of bounds the node does not hear.
    for (arguments, reason) in [
        (&["many"][..], "nodes: 65 are more than 64"),
        (
            &["long", "name"][..],
            "at most 4096 bytes, and this has 4097",
        ),
    ] {
        let failed = run_with(&program, &spec, arguments, &mut Vec::new()).unwrap_err();
        assert!(
            matches!(&failed.error, RunError::Guest(text) if text.contains(reason)),
            "{failed}"
        );
    }
    assert_eq!(office.begun(), 1);
}

#[test]
fn a_job_without_options_has_none() {
    let office = Arc::new(Office::new());
    let program = load(&SANDBOX, "job_flood");
    run(&SANDBOX, &program, &with(&office, tight())).unwrap_err();
    let orders = office.orders.lock().unwrap();
    let order = &orders[0];
    assert_eq!((order.adapter, order.nodes.len()), (None, 0));
    assert_eq!((order.attested, order.warm), (false, None));
}

#[test]
fn a_run_that_may_spend_nothing_begins_nothing_that_costs() {
    let office = Arc::new(Office::new());
    let mut spec = with(&office, tight());
    spec.grants.jobs = Some(JobsGrant { max_price: 0 });
    let program = load(&SANDBOX, "job_flood");
    let failed = run_with(&program, &spec, &["dear"], &mut Vec::new()).unwrap_err();
    assert!(failed.to_string().contains("max-price is 0"), "{failed}");
    assert_eq!(office.begun(), 0);
}

#[test]
fn a_flood_of_jobs_ends() {
    let office = Arc::new(Office::new());
    let failed = run(
        &SANDBOX,
        &load(&SANDBOX, "job_flood"),
        &with(&office, tight()),
    );
    let failed = failed.unwrap_err();
    assert!(failed.to_string().contains("at most 64 jobs"), "{failed}");
    assert_eq!(office.begun(), 64);
    assert_eq!(failed.report.jobs.len(), 64);
    assert_eq!(failed.report.stored_bytes, 64 * 8);
}

#[test]
fn what_is_given_to_jobs_counts_towards_storage() {
    let office = Arc::new(Office::new());
    let limits = Limits {
        storage: Some(20),
        ..tight()
    };
    let failed = run(
        &SANDBOX,
        &load(&SANDBOX, "job_flood"),
        &with(&office, limits),
    );
    let failed = failed.unwrap_err();
    assert!(
        matches!(&failed.error, RunError::Quota(e)
            if e.quota == Quota::Storage && e.limit == 20 && e.asked == 24),
        "{failed}"
    );
    assert_eq!((office.begun(), failed.report.stored_bytes), (2, 16));
}

#[test]
fn a_job_is_a_handle_and_there_is_one_before_it_begins() {
    let office = Arc::new(Office::new());
    let limits = Limits {
        handles: Some(3),
        ..tight()
    };
    let failed = run(
        &SANDBOX,
        &load(&SANDBOX, "job_flood"),
        &with(&office, limits),
    );
    assert_eq!(failed.unwrap_err().error.limit(), Some("handles"));
    assert_eq!(office.begun(), 3);
}

#[test]
fn what_could_not_be_begun_costs_nothing_and_is_said_why() {
    let office = Arc::new(Office {
        nobody: true,
        ..Office::new()
    });
    let failed = run(
        &SANDBOX,
        &load(&SANDBOX, "job_flood"),
        &with(&office, tight()),
    );
    let failed = failed.unwrap_err();
    assert!(failed.to_string().contains("no node takes it"), "{failed}");
    assert_eq!(failed.report.stored_bytes, 0);
    assert!(failed.report.jobs.is_empty());
}

#[test]
fn a_foreign_job_is_not_found_and_one_s_own_is_a_handle() {
    let program = load(&SANDBOX, "job_seeker");
    let strange = Arc::new(Office {
        known: Some(Digest::of(b"another")),
        ..Office::new()
    });
    let failed = run(&SANDBOX, &program, &with(&strange, tight())).unwrap_err();
    assert!(
        matches!(&failed.error, RunError::Guest(text) if text.contains(KNOWN)),
        "{failed}"
    );

    let own = Arc::new(Office {
        known: Some(KNOWN.parse().unwrap()),
        ..Office::new()
    });
    let failed = run(&SANDBOX, &program, &with(&own, tight())).unwrap_err();
    assert_eq!(failed.error.limit(), Some("handles"), "{failed}");
}

#[test]
fn a_result_is_read_in_pieces_and_ends() {
    let office = Arc::new(Office {
        result: (0..1_000_000_u32).map(|n| n as u8).collect(),
        ..Office::new()
    });
    let mut output = Vec::new();
    let program = load(&SANDBOX, "job_reader");
    run_with(&program, &with(&office, tight()), &[], &mut output).unwrap();
    // As much as one call carries, of the four gigabytes that were asked for.
    assert_eq!(output, office.result[..256 << 10]);
}

#[test]
fn whoever_waits_takes_of_its_time_and_of_no_processor() {
    let office = Arc::new(Office::new());
    let limits = Limits {
        time: Some(Duration::from_millis(400)),
        ..tight()
    };
    let failed = run(
        &SANDBOX,
        &load(&SANDBOX, "job_waiter"),
        &with(&office, limits),
    );
    let failed = failed.unwrap_err();
    assert_eq!(failed.error.limit(), Some("time"), "{failed}");
    assert!(failed.report.cpu_ms < 200, "{:?}", failed.report);
}

/// A run that waits for the end of its job hears of it from another thread.
fn hears_of_the_end(program: &Arc<Program>) {
    let office = Arc::new(Office::new());
    let patient = Limits {
        time: Some(Duration::from_secs(60)),
        ..tight()
    };
    let spec = with(&office, patient);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| run(&SANDBOX, program, &spec));
        // It has begun its job once the office has its order, and waits then or soon.
        while office.begun() == 0 {
            std::thread::yield_now();
        }
        office.status.send_replace(JobStatus {
            finished: 1,
            ..status(JobState::Running)
        });
        office.status.send_replace(status(JobState::Done));
        let report = waits.join().unwrap().unwrap();
        assert_eq!(report.jobs.len(), 1);
    });
}

#[test]
fn a_guest_hears_of_the_end_of_its_job() {
    hears_of_the_end(&load(&SANDBOX, "job_waiter"));
}

#[test]
fn a_guest_on_the_engine_for_asynchronous_components_does_too() {
    let component = assemble(&["concurrent", "jobs"], &module("job_waiter"));
    let program = Arc::new(SANDBOX.load(component).unwrap());
    assert_eq!(program.engine(), EngineKind::Concurrent);
    hears_of_the_end(&program);
}

#[test]
fn jobs_take_a_grant() {
    let office = Arc::new(Office::new());
    let bare = RunSpec {
        grants: Grants::default(),
        ..with(&office, tight())
    };
    let failed = run(&SANDBOX, &load(&SANDBOX, "job_flood"), &bare).unwrap_err();
    assert!(matches!(failed.error, RunError::Refused(_)), "{failed}");
    let text = failed.to_string();
    assert!(text.contains("`skep:jobs/jobs@0.1.0`"), "{text}");
    assert!(text.contains("jobs = { max-price ="), "{text}");
}

#[test]
fn whoever_runs_for_somebody_else_spends_nothing_whatever_it_is_granted() {
    for name in ["job_flood", "job_seeker"] {
        let failed = run(&SANDBOX, &load(&SANDBOX, name), &spec(tight())).unwrap_err();
        assert!(matches!(failed.error, RunError::Guest(_)), "{failed}");
        assert!(failed.to_string().contains("the node's owner"), "{failed}");
    }
}

#[test]
fn runs_that_begin_jobs_are_not_repeated() {
    assert!(!load(&SANDBOX, "job_flood").is_repeatable());
}
